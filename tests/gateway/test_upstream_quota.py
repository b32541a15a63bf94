"""Upstream's rate limit is shared: calls take turns, interactive ones first, then tenant by tenant."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from governance.core.ids import uuid7
from governance.gateway.upstream_quota import WINDOW_WIDE, Quota, Turn
from tests.gateway.asking import ASK, assert_refused, post, script
from tests.gateway.test_departures import send_raw
from tests.harness import Account, Stack, make_tenant, start_stack, wait_until

PER_SECOND = 10
CALM = {"anthropic-ratelimit-requests-limit": "4000", "anthropic-ratelimit-requests-remaining": "3999"}


# --- Whose turn it is -----------------------------------------------------------------------------
class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def headers(limit: int, remaining: int) -> dict[str, str]:
    return {
        "anthropic-ratelimit-requests-limit": str(limit),
        "anthropic-ratelimit-requests-remaining": str(remaining),
    }


async def test_turns_go_round_the_tenants_and_interactive_calls_come_first() -> None:
    clock = Clock()
    quota = Quota(clock)
    quota.heard(None, 429, {"retry-after": "5"})
    out: list[Turn] = []
    order: list[str] = []

    def enter(name: str, tenant_id: int, latency: str) -> None:
        turn = quota.enter(uuid7(), tenant_id, latency)
        assert turn is not None
        turn.future.add_done_callback(lambda _: (out.append(turn), order.append(name)))

    enter("batch", 1, "batch")
    for name, tenant_id, latency, count in (
        ("background", 1, "background", 2),
        ("many", 1, "interactive", 6),
        ("few", 2, "interactive", 2),
    ):
        for _ in range(count):
            enter(name, tenant_id, latency)
    assert quota.waiters == 11
    await asyncio.sleep(0)
    assert order == []
    clock.now += 5
    quota.let_through()
    await asyncio.sleep(0)
    assert order == ["many"], "one tries whether upstream goes on refusing"
    while out:
        quota.heard(out.pop().call_id, 200, CALM)
        await asyncio.sleep(0)
    assert order == [*["many", "few"] * 2, *["many"] * 4, *["background"] * 2, "batch"]


async def test_no_more_calls_are_out_than_upstream_has_left_and_the_rest_goes_as_it_fills() -> None:
    clock = Clock()
    quota = Quota(clock)
    quota.heard(None, 200, headers(600, 3))
    turns = [quota.enter(uuid7(), 1, "interactive") for _ in range(8)]

    def gone() -> int:
        return sum(turn is not None and turn.future.done() for turn in turns)

    assert gone() == 3
    clock.now += 0.21  # ten a second
    quota.let_through()
    assert gone() == 5
    assert turns[0] is not None
    quota.ended(turns[0].call_id)
    assert gone() == 6


async def test_quota_is_plentiful_again_when_it_filled_up_and_nobody_waits() -> None:
    clock = Clock()
    quota = Quota(clock)
    quota.heard(None, 429, {"retry-after": "2", **headers(600, 0)})
    assert not quota.plenty
    clock.now += 30
    assert not quota.plenty, "whether upstream goes on refusing is known when a call was accepted"
    calls = 0
    while not quota.plenty and calls < WINDOW_WIDE:
        turn = quota.enter(uuid7(), 1, "interactive")
        assert turn is not None
        assert turn.future.done()
        quota.heard(turn.call_id, 200, CALM)
        calls += 1
    assert calls == 7  # the window of calls at once doubles with each: 1 … 128


async def test_a_call_that_is_not_refused_within_a_second_counts_as_accepted() -> None:
    """A JSON call is silent until its answer is whole; those behind it must not wait for that."""
    clock = Clock()
    quota = Quota(clock)
    quota.heard(None, 429, {"retry-after": "0"})
    first, second = (quota.enter(uuid7(), 1, "interactive") for _ in range(2))
    assert first is not None
    assert second is not None
    assert (first.future.done(), second.future.done()) == (True, False)
    clock.now += 1
    quota.let_through()
    assert second.future.done()


def used_up(seconds: int) -> dict[str, str]:
    """Upstream answers that nothing is left for so many seconds."""
    error = {"type": "rate_limit_error", "retry_after": seconds, "headers": headers(4000, 0)}
    return script(error=error)


# --- Through the gateway --------------------------------------------------------------------------
@pytest.fixture(scope="module")
def scarce() -> Iterator[Stack]:
    """Upstream takes ten requests at once, and ten a second, of a credential and model."""
    arguments = ("--requests-per-minute", str(60 * PER_SECOND), "--burst", "10")
    with start_stack(simulator_arguments=arguments) as running:
        yield running


def many(
    pool: ThreadPoolExecutor, stack: Stack, account: Account, count: int, **options: Any
) -> "list[Future[httpx2.Response]]":
    return [pool.submit(post, stack, account, **options) for _ in range(count)]


def test_without_turns_most_of_a_burst_is_refused_upstream(scarce: Stack) -> None:
    """The race: forty calls straight at upstream."""
    assert scarce.simulator is not None

    def straight(_: int) -> int:
        sent = {"x-api-key": "sk-ant-straight", "anthropic-version": "2023-06-01"}
        assert scarce.simulator is not None
        return httpx2.post(f"{scarce.simulator.url}/v1/messages", json=ASK, headers=sent).status_code

    with ThreadPoolExecutor(40) as pool:
        statuses = Counter(pool.map(straight, range(40)))
    assert statuses[429] > 10


def test_a_tenant_in_a_hurry_is_served_among_the_background_calls_of_another(scarce: Stack) -> None:
    busy, quick = make_tenant(), make_tenant()
    post(scarce, quick)  # whose reply says that there is little
    said, heard = time.monotonic(), []
    with ThreadPoolExecutor(40) as pool:
        background = many(pool, scarce, busy, 35, headers={"exchequer-latency-class": "background"})
        for call in background:
            call.add_done_callback(lambda _: heard.append(time.monotonic()))
        time.sleep(0.3)
        waits = []
        for _ in range(5):
            began = time.monotonic()
            assert post(scarce, quick).status_code == 200
            waits.append(time.monotonic() - began)
        assert not all(call.done() for call in background)
        statuses = Counter(call.result().status_code for call in background)
    # It is full at ten, not at a minute's worth; that it did not fill up as we waited, the next reply says.
    believed = 2 + PER_SECOND * (heard[0] - said)
    assert statuses[429] <= believed, "upstream's figures are as old as its last reply, no older"
    assert statuses[200] + statuses[429] == 35
    assert sorted(waits)[2] < 1, waits
    waited = [call.decision.get("upstream_waited_ms", 0) for call in busy.wait_for_calls(35)]
    assert max(waited) > 1000


def test_after_a_429_calls_wait_their_turn_until_upstream_goes_on(stack: Stack, account: Account) -> None:
    ask = {**ASK, "model": "claude-opus-4-5"}  # whose quota no other test of this stack is out of
    refused = post(stack, account, ask, headers=used_up(1))
    assert refused.status_code == 429
    began = time.monotonic()
    assert post(stack, account, ask).status_code == 200
    assert 0.6 < time.monotonic() - began < 5
    first, second = account.wait_for_calls(2)
    assert (first.reason, second.reason) == ("upstream_error", "served")
    assert second.decision["upstream_waited_ms"] > 600


def test_a_call_whose_turn_would_come_too_late_is_told_that_upstreams_quota_is_the_reason(
    stack: Stack, account: Account
) -> None:
    ask = {**ASK, "model": "claude-opus-4-6"}
    post(stack, account, ask, headers=used_up(60))
    response = post(stack, account, ask)
    assert_refused(
        response, 429, "rate_limit_error", "Claude API's own rate limit", "not a limit of Exchequer"
    )
    assert response.headers["exchequer-decision"] == "upstream_quota"
    assert 50 <= int(response.headers["retry-after"]) <= 60
    assert response.headers["x-should-retry"] == "true"
    assert post(stack, account).status_code == 200, "another model has a quota of its own"
    calls = account.wait_for_calls(3)
    assert calls[1].reason == "upstream_quota"
    assert account.entries()[-1].kind == "charge"
    assert len(account.entries()) == 2, "nothing was held for the call that was refused"


@pytest.mark.parametrize("said", [{}, {"retry_after": 60}], ids=["money", "one call"])
def test_a_429_that_is_not_about_everybodys_quota_stops_nobody(
    stack: Stack, account: Account, said: dict[str, Any]
) -> None:
    """Without retry-after it is a spending cap; with figures that say plenty it is about that call alone."""
    post(stack, account, headers=script(error={"type": "rate_limit_error", **said}))
    assert post(stack, account).status_code == 200


def test_a_client_that_leaves_while_it_waits_its_turn_is_gone(stack: Stack, account: Account) -> None:
    ask = {**ASK, "model": "claude-opus-4-1"}
    post(stack, account, ask, headers=used_up(3))
    connection = send_raw(stack, account, ask, script(tag=account.tenant.slug))
    wait_until(lambda: waiting(stack) == 1, 5)
    connection.close()
    wait_until(lambda: waiting(stack) == 0, 1)
    left = next(call for call in account.wait_for_calls(2) if call.outcome == "cut")
    assert (left.status, left.reason, left.cost_nanos) == (499, "left_waiting", 0)
    assert stack.bill(account.tenant.slug) == []


def waiting(stack: Stack) -> float:
    lines = stack.workers[0].get("/metrics")[1].splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.startswith("exchequer_upstream_quota_waiters")
    )
