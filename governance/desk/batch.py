"""One batch: items packed into arrays, then written in one transaction that is one round trip.

Read `write` first. Statements of a pipeline are one implicit transaction up to its one Sync, so no reply
is needed between the first lock and the commit, and no row lock waits for this process's event loop.
Everything is packed before the first byte leaves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from typing import Any
from uuid import UUID

import psycopg
from psycopg.pq.abc import PGresult

from governance.calls.records import CallRecord, ColumnType
from governance.desk import statements, wire
from governance.desk.arrays import ARRAY_OF, BigintArray, PackedArray, TextArray, UuidArray
from governance.desk.items import Figures, Held, PlaceHold, Refused, Settlement, Shrink

type RawConnection = psycopg.AsyncConnection[tuple[Any, ...]]
type Gone = tuple[int, int]
"""(period id, waiting since) of somebody who waits there no more."""


@dataclass(slots=True)
class Lease:
    """This desk's row of desk_workerlease."""

    id: int
    epoch: int = 0
    batch: int = 0


@dataclass(slots=True)
class Batch:
    """What one transaction does. Settlements come first, so that they make room for holds."""

    settlements: list[Settlement] = field(default_factory=list)
    shrinks: list[Shrink] = field(default_factory=list)
    records: list[CallRecord] = field(default_factory=list)
    holds: list[PlaceHold] = field(default_factory=list)
    gone: list[Gone] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.settlements) + len(self.shrinks) + len(self.records) + len(self.holds)


@dataclass(slots=True)
class Written:
    """What a committed batch did: resolved hold ids, shrunk hold ids, an answer per hold in order."""

    resolved: set[UUID]
    shrunk: set[UUID]
    answers: list[Held | Refused]


@dataclass(slots=True)
class _Packed:
    """A batch ready to travel: everything is packed before the first byte leaves."""

    locked_periods: PackedArray
    settle: list[PackedArray] | None
    shrink: list[PackedArray] | None
    record: list[PackedArray] | None
    leave: list[PackedArray] | None
    admit: list[PackedArray] | None


async def write(connection: RawConnection, lease: Lease, batch: Batch) -> Written:
    """Write the batch in one transaction and return what it did. `lease.batch` is its receipt.

    Raises psycopg.Error, UnicodeEncodeError, struct.error or OverflowError; nothing of the batch is
    visible then, unless the connection was lost while committing: see Desk._recover.
    """
    packed = _pack(batch)
    lease.batch += 1
    calls: list[wire.Call] = [
        (b"open_batch", [lease.id, lease.epoch, lease.batch, packed.locked_periods]),
    ]
    if packed.settle:
        calls.append((b"settle", packed.settle))
    if packed.shrink:
        calls.append((b"shrink", [*packed.shrink, lease.id]))
    if packed.record:
        calls.append((b"record", packed.record))
    if packed.leave:
        calls.append((b"leave", [*packed.leave, lease.id]))
    if packed.admit:
        calls.append((b"admit", [*packed.admit, lease.id]))
    results = await wire.run(connection.pgconn, calls)
    answers = dict(zip((name for name, _ in calls), results, strict=True))
    return Written(
        _uuids(answers.get(b"settle")),
        _uuids(answers.get(b"shrink")),
        _answers(batch.holds, answers.get(b"admit")),
    )


def _uuids(result: PGresult | None) -> set[UUID]:
    if result is None:
        return set()
    values = (result.get_value(row, 0) for row in range(result.ntuples))
    return {UUID(bytes=value) for value in values if value is not None}


def _answers(holds: Sequence[PlaceHold], result: PGresult | None) -> list[Held | Refused]:
    """What desk_admit_3 said of each hold, in their order."""
    return [] if result is None else [_answer(hold, result, row) for row, hold in enumerate(holds)]


def _answer(hold: PlaceHold, result: PGresult, row: int) -> Held | Refused:
    refused_by, limit_nanos, spent_nanos, held_nanos, closed = (result.get_value(row, i) for i in range(5))
    figures = None
    if limit_nanos is not None:
        figures = Figures(wire.bigint(limit_nanos), wire.bigint(spent_nanos), wire.bigint(held_nanos))
    if refused_by is None:
        return Held(hold.id, figures)
    assert figures is not None
    since, ahead_nanos = (wire.bigint(result.get_value(row, i)) for i in (5, 6))
    return Refused(wire.bigint(refused_by), figures, closed == b"\x01", since, ahead_nanos)


def _pack(batch: Batch) -> _Packed:
    hold_periods = sorted(set(chain.from_iterable(hold.period_ids for hold in batch.holds)))
    locked = set(hold_periods)
    locked.update(chain.from_iterable(settlement.period_ids for settlement in batch.settlements))
    locked.update(chain.from_iterable(shrink.period_ids for shrink in batch.shrinks))
    locked.update(period_id for period_id, _ in batch.gone)
    return _Packed(
        locked_periods=BigintArray(sorted(locked)),
        settle=pack_settlements(batch.settlements) if batch.settlements else None,
        shrink=_pack_shrinks(batch.shrinks) if batch.shrinks else None,
        record=_CALLS.pack(batch.records) if batch.records else None,
        leave=[BigintArray(column) for column in zip(*batch.gone, strict=True)] if batch.gone else None,
        admit=_pack_holds(batch.holds, hold_periods) if batch.holds else None,
    )


class _Columns:
    """How the rows of one table become arrays, one a column."""

    def __init__(self, columns: dict[str, ColumnType]) -> None:
        self._values = attrgetter(*columns)
        self._no_row = (None,) * len(columns)
        self._arrays = [ARRAY_OF[kind] for kind in columns.values()]

    def pack(self, rows: Sequence[Any]) -> list[PackedArray]:
        """A row that is None is NULL in each column."""
        values = [self._no_row if row is None else self._values(row) for row in rows]
        return [array(column) for array, column in zip(self._arrays, zip(*values, strict=True), strict=True)]


_SETTLEMENTS = _Columns(statements.SETTLEMENT_COLUMNS)
_ATTEMPTS = _Columns(statements.ATTEMPT_COLUMNS)
_CALLS = _Columns(statements.CALL_COLUMNS)


def pack_settlements(settlements: Sequence[Settlement]) -> list[PackedArray]:
    return [
        *_SETTLEMENTS.pack(settlements),
        *_ATTEMPTS.pack([settlement.attempt for settlement in settlements]),
        *_CALLS.pack([settlement.call for settlement in settlements]),
    ]


def _pack_shrinks(shrinks: Sequence[Shrink]) -> list[PackedArray]:
    return [
        UuidArray([shrink.hold_id for shrink in shrinks]),
        BigintArray([shrink.amount_nanos for shrink in shrinks]),
    ]


def _pack_holds(holds: Sequence[PlaceHold], periods: Sequence[int]) -> list[PackedArray]:
    position = {period_id: place for place, period_id in enumerate(periods, start=1)}
    return [
        BigintArray(periods),
        UuidArray([hold.id for hold in holds]),
        BigintArray([hold.tenant_id for hold in holds]),
        BigintArray([hold.amount_nanos for hold in holds]),
        BigintArray([hold.price_version for hold in holds]),
        TextArray([hold.memo for hold in holds]),
        BigintArray([len(hold.period_ids) for hold in holds]),
        BigintArray([position[period_id] for hold in holds for period_id in hold.period_ids]),
        BigintArray([hold.waiting_since for hold in holds]),
    ]
