"""What the response cache did, by rule, key and day; and purging it in the browser and by command."""

import io
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from governance.audit.models import AuditEvent
from governance.core.money import format_usd
from governance.response_cache.models import CachePurge
from governance.routing.policies import create_policy, publish, save_draft
from tenants.scope import platform_scope
from tests.console.cast import House, browser, make_call, policy_text

PAGE = "/admin/response-cache/"
ADD = "/admin/response_cache/cachepurge/add/"


def purges_of(house: House) -> list[tuple[str, str]]:
    """Without the one that the house was made with."""
    rows = CachePurge._base_manager.filter(tenant=house.tenant, pk__gt=house.purge.pk).order_by("pk")
    return [(row.kind, row.value) for row in rows]


def kept_by(house: House, rule: str, version: int | None = None, **more: Any) -> dict[str, Any]:
    """What the decision of a call says of the rule that has `cache`."""
    return {"response_cache": {"rule": rule, "version": version or house.policy.live_id, **more}}


def test_the_page_counts_the_calls_of_the_own_tenant_only(alice: House, bob: House) -> None:
    with platform_scope():
        for _ in range(3):
            make_call(
                alice,
                cache="hit",
                decision={
                    "savings": {"response_cache": 5_000_000_001},
                    **kept_by(alice, f"{alice.canary}-faq"),
                },
            )
        make_call(
            alice,
            cache="miss",
            decision={"savings": {"routing": 7}, **kept_by(alice, f"{alice.canary}-faq")},
        )
        make_call(alice, cache="bypass", decision=kept_by(alice, f"{alice.canary}-faq"))
        make_call(bob, cache="hit", decision=kept_by(bob, f"{bob.canary}-rule"))
    page = browser(alice.person("viewer")).get(PAGE).content.decode()
    for text in ("75.0 %", format_usd(15_000_000_003), f"{alice.canary}-faq", f"{alice.canary}-key"):
        assert text in page, text
    assert bob.canary not in page
    assert ADD not in page, "a viewer purges nothing"
    assert ADD in browser(alice.person("admin")).get(PAGE).content.decode()


def test_the_rule_that_keeps_is_credited_not_the_one_that_chose_the_model(alice: House) -> None:
    """In its policy, whichever version of it was live; a rule of the same name elsewhere is another one."""
    house = alice
    with platform_scope():
        again = publish(save_draft(house.policy, policy_text(house.canary) + "\n")).policy
        whole = publish(
            create_policy(house.tenant, scope="tenant", name="Whole", draft=policy_text(house.canary))
        ).policy
        for version, cache in (
            (house.policy.live_id, "miss"),
            (again.live_id, "hit"),
            (again.live_id, "hit"),
            (whole.live_id, "hit"),
        ):
            make_call(house, cache=cache, rule="The model", decision=kept_by(house, "Keeps", version))
    page = browser(house.person("viewer")).get(PAGE)
    rows = {title: rows for title, _, rows in page.context["groups"]}["By rule"]
    found = {(row["in"], row["of"]): (row["hits"], row["misses"]) for row in rows}
    assert found == {(f"{house.canary}-policy", "Keeps"): (2, 1), ("Whole", "Keeps"): (1, 0)}
    assert "The model" not in page.content.decode()


def test_why_answers_were_not_kept_is_counted_and_told_with_what_keeps_them(alice: House, bob: House) -> None:
    with platform_scope():
        for house, reason in (
            (alice, "thinking"),
            (alice, "thinking"),
            (alice, "compressed"),
            (bob, "too long"),
        ):
            call = make_call(house, cache="miss", decision=kept_by(house, "Keeps", not_kept=reason))
    reader = browser(alice.person("viewer"))
    assert reader.get(PAGE).context["not_kept"] == [
        {"why": "thinking", "calls": 2, "remedy": "also: [thinking]"},
        {"why": "compressed", "calls": 1, "remedy": ""},
    ]
    theirs = browser(bob.person("viewer")).get(f"/admin/calls/call/{call.pk}/change/").content.decode()
    assert "the answer was not kept: too long" in theirs
    assert "reply_bytes_max" in theirs


def test_the_page_teaches_where_nothing_was_looked_up(alice: House) -> None:
    page = browser(alice.person("viewer")).get(PAGE + "?window=7d").content.decode()
    assert "No call was looked up in the last 7 days" in page
    assert "ttl_seconds" in page


def test_an_admin_purges_and_the_audit_trail_has_it(alice: House, bob: House) -> None:
    admin = browser(alice.person("admin"))
    asked = {"tenant": alice.tenant.pk, "kind": "tag", "value": "feature=search"}
    assert admin.post(ADD, asked).status_code == 302
    assert purges_of(alice) == [("tag", "feature=search")]
    listed = admin.get("/admin/response_cache/cachepurge/").content.decode()
    assert "Tag feature=search" in listed
    event = AuditEvent.objects.filter(tenant_id=alice.tenant.pk, action="cache.purge").latest("pk")
    assert event.after == {"kind": "tag", "value": "feature=search"}
    assert event.actor_user_id is not None
    assert admin.post(ADD, asked | {"tenant": bob.tenant.pk}).status_code == 200, "not a choice"
    assert not purges_of(bob)
    assert browser(alice.person("viewer")).post(ADD, asked).status_code == 403
    theirs = browser(bob.person("admin")).get("/admin/response_cache/cachepurge/").content.decode()
    assert "Tag feature=search" not in theirs


@pytest.mark.parametrize(
    ("kind", "value", "word"),
    [
        ("tenant", "x", "Leave this empty"),
        ("tag", "feature", "name=value"),
        ("tag", "=x", "name=value"),
        ("model", "", "id of the model"),
    ],
)
def test_a_purge_of_nothing_is_not_made(alice: House, kind: str, value: str, word: str) -> None:
    admin = browser(alice.person("admin"))
    page = admin.post(ADD, {"tenant": alice.tenant.pk, "kind": kind, "value": value}).content.decode()
    assert word in page
    assert not purges_of(alice)


def test_a_command_purges_too(alice: House) -> None:
    said = io.StringIO()
    for arguments in ([], ["--tag", "feature=search"], ["--model", "claude-sonnet-5-5"]):
        call_command("purge_cache", "--tenant", alice.tenant.slug, *arguments, stdout=said)
    assert purges_of(alice) == [("tenant", ""), ("tag", "feature=search"), ("model", "claude-sonnet-5-5")]
    assert "purge of everything" in said.getvalue()
    with pytest.raises(CommandError, match="name=value"):
        call_command("purge_cache", "--tenant", alice.tenant.slug, "--tag", "x")
