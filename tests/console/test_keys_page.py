"""Issuing, rotating and revoking in the browser; a key's text is shown exactly once."""

import json
import logging
import re

import pytest
from django.contrib.sessions.models import Session
from django.urls import reverse

from governance.audit.models import AuditEvent
from tenants import keys
from tenants.models import ApiKey
from tests.console.cast import House, browser, operator
from tests.tenants.makers import make_team

ADD = "/admin/tenants/apikey/add/"


def issue_form(house: House, **changes: object) -> dict[str, object]:
    return {
        "tenant": house.tenant.pk,
        "team": house.team.pk,
        "name": "from the console",
        "default_tags": "feature=search\nendpoint=faq",
        "required_tags": "feature,endpoint",
        "allowed_models": "claude-haiku-5-5",
        "max_output_tokens": 4096,
        "hold_wait_seconds": 25,
        "clamp_floor_tokens": 512,
        "burn_nanos_per_10_minutes_max": "12.50",
    } | changes


def only_key(name: str, house: House) -> ApiKey:
    return ApiKey._base_manager.get(tenant=house.tenant, name=name)


def test_a_new_keys_text_is_shown_once_and_kept_nowhere(
    alice: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = browser(alice.person("admin"))
    shown = client.post(ADD, issue_form(alice))
    text = re.search(keys.looks_like_key, shown.content.decode())[0]
    key = only_key("from the console", alice)
    assert keys.parse_key(text) == key.public_id
    assert keys.key_matches(text, bytes(key.digest), key.pepper_id)
    assert (key.default_tags, key.required_tags) == (
        {"feature": "search", "endpoint": "faq"},
        ["feature", "endpoint"],
    )
    limits = ("max_output_tokens", "hold_wait_seconds", "clamp_floor_tokens", "unbounded_allowed")
    assert key.allowed_models == ["claude-haiku-5-5"]
    assert tuple(getattr(key, name) for name in limits) == (4096, 25, 512, False)
    assert key.burn_nanos_per_10_minutes_max == 12_500_000_000
    assert "no-store" in shown.headers["cache-control"]
    later = [
        client.get(reverse("admin:tenants_apikey_change", args=[key.pk])).content.decode(),
        client.get(reverse("admin:tenants_apikey_changelist")).content.decode(),
        client.get("/admin/").content.decode(),
        str(client.cookies),
        caplog.text,
        *(str(session.get_decoded()) for session in Session.objects.all()),
        *(json.dumps([event.before, event.after]) for event in AuditEvent.objects.all()),
    ]
    secret = text[13:56]
    assert not any(secret in place for place in later)


def test_who_issued_a_key_from_where_is_on_record(alice: House) -> None:
    admin = alice.person("admin")
    browser(admin).post(ADD, issue_form(alice))
    event = AuditEvent.objects.filter(tenant_id=alice.tenant.pk, action="key.issue").first()
    assert (event.actor_name, event.actor_user_id) == (admin.username, admin.pk)
    assert event.ip_address == "192.0.2.7"
    assert only_key("from the console", alice).created_by == admin


def test_nobody_issues_a_key_in_another_tenant(alice: House, bob: House) -> None:
    before = ApiKey._base_manager.filter(tenant=bob.tenant).count()
    client = browser(alice.person("owner"))
    for form in (
        issue_form(bob),
        issue_form(alice, team=bob.team.pk),
        issue_form(bob, team=alice.team.pk),
    ):
        answer = client.post(ADD, form)
        assert answer.status_code == 200
        assert bob.canary not in answer.content.decode()
    assert ApiKey._base_manager.filter(tenant=bob.tenant).count() == before
    assert not ApiKey._base_manager.filter(name="from the console").filter(tenant=alice.tenant).exists()


def test_an_operators_key_cannot_mix_tenants_either(alice: House, bob: House) -> None:
    answer = operator().post(ADD, issue_form(alice, team=bob.team.pk))
    assert "is a team of another tenant" in answer.content.decode()
    assert not ApiKey._base_manager.filter(tenant=alice.tenant, name="from the console").exists()


def test_a_lead_issues_keys_of_the_own_team_only_and_never_one_that_evades_rules(alice: House) -> None:
    other = make_team(alice.tenant, "Other")
    client = browser(alice.person("lead", in_team=True))
    for form in (issue_form(alice, team=other.pk), issue_form(alice, team="")):
        assert client.post(ADD, form).status_code in (200, 403)
    assert not ApiKey._base_manager.filter(tenant=alice.tenant, name="from the console").exists()
    shown = client.post(ADD, issue_form(alice, unbounded_allowed="on", as_asked_allowed="on"))
    assert keys.looks_like_key.search(shown.content.decode())
    key = only_key("from the console", alice)
    assert (key.unbounded_allowed, key.as_asked_allowed) == (False, False)


def test_viewers_change_nothing(alice: House) -> None:
    pk = alice.key.key.pk
    for client in (browser(alice.person("viewer")), browser(alice.person("viewer", in_team=True))):
        assert client.post(ADD, issue_form(alice)).status_code == 403
        assert client.post(f"/admin/tenants/apikey/{pk}/change/", {"name": "other"}).status_code == 403
        assert client.post(f"/admin/tenants/apikey/{pk}/revoke/", {"reason": "x"}).status_code == 403
        assert client.post(f"/admin/tenants/apikey/{pk}/rotate/", {"overlap_seconds": 0}).status_code == 403
    key = ApiKey._base_manager.get(pk=pk)
    assert (key.revoked_at, key.replaced_by, key.name) == (None, None, f"{alice.canary}-key")


def test_a_change_is_audited_with_before_and_after(alice: House) -> None:
    pk = alice.key.key.pk
    form = issue_form(alice, name="renamed", max_output_tokens="")
    answer = browser(alice.person("admin")).post(f"/admin/tenants/apikey/{pk}/change/", form)
    assert answer.status_code == 302
    key = ApiKey._base_manager.get(pk=pk)
    assert (key.name, key.max_output_tokens) == ("renamed", None)
    event = AuditEvent.objects.filter(tenant_id=alice.tenant.pk, action="key.change").first()
    assert event.before["name"] == f"{alice.canary}-key"
    assert event.after["name"] == "renamed"


@pytest.mark.parametrize(
    "wrong",
    [
        {"default_tags": "no equals sign"},
        {"default_tags": "\n".join(f"t{n}=x" for n in range(21))},
        {"name": "tab\tin the middle"},
        {"max_output_tokens": 0},
        {"required_tags": ",".join("t" for _ in range(21))},
    ],
)
def test_unfit_settings_are_explained_on_the_form(alice: House, wrong: dict[str, object]) -> None:
    answer = browser(alice.person("admin")).post(ADD, issue_form(alice, **wrong))
    assert answer.status_code == 200
    assert answer.context["errors"]
    assert not ApiKey._base_manager.filter(tenant=alice.tenant).exclude(pk=alice.key.key.pk).exists()


def test_rotating_shows_the_successor_once_and_sets_the_end_of_the_old_key(alice: House) -> None:
    pk = alice.key.key.pk
    client = browser(alice.person("lead", in_team=True))
    assert client.get(f"/admin/tenants/apikey/{pk}/rotate/").status_code == 200
    shown = client.post(f"/admin/tenants/apikey/{pk}/rotate/", {"overlap_seconds": 3600})
    text = keys.looks_like_key.search(shown.content.decode())[0]
    old = ApiKey._base_manager.get(pk=pk)
    assert old.replaced_by.public_id == keys.parse_key(text)
    assert old.expires_at is not None
    assert "no-store" in shown.headers["cache-control"]
    again = client.post(f"/admin/tenants/apikey/{pk}/rotate/", {"overlap_seconds": 3600})
    assert "was already rotated" in again.content.decode()
    assert not keys.looks_like_key.search(again.content.decode())


def test_revoking_needs_a_reason_and_a_post(alice: House) -> None:
    pk = alice.key.key.pk
    url = f"/admin/tenants/apikey/{pk}/revoke/"
    client = browser(alice.person("admin"))
    asked = client.get(url).content.decode()
    assert f"Revoke {alice.canary}-key" in asked
    assert re.search(r"<button[^>]*>\s*Revoke\s*</button>", asked)
    client.post(url, {"reason": ""})
    assert ApiKey._base_manager.get(pk=pk).revoked_at is None
    assert client.post(url, {"reason": "found in a log"}).status_code == 302
    key = ApiKey._base_manager.get(pk=pk)
    assert key.revoked_at is not None
    assert key.revoked_reason == "found in a log"
    page = client.get(f"/admin/tenants/apikey/{pk}/change/").content.decode()
    assert "found in a log" in page
    assert "/rotate/" not in page
