"""Must-fail twins: the real thing with one rule broken, before the same detector as the honest run.

A detector that an honest run passes proves nothing until it has caught its twin. The others stand beside
their detectors: synchronous_commit off (tests/promise/test_durability.py), admission off by one
(test_state_machine.py), tenant filter removed (tests/console/test_walls.py).
"""

import asyncio
import json
import random
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from django.conf import settings

from governance.core.ids import uuid7
from governance.desk import statements, sweeper, wire
from governance.desk.desk import Desk
from governance.desk.items import DeskUnavailable, Held, PlaceHold
from governance.desk.memo import make_memo, void_of_unused_hold
from governance.desk.sweeper import Sweeper
from tests.desk.conftest import Purse
from tests.desk.test_attempts import SeveralAttempts, sweep
from tests.faults.broken import broken_function
from tests.faults.checker import check
from tests.faults.evidence import collect

type StartDesk = Callable[..., Awaitable[Desk]]


@pytest.fixture
def purse(purse: Purse) -> Iterator[Purse]:
    """A tenant whose ruins are cleared away: no sweeper could ever settle what a twin has corrupted."""
    yield purse
    purse.connection.execute("DELETE FROM ledger_hold WHERE tenant_id = %s", [purse.tenant_id])


LOCK = "PERFORM 1 FROM ledger_budgetperiod WHERE id = ANY(period_ids) ORDER BY id FOR NO KEY UPDATE;"


async def storm(purse: Purse, rows: list[int], legs: int, *, seconds: float, callers: int = 8) -> None:
    """Holds and settlements from four desks, on `legs` of the rows each, in any order."""
    fatal: list[BaseException] = []
    desks = [Desk(settings.DATABASE_URL, f"storm-{i}", on_fatal=fatal.append) for i in range(4)]
    for desk in desks:
        await desk.start()
    ends_at = asyncio.get_running_loop().time() + seconds

    async def call(desk: Desk) -> None:
        while asyncio.get_running_loop().time() < ends_at and desk.failed is None:
            hold = purse.hold(10, *random.sample(rows, legs))
            try:
                if isinstance(await desk.place_hold(hold), Held):
                    await asyncio.wait_for(asyncio.shield(desk.settle(purse.charge(hold, 1))), 5)
            except (DeskUnavailable, psycopg.Error, TimeoutError):
                await asyncio.sleep(0.01)

    await asyncio.gather(*(call(desk) for desk in desks for _ in range(callers)))
    for desk in desks:
        await desk.stop(3)


@pytest.mark.parametrize("honest", [True, False], ids=["honest", "the twin that must fail"])
async def test_admission_that_checks_and_then_adds_is_caught(
    purse: Purse, journalled: psycopg.Connection[Any], honest: bool
) -> None:
    """The twin: desk_open_batch without its lock, so that two desks see the same room and both take it."""
    row = purse.period(limit=100_000)
    twin = broken_function(journalled, statements.OPEN_BATCH, LOCK, "")
    with nullcontext() if honest else twin:
        await storm(purse, [row], 1, seconds=1.5)
    breaches = check(collect(journalled, [purse.tenant_id]))
    assert (breaches == []) == honest
    assert purse.entries()


@pytest.mark.parametrize("honest", [True, False], ids=["honest", "the twin that must fail"])
async def test_a_settlement_that_does_not_claim_its_hold_is_caught(
    start_desk: StartDesk,
    purse: Purse,
    journalled: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    honest: bool,
) -> None:
    """The twin reads the hold where the real statement deletes it: anybody may settle it again."""
    claim = re.compile(
        r"DELETE FROM ledger_hold h USING (.*?)\s+(WHERE .*?)\s+RETURNING (.*?)\n\),", re.DOTALL
    )
    unguarded, count = claim.subn(r"SELECT \3 FROM ledger_hold h, \1 \2\n),", statements.SETTLE)
    assert count == 1, "settlements claim their hold otherwise now"
    if not honest:
        monkeypatch.setitem(wire._STATEMENTS, b"settle", unguarded)
    desk = await start_desk()
    period = purse.period(limit=1000)
    hold = purse.hold(60, period)
    await desk.place_hold(hold)
    assert await desk.settle(purse.charge(hold, 25))
    found = {breach.rule for breach in check(collect(journalled, [purse.tenant_id]))}
    assert found == set() if honest else "I3" in found


@pytest.mark.parametrize("honest", [True, False], ids=["honest", "the twin that must fail"])
async def test_locks_taken_in_any_order_are_caught(
    purse: Purse, journalled: psycopg.Connection[Any], honest: bool
) -> None:
    """The twin locks the rows of a batch in random order: desks that share rows deadlock."""
    rows = [purse.period(limit=10**9) for _ in range(8)]
    before = deadlocks(journalled)
    twin = broken_function(
        journalled,
        statements.OPEN_BATCH,
        "ORDER BY id FOR NO KEY UPDATE",
        "ORDER BY random() FOR NO KEY UPDATE",
    )
    with nullcontext() if honest else twin:
        await storm(purse, rows, 4, seconds=3)
    assert (deadlocks(journalled) == before) == honest
    assert check(collect(journalled, [purse.tenant_id])) == []  # slow, and still right


@pytest.mark.parametrize("honest", [True, False], ids=["honest", "the twin that must fail"])
async def test_a_sweeper_that_voids_billed_calls_is_caught(
    start_desk: StartDesk,
    purse: Purse,
    journalled: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    honest: bool,
) -> None:
    """The twin gives a dead worker's money back, as if nothing could have been billed."""

    def give_back(**orphan: Any) -> Any:
        order = PlaceHold(
            orphan["hold_id"], orphan["tenant_id"], orphan["period_ids"], orphan["amount_nanos"],
            orphan["price_version"], json.dumps(orphan["memo"]),
        )  # fmt: skip
        return void_of_unused_hold(order, "the worker died")

    if not honest:
        monkeypatch.setattr(sweeper, "charge_of_orphan", give_back)
    alive, dead = await start_desk(worker="alive"), await start_desk(worker="dead")
    period = purse.period(limit=10**9)
    memo = make_memo(
        call_id=uuid7(), key_id=7, team_id=None, endpoint="messages", requested_model="claude-haiku-4-5",
        stream=False, tags={"call": "billed"}, end_user=None, session=None, credential_id=None,
        bound="bounded", list_nanos=5,
    )  # fmt: skip
    assert await dead.place_hold(PlaceHold(uuid7(), purse.tenant_id, (period,), 900_000, 1, memo))
    usage = {"input_tokens": 10, "output_tokens": 100}
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    bill = [{"script_id": "billed", "request_id": "req-1", "at": at, "usage": usage}]
    journalled.execute("UPDATE desk_workerlease SET swept_at = now() WHERE id = %s", [dead.lease_id])
    sweeping = Sweeper(alive, settings.DATABASE_URL, heartbeat_seconds=60, stale_seconds=60)
    await sweeping._settle_orphans(await sweeping._live_connection())
    await sweeping.stop()
    found = [str(breach) for breach in check(collect(journalled, [purse.tenant_id], bill))]
    assert found == ([] if honest else ["I10: call billed was billed 510000, charged 0"])


@pytest.mark.parametrize("honest", [True, False], ids=["honest", "the twin that must fail"])
async def test_a_sweeper_that_forgets_earlier_attempts_is_caught(
    start_desk: StartDesk,
    purse: Purse,
    journalled: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    honest: bool,
) -> None:
    """The twin writes the row of a dead worker's call with its last attempt only."""
    if not honest:
        monkeypatch.setattr(sweeper, "_add", lambda call, sums: None)
    alive, dead = await start_desk(worker="alive"), await start_desk(worker="dead")
    call = SeveralAttempts(dead, purse, purse.period(limit=10**9))
    await call.place(700)
    call.shrink(5)
    await call.place(900)
    await sweep(alive, dead, purse=purse)
    found = {breach.rule for breach in check(collect(journalled, [purse.tenant_id]))}
    assert found == (set() if honest else {"I11", "I12"})


def deadlocks(connection: psycopg.Connection[Any]) -> int:
    """So many since the database was made."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    [(count,)] = connection.execute(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    ).fetchall()
    return int(count)
