"""The pause switch in the browser: who may use it on what."""

import pytest
from django.test import Client

from governance.audit.models import AuditEvent
from tenants.models import Pause
from tests.console.cast import House, browser
from tests.tenants.makers import make_team

ADD = "/admin/tenants/pause/add/"


def pause_form(house: House, **changes: object) -> dict[str, object]:
    return {
        "tenant": house.tenant.pk,
        "scope": "key",
        "team": "",
        "key": house.key.key.pk,
        "tag": "",
        "reason": "Runaway loop.",
    } | changes


def open_pauses(house: House) -> list[Pause]:
    return list(Pause._base_manager.filter(tenant=house.tenant, ended_at=None).order_by("pk"))


def resume(client: Client, row: Pause) -> int:
    return client.post(f"/admin/tenants/pause/{row.pk}/resume/").status_code


def test_an_admin_pauses_and_resumes_and_both_are_in_the_audit_trail(alice: House) -> None:
    admin = alice.person("admin")
    client = browser(admin)
    assert client.post(ADD, pause_form(alice)).status_code == 302
    row = open_pauses(alice)[-1]
    assert (row.scope, row.scope_ref, row.reason) == ("key", str(alice.key.key.lineage_id), "Runaway loop.")
    assert row.began_by == admin
    again = client.post(ADD, pause_form(alice))
    assert "paused already" in again.content.decode()
    page = client.get(f"/admin/tenants/pause/{row.pk}/change/").content.decode()
    assert alice.key.key.name in page
    assert "Resume" in page
    assert resume(client, row) == 302
    assert row not in open_pauses(alice)
    events = AuditEvent.objects.filter(tenant_id=alice.tenant.pk, action__startswith="pause.")
    assert {(event.action, event.actor_user_id) for event in events if event.actor_user_id} == {
        ("pause.begin", admin.pk),
        ("pause.end", admin.pk),
    }


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"scope": "team"}, "Say which one"),
        ({"scope": "tag", "tag": "feature"}, "name=value"),
        ({"reason": ""}, "required"),
    ],
)
def test_a_pause_that_names_nothing_is_explained(alice: House, changes: dict[str, str], word: str) -> None:
    before = open_pauses(alice)
    answer = browser(alice.person("owner")).post(ADD, pause_form(alice, **changes))
    assert answer.status_code == 200
    assert word in answer.content.decode()
    assert open_pauses(alice) == before


def test_a_lead_pauses_the_team_and_its_keys_and_nothing_else(alice: House) -> None:
    other = make_team(alice.tenant, f"{alice.canary}-other")
    lead = browser(alice.person("lead", in_team=True))
    assert other.name not in lead.get(ADD).content.decode()
    assert lead.post(ADD, pause_form(alice)).status_code == 302
    assert lead.post(ADD, pause_form(alice, scope="team", team=alice.team.pk, key="")).status_code == 302
    mine = open_pauses(alice)[1:]
    assert [row.scope for row in mine] == ["key", "team"]
    for changes in ({"scope": "tenant"}, {"scope": "tag", "tag": "a=b"}):
        assert lead.post(ADD, pause_form(alice, **changes)).status_code == 403
    assert lead.post(ADD, pause_form(alice, scope="team", team=other.pk)).status_code == 200  # not a choice
    assert open_pauses(alice)[1:] == mine
    assert [resume(lead, row) for row in mine] == [302, 302]


def test_a_lead_does_not_end_what_a_manager_paused(alice: House) -> None:
    admin, lead = browser(alice.person("admin")), browser(alice.person("lead", in_team=True))
    assert admin.post(ADD, pause_form(alice)).status_code == 302
    row = open_pauses(alice)[-1]
    assert "Resume" not in lead.get(f"/admin/tenants/pause/{row.pk}/change/").content.decode()
    assert resume(lead, row) == 403
    assert row in open_pauses(alice)


def test_a_viewer_sees_pauses_and_makes_none(alice: House) -> None:
    viewer = browser(alice.person("viewer"))
    assert alice.canary in viewer.get("/admin/tenants/pause/").content.decode()
    assert viewer.post(ADD, pause_form(alice)).status_code == 403
    assert resume(viewer, alice.pause) == 403
