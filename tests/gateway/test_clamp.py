"""A call that does not fit is made with fewer max_tokens, where its key and what it asks for allow that."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from governance.budgets.limits import set_budget
from governance.core.money import NANOS_PER_USD, nanos_to_usd
from tenants.keys import issue_key
from tenants.scope import platform_scope
from tests.gateway.asking import ASK, assert_refused, post, script
from tests.gateway.test_waiting import hold_for, in_background, waiters
from tests.harness import Account, Stack, make_tenant, wait_until

LONG: dict[str, Any] = {**ASK, "max_tokens": 20_000}
TOOL = {"name": "look", "description": "Look.", "input_schema": {"type": "object", "properties": {}}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
THINKING = {"type": "enabled", "budget_tokens": 10_000}


def worst_nanos(stack: Stack, ask: dict[str, Any], **key_options: Any) -> int:
    """What is held for that request where there is money enough."""
    rich = make_tenant("10000", **key_options)
    response = post(stack, rich, ask)
    assert response.status_code == 200, response.text
    (call,) = rich.wait_for_calls(1)
    return int(call.held_nanos)


def between(stack: Stack, ask: dict[str, Any], low: int, high: int, **key_options: Any) -> str:
    """A limit with room for the request with `low` max_tokens, not with `high`, in dollars."""
    least, most = (worst_nanos(stack, {**ask, "max_tokens": count}, **key_options) for count in (low, high))
    assert least < most
    return nanos_to_usd((least + most) // 2)


def clamped_to(response: httpx2.Response) -> int:
    assert response.status_code == 200, response.text
    return int(response.headers["exchequer-max-tokens"])


def test_a_call_that_does_not_fit_is_made_with_the_max_tokens_that_do(stack: Stack) -> None:
    account = make_tenant("0.05", clamp_floor_tokens=100)
    tag = account.tenant.slug
    response = post(stack, account, LONG, headers=script(bill_full_max_tokens=True, tag=tag))
    max_tokens = clamped_to(response)
    assert 100 <= max_tokens < LONG["max_tokens"]
    assert response.json()["usage"]["output_tokens"] == max_tokens
    assert f"max_tokens={max_tokens}; clamped_from=20000" in response.headers["exchequer-decision"]
    (line,) = stack.bill(tag)
    assert line["max_tokens"] == max_tokens
    (call,) = account.wait_for_calls(1)
    assert call.decision == {"max_tokens": max_tokens, "clamped_from": 20_000}
    limit = NANOS_PER_USD // 20
    assert call.cost_nanos <= call.held_nanos <= limit
    assert worst_nanos(stack, {**LONG, "max_tokens": max_tokens + 2}) > limit, "There was room for more."
    assert account.period().spent_nanos <= limit


def test_a_stream_is_made_with_fewer_max_tokens_and_says_so_first(stack: Stack) -> None:
    account = make_tenant("0.05", clamp_floor_tokens=100)
    response = post(stack, account, {**LONG, "stream": True})
    assert 100 <= clamped_to(response) < LONG["max_tokens"]
    (call,) = account.wait_for_calls(1)
    assert (call.outcome, call.decision["clamped_from"]) == ("served", 20_000)


def test_a_key_without_a_floor_never_has_its_calls_lowered(stack: Stack) -> None:
    account = make_tenant("0.05")
    response = post(stack, account, LONG)
    assert_refused(response, 429, "billing_error", "left of $0.05")
    assert "lowered" not in response.json()["error"]["message"]
    assert "exchequer-max-tokens" not in response.headers
    (call,) = account.wait_for_calls(1)
    assert (call.reason, set(call.decision)) == ("budget_exhausted", {"refused"})


def test_a_call_that_fits_keeps_its_max_tokens(stack: Stack) -> None:
    account = make_tenant(clamp_floor_tokens=1)
    response = post(stack, account, LONG)
    assert response.headers["exchequer-decision"] == "allowed"
    assert "exchequer-max-tokens" not in response.headers
    account.wait_for_calls(1)


def test_a_call_is_never_made_with_less_than_the_floor(stack: Stack) -> None:
    limit = between(stack, LONG, 1_000, 9_000)  # for about 5,000
    account = make_tenant(limit, clamp_floor_tokens=8_000)
    response = post(stack, account, LONG)
    assert_refused(response, 429, "billing_error", "would not fit even with max_tokens lowered to 8,000")
    assert response.headers["x-should-retry"] == "false"
    (call,) = account.wait_for_calls(1)
    assert (call.reason, call.decision["clamp_floor"]) == ("budget_exhausted", 8_000)
    assert call.decision["refused"]["needed_nanos"] == worst_nanos(stack, LONG)
    assert 4_000 < clamped_to(post(stack, make_tenant(limit, clamp_floor_tokens=4_000), LONG)) < 6_000


def test_a_call_is_never_made_with_less_than_it_may_think(stack: Stack) -> None:
    ask = {**LONG, "model": "claude-sonnet-4-6", "thinking": THINKING}
    plain = {**ask, "thinking": {**THINKING, "budget_tokens": 1024}}
    tight = make_tenant(between(stack, plain, 2_000, 10_000), clamp_floor_tokens=1)
    assert_refused(post(stack, tight, ask), 429, "billing_error", "lowered to 10,001")
    assert clamped_to(post(stack, tight, plain)) > 1_024
    wide = make_tenant(between(stack, ask, 10_001, 20_000), clamp_floor_tokens=1)
    assert clamped_to(post(stack, wide, ask)) > 10_000


FORBIDDEN: dict[str, dict[str, Any]] = {
    "structured_output": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    # Sonnet 5.5 cannot be made to use a tool; Sonnet 5 can.
    "any_tool": {"model": "claude-sonnet-5", "tools": [TOOL], "tool_choice": {"type": "any"}},
    "one_tool": {
        "model": "claude-sonnet-5",
        "tools": [TOOL],
        "tool_choice": {"type": "tool", "name": "look"},
    },
    "server_tool": {"tools": [{**SEARCH, "max_uses": 1}]},
    "unbounded": {"tools": [SEARCH]},
    "unknown_field": {"surprise": True},
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_must_be_whole_or_is_not_bounded_by_max_tokens_is_refused_as_before(
    stack: Stack, name: str
) -> None:
    """There is room for the request with fewer max_tokens: a client that asks for those is served."""
    options: dict[str, Any] = {"unbounded_allowed": name == "unbounded"}
    ask = {**LONG, **FORBIDDEN[name]}
    limit = between(stack, ask, 100, 20_000, **options)
    account = make_tenant(limit, clamp_floor_tokens=100, **options)
    tag = account.tenant.slug
    response = post(stack, account, ask, headers=script(tag=tag))
    assert_refused(response, 429, "billing_error", "Ask for fewer max_tokens")
    assert "lowered" not in response.json()["error"]["message"]
    assert "exchequer-max-tokens" not in response.headers
    (call,) = account.wait_for_calls(1)
    assert (call.reason, set(call.decision)) == ("budget_exhausted", {"refused"})
    assert not stack.bill(tag)
    assert post(stack, account, {**ask, "max_tokens": 100}).status_code == 200
    account.wait_for_calls(2)


def test_a_tool_that_is_not_forced_is_no_reason_to_refuse(stack: Stack) -> None:
    ask = {**LONG, "tools": [TOOL], "tool_choice": {"type": "auto"}}
    account = make_tenant(between(stack, ask, 100, 20_000), clamp_floor_tokens=100)
    assert clamped_to(post(stack, account, ask)) >= 100
    account.wait_for_calls(1)


def test_a_request_for_no_output_is_refused_as_before(stack: Stack) -> None:
    account = make_tenant("0.0001", clamp_floor_tokens=1)
    response = post(stack, account, {**ASK, "max_tokens": 0})
    assert_refused(response, 429, "billing_error", "left of $0.0001")
    assert "lowered" not in response.json()["error"]["message"]


def test_max_tokens_that_cannot_be_rewritten_are_refused_as_before(stack: Stack) -> None:
    account = make_tenant("0.05", clamp_floor_tokens=100)
    body = json.dumps(LONG).replace('"max_tokens"', '"max\\u005ftokens"').encode()
    response = post(stack, account, body)
    assert_refused(response, 429, "billing_error", "left of $0.05")
    assert "lowered" not in response.json()["error"]["message"]


def test_a_call_waits_first_and_is_lowered_when_that_was_in_vain(stack: Stack) -> None:
    half = {**ASK, "max_tokens": 2_000}
    limit = nanos_to_usd(worst_nanos(stack, half) * 3 // 2)
    account = make_tenant(limit, clamp_floor_tokens=10, hold_wait_seconds=1)
    slow = in_background(stack, account, half, **script(latency_ms=4000))
    wait_until(lambda: bool(account.holds()), 5)
    response = post(stack, account, half)
    assert 10 <= clamped_to(response) < 2_000
    assert not slow.done()
    slow.result()
    decision = next(call.decision for call in account.wait_for_calls(2) if call.decision)
    assert decision["waited_ms"] >= 950
    assert decision["clamped_from"] == 2_000


def test_what_would_fit_later_is_refused_as_held_where_the_floor_does_not_fit_now(stack: Stack) -> None:
    account = make_tenant("0.003", clamp_floor_tokens=150, hold_wait_seconds=0)
    slow = hold_for(stack, account, 1500)
    response = post(stack, account, {**ASK, "max_tokens": 200})
    assert_refused(response, 429, "billing_error", "lowered to 150", "try again")
    assert response.headers["exchequer-decision"] == "budget_held"
    slow.result()
    account.wait_for_calls(2)
    assert waiters(stack) == 0


def test_a_second_budget_that_has_less_room_lowers_it_further(stack: Stack) -> None:
    """The key's budget refuses for good; the tenant's, whose room a call in flight holds, has still less."""
    whole = worst_nanos(stack, {**ASK, "max_tokens": 8_000})
    account = make_tenant(nanos_to_usd(whole * 5 // 4), clamp_floor_tokens=10, hold_wait_seconds=0)
    with platform_scope():
        other = Account(account.tenant, issue_key(account.tenant, "other"))
        key_id = str(account.issued.key.pk)
        set_budget(
            account.tenant, scope="key", ref=key_id, period="day", limit_nanos=whole * 3 // 4, name="Key"
        )
    slow = in_background(stack, other, {**ASK, "max_tokens": 6_000}, **script(latency_ms=3000))
    wait_until(lambda: bool(account.holds()), 5)
    max_tokens = clamped_to(post(stack, account, {**ASK, "max_tokens": 8_000}))
    assert 10 <= max_tokens < 5_000, "The room of the key's budget alone."
    assert not slow.done()
    slow.result()
    account.wait_for_calls(2)


def test_a_repetition_under_an_idempotency_key_gets_the_lowered_reply(stack: Stack) -> None:
    account = make_tenant("0.05", clamp_floor_tokens=100)
    once = {"Idempotency-Key": account.tenant.slug}
    first = post(stack, account, LONG, headers=once)
    account.wait_for_calls(1)
    again = post(stack, account, LONG, headers=once)
    assert again.headers["exchequer-replayed"] == "true"
    assert (clamped_to(again), again.content) == (clamped_to(first), first.content)


def test_twenty_calls_at_once_never_overspend_a_nearly_empty_budget(stack: Stack) -> None:
    """Each would write every token that it may."""
    account = make_tenant("0.2", clamp_floor_tokens=50, hold_wait_seconds=1)
    tag, ask = account.tenant.slug, {**LONG, "max_tokens": 16_000}

    def call(number: int) -> httpx2.Response:
        wasteful = script(bill_full_max_tokens=True, latency_ms=100, tag=tag)
        short = script(output_tokens=300, latency_ms=20, tag=tag)
        return post(stack, account, ask, headers=wasteful if number >= 40 else short)

    with ThreadPoolExecutor(20) as pool:
        responses = list(pool.map(call, range(60)))
    assert {response.status_code for response in responses} <= {200, 429}
    served = [response.headers for response in responses if response.status_code == 200]
    lowered = [
        int(headers["exchequer-max-tokens"]) for headers in served if "exchequer-max-tokens" in headers
    ]
    assert lowered
    sent = [line["max_tokens"] for line in stack.bill(tag)]
    assert sorted(count for count in sent if count < 16_000) == sorted(lowered)
    assert (len(sent), min(sent) >= 50) == (len(served), True)
    calls = account.wait_for_calls(60)
    period = account.period()
    assert sum(call.cost_nanos for call in calls) == period.spent_nanos <= NANOS_PER_USD // 5
    assert period.held_nanos == 0
    assert {call.reason for call in calls} <= {"served", "budget_held", "budget_exhausted"}
