"""A refusal says which budget, how much is left, when it resets and what to do, in Claude Code's shape."""

import threading
import time

import anthropic
import pytest

from governance.budgets.limits import set_budget
from governance.core.money import NANOS_PER_USD, usd_to_nanos
from tenants.scope import platform_scope
from tests.gateway.asking import ASK, assert_refused, post, script
from tests.harness import Account, Stack, make_tenant, wait_until


def test_an_exhausted_budget_is_a_429_billing_error_that_must_not_be_retried(stack: Stack) -> None:
    account = make_tenant("0.0001")
    response = post(stack, account)
    assert_refused(
        response, 429, "billing_error", account.tenant.slug, "left of $0.0001", "resets on", "max_tokens"
    )
    headers = response.headers
    unified = "anthropic-ratelimit-unified-"
    assert headers["x-should-retry"] == "false"
    assert 0 < int(headers["retry-after"]) <= 31 * 86_400 + 1
    assert headers[f"{unified}status"] == "rejected"
    assert headers[f"{unified}overage-disabled-reason"] == "org_spend_cap_reached"
    assert headers[f"{unified}overage-period"] == "monthly"
    assert headers[f"{unified}overage-utilization"] == headers[f"{unified}overage-surpassed-threshold"] == "1"
    assert abs(int(headers[f"{unified}reset"]) - time.time() - int(headers["retry-after"])) < 5
    assert headers[f"{unified}reset"] == headers[f"{unified}overage-reset"]
    (call,) = account.wait_for_calls(1)
    assert (call.outcome, call.status, call.reason) == ("refused", 429, "budget_exhausted")
    assert not stack.bill(account.tenant.slug)


@pytest.mark.parametrize("period", ["month", "total"])
def test_no_sdk_retries_an_exhausted_budget_or_sleeps_until_it_resets(stack: Stack, period: str) -> None:
    """SDK 2.x obeys any retry-after, of weeks too, unless x-should-retry forbids the retry."""
    account = make_tenant("0.0001", period=period)
    began = time.monotonic()
    with pytest.raises(anthropic.RateLimitError, match="reset") as caught:
        account.client(stack, max_retries=3).messages.create(**ASK)
    assert time.monotonic() - began < 3
    assert caught.value.type == "billing_error"
    assert ("retry-after" in caught.value.response.headers) == (period == "month")
    assert len(account.wait_for_calls(1)) == 1


def test_the_sdk_comes_back_to_a_held_budget_and_is_served(stack: Stack) -> None:
    account = make_tenant("0.003", hold_wait_seconds=0)
    ask = {**ASK, "max_tokens": 200}
    slow = threading.Thread(
        target=post, args=(stack, account, ask), kwargs={"headers": script(latency_ms=1500)}
    )
    slow.start()
    wait_until(lambda: bool(account.holds()), 5)
    began = time.monotonic()
    assert account.client(stack, max_retries=3).messages.create(**ask).content
    assert time.monotonic() - began < 20
    slow.join()
    account.wait_for_calls(2)


def test_a_budget_that_is_only_held_asks_to_come_back(stack: Stack) -> None:
    account = make_tenant("0.003", hold_wait_seconds=0)
    ask = {**ASK, "max_tokens": 200}
    slow = threading.Thread(
        target=post, args=(stack, account, ask), kwargs={"headers": script(latency_ms=1500)}
    )
    slow.start()
    wait_until(lambda: bool(account.holds()), 5)
    response = post(stack, account, ask)
    slow.join()
    assert_refused(response, 429, "billing_error", "held for calls in flight", "try again")
    assert response.headers["x-should-retry"] == "true"
    assert int(response.headers["retry-after"]) < 60
    assert "anthropic-ratelimit-unified-status" not in response.headers
    served, refused = sorted(account.wait_for_calls(2), key=lambda call: call.outcome == "refused")
    assert (served.outcome, refused.reason) == ("served", "budget_held")
    assert post(stack, account, ask).status_code == 200
    account.wait_for_calls(3)


def test_the_budget_of_a_key_refuses_too_and_a_soft_one_does_not(stack: Stack, account: Account) -> None:
    key_id = str(account.issued.key.pk)
    with platform_scope():
        set_budget(
            account.tenant,
            scope="key",
            ref=key_id,
            period="day",
            limit_nanos=1,
            enforcement="soft",
            name="soft",
        )
    assert post(stack, account).status_code == 200
    with platform_scope():
        set_budget(
            account.tenant,
            scope="key",
            ref=key_id,
            period="day",
            limit_nanos=usd_to_nanos("0.00001"),
            name="Daily",
        )
    wait_until(lambda: post(stack, account).status_code == 429, 2)
    response = post(stack, account)
    assert_refused(response, 429, "billing_error", "“Daily”", "$0.00001")
    assert response.headers["anthropic-ratelimit-unified-overage-period"] == "daily"
    wait_until(lambda: not account.holds(), 5)


def test_a_stream_gives_back_what_it_does_not_need_at_message_start(stack: Stack, account: Account) -> None:
    ask = {**ASK, "stream": True, "messages": [{"role": "user", "content": "word " * 2000}]}
    slow = threading.Thread(
        target=post,
        args=(stack, account, ask),
        kwargs={"headers": script(deltas=20, chunk_delay_ms=80, latency_ms=500)},
    )
    slow.start()
    wait_until(lambda: bool(account.holds()), 5)
    amounts = set()
    while holds := account.holds():
        amounts.add(holds[0].amount_nanos)
        time.sleep(0.02)
    slow.join()
    assert len(amounts) == 2
    assert min(amounts) < max(amounts) / 2
    (call,) = account.wait_for_calls(1)
    assert call.cost_nanos <= min(amounts)
    assert account.period().held_nanos == 0


def test_a_reply_says_what_is_left_and_warns_when_it_is_little(stack: Stack) -> None:
    """cases A17: what is left comes from the very row that admitted the call. Warnings at 75 % and 95 %."""
    account = make_tenant("1")
    usage = {"input_tokens": 0, "output_tokens": 1}
    headers = post(stack, account, headers=script(usage=usage)).headers
    (call,) = account.wait_for_calls(1)
    assert usd_to_nanos(headers["exchequer-budget-remaining-usd"]) == NANOS_PER_USD - call.held_nanos
    assert "anthropic-ratelimit-unified-status" not in headers
    assert post(
        stack, account, {**ASK, "max_tokens": 80_000}, headers=script(usage=usage | {"output_tokens": 80_000})
    ).is_success
    account.wait_for_calls(2)
    headers = post(stack, account, headers=script(usage=usage)).headers
    unified = "anthropic-ratelimit-unified-"
    assert headers[f"{unified}status"] == "allowed_warning"
    assert headers[f"{unified}representative-claim"] == "overage"
    assert (headers[f"{unified}overage-utilization"], headers[f"{unified}overage-surpassed-threshold"]) == (
        "0.80",
        "0.75",
    )
    more = {"input_tokens": 0, "output_tokens": 15_500}
    assert post(stack, account, {**ASK, "max_tokens": 15_500}, headers=script(usage=more)).is_success
    account.wait_for_calls(4)
    streamed = post(stack, account, {**ASK, "stream": True}, headers=script(usage=usage)).headers
    assert streamed[f"{unified}overage-surpassed-threshold"] == "0.95"
    assert streamed[f"{unified}status"] == "allowed_warning"
