"""Limits on calls in the browser and by command."""

import io

import pytest
from django.core.management import CommandError, call_command

from governance.audit.models import AuditEvent
from governance.limits.models import CallLimit
from tests.console.cast import House, browser

ADD = "/admin/limits/calllimit/add/"


def limit_form(house: House, **changes: object) -> dict[str, object]:
    return {
        "tenant": house.tenant.pk,
        "scope": "key",
        "team": "",
        "key": house.key.key.pk,
        "model": "",
        "requests_per_minute": "100",
        "input_tokens_per_minute": "",
        "output_tokens_per_minute": "50000",
        "concurrent_calls": "",
        "open_streams": "",
    } | changes


def limits_of(house: House) -> list[CallLimit]:
    return list(CallLimit._base_manager.filter(tenant=house.tenant).order_by("pk"))


def test_an_admin_sets_changes_and_lifts_a_limit_and_the_audit_trail_has_it(alice: House) -> None:
    admin = browser(alice.person("admin"))
    assert admin.post(ADD, limit_form(alice)).status_code == 302
    row = limits_of(alice)[-1]
    assert (row.scope, row.scope_ref) == ("key", str(alice.key.key.lineage_id))
    assert (row.requests_per_minute, row.output_tokens_per_minute, row.open_streams) == (100, 50_000, None)
    assert "such a limit already" in admin.post(ADD, limit_form(alice)).content.decode()
    page = f"/admin/limits/calllimit/{row.pk}"
    changed = {"requests_per_minute": "", "output_tokens_per_minute": "", "open_streams": "3"}
    assert admin.post(f"{page}/change/", limit_form(alice, **changed)).status_code == 302
    row.refresh_from_db()
    assert (row.requests_per_minute, row.open_streams) == (None, 3)
    assert admin.post(f"{page}/lift/").status_code == 302
    assert row not in limits_of(alice)
    events = AuditEvent.objects.filter(tenant_id=alice.tenant.pk, action__startswith="limit.")
    assert {event.action for event in events if event.actor_user_id} == {
        "limit.create",
        "limit.change",
        "limit.remove",
    }


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"scope": "team", "key": ""}, "Choose the team"),
        ({"requests_per_minute": "", "output_tokens_per_minute": ""}, "at least one thing"),
        ({"requests_per_minute": "0"}, "pause"),
        ({"requests_per_minute": "-1"}, "greater than or equal to 0"),
    ],
)
def test_a_limit_that_limits_nothing_is_explained(alice: House, changes: dict[str, str], word: str) -> None:
    before = limits_of(alice)
    answer = browser(alice.person("owner")).post(ADD, limit_form(alice, **changes))
    assert answer.status_code == 200
    assert word in answer.content.decode()
    assert limits_of(alice) == before


def test_leads_and_viewers_set_no_limits(alice: House) -> None:
    for client in (browser(alice.person("lead", in_team=True)), browser(alice.person("viewer"))):
        assert client.post(ADD, limit_form(alice)).status_code == 403
    assert len(limits_of(alice)) == 1


def test_a_limit_on_another_tenants_key_is_refused(alice: House, bob: House) -> None:
    form = limit_form(alice, key=bob.key.key.pk)
    assert browser(alice.person("owner")).post(ADD, form).status_code == 200
    assert len(limits_of(alice)) == 1


def run(*arguments: str) -> str:
    output = io.StringIO()
    call_command("set_call_limit", *arguments, stdout=output)
    return output.getvalue()


def test_the_command_sets_changes_and_lifts(alice: House) -> None:
    key = ["--key", alice.key.key.public_id]
    assert "requests_per_minute 60" in run(*key, "--requests-per-minute", "60", "--open-streams", "2")
    assert "open_streams" not in run(*key, "--open-streams", "0")
    assert "is lifted" in run(*key, "--lift")
    assert len(limits_of(alice)) == 1
    for arguments, word in {
        (*key, "--lift"): "no such limit",
        ("--tenant", alice.tenant.slug): "at least one thing",
        ("--requests-per-minute", "1"): "Give --tenant",
    }.items():
        with pytest.raises(CommandError, match=word):
            run(*arguments)
