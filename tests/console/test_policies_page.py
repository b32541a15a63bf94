"""Policies in the browser: write, be told which line is wrong, publish with the difference before one's eyes,
compare, roll back, switch off; and who may do what."""

import io
import json
import re
from html import unescape

import pytest
from django.core import mail
from django.core.management import call_command

from governance.audit.models import AuditEvent
from governance.routing.models import PolicyVersion, RoutingPolicy
from governance.routing.policies import create_policy, publish, save_draft, set_enabled
from tenants.keys import issue_key, move_key, revoke_key, rotate_key
from tenants.scope import platform_scope
from tests.console.cast import House, browser, make_call, policy_text
from tests.tenants.makers import make_team, make_user

LIST, ADD = "/admin/routing/routingpolicy/", "/admin/routing/routingpolicy/add/"
BAD = "rules:\n  - name: One\n    when: {wrods: {at_most: 8}}\n    then: {deny: No.}\n"
OTHER = "rules:\n  - name: Other\n    then: {deny: Not now.}\n"


def capped(tokens: int) -> str:
    return f"rules:\n  - name: Short\n    then: {{max_tokens: {{cap: {tokens}}}}}\n"


def page(policy: RoutingPolicy, action: str = "change") -> str:
    return f"{LIST}{policy.pk}/{action}/"


def add_form(house: House, **changes: object) -> dict[str, object]:
    return {
        "tenant": house.tenant.pk,
        "scope": "key",
        "team": "",
        "key": house.key.key.pk,
        "name": "Bot rules",
        "draft": policy_text("bot"),
    } | changes


def policies_of(house: House) -> list[RoutingPolicy]:
    rows = RoutingPolicy._base_manager.select_related("live", "tenant")
    return list(rows.filter(tenant=house.tenant).order_by("pk"))


def seen_on(html: str) -> str:
    """The hidden stamp of a page's form."""
    found = re.search(r'name="seen" value="(\w+)"', html)
    assert found is not None
    return found[1]


def test_an_admin_writes_publishes_changes_and_rolls_back_a_policy(alice: House) -> None:
    admin = browser(alice.person("admin"))
    assert "Small questions go to Haiku" in admin.get(ADD).content.decode()
    assert admin.post(ADD, add_form(alice)).status_code == 302
    policy = policies_of(alice)[-1]
    assert (policy.scope, policy.scope_ref, policy.live) == ("key", str(alice.key.key.lineage_id), None)
    assert "Nothing is in force yet" in admin.get(page(policy)).content.decode()
    shown = admin.get(page(policy, "publish")).content.decode()
    assert "New rule: bot-rule" in shown
    answer = admin.post(page(policy, "publish"), {"note": "First", "seen": seen_on(shown)}, follow=True)
    assert "version 1 is live." in answer.content.decode()
    seen = seen_on(admin.get(page(policy)).content.decode())
    edited = {"name": "Bot rules", "draft": OTHER.replace("\n", "\r\n"), "seen": seen}
    saved = admin.post(page(policy), edited, follow=True).content.decode()
    assert "The draft is not what is live" in saved
    shown = admin.get(page(policy, "publish")).content.decode()
    assert "Gone: bot-rule" in shown
    assert '<tr class="new">' in shown
    admin.post(page(policy, "publish"), {"note": "Second", "seen": seen_on(shown)})
    versions = admin.get(page(policy, "versions")).content.decode()
    assert versions.index("Second") < versions.index("First")
    assert "New rule: Other" in versions
    back = f"{page(policy, 'roll-back')}?number=1"
    shown = admin.get(back).content.decode()
    assert "New rule: bot-rule" in shown
    assert (
        "version 1 is live again" in admin.post(back, {"seen": seen_on(shown)}, follow=True).content.decode()
    )
    policy = policies_of(alice)[-1]
    assert policy.live is not None
    assert (policy.live.number, policy.live.note, policy.draft) == (1, "First", OTHER)
    events = AuditEvent.objects.filter(target_type="routing.routingpolicy", target_id=str(policy.pk))
    assert [event.action for event in events.order_by("id")] == [
        f"policy.{verb}" for verb in ("create", "publish", "draft", "publish", "roll_back")
    ]
    assert all(event.actor_user_id for event in events)


def test_a_bad_draft_is_kept_shown_with_its_line_and_not_published(alice: House) -> None:
    admin, policy = browser(alice.person("admin")), alice.policy
    seen = seen_on(admin.get(page(policy)).content.decode())
    shown = admin.post(page(policy), {"name": "x", "draft": BAD, "seen": seen}, follow=True).content.decode()
    assert '<i class="danger">3</i>' in shown
    assert "line 3" in shown
    assert "wrods" in shown
    shown = admin.get(page(policy, "publish")).content.decode()
    assert "Lines to mend" in shown
    assert 'name="seen"' not in shown
    refused = admin.post(page(policy, "publish"), {"note": ""})
    assert refused.status_code == 200
    assert policies_of(alice)[0].live_id == policy.live_id


def test_who_saves_or_publishes_over_somebody_elses_change_is_told_so(alice: House) -> None:
    admin, policy = browser(alice.person("admin")), alice.policy
    edited = seen_on(admin.get(page(policy)).content.decode())
    save_draft(policy, OTHER)
    answer = admin.post(page(policy), {"name": "x", "draft": policy_text("x"), "seen": edited})
    assert "Somebody else changed this policy" in answer.content.decode()
    shown = seen_on(admin.get(page(policy, "publish")).content.decode())
    save_draft(policy, policy_text("elsewhere"))
    answer = admin.post(page(policy, "publish"), {"note": "", "seen": shown})
    assert "changed by somebody else" in answer.content.decode()
    assert policies_of(alice)[0].live_id == policy.live_id


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scope": "team", "key": ""}, "Choose the team"),
        ({"draft": ""}, "required"),
        ({"draft": "#" * 100_001}, "at most 100000 characters"),
        ({"draft": "a\0b"}, "Null characters"),
        ({"name": "a\tb"}, "control characters"),
        ({"scope": "team", "team": "own"}, "There is a policy for that already"),
    ],
)
def test_a_policy_that_cannot_be_made_is_explained(
    alice: House, changes: dict[str, object], words: str
) -> None:
    if changes.get("team") == "own":
        changes = {**changes, "team": alice.team.pk}
    answer = browser(alice.person("owner")).post(ADD, add_form(alice, **changes))
    assert answer.status_code == 200
    assert words in answer.content.decode()
    assert len(policies_of(alice)) == 1


def test_a_policy_is_switched_off_and_on(alice: House) -> None:
    admin, policy = browser(alice.person("admin")), alice.policy
    admin.post(page(policy, "switch"))
    assert not policies_of(alice)[0].enabled
    assert "is switched off" in admin.get(page(policy)).content.decode()
    admin.post(page(policy, "switch"))
    assert policies_of(alice)[0].enabled


def test_leads_change_their_teams_and_its_keys_policies_and_read_the_tenants(alice: House) -> None:
    lead = browser(alice.person("lead", in_team=True))
    elsewhere = make_team(alice.tenant, "Elsewhere")
    with platform_scope():
        theirs = issue_key(alice.tenant, "theirs", team=elsewhere).key
    whole = publish(create_policy(alice.tenant, scope="tenant", name="Whole", draft=OTHER)).policy
    hidden = create_policy(alice.tenant, scope="team", ref=str(elsewhere.pk), name="Hidden", draft=OTHER)
    assert lead.post(ADD, add_form(alice)).status_code == 302
    listed = lead.get(LIST).content.decode()
    assert "Bot rules" in listed
    assert "Whole" in listed
    assert "Hidden" not in listed
    assert "Not now." in lead.get(page(whole)).content.decode()
    for action in ("publish", "switch", "roll-back"):
        assert lead.post(page(whole, action), {"note": ""}).status_code == 403
        assert lead.post(page(hidden, action), {"note": ""}).status_code == 302
    assert lead.post(page(whole), {"name": "x", "draft": OTHER}).status_code == 403
    for changes in (
        {"scope": "tenant", "key": ""},
        {"scope": "team", "key": "", "team": elsewhere.pk},
        {"key": theirs.pk},
    ):
        assert lead.post(ADD, add_form(alice, **changes)).status_code == 200
    assert len(policies_of(alice)) == 4
    assert lead.post(page(alice.policy, "publish"), {"note": ""}).status_code == 200  # nothing is new in it
    save_draft(alice.policy, OTHER)
    assert lead.post(page(alice.policy, "publish"), {"note": ""}).status_code == 302


def test_a_key_that_went_to_another_team_is_no_longer_its_old_leads_to_govern(alice: House) -> None:
    """A revoked rotation of it stays behind in the old team."""
    lead = browser(alice.person("lead", in_team=True))
    with platform_scope():
        theirs = rotate_key(alice.key.key, 3600).key
        revoke_key(alice.key.key, "leaked")
        move_key(theirs, make_team(alice.tenant, "Elsewhere"), reason="they took it over")
    mine = create_policy(alice.tenant, scope="key", ref=str(theirs.pk), name="Moved", draft=OTHER)
    lead.post(page(mine, "publish"), {"note": ""})
    assert [policy.live for policy in policies_of(alice) if policy.name == "Moved"] == [None]
    assert "Moved" not in lead.get(LIST).content.decode()


def test_viewers_read_policies_and_versions_and_change_nothing(alice: House) -> None:
    for client in (browser(alice.person("viewer")), browser(alice.person("viewer", in_team=True))):
        shown = client.get(page(alice.policy)).content.decode()
        assert f"{alice.canary}-rule" in shown
        assert "<textarea" not in shown
        assert f"{alice.canary}-note" in client.get(page(alice.policy, "versions")).content.decode()
        assert client.post(ADD, add_form(alice)).status_code == 403
        assert client.post(page(alice.policy), {"name": "x", "draft": OTHER}).status_code == 403
        for action in ("publish", "switch", "roll-back"):
            assert client.get(page(alice.policy, action)).status_code == 403
            assert client.post(page(alice.policy, action), {"note": ""}).status_code == 403
    assert policies_of(alice)[0].draft == policy_text(alice.canary)


def test_bob_and_charlie_reach_none_of_it(alice: House, bob: House) -> None:
    bobs, charlie = browser(bob.person("owner")), browser(make_user("charlie"))
    for action in ("change", "publish", "preview", "versions", "switch", "roll-back"):
        for client in (bobs, charlie):
            for answer in (client.get(page(alice.policy, action)), client.post(page(alice.policy, action))):
                assert answer.status_code == 302
                assert alice.canary not in str(answer.headers)
    form = add_form(alice, tenant=bob.tenant.pk)
    assert bobs.post(ADD, form).status_code == 200
    assert [row.pk for row in policies_of(alice)] == [alice.policy.pk]
    assert PolicyVersion._base_manager.filter(policy=alice.policy).count() == 1


def test_the_publisher_reads_who_was_told(alice: House) -> None:
    lead = alice.person("lead", in_team=True)
    lead.email = f"lead-{lead.pk}@example.com"
    lead.save()
    nobody = alice.person("admin")
    save_draft(alice.policy, OTHER)
    admin = browser(alice.person("admin"))
    shown = admin.get(page(alice.policy, "publish")).content.decode()
    assert lead.username in shown
    assert f"{nobody.username} (no address)" in shown
    answer = admin.post(page(alice.policy, "publish"), {"note": ""}, follow=True).content.decode()
    assert "One key holder was told by e-mail. No address is known of" in answer
    assert mail.outbox[-1].to == [lead.email]


# --- The preview ------------------------------------------------------------------------------------

TO_HAIKU = """\
rules:
  - name: Small questions go to Haiku
    when: {words: {at_most: 10}, tags: {feature: "*"}}
    unless: {has: [tools]}
    then: {route: {tier: haiku}, max_tokens: {cap: 500}}
  - name: Never at night
    when: {time: {from: "22:00", to: "06:00"}}
    then: {deny: Sleep well.}
"""


def asked(body: object, **fields: object) -> dict[str, object]:
    text = body if isinstance(body, str) else json.dumps(body)
    given = {"body": text, "key": "", "tags": "", "latency": "interactive", "budget_used": "", "at": ""}
    return {**given, "use": "draft", **fields}


def body_of(text: str, **fields: object) -> dict[str, object]:
    messages = [{"role": "user", "content": text}]
    return {"model": "claude-sonnet-5-5", "max_tokens": 4096, "messages": messages, **fields}


@pytest.fixture
def _prices() -> None:
    call_command("load_prices", yes=True, stdout=io.StringIO())


@pytest.mark.usefixtures("_prices")
def test_a_preview_shows_each_rules_terms_with_their_values_and_the_outcome(alice: House) -> None:
    publish(create_policy(alice.tenant, scope="tenant", name="House rules", draft=capped(100)))
    save_draft(alice.policy, TO_HAIKU)
    viewer = browser(alice.person("viewer"))
    assert "Translate" in viewer.get(page(alice.policy, "preview")).content.decode()
    before = AuditEvent.objects.count()

    def shown(body: object, **fields: object) -> str:
        noon = {"key": alice.key.key.pk, "at": "2026-11-21T12:00"}
        answer = viewer.post(page(alice.policy, "preview"), asked(body, **{**noon, **fields}))
        assert answer.status_code == 200
        return " ".join(unescape(re.sub("<[^>]*>", " ", answer.content.decode())).split())

    text = shown(body_of("What is the capital of Peru?"))
    assert "claude-sonnet-5-5 → claude-haiku-5-5" in text
    assert "✓ words ≤ 10 is 6" in text
    assert f"✓ tags.feature any value is {alice.canary}" in text  # the key's own tag
    assert "✓ unless has" in text
    assert "max_tokens at most 100 Short" in text  # the smallest cap, which is the tenant's
    assert "✗ time 22:00 to 06:00 in UTC is sat 12:00 in UTC" in text
    assert "Changed in the request: model max-tokens" in text
    text = shown(body_of("word " * 11, tools=[{"name": "f", "input_schema": {"type": "object"}}]))
    assert "✗ words ≤ 10 is 11" in text
    assert "✗ unless has" in text
    assert "Refused: Sleep well." in shown(body_of("Hello"), at="2026-11-21T23:00")
    live = shown(body_of("Hello"), use="live")
    assert f"{alice.canary}-rule" in live
    assert "Small questions" not in live
    assert "Field required" in shown({"model": "claude-sonnet-5-5", "messages": []})
    assert AuditEvent.objects.count() == before


def test_a_preview_says_that_answers_with_thinking_are_kept_only_where_the_rule_says_so(alice: House) -> None:
    member = browser(alice.person("admin"))
    for cache, says in (("ttl_seconds: 60", True), ("ttl_seconds: 60, also: [thinking]", False)):
        save_draft(alice.policy, f"rules: [{{name: Keeps, then: {{cache: {{{cache}}}}}}}]")
        answer = member.post(page(alice.policy, "preview"), asked(body_of("Hello"), key=alice.key.key.pk))
        assert ("answer with thinking is not kept" in answer.content.decode()) is says


@pytest.mark.usefixtures("_prices")
def test_a_preview_knows_how_full_the_budgets_of_a_key_are(alice: House) -> None:
    """cases I1: “above 99 %” fired at a few percent elsewhere, and nothing showed the figure."""
    save_draft(
        alice.policy, "rules:\n  - {name: Full, when: {budget_used: {at_least: 99}}, then: {deny: Full.}}\n"
    )
    lead = browser(alice.person("lead", in_team=True))

    def shown() -> str:
        answer = lead.post(page(alice.policy, "preview"), asked(body_of("Hello"), key=alice.key.key.pk))
        return " ".join(unescape(re.sub("<[^>]*>", " ", answer.content.decode())).split())

    assert "✗ budget_used ≥ 99 % is 2 %" in shown()  # $2.008… of $100 are spent and held
    with platform_scope():
        alice.period.spent_nanos = 97_000_000_000
        alice.period.save()
    text = shown()
    assert "✓ budget_used ≥ 99 % is 99 %" in text
    assert "Refused: Full." in text


@pytest.mark.usefixtures("_prices")
def test_a_preview_without_a_key_asks_the_budgets_that_every_key_of_its_reach_shares(alice: House) -> None:
    full = "rules:\n  - {name: Full, when: {budget_used: {at_least: 1}}, then: {deny: Full.}}\n"
    whole = create_policy(alice.tenant, scope="tenant", name="Whole", draft=full)
    save_draft(alice.policy, full)
    owner = browser(alice.person("owner"))

    def shown(policy: RoutingPolicy) -> str:
        answer = owner.post(page(policy, "preview"), asked(body_of("Hello")))
        return " ".join(unescape(re.sub("<[^>]*>", " ", answer.content.decode())).split())

    assert "✓ budget_used ≥ 1 % is 2 %" in shown(alice.policy)
    assert "Refused: Full." in shown(alice.policy)
    assert "✗ budget_used ≥ 1 % is 0 %" in shown(whole)  # a team's budget does not cover every key
    assert "a key's own budgets may be fuller" in shown(whole)
    with platform_scope():
        alice.budget.scope, alice.budget.scope_ref = "tenant", ""
        alice.budget.save()
    assert "✓ budget_used ≥ 1 % is 2 %" in shown(whole)


@pytest.mark.usefixtures("_prices")
def test_a_preview_tells_what_becomes_of_the_call_and_what_it_cannot_know(alice: House) -> None:
    denied = "rules:\n  - {name: No Fable, when: {tiers: [fable]}, then: {deny: Too dear.}}\n"
    publish(create_policy(alice.tenant, scope="tenant", name="House rules", draft=denied))
    owner = browser(alice.person("owner"))

    def shown(then: str, model: str = "claude-sonnet-5-5") -> str:
        save_draft(alice.policy, f"rules:\n  - {{name: One, then: {{{then}}}}}\n")
        body = asked({**body_of("Hello"), "model": model}, key=alice.key.key.pk)
        answer = owner.post(page(alice.policy, "preview"), body)
        return " ".join(unescape(re.sub("<[^>]*>", " ", answer.content.decode())).split())

    text = shown("route: {tier: fable}")
    assert "Not done: model: a less specific policy denies claude-fable-5-2." in text
    assert "→" not in text
    cascade = "route: {cascade: {first: {tier: haiku}, then: {tier: opus}}}"
    text = shown(cascade, "claude-opus-5-5")
    assert "claude-opus-5-5 → claude-haiku-5-5" in text
    assert "Known only once the call is made: route: claude-opus-5-5 answers where" in text
    assert "prompt_cache: marks are added where they pay" in shown("prompt_cache: true")
    assert "exchequer-dry-run: true" in text
    with platform_scope():
        alice.key.key.allowed_models = ["claude-sonnet-5-5"]
        alice.key.key.save()
    assert "claude-haiku-5-5 may not be used (model_not_allowed)" in shown("route: {tier: haiku}")
    assert "Refused: This key may not use claude-opus-5-5." in shown(cascade, "claude-opus-5-5")


def test_a_preview_offers_only_keys_that_one_may_see_and_says_what_is_wrong_first(
    alice: House, bob: House
) -> None:
    elsewhere = make_team(alice.tenant, "Elsewhere")
    with platform_scope():
        theirs = issue_key(alice.tenant, "theirs", team=elsewhere).key
    whole = create_policy(alice.tenant, scope="tenant", name="Whole", draft=BAD)
    member = browser(alice.person("viewer", in_team=True))
    for key in (theirs, bob.key.key):
        answer = member.post(page(whole, "preview"), asked(body_of("Hello"), key=key.pk))
        assert "Select a valid choice" in answer.content.decode()
    answer = member.post(page(whole, "preview"), asked(body_of("Hello")))
    assert "The draft has lines to mend first" in answer.content.decode()
    assert browser(bob.person("owner")).post(page(whole, "preview"), asked("{}")).status_code == 302


def test_what_is_to_be_changed_in_the_live_version_is_said_while_another_draft_is_written(
    alice: House,
) -> None:
    warned = "rules:\n  - {name: One, when: {keywords: {any: [c++]}}, then: {concise: true}}\n"
    save_draft(alice.policy, warned)
    publish(alice.policy)
    save_draft(alice.policy, OTHER)
    text = browser(alice.person("viewer")).get(page(alice.policy)).content.decode()
    assert "What is live should be changed" in text
    assert "is looked for as “c”" in unescape(text)


def test_a_policys_page_counts_what_its_rules_did_and_would_have_done_and_leads_to_the_calls(
    alice: House, bob: House
) -> None:
    text = (
        "rules:\n  - {name: Short, then: {concise: true}}\n"
        "  - {name: No poems, shadow: true, then: {deny: No.}}\n"
        "  - {name: Never, then: {timeout_seconds: 5}}\n"
    )
    policy = publish(save_draft(alice.policy, text)).policy
    assert policy.live is not None

    def applied(rule: str, did: list[str], **more: object) -> dict[str, object]:
        return {"rule": rule, "version": policy.live_id, "did": did, **more}

    short, poems = applied("Short", ["concise instruction"]), applied("No poems", ["deny"], shadow=True)
    with platform_scope():
        both = make_call(alice, decision={"policy": {"applied": [short, poems]}})
        one = make_call(alice, decision={"policy": {"applied": [applied("Short", [])]}})
        make_call(alice, decision={"policy": {"applied": [{**poems, "version": 0}]}})
        make_call(bob, decision={"policy": {"applied": [short]}})
    viewer = browser(alice.person("viewer"))
    counts = viewer.get(page(policy)).context["counts"]
    assert [(row["rule"], row["acted"], row["later"], row["would"]) for row in counts["rules"]] == [
        ("Short", 1, 1, 0),
        ("No poems", 0, 0, 1),
        ("Never", 0, 0, 0),
    ]
    assert (counts["calls"], counts["is_all"]) == (4, True)  # with the one that the house came with
    found = [
        {str(call.pk) for call in viewer.get(row["page"]).context["cl"].result_list}
        for row in counts["rules"]
    ]
    assert {str(both.pk), str(one.pk)} <= found[0]
    assert (str(both.pk) in found[1], str(one.pk) in found[1], found[2]) == (True, False, set())


def test_a_calls_rule_leads_to_the_version_that_it_is_of(alice: House, bob: House) -> None:
    for house, applied in ((alice, alice), (bob, alice)):
        version = applied.policy.live
        assert version is not None
        rule = {"rule": "One", "version": version.pk, "did": ["deny"]}
        with platform_scope():
            call = make_call(house, decision={"policy": {"applied": [rule], "why": "deny"}})
        link = f"{page(applied.policy, 'versions')}?before=0&amp;after=1"
        shown = browser(house.person("owner")).get(f"/admin/calls/call/{call.pk}/change/").content.decode()
        assert (link in shown) is (house is alice)


def test_a_keys_page_names_the_policies_that_decide_on_its_calls_in_their_order(alice: House) -> None:
    key = alice.key.key
    lead = browser(alice.person("lead", in_team=True))

    def shown() -> str:
        return lead.get(f"/admin/tenants/apikey/{key.pk}/change/").content.decode()

    publish(create_policy(alice.tenant, scope="tenant", name="Whole", draft=OTHER))
    own = create_policy(alice.tenant, scope="key", ref=str(key.pk), name="Only a draft", draft=OTHER)
    text = shown()
    assert text.index(f"{alice.canary}-policy</a> (version 1), then ") < text.index("Whole</a> (version 1)")
    assert "Only a draft" not in text
    publish(own)
    text = shown()
    assert text.index("Only a draft</a>") < text.index(f"{alice.canary}-policy</a>")
    for policy in policies_of(alice):
        set_enabled(policy, False)
    assert "None: calls go as they are asked." in shown()
