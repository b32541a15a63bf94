"""Bad neighbours of the desk: poison items, a long read, callers that leave. It goes on; figures are printed.

.venv/bin/python -m pytest tests/desk/test_neighbours.py -s
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg

from governance.desk.desk import Desk
from governance.desk.items import Held
from tests.desk.conftest import Fatal, Purse

PAIRS_AT_ONCE = 32
SECONDS = 1.5
READ = """
SELECT count(*), sum(e.amount_nanos + p.spent_nanos + length(a.cost_by_meter::text))
FROM ledger_ledgerentry e JOIN calls_attempt a ON a.id = e.id
JOIN ledger_budgetperiod p ON p.id = e.period_ids[1]
"""


class Traffic:
    """Holds and settlements without a rest; what they took is kept apart for each phase."""

    def __init__(self, desk: Desk, purse: Purse) -> None:
        self.desk, self.purse = desk, purse
        self.period = purse.period(limit=10**15)
        self.waits_ms: list[float] = []
        self.pairs = 0

    async def run(self, seconds: float) -> dict[str, float]:
        """Pairs a second, and how long a caller waited for its hold."""
        self.waits_ms, self.pairs = [], 0
        ends_at = time.monotonic() + seconds
        await asyncio.gather(*(self._caller(ends_at) for _ in range(PAIRS_AT_ONCE)))
        waits = sorted(self.waits_ms)
        return {
            "pairs_per_second": round(self.pairs / seconds),
            "hold_p50_ms": round(waits[len(waits) // 2], 1),
            "hold_p99_ms": round(waits[len(waits) * 99 // 100], 1),
        }

    async def _caller(self, ends_at: float) -> None:
        while time.monotonic() < ends_at:
            hold = self.purse.hold(10, self.period)
            began = time.monotonic()
            assert isinstance(await self.desk.place_hold(hold), Held)
            self.waits_ms.append((time.monotonic() - began) * 1000)
            assert await self.desk.settle(self.purse.charge(hold, 3))
            self.pairs += 1


async def compare(traffic: Traffic, what: str, trouble: Callable[[float], Awaitable[Any]]) -> tuple[Any, Any]:
    """The figures before and during the trouble."""
    before = await traffic.run(SECONDS)
    task = asyncio.ensure_future(trouble(time.monotonic() + SECONDS))
    during = await traffic.run(SECONDS)
    await task
    print(f"\n{what}\n  before {before}\n  during {during}")
    return before, during


async def test_poison_among_255_good_ones_fails_alone_and_the_desk_goes_on(
    desk: Desk, purse: Purse, fatal: Fatal
) -> None:
    """A NUL and a lone surrogate in texts, 2^70 in an amount: one bad item in each burst of 256."""
    traffic = Traffic(desk, purse)
    period = purse.period(limit=10**15)
    held = settled = bursts = 0

    async def bursts_with_poison(ends_at: float) -> None:
        nonlocal held, settled, bursts
        while time.monotonic() < ends_at or bursts < 3:
            poison = bursts % 3
            holds = [purse.hold(2**70 if poison == 2 and i == 100 else 10, period) for i in range(256)]
            answers = await asyncio.gather(*map(desk.place_hold, holds), return_exceptions=True)
            good = [hold for hold, answer in zip(holds, answers, strict=True) if isinstance(answer, Held)]
            assert len(good) == (255 if poison == 2 else 256)
            held += len(good)
            texts = {0: "\x00", 1: "\ud800", 2: "model"}
            charges = [
                purse.charge(hold, 4, text=texts[poison] if i == 100 else "model")
                for i, hold in enumerate(good)
            ]
            settled += sum(await asyncio.gather(*map(desk.settle, charges)))
            bursts += 1

    before, during = await compare(traffic, "one poison item in each burst of 256", bursts_with_poison)
    assert held == settled
    assert purse.row(period) == (held * 4, 0)
    assert not fatal.errors
    assert desk.healthy
    assert during["pairs_per_second"] > before["pairs_per_second"] / 20
    assert during["hold_p99_ms"] < 2000


async def test_a_long_read_of_the_facts_does_not_stop_the_desk(
    desk: Desk, purse: Purse, fatal: Fatal
) -> None:
    """Somebody reads everything in one snapshot for as long as it lasts, as no export of ours would."""
    traffic = Traffic(desk, purse)
    reads = 0

    async def read(ends_at: float) -> None:
        nonlocal reads
        async with await psycopg.AsyncConnection.connect(os.environ["DATABASE_URL"]) as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            while time.monotonic() < ends_at:
                cursor = await connection.execute(READ)
                [(count, _)] = await cursor.fetchall()
                reads += count > 0
                await asyncio.sleep(0.05)

    before, during = await compare(traffic, "a long read in one snapshot", read)
    assert reads
    assert not fatal.errors
    assert during["pairs_per_second"] > before["pairs_per_second"] / 10
    assert during["hold_p99_ms"] < 2000


async def test_callers_that_leave_while_they_wait_cost_the_others_little(
    desk: Desk, purse: Purse, fatal: Fatal
) -> None:
    traffic = Traffic(desk, purse)
    period = purse.period(limit=10**15)
    left = kept = 0

    async def leave(ends_at: float) -> None:
        nonlocal left, kept
        while time.monotonic() < ends_at:
            waiters = [asyncio.ensure_future(desk.place_hold(purse.hold(10, period))) for _ in range(16)]
            await asyncio.sleep(0.001)
            for waiter in waiters:
                waiter.cancel()
            await asyncio.wait(waiters)
            left += sum(waiter.cancelled() for waiter in waiters)
            kept += sum(not waiter.cancelled() for waiter in waiters)

    before, during = await compare(traffic, "sixteen callers at a time leave after a millisecond", leave)
    async with asyncio.timeout(5):
        while purse.row(period) != (0, kept * 10):
            await asyncio.sleep(0.02)
    assert left > 16
    assert not fatal.errors
    assert during["pairs_per_second"] > before["pairs_per_second"] / 20
