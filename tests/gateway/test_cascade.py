"""A cheap model answers first; a better one is asked where the reply fails a check, and both are paid."""

import hashlib
import json
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.core.money import nanos_to_usd
from governance.gateway.confidence import percent_in
from governance.gateway.json_schema import fits
from governance.gateway.reply_checks import HEDGES, failed_check
from governance.simulator.samples import sample
from tenants.keys import issue_key
from tenants.scope import platform_scope
from tests.gateway.asking import ASK, HELLO, post, script
from tests.gateway.policies import govern
from tests.gateway.test_fallbacks import assert_sound
from tests.harness import Account, Stack, make_tenant, start_stack, wait_until

ASKED, FIRST, THEN = "claude-sonnet-5-5", "claude-haiku-5-5", "claude-opus-5-5"
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}, "n": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}


def cascade(account: Account, checks: str, rest: str = "") -> None:
    govern(
        account,
        "rules: [{name: a rule, then: {route: {cascade: "
        f"{{first: {{tier: haiku}}, then: {{tier: opus}}, checks: [{checks}] {rest} }} }} }} }}]",
    )


def said(account: Account, text: str, **more: Any) -> dict[str, str]:
    return script(id=account.tenant.slug, tag=account.tenant.slug, text=text, **more)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "buffered stream"])
def test_a_reply_that_fails_is_replaced_and_both_attempts_are_paid(
    stack: Stack, account: Account, stream: bool
) -> None:
    """The reply of the last attempt is relayed byte for byte."""
    cascade(account, "hedging", ", buffer_streams: true")
    response = post(stack, account, {**ASK, "stream": stream}, headers=said(account, "I don’t know."))
    assert response.status_code == 200
    assert response.headers["exchequer-model"] == THEN
    assert f"cascade={FIRST} (hedging)" in response.headers["exchequer-decision"]
    first_line, second_line = stack.bill(account.tenant.slug)
    assert (first_line["model"], second_line["model"]) == (FIRST, THEN)
    (call,) = account.wait_for_calls(1)
    assert (call.requested_model, call.served_model, call.attempts) == (ASKED, THEN, 2)
    first, second = account.attempts()
    assert (first.purpose, first.served_model, first.basis) == ("answer", FIRST, "exact")
    assert (second.purpose, second.served_model, second.basis) == ("escalate", THEN, "exact")
    assert first.cost_nanos > 0
    assert_sound(account)
    assert hashlib.sha256(response.content).hexdigest() == second_line["reply_sha256"]


@pytest.mark.parametrize("stream", [False, True], ids=["json", "buffered stream"])
def test_a_reply_that_is_good_enough_is_relayed_as_it_came(
    stack: Stack, account: Account, stream: bool
) -> None:
    cascade(account, "hedging, refusal, truncation", ", buffer_streams: true")
    response = post(stack, account, {**ASK, "stream": stream}, headers=said(account, "Paris."))
    assert response.headers["exchequer-model"] == FIRST
    (call,) = account.wait_for_calls(1)
    assert (call.served_model, call.attempts, "cascade" in call.decision) == (FIRST, 1, False)
    (line,) = stack.bill(account.tenant.slug)
    assert hashlib.sha256(response.content).hexdigest() == line["reply_sha256"]
    assert_sound(account)


def test_the_sdk_reads_a_buffered_stream(stack: Stack, account: Account) -> None:
    cascade(account, "hedging", ", buffer_streams: true")
    with (
        account.client(stack) as client,
        client.messages.stream(**ASK, extra_headers=said(account, "I'm not sure.")) as stream,
    ):
        assert stream.get_final_message().model == THEN
    account.wait_for_calls(1)
    assert_sound(account)


def test_a_stream_that_may_not_be_kept_back_is_answered_as_asked(stack: Stack, account: Account) -> None:
    cascade(account, "hedging")
    response = post(stack, account, {**ASK, "stream": True}, headers=said(account, "I don't know."))
    assert response.headers["exchequer-model"] == ASKED
    (call,) = account.wait_for_calls(1)
    assert call.attempts == 1


# --- Is it sure of its answer? ----------------------------------------------------------------------
SURE = ", confidence: {at_least: 80}"
RAMBLING = "Paris, perhaps. " * 30
"""The simulator rates long answers at 0 %, short ones at 100 %, and gives no number without a full stop."""


@pytest.mark.parametrize("stream", [False, True], ids=["json", "buffered stream"])
def test_an_answer_that_its_model_is_not_sure_of_is_replaced_and_all_three_are_paid(
    stack: Stack, account: Account, stream: bool
) -> None:
    cascade(account, "refusal", SURE + ", buffer_streams: true")
    response = post(stack, account, {**ASK, "stream": stream}, headers=said(account, RAMBLING))
    assert response.headers["exchequer-model"] == THEN
    assert f"confidence=0; cascade={FIRST} (unsure)" in response.headers["exchequer-decision"]
    (call,) = account.wait_for_calls(1)
    assert (call.requested_model, call.served_model, call.attempts) == (ASKED, THEN, 3)
    assert [(attempt.purpose, attempt.served_model) for attempt in account.attempts()] == [
        ("answer", FIRST),
        ("judge", FIRST),
        ("escalate", THEN),
    ]
    assert_sound(account)
    assert call.baseline_nanos - call.cost_nanos == sum(call.decision["savings"].values())


@pytest.mark.parametrize("stream", [False, True], ids=["json", "buffered stream"])
def test_an_answer_that_its_model_is_sure_of_is_relayed_as_it_came(
    stack: Stack, account: Account, stream: bool
) -> None:
    cascade(account, "refusal", SURE + ", buffer_streams: true")
    response = post(stack, account, {**ASK, "stream": stream}, headers=said(account, "Paris."))
    assert response.headers["exchequer-model"] == FIRST
    assert "confidence=100" in response.headers["exchequer-decision"]
    (call,) = account.wait_for_calls(1)
    assert (call.served_model, call.attempts, call.decision["confidence"]) == (FIRST, 2, 100)
    answer, judge = account.attempts()
    assert (answer.purpose, judge.purpose, judge.number) == ("answer", "judge", 2)
    assert 0 < judge.cost_nanos < 1_000_000
    if not stream:
        assert response.headers["exchequer-cost-usd"] == nanos_to_usd(call.cost_nanos)
    assert call.cost_nanos == answer.cost_nanos + judge.cost_nanos
    assert call.decision["savings"]["overhead"] == -judge.cost_nanos
    assert call.baseline_nanos - call.cost_nanos == sum(call.decision["savings"].values())
    assert hashlib.sha256(response.content).hexdigest() == stack.bill(account.tenant.slug)[0]["reply_sha256"]
    assert_sound(account)


@pytest.mark.parametrize("tier", ["sonnet", "opus"])
def test_a_model_that_thinks_unasked_still_says_how_sure_it_is(account: Account, tier: str) -> None:
    """Sonnet is told not to think; Opus cannot be, and has room for it."""
    govern(
        account,
        f"rules: [{{name: a rule, then: {{route: {{cascade: {{first: {{tier: {tier}}}, then: {{tier: fable}} "
        f"{SURE} }} }} }} }}]",
    )
    with start_stack(simulator_arguments=["--script", '{"thinking": "unasked"}']) as stack:
        post(stack, account, headers=said(account, "Paris."))
        (call,) = account.wait_for_calls(1)
    assert call.decision["confidence"] == 100
    judge = account.attempts()[1]
    assert (judge.purpose, judge.stop_reason) == ("judge", "end_turn")
    assert judge.bound_nanos is not None
    assert judge.cost_nanos <= judge.bound_nanos
    assert_sound(account)


def test_without_a_number_the_answer_stands(stack: Stack, account: Account) -> None:
    cascade(account, "refusal", SURE)
    silent = {**ASK, "messages": [{"role": "user", "content": "Capital of France"}]}
    response = post(stack, account, silent, headers=said(account, "Paris"))
    assert response.headers["exchequer-model"] == FIRST
    assert "confidence=not (no_number)" in response.headers["exchequer-decision"]
    account.wait_for_calls(1)
    assert_sound(account)


def test_a_reply_without_text_is_not_judged(stack: Stack, account: Account) -> None:
    cascade(account, "refusal", SURE)
    response = post(stack, account, headers=said(account, " "))
    assert "confidence" not in response.headers["exchequer-decision"]
    (call,) = account.wait_for_calls(1)
    assert (call.served_model, call.attempts) == (FIRST, 1)


def test_an_unsure_answer_stands_where_there_is_no_room_for_a_better_one(stack: Stack) -> None:
    """What was held for the answer and its judgement is settled, the call is served and its reply kept."""
    rich = make_tenant("1000")
    cascade(rich, "refusal", SURE)
    post(stack, rich, headers=said(rich, RAMBLING))
    rich.wait_for_calls(1)
    answer, judge, _ = rich.attempts()
    least = max(answer.bound_nanos, answer.cost_nanos + judge.bound_nanos)
    account = make_tenant(nanos_to_usd(least + 5_000))
    cascade(account, "refusal", SURE)
    once = said(account, RAMBLING) | {"idempotency-key": "once"}
    response = post(stack, account, headers=once)
    assert response.status_code == 200, response.text
    assert response.headers["exchequer-model"] == FIRST
    (call,) = account.wait_for_calls(1)
    assert (call.outcome, call.attempts, call.decision["confidence"]) == ("served", 2, 0)
    assert call.decision["cascade_not"] == f"{THEN} (budget_exhausted)"
    assert_sound(account)
    again = post(stack, account, headers=once)
    assert (again.content, again.headers["exchequer-replayed"]) == (response.content, "true")


def test_without_room_to_ask_how_sure_it_is_the_answer_stands(stack: Stack) -> None:
    rich = make_tenant("1000")
    cascade(rich, "refusal")
    post(stack, rich)
    (call,) = rich.wait_for_calls(1)
    account = make_tenant(nanos_to_usd(call.held_nanos))
    cascade(account, "refusal", SURE)
    response = post(stack, account, headers=said(account, "Paris.", bill_full_max_tokens=True))
    assert (response.status_code, response.headers["exchequer-model"]) == (200, FIRST)
    (call,) = account.wait_for_calls(1)
    assert (call.attempts, call.decision["confidence"]) == (1, "not (budget_exhausted)")
    assert_sound(account)


@pytest.mark.parametrize(
    ("said", "percent"),
    [
        ("85", 85),
        ("85%", 85),
        ("0.", 0),
        ("100", 100),
        ("101", None),
        ("very", None),
        ("", None),
        ("٨٥", None),
    ],
)
def test_a_number_is_what_the_text_begins_with(said: str, percent: int | None) -> None:
    assert percent_in(said) == percent


def test_a_better_model_that_upstream_refuses_leaves_the_first_reply(stack: Stack, account: Account) -> None:
    """It was paid for. The call is served, and a repetition gets the same reply for nothing."""
    cascade(account, "hedging")
    once = {"idempotency-key": "once"}
    slug = account.tenant.slug
    failing = script(id=slug, tag=slug, text="I don't know.", error={"type": "overloaded_error", "after": 1})
    response = post(stack, account, headers=failing | once)
    assert (response.status_code, response.headers["exchequer-model"]) == (200, FIRST)
    assert f"cascade_not={THEN} (529)" in response.headers["exchequer-decision"]
    (call,) = account.wait_for_calls(1)
    assert (call.outcome, call.served_model, call.attempts) == ("served", FIRST, 2)
    assert [entry.kind for entry in account.entries()] == ["charge", "void"]
    assert_sound(account)
    again = post(stack, account, headers=failing | once)
    assert (again.status_code, again.content) == (200, response.content)
    assert again.headers["exchequer-replayed"] == "true"


def test_without_room_for_the_better_model_the_first_reply_stands(stack: Stack) -> None:
    rich = make_tenant("1000")
    cascade(rich, "refusal")
    post(stack, rich)
    (call,) = rich.wait_for_calls(1)
    account = make_tenant(nanos_to_usd(call.held_nanos + 5_000))
    cascade(account, "hedging")
    response = post(stack, account, headers=said(account, "I don't know."))
    assert response.headers["exchequer-model"] == FIRST
    (call,) = account.wait_for_calls(1)
    assert call.decision["cascade_not"] == f"{THEN} (budget_exhausted)"
    assert (call.attempts, call.outcome, "refused" in call.decision) == (1, "served", False)
    assert_sound(account)


# --- What is good enough ----------------------------------------------------------------------------


def message(text: str, stop_reason: str = "end_turn", **block: Any) -> bytes:
    content = [{"type": "text", "text": text}, *([block] if block else [])]
    return json.dumps({"content": content, "stop_reason": stop_reason}).encode()


@pytest.mark.parametrize(
    ("body", "check", "fails"),
    [
        (message("", "refusal"), "refusal", True),
        (message("No."), "refusal", False),
        (message("Half a", "max_tokens"), "truncation", True),
        (message("All", "model_context_window_exceeded"), "truncation", True),
        (message("Stop.", "stop_sequence"), "truncation", False),
        (message('{"a": "x"}'), "json", False),
        (message('{"a": 1}'), "json", True),
        (message('{"a": "x", "b": 1}'), "json", True),
        (message("{}"), "json", True),
        (message("Sure: {}"), "json", True),
        (message("I'm not sure.", "tool_use", type="tool_use", name="x"), "hedging", False),
        (message("I'm NOT sure."), "hedging", True),
        (message("As an AI, I …"), "hedging", True),
        (message("Paris is the capital."), "hedging", False),
    ],
)
def test_each_check_says_what_it_is_for(body: bytes, check: Any, fails: bool) -> None:
    assert (failed_check(body, [check], SCHEMA) == check) == fails


def test_json_that_the_request_has_begun_is_read_with_its_beginning() -> None:
    assert failed_check(message('"a": "x"}'), ["json"], SCHEMA, begun="{") is None
    assert failed_check(message('"a": 1}'), ["json"], SCHEMA, begun="{") == "json"


def test_a_body_that_is_no_message_is_not_good_enough() -> None:
    assert failed_check(b"[", ["refusal"], None) == "unreadable"


def test_hedges_are_as_they_are_looked_for() -> None:
    assert all(hedge == hedge.lower() and "’" not in hedge for hedge in HEDGES)


_LEAVES = st.sampled_from(
    [{"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"enum": ["x", "y"]}, {"const": 3}]
)
_SCHEMAS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(
            lambda parts: {
                "type": "object",
                "properties": parts,
                "required": [*parts],
                "additionalProperties": False,
            }
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda choices: {"anyOf": choices}),
    ),
    max_leaves=8,
)


@given(_SCHEMAS)
def test_what_is_made_after_a_schema_fits_it_and_what_is_not_does_not(schema: dict[str, Any]) -> None:
    value = sample(schema)
    assert fits(value, schema)
    assert not fits({"never": object()}, schema)
    if schema.get("type") == "object":
        assert not fits({**value, "other": 1}, schema)
        for name in value:
            assert not fits({key: part for key, part in value.items() if key != name}, schema)


def test_true_is_no_number() -> None:
    assert not fits(True, {"type": "integer"})
    assert not fits(1, {"enum": [True]})
    assert fits(2.0, {"type": "integer"})
    assert not fits(2.5, {"type": "integer"})


# --- And the response cache -------------------------------------------------------------------------
KEPT = """
rules:
  - name: Plain
    when: {tags: {kind: plain}}
    then: {route: {tier: haiku}, cache: {ttl_seconds: 600, scope: tenant}}
  - name: Checked
    then:
      cache: {ttl_seconds: 600, scope: tenant}
      route:
        cascade: {first: {tier: haiku}, then: {tier: opus}, checks: [hedging], buffer_streams: true}
"""


def hit(stack: Stack, account: Account, content: Any = None, **options: Any) -> httpx2.Response:
    """The hit that comes once the first answer is kept; a busy machine may need a moment for that."""
    found: list[httpx2.Response] = []

    def is_hit() -> bool:
        found.append(post(stack, account, content, **options))
        return found[-1].headers["exchequer-cache"] == "hit"

    wait_until(is_hit, 5)
    return found[-1]


@pytest.mark.parametrize("stream", [False, True], ids=["json", "buffered stream"])
def test_the_better_models_answer_is_kept_and_its_hit_compared_as_its_miss_was(
    stack: Stack, account: Account, stream: bool
) -> None:
    govern(account, KEPT)
    content, headers = {**ASK, "stream": stream}, said(account, "I don't know.")
    first = post(stack, account, content, headers=headers)
    assert (first.headers["exchequer-cache"], first.headers["exchequer-model"]) == ("miss", THEN)
    account.wait_for_calls(1)
    again = hit(stack, account, content, headers=headers)
    assert (again.headers["exchequer-model"], again.content) == (THEN, first.content)
    missed, *_, found = account.wait_for_calls(2)
    assert "not_kept" not in missed.decision["response_cache"]
    assert (found.served_model, found.cost_nanos, found.attempts) == (THEN, 0, 0)
    assert found.baseline_nanos == missed.baseline_nanos
    assert found.decision["savings"] == {"response_cache": found.baseline_nanos}
    assert_sound(account)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "buffered stream"])
def test_a_first_answer_that_is_good_enough_is_kept(stack: Stack, account: Account, stream: bool) -> None:
    govern(account, KEPT)
    content, headers = {**ASK, "stream": stream}, said(account, "Paris.")
    first = post(stack, account, content, headers=headers)
    assert (first.headers["exchequer-cache"], first.headers["exchequer-model"]) == ("miss", FIRST)
    account.wait_for_calls(1)
    again = hit(stack, account, content, headers=headers)
    assert (again.headers["exchequer-model"], again.content) == (FIRST, first.content)


def test_an_answer_that_is_not_good_enough_is_kept_for_nobody_though_it_was_given(
    stack: Stack, account: Account
) -> None:
    govern(account, KEPT)
    slug = account.tenant.slug
    for turn in range(2):
        failing = script(
            id=f"{slug}{turn}", text="I don't know.", error={"type": "overloaded_error", "after": 1}
        )
        response = post(stack, account, headers=failing)
        assert (response.headers["exchequer-cache"], response.headers["exchequer-model"]) == ("miss", FIRST)
    for call in account.wait_for_calls(2):
        assert call.decision["response_cache"]["not_kept"] == "not good enough"


def test_a_cascade_gives_no_answer_that_it_has_not_checked_and_none_of_its_own_away(
    stack: Stack, account: Account
) -> None:
    """Another rule sends the same request to the first model and shares its answers with as many."""
    govern(account, KEPT)
    headers, plain = said(account, "I don't know."), {"exchequer-tags": "kind=plain"}
    assert post(stack, account, headers=headers | plain).headers["exchequer-model"] == FIRST
    account.wait_for_calls(1)
    hit(stack, account, headers=headers | plain)
    assert post(stack, account, headers=headers).headers["exchequer-model"] == THEN
    account.wait_for_calls(3)
    assert hit(stack, account, headers=headers).headers["exchequer-model"] == THEN
    assert hit(stack, account, headers=headers | plain).headers["exchequer-model"] == FIRST


def test_a_key_that_may_not_use_the_better_model_gets_none_of_its_kept_answers(
    stack: Stack, account: Account
) -> None:
    govern(account, KEPT)
    headers = said(account, "I don't know.")
    post(stack, account, headers=headers)
    account.wait_for_calls(1)
    hit(stack, account, headers=headers)
    with platform_scope():
        issued = issue_key(account.tenant, "cheap", allowed_models=[ASKED, FIRST])
    response = post(stack, Account(account.tenant, issued), headers=headers)
    assert (response.headers["exchequer-cache"], response.headers["exchequer-model"]) == ("miss", FIRST)


def test_a_conversation_that_a_kept_better_answer_began_stays_on_its_model(
    stack: Stack, account: Account
) -> None:
    govern(account, KEPT)
    headers = said(account, "I don't know.")
    post(stack, account, headers=headers)
    account.wait_for_calls(1)
    session = {"x-claude-code-session-id": account.tenant.slug}
    hit(stack, account, headers=headers | session)
    answer = {"role": "assistant", "content": "I don't know."}
    later = {**ASK, "messages": [*HELLO, answer, {"role": "user", "content": "And now?"}]}
    assert post(stack, account, later, headers=session).headers["exchequer-model"] == THEN
    (*_, call) = account.wait_for_calls(3)
    assert [attempt.requested_model for attempt in account.attempts() if attempt.call_id == call.pk] == [THEN]
