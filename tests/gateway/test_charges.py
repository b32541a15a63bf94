"""A call is priced by what its reply says was served, whatever was asked."""

import json
from secrets import token_hex
from typing import Any

from tests.gateway.asking import ASK, post, script
from tests.harness import Account, Stack, make_tenant, wait_until

SONNET_OUTPUT_NANOS, HAIKU_OUTPUT_NANOS = 10_000, 500


def test_the_model_that_served_is_the_one_that_is_charged(stack: Stack, account: Account) -> None:
    headers = script(model_served="claude-haiku-5-5", usage={"input_tokens": 0, "output_tokens": 10})
    response = post(stack, account, headers=headers)
    assert response.headers["exchequer-model"] == "claude-haiku-5-5"
    (call,) = account.wait_for_calls(1)
    assert (call.requested_model, call.served_model) == ("claude-sonnet-5-5", "claude-haiku-5-5")
    assert call.cost_nanos == 10 * HAIKU_OUTPUT_NANOS


def test_an_unknown_model_is_charged_at_the_dearest_price_and_reported(
    stack: Stack, account: Account
) -> None:
    name = f"claude-omega-{token_hex(4)}"
    headers = script(model_served=name, usage={"input_tokens": 0, "output_tokens": 10})
    assert post(stack, account, headers=headers).status_code == 200
    account.wait_for_calls(1)
    (attempt,) = account.attempts()
    assert attempt.served_model == name
    assert attempt.cost_nanos > 10 * SONNET_OUTPUT_NANOS
    wait_until(lambda: name in stack.workers[0].log_text(), 5)


def test_totals_of_a_stream_are_the_last_ones_never_their_sum(stack: Stack, account: Account) -> None:
    deltas = [{"output_tokens": 5}, {"output_tokens": 20}, {"output_tokens": 30}]
    headers = script(usage_start={"input_tokens": 7, "output_tokens": 1}, usage_delta=deltas)
    assert post(stack, account, {**ASK, "stream": True}, headers=headers).status_code == 200
    account.wait_for_calls(1)
    (attempt,) = account.attempts()
    assert (attempt.basis, attempt.input_tokens, attempt.output_tokens) == ("exact", 7, 30)


def test_every_pass_of_a_call_is_priced_at_its_own_model(stack: Stack) -> None:
    account = make_tenant("1000", unbounded_allowed=True)
    passes = [
        {"type": "compaction", "model": "claude-haiku-5-5", "input_tokens": 0, "output_tokens": 100},
        {"type": "message", "input_tokens": 0, "output_tokens": 10},
    ]
    usage = {"input_tokens": 0, "output_tokens": 10, "iterations": passes}
    ask = {**ASK, "compaction": {"type": "auto"}}
    assert post(stack, account, ask, headers=script(usage=usage)).status_code == 200
    (call,) = account.wait_for_calls(1)
    (attempt,) = account.attempts()
    assert call.cost_nanos == 100 * HAIKU_OUTPUT_NANOS + 10 * SONNET_OUTPUT_NANOS
    assert [served["model"] for served in attempt.passes] == ["claude-haiku-5-5", "claude-sonnet-5-5"]
    assert sum(attempt.cost_by_meter.values()) == attempt.cost_nanos


def test_a_bill_above_the_hold_is_recorded_in_full_and_overspends_no_budget(stack: Stack) -> None:
    account = make_tenant("0.003")
    usage = {"input_tokens": 0, "output_tokens": 1000}  # $0.015
    ask = {**ASK, "model": "claude-sonnet-4-5"}  # no other test's: its calls are refused from now on
    assert post(stack, account, ask, headers=script(usage=usage)).status_code == 200
    account.wait_for_calls(1)
    charge, overrun = sorted(account.entries(), key=lambda entry: entry.kind)
    assert (charge.kind, overrun.kind) == ("charge", "overrun")
    assert charge.amount_nanos + overrun.amount_nanos == 1000 * 15_000
    period = account.period()
    assert (period.spent_nanos, period.held_nanos) == (period.limit_nanos, 0)


def test_the_dearest_cache_write_that_the_request_asks_for_is_held(stack: Stack, account: Account) -> None:
    text: list[Any] = [{"type": "text", "text": "word " * 1000}]
    cached = [{**text[0], "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    for content in (text, cached):
        ask = {**ASK, "max_tokens": 1, "messages": [{"role": "user", "content": content}]}
        assert post(stack, account, ask).status_code == 200, json.dumps(ask)[:100]
    plain, hour = account.wait_for_calls(2)
    assert hour.held_nanos > 1.9 * plain.held_nanos
