"""The desk when its database, its connection or its neighbours fail."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psycopg
import psycopg.conninfo
import psycopg.sql
import pytest
from django.conf import settings

from governance.core.ids import uuid7
from governance.desk.desk import Desk
from governance.desk.items import DeskUnavailable, Held, Refused, Settlement, Shrink
from governance.desk.sweeper import Sweeper
from governance.ledger.audit import audit
from governance.ledger.kinds import Basis
from tests.chaos_proxy import ChaosProxy
from tests.desk.conftest import Fatal, Purse

type StartDesk = Callable[..., Awaitable[Desk]]


@pytest.fixture
async def proxy() -> AsyncIterator[ChaosProxy]:
    proxy = ChaosProxy(settings.DATABASE_URL)
    yield proxy
    await proxy.stop()


async def test_a_settlement_whose_commit_was_not_heard_is_acknowledged_not_repeated(
    start_desk: StartDesk, purse: Purse, proxy: ChaosProxy
) -> None:
    desk = await start_desk(await proxy.start())
    period = purse.period(limit=100)
    hold = purse.hold(60, period)
    await desk.place_hold(hold)
    proxy.lose_next_answer()
    assert await desk.settle(purse.charge(hold, 25))
    assert proxy.answers_lost == 1
    assert purse.row(period) == (25, 0)
    assert purse.entries() == [("charge", 25)]


async def test_a_hold_whose_commit_was_not_heard_is_voided_and_its_caller_turned_away(
    start_desk: StartDesk, purse: Purse, proxy: ChaosProxy
) -> None:
    desk = await start_desk(await proxy.start())
    period = purse.period(limit=100)
    proxy.lose_next_answer()
    with pytest.raises(DeskUnavailable):
        await desk.place_hold(purse.hold(60, period))
    async with asyncio.timeout(5):
        while purse.entries() != [("void", 0)]:
            await asyncio.sleep(0.02)
    assert purse.row(period) == (0, 0)


async def test_connections_cut_under_load_lose_and_double_nothing(
    start_desk: StartDesk, purse: Purse, fatal: Fatal
) -> None:
    desk = await start_desk(worker="cut-me")
    period = purse.period(limit=10**9)
    charged, ends_at = 0, time.monotonic() + 4

    async def call() -> None:
        nonlocal charged
        while time.monotonic() < ends_at:
            hold = purse.hold(100, period)
            try:
                await desk.place_hold(hold)
            except DeskUnavailable:
                await asyncio.sleep(0.01)
                continue
            cost = random.randrange(100)
            assert await desk.settle(purse.charge(hold, cost))
            charged += cost

    async def cut() -> int:
        cuts = 0
        while time.monotonic() < ends_at:
            await asyncio.sleep(random.random() * 0.1)
            cuts += purse.connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'exchequer desk cut-me' AND datname = current_database()"
            ).rowcount
        return cuts

    *_, cuts = await asyncio.gather(*(call() for _ in range(20)), cut())
    async with asyncio.timeout(5):
        while purse.open_holds():
            await asyncio.sleep(0.02)
    assert cuts > 10
    assert purse.row(period) == (charged, 0)
    assert (await asyncio.to_thread(audit, purse.tenant_id))[1] == []
    assert not fatal.errors


async def test_without_a_database_holds_are_turned_away_at_once_and_settlements_kept(
    start_desk: StartDesk, purse: Purse, proxy: ChaosProxy
) -> None:
    desk = await start_desk(await proxy.start())
    period = purse.period(limit=100)
    hold = purse.hold(60, period)
    await desk.place_hold(hold)
    await proxy.stop()
    proxy.lose_next_answer()
    with pytest.raises(DeskUnavailable):
        await desk.place_hold(purse.hold(1, period))
    settled = desk.settle(purse.charge(hold, 25))
    began = time.monotonic()
    with pytest.raises(DeskUnavailable):
        await desk.place_hold(purse.hold(1, period))
    assert time.monotonic() - began < 0.2
    await asyncio.sleep(0.3)
    assert not settled.done()

    await proxy.start()
    async with asyncio.timeout(5):
        assert await settled
    assert ("charge", 25) in purse.entries()


async def test_a_worker_whose_lease_was_swept_takes_a_new_one_before_it_admits(
    desk: Desk, purse: Purse, fatal: Fatal
) -> None:
    period = purse.period(limit=100)
    before = desk.lease_id
    purse.connection.execute("UPDATE desk_workerlease SET swept_at = now() WHERE id = %s", [before])
    assert isinstance(await desk.place_hold(purse.hold(10, period)), Held)
    assert desk.lease_id != before
    leases = purse.connection.execute(
        "SELECT lease_id FROM ledger_hold WHERE tenant_id = %s", [purse.tenant_id]
    ).fetchall()
    assert leases == [(desk.lease_id,)]
    assert not fatal.errors


async def _die(desk: Desk) -> None:
    """End a desk as kill -9 would: no flush, no goodbye."""
    assert desk._task
    assert desk._link._connection
    desk._task.cancel()
    await asyncio.wait({desk._task})
    await desk._link._connection.close()


async def test_a_late_settlement_above_its_hold_is_charged_in_full_all_the_same(
    start_desk: StartDesk, purse: Purse
) -> None:
    """The sweeper has charged the hold; what the call cost beyond it is the operator's, once."""
    alive, slow = await start_desk(worker="alive"), await start_desk(worker="slow")
    period = purse.period(limit=100)
    hold = purse.hold(60, period)
    await slow.place_hold(hold)
    attempt, call = purse.records(hold, 60)
    swept = Settlement.charge(
        hold_id=hold.id, basis=Basis.FULL_HOLD, held_nanos=60, period_ids=(period,), attempt=attempt,
        call=call,
    )  # fmt: skip
    assert await alive.settle(swept)
    for _ in range(2):
        assert not await slow.settle(purse.charge(hold, 85))
    assert purse.entries() == [("charge", 60), ("overrun", 25)]
    assert purse.row(period) == (60, 0)


async def test_a_dead_workers_holds_are_charged_in_full_and_a_late_settlement_credits_the_rest(
    start_desk: StartDesk, purse: Purse
) -> None:
    """The worker was only slow: what it knows of the cost is not lost, and comes once however often."""
    alive, dead = await start_desk(worker="alive"), await start_desk(worker="dead")
    period = purse.period(limit=100)
    orphan, live = purse.hold(60, period), purse.hold(30, period)
    await dead.place_hold(orphan)
    await alive.place_hold(live)
    await _die(dead)
    sweeper = Sweeper(alive, settings.DATABASE_URL, heartbeat_seconds=0.05, stale_seconds=0.4)
    sweeper.start()
    async with asyncio.timeout(5):
        while purse.row(period) != (60, 30):
            await asyncio.sleep(0.02)
    assert purse.entries() == [("charge", 60)]
    assert (purse.count("calls_call"), purse.count("calls_attempt")) == (1, 1)
    for _ in range(2):
        assert not await alive.settle(purse.charge(orphan, 5))
        assert purse.row(period) == (5, 30)
        assert purse.entries() == [("charge", 60), ("credit", -55)]
    await sweeper.stop()


async def test_silence_during_an_outage_sweeps_nobody(start_desk: StartDesk, purse: Purse) -> None:
    """After an outage a sweeper waits for its own second success before it judges others."""
    watcher, slow = await start_desk(worker="watcher"), await start_desk(worker="slow")
    period = purse.period(limit=100)
    await slow.place_hold(purse.hold(60, period))
    purse.connection.execute(
        "UPDATE desk_workerlease SET heartbeat_at = heartbeat_at - interval '1 hour' WHERE id = %s",
        [slow.lease_id],
    )
    sweeper = Sweeper(watcher, settings.DATABASE_URL, heartbeat_seconds=60, stale_seconds=0.5)
    await sweeper.sweep()
    await sweeper.sweep()  # the second success: from here on silence counts
    assert purse.row(period) == (0, 60)
    slow.heartbeat()
    await asyncio.sleep(0.2)
    await sweeper.sweep()
    assert purse.row(period) == (0, 60)
    await asyncio.sleep(0.6)
    await sweeper.sweep()
    assert purse.row(period) == (60, 0)
    await sweeper.stop()


async def test_a_hold_that_the_sweeper_is_charging_cannot_be_shrunk(
    start_desk: StartDesk, purse: Purse
) -> None:
    """The slow owner of a swept hold must not hand out room that the sweeper is about to charge."""
    owner = await start_desk(worker="slow")
    period = purse.period(limit=100)
    hold = purse.hold(100, period)
    await owner.place_hold(hold)
    purse.connection.execute(
        "UPDATE desk_workerlease SET swept_at = now(), epoch = epoch + 1 WHERE id = %s", [owner.lease_id]
    )
    assert not await owner.shrink(Shrink(hold.id, 20, (period,)))
    assert isinstance(await owner.place_hold(purse.hold(80, period)), Refused)
    assert await owner.settle(purse.charge(hold, 100))
    assert purse.row(period) == (100, 0)


async def test_a_settlement_above_the_hold_as_it_stands_never_passes_a_limit(
    desk: Desk, purse: Purse
) -> None:
    """Whatever the caller believes is held: here it does not know that the hold was shrunk."""
    period = purse.period(limit=100)
    hold, other = purse.hold(100, period), purse.hold(80, period)
    await desk.place_hold(hold)
    await desk.shrink(Shrink(hold.id, 20, (period,)))
    await desk.place_hold(other)
    assert await desk.settle(purse.charge(hold, 100))
    assert purse.row(period) == (20, 80)
    assert sorted(purse.entries()) == [("charge", 20), ("overrun", 80)]


async def test_a_locked_row_stops_only_the_calls_of_its_budget(start_desk: StartDesk, purse: Purse) -> None:
    desk = await start_desk(lock_timeout_seconds=0.3)
    locked, free = purse.period(limit=100), purse.period(limit=100)
    hold = purse.hold(60, locked)
    await desk.place_hold(hold)
    with psycopg.connect(settings.DATABASE_URL) as other:
        other.execute("SELECT 1 FROM ledger_budgetperiod WHERE id = %s FOR UPDATE", [locked])
        settled = desk.settle(purse.charge(hold, 25))
        async with asyncio.timeout(3):
            assert isinstance(await desk.place_hold(purse.hold(10, free)), Held)
        with pytest.raises(DeskUnavailable):
            await desk.place_hold(purse.hold(10, locked))
        began = time.monotonic()
        assert isinstance(await desk.place_hold(purse.hold(10, free)), Held)
        assert time.monotonic() - began < 0.2
        assert not settled.done()
    async with asyncio.timeout(5):
        assert await settled
    assert purse.row(locked) == (25, 0)
    assert isinstance(await desk.place_hold(purse.hold(10, locked)), Held)


async def test_what_was_put_aside_is_written_however_busy_the_others_are(
    start_desk: StartDesk, purse: Purse
) -> None:
    desk = await start_desk(lock_timeout_seconds=0.3)
    locked, free = purse.period(limit=100), purse.period(limit=100)
    hold = purse.hold(60, locked)
    await desk.place_hold(hold)

    async def busy() -> None:
        while True:
            await desk.shrink(Shrink(uuid7(), 1, (free,)))

    async with asyncio.timeout(10), asyncio.TaskGroup() as others:
        with psycopg.connect(settings.DATABASE_URL) as other:
            other.execute("SELECT 1 FROM ledger_budgetperiod WHERE id = %s FOR UPDATE", [locked])
            settled = desk.settle(purse.charge(hold, 25))
            await asyncio.sleep(1.2)  # it is aside now
        callers = []
        for _ in range(2):  # whatever one waits for is being written when the other comes
            callers.append(others.create_task(busy()))
            await asyncio.sleep(0.0001)
        async with asyncio.timeout(3):
            assert await settled
        for caller in callers:
            caller.cancel()
    assert purse.row(locked) == (25, 0)


async def test_a_read_only_database_loses_no_settlement(
    start_desk: StartDesk, purse: Purse, fatal: Fatal
) -> None:
    desk = await start_desk()
    period = purse.period(limit=100)
    hold = purse.hold(60, period)
    await desk.place_hold(hold)
    database = psycopg.conninfo.conninfo_to_dict(settings.DATABASE_URL)["dbname"]
    read_only = psycopg.sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}")

    def set_read_only(value: str) -> None:
        purse.connection.execute(
            read_only.format(psycopg.sql.Identifier(str(database)), psycopg.sql.Literal(value))
        )
        purse.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'exchequer desk%' AND datname = current_database()"
        )

    set_read_only("on")
    try:
        settled = desk.settle(purse.charge(hold, 25))
        await asyncio.sleep(1)
        assert not settled.done()
    finally:
        set_read_only("off")
    async with asyncio.timeout(10):
        assert await settled
    assert purse.row(period) == (25, 0)
    assert not fatal.errors


async def test_an_overrun_with_a_text_that_cannot_be_written_is_recorded_without_it(
    desk: Desk, purse: Purse, fatal: Fatal
) -> None:
    period = purse.period(limit=70)
    hold = purse.hold(60, period)
    await desk.place_hold(hold)
    assert await desk.settle(purse.charge(hold, 100, text="\x00"))
    assert sorted(purse.entries()) == [("charge", 70), ("overrun", 30)]
    assert not fatal.errors


async def test_a_dead_sweeper_is_no_obstacle_for_the_next(start_desk: StartDesk, purse: Purse) -> None:
    """No leader, no lock that outlives whoever held it: a hung sweeper's neighbours sweep."""
    desks = [await start_desk(worker=f"sweeper-{i}") for i in range(2)]
    hung, alive = (
        Sweeper(desk, settings.DATABASE_URL, heartbeat_seconds=60, stale_seconds=0.2) for desk in desks
    )
    await hung.sweep()  # and never again
    dead = await start_desk(worker="dead")
    period = purse.period(limit=100)
    await dead.place_hold(purse.hold(60, period))
    await _die(dead)
    await alive.sweep()
    await alive.sweep()
    await asyncio.sleep(0.5)
    await alive.sweep()
    assert purse.row(period) == (60, 0)
    await hung.stop()
    await alive.stop()


def test_a_stopped_worker_holds_up_the_others_no_longer_than_its_transaction_may_last(purse: Purse) -> None:
    """SIGSTOP at random moments of busy batches; the neighbour's longest silence is measured."""
    period = purse.period(limit=10**12)
    script = str(Path(__file__).with_name("busy_worker.py"))
    command = [sys.executable, script, str(purse.tenant_id), str(period), "1.0"]
    busy = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=dict(os.environ))
    neighbour = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert neighbour.stdout
    try:
        assert neighbour.stdout.readline().startswith("ready")
        for _ in range(5):
            time.sleep(0.2 + random.random() * 0.3)
            busy.send_signal(signal.SIGSTOP)
            time.sleep(1.6)
            busy.send_signal(signal.SIGCONT)
        neighbour.send_signal(signal.SIGTERM)
        longest_silence_seconds, calls = map(float, neighbour.stdout.read().split())
    finally:
        for process in (busy, neighbour):
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(10)
    assert calls > 500
    assert longest_silence_seconds < 1.5, "the transaction timeout of one second did not free the row"
    assert audit(purse.tenant_id)[1] == []


def test_deadlocks_do_not_happen_when_desks_share_rows_in_any_order(purse: Purse) -> None:
    rows = [purse.period(limit=10**9) for _ in range(6)]

    async def race() -> None:
        desks = [Desk(settings.DATABASE_URL, f"order-{i}", on_fatal=print) for i in range(3)]
        for desk in desks:
            await desk.start()

        async def call(desk: Desk) -> None:
            for _ in range(40):
                hold = purse.hold(5, *random.sample(rows, 3))
                await desk.place_hold(hold)
                await desk.settle(purse.charge(hold, 5))

        await asyncio.gather(*(call(desk) for desk in desks for _ in range(8)))
        for desk in desks:
            await desk.stop()

    before = _deadlocks(purse.connection)
    asyncio.run(race())
    assert _deadlocks(purse.connection) == before
    assert sum(purse.row(row)[0] for row in rows) == 3 * 8 * 40 * 5 * 3


def _deadlocks(connection: psycopg.Connection[tuple[int]]) -> int:
    connection.execute("SELECT pg_stat_force_next_flush()")
    row = connection.execute(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    ).fetchone()
    assert row is not None
    return row[0]
