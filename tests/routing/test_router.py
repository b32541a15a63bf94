"""What becomes of a call: the rules in their order, over three levels."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from bench.routing import LAST, cpu_us
from bench.routing import call as long_call
from bench.routing import router as fifty_rules
from governance.routing import router as routing
from governance.routing import words as routing_words
from governance.routing.capabilities import DEFAULT_TIERS
from governance.routing.document import Policy
from governance.routing.facts import BUDGET_USED, END_USER, FEATURES, TEXT, TURN
from governance.routing.route import AS_ASKED
from governance.routing.rules import CompiledRule
from governance.routing.terms import Names
from governance.routing.words import one_line
from tests.routing import naive
from tests.routing.making import facts, names, policy, router
from tests.routing.models import MODELS

HAIKU, SONNET, OPUS = "claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"

few_words = st.lists(
    st.sampled_from(["poem", "Haiku", "the", "data", "base", "Straße", "naïve", "東京の"]), max_size=6
)
span = st.fixed_dictionaries({}, optional={"at_least": st.integers(0, 4), "at_most": st.integers(2, 6)})
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "tags": st.sampled_from([{"endpoint": "faq"}, {"endpoint": ["faq", "chat"]}, {"feature": "*"}]),
    "keys": st.just(["Abcdefg1"]),
    "teams": st.sampled_from([["research"], ["sales"]]),
    "end_users": st.just(["ann"]),
    "models": st.sampled_from([["claude-opus-5-5"], ["claude-haiku-4-5", "claude-2.1"]]),
    "tiers": st.sampled_from([["opus"], ["haiku", "sonnet"], ["fable"]]),
    "words": span,
    "bytes": st.sampled_from([{"at_least": 100}, {"at_most": 99}]),
    "keywords": st.sampled_from(
        [{"any": ["poem", "data base"]}, {"all": ["the", "poem"]}, {"any": ["STRASSE"], "all": ["naïve"]}]
    ),
    "has": st.sampled_from([["tools"], ["tools", "thinking"]]),
    "has_any": st.sampled_from([["tools"], ["tools", "thinking"]]),
    "stream": st.booleans(),
    "turn": st.sampled_from(["first", "later"]),
    "time": st.sampled_from(
        [
            {"zone": "Europe/Berlin", "from": "22:00", "to": "06:00"},
            {"zone": "Europe/Berlin", "from": "22:00", "to": "06:00", "days": ["fri", "sun"]},
            {"from": "09:00", "to": "17:30", "days": ["mon", "sat"]},
            {"zone": "America/New_York"},
        ]
    ),
    "budget_used": st.sampled_from([{"at_least": 80}, {"at_most": 79}]),
    "latency": st.just(["batch", "background"]),
}
# Few fields at a time: a match of many hardly ever holds, and then nothing is seen of what rules do.
matches = st.sets(st.sampled_from(sorted(FIELDS)), max_size=2).flatmap(
    lambda names: st.fixed_dictionaries({name: FIELDS[name] for name in sorted(names)})
)
ROUTES = [{"tier": "haiku"}, {"tier": "opus"}, {"model": "claude-haiku-4-5"}, {"model": "claude-opus-5-5"}]
ACTIONS: list[dict[str, Any]] = [
    *({"route": route} for route in ROUTES),
    *({"max_tokens": {"cap": cap}} for cap in (100, 2_000)),
    *({"cache": {"ttl_seconds": 60, "scope": scope}} for scope in ("key", "team")),
    {"deny": "No."},
    {"deny": "Not now."},
]
actions = st.lists(st.sampled_from(ACTIONS), max_size=2).map(
    lambda some: {k: v for each in some for k, v in each.items()}
)
rules = st.fixed_dictionaries(
    {"when": st.just({}) | matches | st.just({"budget_used": {"at_least": 80}}), "then": actions},
    optional={"unless": matches, "shadow": st.booleans(), "final": st.booleans()},
)
policies = st.lists(
    st.builds(
        lambda rules, tiers: policy(*rules, tiers=tiers),
        st.lists(rules, min_size=1, max_size=4),
        st.sampled_from([{}, {"haiku": "claude-haiku-4-5-20251001"}, {"opus": "claude-opus-5"}]),
    ),
    min_size=1,
    max_size=3,
)
calls = st.builds(
    facts,
    model=st.sampled_from([OPUS, HAIKU, "claude-haiku-4-5-20251001", "claude-mythos-5", "claude-next"]),
    tags=st.sampled_from([{}, {"endpoint": "faq"}, {"endpoint": "chat", "feature": "x"}]),
    team_id=st.sampled_from([None, 7, 8]),
    end_user=st.sampled_from([None, "ann", "bob"]),
    text=few_words.map(" ".join),
    features=st.sampled_from([frozenset(), frozenset({"tools"}), frozenset({"tools", "thinking", "system"})]),
    stream=st.booleans(),
    first_turn=st.booleans(),
    body_bytes=st.sampled_from([99, 100]),
    budget_used_percent=st.sampled_from([None, 79, 80]),
    latency=st.sampled_from(["interactive", "batch"]),
    now=st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31)).map(lambda at: at.replace(tzinfo=UTC)),
)


def is_word_for_word(policies: list[Policy], call: Any) -> bool:
    """Does the router what the naive reading does, now and from memory?"""
    compiled = router(*policies)
    wanted = naive.outcome(policies, call)
    matched = [rule.name for _, rule in naive.rules_that_match(policies, call)]
    first, second = compiled.route(call), compiled.route(call)
    assert first == second
    return {name: getattr(first, name) for name in wanted} == wanted and names(first.applied) == matched


@settings(max_examples=250)
@given(policies=policies, call=calls)
def test_the_router_does_what_the_language_says_word_for_word(policies: list[Policy], call: Any) -> None:
    assert is_word_for_word(policies, call)


BROKEN: dict[str, tuple[object, str, Any]] = {
    "the largest cap": (routing, "_cap", lambda action: -action.fields["max_tokens_cap"]),
    "a tier without its aliases": (Names, "of_tiers", lambda self, tiers: frozenset()),
    "no exceptions": (CompiledRule, "is_excepted", lambda self, call: False),
    "no tier is cheaper": (Names, "is_cheaper", lambda self, name, other: False),
    "half a phrase": (routing_words, "pattern_of", lambda keyword: one_line(keyword.split()[0])),
    "tiers of the nearest only": (routing, "tier_models", lambda chain: {**DEFAULT_TIERS, **chain[0]}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_router_that_is_broken_is_told_from_the_language(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, what, instead = BROKEN[name]
    monkeypatch.setattr(where, what, instead)
    effort = settings(max_examples=2_000, phases=[Phase.generate], derandomize=True)
    find(st.tuples(policies, calls), lambda each: not is_word_for_word(*each), settings=effort)


SPENT = {"budget_used": {"at_least": 80}}
NO_DEARER = {"name": "no dearer", "when": SPENT, "then": {"route": {"tier": "sonnet"}}}


@pytest.mark.parametrize(
    ("asked", "later", "sent"),
    [
        (OPUS, None, SONNET),
        (HAIKU, None, None),
        (OPUS, {"route": {"tier": "haiku"}}, HAIKU),
        (OPUS, {"route": {"tier": "opus"}}, SONNET),
        (OPUS, {"route": {"heuristic": True}}, HAIKU),
        (HAIKU, {"route": {"heuristic": True}}, None),
    ],
)
def test_a_rule_that_saves_because_a_budget_is_used_up_never_makes_a_call_dearer(
    asked: str, later: dict[str, Any] | None, sent: str | None
) -> None:
    rules = [NO_DEARER, *([] if later is None else [{"name": "usual", "then": later}])]
    spent = facts(model=asked, text="Translate this.", budget_used_percent=85)
    route = router(policy(*rules)).route(spent)
    assert route.model == sent
    assert ("usual" in str(route.why)) == (later is not None and sent != SONNET)


def test_a_rule_for_budgets_with_room_may_choose_a_dearer_model() -> None:
    room = {"when": {"budget_used": {"at_most": 20}}, "then": {"route": {"tier": "opus"}}}
    assert router(policy(room)).route(facts(model=HAIKU, budget_used_percent=5)).model == OPUS


@pytest.mark.parametrize(
    ("rule", "stays_on"),
    [
        (NO_DEARER, {HAIKU, SONNET}),
        ({**NO_DEARER, "when": {"budget_used": {"at_most": 90}}}, {HAIKU, SONNET, OPUS}),
        (
            {
                **NO_DEARER,
                "then": {"route": {"cascade": {"first": {"tier": "haiku"}, "then": {"tier": "sonnet"}}}},
            },
            {HAIKU, SONNET},
        ),
        ({**NO_DEARER, "then": {"route": {"classify": {"simple": {"tier": "haiku"}}}}}, set()),
    ],
)
def test_a_conversation_leaves_a_dearer_model_where_a_budget_is_used_up(
    rule: dict[str, Any], stays_on: set[str]
) -> None:
    compiled = router(policy(rule, {"name": "usual", "then": {"route": {"tier": "haiku"}}}))
    route = compiled.route(facts(budget_used_percent=85))
    assert {model for model in (HAIKU, SONNET, OPUS) if compiled.may_stay(route, model)} == stays_on


def test_of_a_call_that_wants_no_routing_only_denials_and_caps_count() -> None:
    compiled = router(
        policy(
            {"name": "to Haiku", "then": {"route": {"tier": "haiku"}, "cache": {"ttl_seconds": 9}}},
            {"name": "short", "then": {"max_tokens": {"cap": 100}, "concise": True}},
        )
    )
    route = compiled.forbids(facts())
    assert (route.model, route.cache, route.concise, route.max_tokens_cap) == (None, None, None, 100)
    assert [(each.rule, each.did) for each in route.applied] == [
        ("to Haiku", ()),
        ("short", ("max_tokens at most 100",)),
    ]
    assert (route.rule, route.sticky) == ("short", True)


def test_a_call_without_a_matching_rule_is_as_asked() -> None:
    compiled = router(policy({"when": {"stream": True}, "then": {"deny": "No."}}))
    assert compiled.route(facts()) is AS_ASKED
    assert compiled.asks == frozenset()


def test_a_team_cannot_undo_what_its_tenant_denies() -> None:
    team = policy(
        {"name": "all ours", "then": {"route": {"tier": "opus"}, "answer": {"text": "Hi"}}, "final": True}
    )
    tenant = policy(
        {"name": "no poems", "when": {"keywords": {"any": ["poem"]}}, "then": {"deny": "No poems."}}
    )
    route = router(team, tenant).route(facts(text="A poem, please"))
    assert (route.deny, route.model, route.answer) == ("No poems.", None, None)
    assert (route.rule, route.version_id) == ("no poems", 20)
    assert [(each.rule, each.did) for each in route.applied] == [("all ours", ()), ("no poems", ("deny",))]


def test_the_smallest_cap_of_all_levels_holds_and_is_named() -> None:
    team = policy({"name": "loose", "then": {"max_tokens": {"cap": 5_000}, "route": {"tier": "haiku"}}})
    tenant = policy({"name": "tight", "then": {"max_tokens": {"cap": 800}, "route": {"tier": "sonnet"}}})
    route = router(team, tenant).route(facts())
    assert (route.max_tokens_cap, route.model) == (800, HAIKU)
    assert [each.did for each in route.applied] == [(HAIKU,), ("max_tokens at most 800",)]


def test_final_ends_its_own_policy_only_and_only_where_it_matches() -> None:
    key = policy(
        {"when": {"stream": True}, "then": {"concise": True}, "final": True}, {"then": {"timeout_seconds": 9}}
    )
    tenant = policy({"then": {"cache": {"ttl_seconds": 5}}})
    streamed, plain = (router(key, tenant).route(facts(stream=stream)) for stream in (True, False))
    assert streamed.timeout_seconds is None
    assert streamed.cache is not None
    assert plain.timeout_seconds == 9


def test_a_shadow_rule_is_recorded_and_changes_nothing() -> None:
    shadow = {"shadow": True, "final": True, "then": {"deny": "No.", "route": {"tier": "haiku"}}}
    route = router(policy(shadow, {"then": {"route": {"tier": "sonnet"}}})).route(facts())
    assert (route.deny, route.model, route.rule) == (None, SONNET, "rule 2")
    assert [(each.did, each.shadow) for each in route.applied] == [
        (("deny", HAIKU), True),
        ((SONNET,), False),
    ]


def test_only_shadow_rules_leave_no_reason() -> None:
    route = router(policy({"shadow": True, "then": {"deny": "No."}})).route(facts())
    assert (route.rule, route.why, route.version_id) == (None, "", None)


def test_a_tier_means_what_the_nearest_policy_says() -> None:
    key = policy({"then": {"route": {"tier": "opus"}}})
    team = policy({"then": {"concise": True}}, tiers={"opus": "claude-opus-4-8"})
    tenant = policy({"then": {"concise": True}}, tiers={"opus": "claude-opus-5", "haiku": "claude-haiku-4-5"})
    assert router(key, team, tenant).route(facts()).model == "claude-opus-4-8"
    assert router(key, tenant).route(facts()).model == "claude-opus-5"
    assert router(key).route(facts(model=SONNET)).model == OPUS


def test_a_route_to_the_model_that_was_asked_is_no_route_but_has_its_reason() -> None:
    route = router(policy({"then": {"route": {"model": "claude-haiku-4-5"}}})).route(
        facts(model="claude-haiku-4-5-20251001")
    )
    assert (route.model, route.rule) == (None, "rule 1")


def test_why_names_the_rule_and_its_signals() -> None:
    rule = {
        "name": "small",
        "when": {"tiers": ["opus"], "words": {"at_most": 80}},
        "then": {"route": {"tier": "haiku"}},
    }
    compiled = router(policy({**rule, "unless": {"has": ["tools"]}}))
    assert compiled.route(facts(text="Hi")).why == (
        "claude-haiku-5-5: rule “small” because of tiers opus, words ≤ 80, not has tools"
    )
    assert router(policy({"then": {"concise": True}})).route(facts()).why == (
        "concise instruction: rule “rule 1”, which holds for every call"
    )


def test_the_sticky_of_the_most_specific_policy_counts() -> None:
    never = {"when": {"stream": True}, "then": {"concise": True}}
    assert not router(policy(never, sticky=False), policy(never)).route(facts()).sticky
    assert router(policy(never), policy(never, sticky=False)).route(facts()).sticky
    assert not router(policy({"then": {"concise": True}}, sticky=False)).route(facts()).sticky


def test_classify_and_cascade_name_their_models() -> None:
    classify = {"simple": {"tier": "haiku"}, "complex": {"model": "claude-opus-5"}, "timeout_ms": 500}
    route = router(policy({"then": {"route": {"classify": classify}}})).route(facts())
    assert route.classify is not None
    assert (route.classify.by, route.classify.models) == (
        HAIKU,
        {"simple": HAIKU, "complex": "claude-opus-5"},
    )
    assert (route.classify.otherwise, route.model) == (None, None)
    ladder = {"first": {"tier": "haiku"}, "then": {"tier": "opus"}}
    route = router(policy({"then": {"route": {"cascade": ladder}}})).route(facts())
    assert route.cascade is not None
    assert (route.cascade.first, route.cascade.then, route.model) == (HAIKU, OPUS, None)
    route = router(policy({"then": {"route": {"cascade": ladder | {"confidence": {"at_least": 80}}}}})).route(
        facts()
    )
    assert route.applied[0].did == (f"{HAIKU}, then {OPUS} if a check fails or it is under 80 % sure",)


def test_an_off_switch_of_a_key_goes_before_what_its_tenant_adds() -> None:
    key = policy({"then": {"prompt_cache": False, "concise": False}})
    tenant = policy({"then": {"prompt_cache": True, "concise": "Be brief."}})
    assert router(key, tenant).route(facts()).prompt_cache is None
    assert router(key, tenant).route(facts()).concise is None
    on = router(tenant).route(facts())
    assert on.prompt_cache is not None
    assert (on.prompt_cache.ttl, on.concise) == ("5m", "Be brief.")


def test_a_system_text_whose_captures_are_missing_leaves_room_for_the_next() -> None:
    counted = {"text": "Give exactly {n} points.", "mode": "replace", "captures": {"n": "{number} points"}}
    compiled = router(policy({"then": {"system": counted}}, {"then": {"system": {"text": "Be kind."}}}))
    found, missing = (
        compiled.route(facts(text=text)).system for text in ("List 5 points", "List some points")
    )
    assert found is not None
    assert (found.text, found.replaces) == ("Give exactly 5 points.", True)
    assert missing is not None
    assert (missing.text, missing.replaces) == ("Be kind.", False)
    again = compiled.route(facts(text="List 7 points")).system
    assert again is not None
    assert again.text == "Give exactly 7 points."


def test_asks_names_the_dear_facts_that_some_rule_needs() -> None:
    def asks(rule: dict[str, Any]) -> set[str]:
        return set(router(policy({"then": {"concise": True}, **rule})).asks)

    assert asks({}) == set()
    assert asks({"when": {"words": {"at_most": 5}}}) == {TEXT}
    assert asks({"unless": {"keywords": {"any": ["poem"]}}}) == {TEXT}
    assert asks({"when": {"has": ["tools"], "budget_used": {"at_least": 5}}}) == {FEATURES, BUDGET_USED}
    assert asks({"when": {"turn": "first", "end_users": ["ann"]}, "shadow": True}) == {TURN, END_USER}
    assert asks({"then": {"route": {"heuristic": True}}}) == {TEXT}
    assert asks({"then": {"system": {"text": "{n}", "captures": {"n": "{number} points"}}}}) == {TEXT}


# --- Time of day ------------------------------------------------------------------------------
def at_night(now: datetime, **time: Any) -> bool:
    rule = {"when": {"time": {"zone": "Europe/Berlin", "from": "22:00", "to": "06:00", **time}}}
    return bool(router(policy({**rule, "then": {"concise": True}})).route(facts(now=now)).applied)


@pytest.mark.parametrize(
    ("utc", "is_night"),
    [
        ((2026, 7, 1, 19, 59), False),
        ((2026, 7, 1, 20, 0), True),
        ((2026, 7, 2, 3, 59), True),
        ((2026, 7, 2, 4, 0), False),
        ((2026, 12, 1, 20, 59), False),
        ((2026, 12, 1, 21, 0), True),
        ((2026, 12, 2, 4, 59), True),
        ((2026, 12, 2, 5, 0), False),
    ],
)
def test_a_time_of_day_is_on_the_clocks_of_its_zone_in_summer_and_in_winter(utc: Any, is_night: bool) -> None:
    assert at_night(datetime(*utc, tzinfo=UTC)) is is_night


def test_a_day_on_which_the_clocks_change_has_each_shown_minute_on_its_side() -> None:
    """25 October 2026, Berlin: the hour from 2:00 to 3:00 comes twice; 29 March: it does not come."""
    twice = {"from": "02:00", "to": "03:00"}
    start = datetime(2026, 10, 24, 22, 0, tzinfo=UTC)
    minutes = [at_night(start + timedelta(minutes=10 * step), **twice) for step in range(6 * 8)]
    assert sum(minutes) == 12
    start = datetime(2026, 3, 28, 23, 0, tzinfo=UTC)
    assert not any(at_night(start + timedelta(minutes=10 * step), **twice) for step in range(6 * 8))


def test_days_are_those_on_which_the_span_begins() -> None:
    saturday_early = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
    assert at_night(saturday_early, days=["fri"])
    assert not at_night(saturday_early, days=["sat"])
    assert at_night(saturday_early + timedelta(days=1), days=["sat"])
    assert at_night(datetime(2026, 11, 23, 2, 0, tzinfo=UTC), days=["sun"])


def test_a_day_ends_at_24_00() -> None:
    late = datetime(2026, 11, 20, 22, 59, 59, tzinfo=UTC)
    assert at_night(late, **{"from": "20:00", "to": "24:00"})
    assert not at_night(late + timedelta(seconds=1), **{"from": "20:00", "to": "24:00"})


# --- What a policy holds ------------------------------------------------------------------------
def test_a_misspelled_condition_is_refused_and_cannot_match_everything() -> None:
    with pytest.raises(msgspec.ValidationError):
        policy({"when": {"keyword": {"any": ["poem"]}}, "then": {"deny": "No."}})


def test_every_family_of_models_is_a_tier_or_none() -> None:
    assert {model.family for model in MODELS} == {"haiku", "sonnet", "opus", "fable", "mythos", "claude-2"}


# --- What it costs --------------------------------------------------------------------------------
@pytest.mark.parametrize("last", LAST.values(), ids=LAST)
def test_fifty_rules_cost_a_call_microseconds(last: dict[str, Any]) -> None:
    """20 µs is the goal, measured by bench/routing.py; five times that leaves room for a busy machine."""
    compiled, call = fifty_rules(last), long_call(100)
    assert len(compiled.policies[0]) == 50
    assert cpu_us(lambda: compiled.route(call), rounds=7, calls=100)[0] < 100
