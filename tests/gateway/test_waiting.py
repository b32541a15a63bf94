"""A call that does not fit waits for room that calls in flight leave, as long as somebody waits for it."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx2
import psycopg
import pytest

from tenants.keys import change_key, revoke_key
from tenants.models import Tenant
from tenants.scope import platform_scope
from tests.gateway.asking import ASK, assert_refused, post, script
from tests.gateway.test_departures import send_raw
from tests.harness import Account, Stack, make_tenant, start_stack, wait_until

ROOM_FOR_ONE: dict[str, Any] = {**ASK, "max_tokens": 200}
"""A hold of about $0.002: a limit of $0.003 has room for one at a time."""


def in_background(
    stack: Stack, account: Account, ask: dict[str, Any] | None = None, **headers: str
) -> "Future[httpx2.Response]":
    pool = ThreadPoolExecutor(1)
    return pool.submit(post, stack, account, ask or ROOM_FOR_ONE, headers=headers)


def hold_for(stack: Stack, account: Account, milliseconds: int) -> "Future[httpx2.Response]":
    """A call in flight whose hold is committed."""
    slow = in_background(stack, account, **script(latency_ms=milliseconds, tag=account.tenant.slug))
    wait_until(lambda: bool(account.holds()), 5)
    return slow


def waiters(stack: Stack) -> float:
    lines = stack.workers[0].get("/metrics")[1].splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("exchequer_hold_waiters"))


def waits_of(stack: Stack) -> float:
    lines = stack.workers[0].get("/metrics")[1].splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.startswith("exchequer_hold_wait_seconds_count")
    )


def test_a_call_waits_for_a_call_in_flight_and_says_how_long(stack: Stack) -> None:
    account = make_tenant("0.003")
    before = waits_of(stack)
    slow = hold_for(stack, account, 800)
    waited = in_background(stack, account)
    wait_until(lambda: waiters(stack) == 1, 5)
    response = waited.result()
    assert (slow.result().status_code, response.status_code) == (200, 200)
    assert "waited_ms=" in response.headers["exchequer-decision"]
    assert "queue_position=1" in response.headers["exchequer-decision"]
    first, second = account.wait_for_calls(2)
    decision = next(call.decision for call in (first, second) if call.decision)
    assert 50 < decision["waited_ms"] < 5000
    assert (second.held_ms or 0) >= decision["waited_ms"] - 1
    assert waits_of(stack) == before + 1
    assert waiters(stack) == 0


def test_a_call_that_waited_in_vain_says_so(stack: Stack) -> None:
    account = make_tenant("0.003", hold_wait_seconds=1)
    slow = hold_for(stack, account, 3000)
    began = time.monotonic()
    response = post(stack, account, ROOM_FOR_ONE)
    assert 0.9 < time.monotonic() - began < 2.8
    assert_refused(response, 429, "billing_error", "held for calls in flight", "It waited 1.", "try again")
    assert response.headers["x-should-retry"] == "true"
    assert int(response.headers["retry-after"]) == 5
    assert not slow.done()
    slow.result()
    served, refused = sorted(account.wait_for_calls(2), key=lambda call: call.outcome == "refused")
    assert (served.outcome, refused.reason) == ("served", "budget_held")
    assert refused.decision["waited_ms"] >= 950
    assert refused.decision["queue_position"] == 1


def test_a_call_larger_than_what_is_not_spent_is_refused_at_once(stack: Stack) -> None:
    account = make_tenant("0.003")
    slow = hold_for(stack, account, 1500)
    began = time.monotonic()
    response = post(stack, account, {**ASK, "max_tokens": 2000})
    assert time.monotonic() - began < 1
    assert response.headers["x-should-retry"] == "false"
    assert response.headers["exchequer-decision"] == "budget_exhausted"
    slow.result()
    account.wait_for_calls(2)


def test_a_stream_that_gives_back_at_its_start_lets_a_waiter_in(stack: Stack) -> None:
    """The worst case of its input is several times what it is. The limit has room for one and a half."""
    account = make_tenant("0.05")
    long = {**ASK, "stream": True, "messages": [{"role": "user", "content": "word " * 2000}]}
    slow = in_background(stack, account, long, **script(deltas=20, chunk_delay_ms=200, latency_ms=500))
    wait_until(lambda: bool(account.holds()), 5)
    limit = account.holds()[0].amount_nanos * 8 // 5
    with platform_scope():
        from governance.budgets.limits import set_budget

        set_budget(account.tenant, scope="tenant", period="month", limit_nanos=limit)
    second = in_background(stack, account, long, **script(deltas=1))
    wait_until(lambda: waiters(stack) == 1, 2)
    assert second.result().status_code == 200
    assert not slow.done(), "It was let in by the end of the first call, not by its start."
    assert slow.result().status_code == 200
    account.wait_for_calls(2)


def test_a_client_that_leaves_while_it_waits_is_dequeued_and_pays_nothing(stack: Stack) -> None:
    account = make_tenant("0.003")
    slow = hold_for(stack, account, 1500)
    connection = send_raw(stack, account, ROOM_FOR_ONE, script(tag=account.tenant.slug))
    wait_until(lambda: waiters(stack) == 1, 5)
    connection.close()
    wait_until(lambda: waiters(stack) == 0, 1)
    assert not slow.done()
    slow.result()
    left = next(call for call in account.wait_for_calls(2) if call.outcome == "cut")
    assert (left.status, left.reason, left.cost_nanos, left.held_nanos) == (499, "left_waiting", 0, 0)
    assert len(stack.bill(account.tenant.slug)) == 1


def test_a_key_that_is_revoked_while_its_call_waits_ends_the_wait(stack: Stack) -> None:
    account = make_tenant("0.003")
    slow = hold_for(stack, account, 4000)
    waiting = in_background(stack, account)
    wait_until(lambda: waiters(stack) == 1, 5)
    began = time.monotonic()
    with platform_scope():
        revoke_key(account.issued.key, "left the company")
    assert_refused(waiting.result(), 401, "authentication_error", "revoked")
    assert time.monotonic() - began < 2.5
    assert not slow.done()
    slow.result()


def test_a_tenant_that_is_paused_while_its_call_waits_ends_the_wait(stack: Stack) -> None:
    account = make_tenant("0.003")
    slow = hold_for(stack, account, 4000)
    waiting = in_background(stack, account)
    wait_until(lambda: waiters(stack) == 1, 5)
    with platform_scope():
        Tenant.objects.filter(pk=account.tenant.pk).update(status="paused", status_reason="Unpaid")
    assert_refused(waiting.result(), 403, "permission_error", "paused")
    assert not slow.done()
    slow.result()


def test_a_call_whose_settings_change_keeps_its_place_and_gets_what_is_new(stack: Stack) -> None:
    account = make_tenant("0.003")
    slow = hold_for(stack, account, 4000)
    waiting = in_background(stack, account)
    wait_until(lambda: waiters(stack) == 1, 5)
    with platform_scope():
        change_key(account.issued.key, {"hold_wait_seconds": 1})
    response = waiting.result()
    assert_refused(response, 429, "billing_error", "It waited")
    assert not slow.done()
    slow.result()


@pytest.mark.parametrize("change", ["settings", "revoked"])
def test_a_hold_that_comes_while_the_key_is_looked_at_is_used_or_given_back(
    stack: Stack, owner_connection: psycopg.Connection[Any], change: str
) -> None:
    """The look is slow because a table of settings is locked; the room comes before the look has ended."""
    account = make_tenant("0.003")
    slow = hold_for(stack, account, 1800)
    waiting = in_background(stack, account, **script(tag=account.tenant.slug))
    wait_until(lambda: waiters(stack) == 1, 5)
    with owner_connection.transaction():
        owner_connection.execute("LOCK TABLE tenants_pause IN ACCESS EXCLUSIVE MODE")
        with platform_scope():
            if change == "settings":
                change_key(account.issued.key, {"hold_wait_seconds": 9})
            else:
                revoke_key(account.issued.key, "left the company")
        assert slow.result().status_code == 200
        time.sleep(0.3)  # the waiter's hold is placed
    assert waiting.result().status_code == (200 if change == "settings" else 401)
    served, second = account.wait_for_calls(2)
    assert (served.outcome, second.outcome) == ("served", "served" if change == "settings" else "refused")
    assert account.period().held_nanos == 0


def test_a_call_waits_no_longer_than_half_of_its_clients_own_time_out(stack: Stack) -> None:
    account = make_tenant("0.003")
    slow = hold_for(stack, account, 3000)
    began = time.monotonic()
    response = post(stack, account, ROOM_FOR_ONE, headers={"x-stainless-timeout": "1"})
    assert_refused(response, 429, "billing_error", "It waited 0.")
    assert time.monotonic() - began < 1
    assert not slow.done()
    slow.result()


def test_only_so_many_calls_of_a_tenant_wait() -> None:
    with start_stack(env={"EXCHEQUER_WAITERS_PER_TENANT_MAX": "1"}) as stack:
        account = make_tenant("0.003")
        slow = hold_for(stack, account, 1500)
        waiting = in_background(stack, account)
        wait_until(lambda: waiters(stack) == 1, 5)
        response = post(stack, account, ROOM_FOR_ONE)
        assert_refused(response, 429, "rate_limit_error", "wait for room", "Try again")
        assert response.headers["x-should-retry"] == "true"
        assert (slow.result().status_code, waiting.result().status_code) == (200, 200)
        reasons = {call.reason for call in account.wait_for_calls(3)}
        assert reasons == {"served", "too_many_wait"}


def test_a_worker_that_stops_lets_its_waiters_in_first() -> None:
    with start_stack() as own:
        account = make_tenant("0.003")
        slow = hold_for(own, account, 1000)
        waiting = in_background(own, account)
        wait_until(lambda: waiters(own) == 1, 5)
        stopping = threading.Thread(target=own.workers[0].stop)
        stopping.start()
        assert slow.result().status_code == 200
        assert waiting.result().status_code == 200  # uvicorn finishes what it has begun
        stopping.join()
