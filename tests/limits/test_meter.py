"""Limits on calls, counted in a real Valkey."""

import asyncio
import json
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from governance.limits import meter as meter_module
from governance.limits.meter import Meter
from governance.limits.share import Share
from governance.limits.terms import Check, Kind
from tests.harness import free_listener
from tests.limits.crowd import LIMIT, TENANTS


async def one_worker() -> int:
    return 1


def check(name: str, limit: int, amount: int = 1, kind: Kind = "rate") -> Check:
    return Check(name, "requests" if kind == "rate" else "concurrent", kind, limit, amount)


@pytest.fixture
def name() -> str:
    return secrets.token_hex(6)


@pytest.fixture
async def meter() -> AsyncIterator[Meter]:
    made = Meter(os.environ["REDIS_URL"], one_worker)
    yield made
    await made.stop()


async def test_a_minutes_worth_passes_at_once_and_the_next_is_told_exactly_when(
    meter: Meter, name: str
) -> None:
    limited = check(name, 60)
    answers = [await meter.take([limited]) for _ in range(60)]
    assert meter.shared
    assert all(answer.refused is None for answer in answers)
    assert answers[0].left == (59,)
    refused = await meter.take([limited])
    assert refused.refused == 0
    assert 0 < refused.wait_seconds <= 1
    await asyncio.sleep(refused.wait_seconds + 0.01)
    assert (await meter.take([limited])).refused is None
    assert (await meter.take([limited])).refused == 0


async def test_all_is_taken_or_nothing(meter: Meter, name: str) -> None:
    wide, narrow = check(f"{name}-wide", 1000), check(f"{name}-narrow", 1)
    assert (await meter.take([wide, narrow])).refused is None
    for _ in range(5):
        assert (await meter.take([wide, narrow])).refused == 1
    assert (await meter.take([wide])).left == (998,)


async def test_tokens_are_corrected_by_what_was_used(meter: Meter, name: str) -> None:
    estimated = check(name, 1000, 900)
    answer = await meter.take([estimated])
    assert answer.left == (100,)
    meter.give([check(name, 1000, -800)], answer)  # it used 100
    assert (await meter.take([check(name, 1000, 0)])).left[0] >= 900
    meter.give([check(name, 1000, 1900)], answer)  # a thousand more than there is: a debt of a minute
    in_debt = await meter.take([check(name, 1000, 0)])
    assert in_debt.refused == 0
    assert 55 < in_debt.wait_seconds <= 61


async def test_calls_at_once_are_counted_until_they_end(meter: Meter, name: str) -> None:
    limited = check(name, 2, kind="count")
    first, second = await meter.take([limited]), await meter.take([limited])
    assert (first.refused, second.refused) == (None, None)
    assert (await meter.take([limited])).refused == 0
    meter.give([limited], first)
    assert (await meter.take([limited])).refused is None


async def test_what_a_dead_worker_had_open_is_forgotten_with_its_sign_of_life(
    meter: Meter, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter_module, "ALIVE_SECONDS", 1.0)
    limited = check(name, 1, kind="count")
    dying = Meter(os.environ["REDIS_URL"], one_worker)
    assert (await dying.take([limited])).refused is None
    await asyncio.sleep(2)
    assert (await meter.take([limited])).refused == 0, "a worker that lives keeps what is open"
    for task in dying._tasks:  # as a kill -9 would
        task.cancel()
    await asyncio.sleep(1.2)
    assert (await meter.take([limited])).refused is None
    dying._disconnect()


async def test_a_caller_that_leaves_while_it_asks_takes_nothing(meter: Meter, name: str) -> None:
    limited = check(name, 1, kind="count")
    assert (await meter.take([check(f"{name}-other", 1)])).refused is None
    asking = asyncio.create_task(meter.take([limited]))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.sleep(0.3)
    assert (await meter.take([limited])).refused is None


async def test_without_valkey_each_worker_keeps_its_share_and_says_so(name: str) -> None:
    """cases A5: the degraded mode is reported, and limits do not multiply by the number of workers."""

    async def four_workers() -> int:
        return 4

    listener = free_listener()  # bound, and nobody listens
    meter = Meter(f"redis://127.0.0.1:{listener.getsockname()[1]}/0", four_workers)
    limited = check(name, 100)
    first = await meter.take([limited])
    assert first.refused is None
    assert not meter.shared
    await asyncio.sleep(0.2)
    began = time.monotonic()
    admitted = sum([(await meter.take([limited])).refused is None for _ in range(200)])
    assert time.monotonic() - began < 2, "no call waits for a Valkey that is away"
    assert 24 <= admitted <= 26
    await meter.stop()
    listener.close()


async def test_when_valkey_comes_back_it_counts_again(name: str) -> None:
    listener = free_listener()
    meter = Meter(f"redis://127.0.0.1:{listener.getsockname()[1]}/0", one_worker)
    assert (await meter.take([check(name, 5)])).worker is None
    meter._redis_url = os.environ["REDIS_URL"]
    async with asyncio.timeout(10):
        while not meter.shared:
            await asyncio.sleep(0.05)
    assert (await meter.take([check(name, 5)])).worker is not None
    await meter.stop()
    listener.close()


def test_a_share_of_a_small_limit_is_one_at_a_time_at_the_right_rate() -> None:
    share = Share(workers=8)
    limited = check("x", 4)  # a half a minute for each of the workers
    assert share.take([limited]).refused is None
    refused = share.take([limited])
    assert refused.refused == 0
    assert 118 < refused.wait_seconds <= 120
    assert share.take([check("y", 4, kind="count")]).refused is None
    assert share.take([check("y", 4, kind="count")]).refused == 0


def test_a_crowd_of_10_000_callers_gets_the_limit_and_no_more_and_each_tenant_as_much(name: str) -> None:
    """Four processes, ten tenants with 100 requests a minute each, for three seconds. The burst is a
    minute's worth: so 100 at once, and one more each 0.6 s."""
    seconds = 3.0
    began = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.limits.crowd", os.environ["REDIS_URL"], name, "2500", str(seconds)],
            stdout=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    reports = [json.loads(process.communicate()[0]) for process in processes]
    elapsed = time.monotonic() - began
    assert all(report["shared"] for report in reports)
    admitted: Counter[str] = Counter()
    for report in reports:
        admitted.update(report["admitted"])
    assert len(admitted) == TENANTS
    for tenant, count in admitted.items():
        assert LIMIT <= count <= LIMIT + LIMIT * elapsed / 60, (tenant, count, elapsed)
    mean = sum(admitted.values()) / TENANTS
    assert max(abs(count - mean) for count in admitted.values()) <= 0.05 * mean
    print(f"admitted {sorted(admitted.values())} in {elapsed:.1f} s")


def test_a_limit_of_each_worker_alone_would_be_caught(name: str) -> None:
    """The must-fail twin: four meters that do not share a Valkey let four times as much through."""

    async def alone() -> int:
        shares = [Share(workers=1) for _ in range(4)]
        return sum(share.take([check(name, 100)]).refused is None for share in shares for _ in range(200))

    assert asyncio.run(alone()) > LIMIT + LIMIT * 3 / 60
