"""What a preview says of a call is what becomes of it."""

from typing import Any

from hypothesis import given, settings

from governance.routing.preview import preview
from tests.routing.making import facts, policy, router
from tests.routing.test_router import calls, policies


def test_a_preview_shows_each_terms_value() -> None:
    """cases I1: “budget used > 99 %” fired at $0.40 of $15."""
    rule = {
        "name": "last percent",
        "when": {"budget_used": {"at_least": 99}, "tiers": ["opus"], "words": {"at_most": 20}},
        "then": {"deny": "The budget is used up."},
    }
    seen = preview(router(policy(rule)), facts(budget_used_percent=2, text="Why is that?"))
    (only,) = seen.rules
    assert [(str(term), term.holds) for term in only.terms] == [
        ("tiers: wanted opus, is opus", True),
        ("words: wanted ≤ 20, is 3", True),
        ("budget_used: wanted ≥ 99 %, is 2 %", False),
    ]
    assert not only.matched
    assert only.why == "No match: budget_used: wanted ≥ 99 %, is 2 %."
    assert seen.route.deny is None
    assert preview(router(policy(rule)), facts(budget_used_percent=99, text="Why?")).route.deny is not None


def test_a_budget_that_covers_nothing_is_no_used_up_budget() -> None:
    rule = {"when": {"budget_used": {"at_most": 99}}, "then": {"deny": "No."}}
    (only,) = preview(router(policy(rule)), facts(budget_used_percent=None)).rules
    assert only.why == "No match: budget_used: wanted ≤ 99 %, is no hard budget covers the call."


def test_a_preview_names_what_unless_took_away_and_what_final_cut_off() -> None:
    rules: list[dict[str, Any]] = [
        {"when": {"stream": False}, "unless": {"has": ["tools"]}, "then": {"deny": "No."}},
        {"then": {"concise": True, "route": {"tier": "haiku"}}, "final": True},
        {"then": {"cache": {"ttl_seconds": 5}}},
    ]
    seen = preview(
        router(policy(*rules), policy({"then": {"concise": True}})), facts(features=frozenset({"tools"}))
    )
    assert [rule.why for rule in seen.rules] == [
        "No match, because of its `unless`: has is tools.",
        "Matched.",
        "Not looked at: a rule before it is final.",
        "Matched.",
    ]
    assert [rule.did for rule in seen.rules] == [(), ("claude-haiku-5-5", "concise instruction"), (), ()]
    assert seen.rules[0].terms[0].holds


def test_a_shadow_rules_preview_says_what_it_would_have_done() -> None:
    (only,) = preview(router(policy({"shadow": True, "then": {"deny": "No."}})), facts()).rules
    assert (only.why, only.did) == ("Would have matched.", ("deny",))


@settings(max_examples=60)
@given(policies=policies, call=calls)
def test_a_preview_and_the_router_never_tell_two_stories(policies: Any, call: Any) -> None:
    compiled = router(*policies)
    seen, route = preview(compiled, call), compiled.route(call)
    assert seen.route == route
    assert [rule.name for rule in seen.rules if rule.matched] == [applied.rule for applied in route.applied]
    assert len(seen.rules) == sum(len(each.rules) for each in policies)
