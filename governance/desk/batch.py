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
from governance.desk.arrays import (
    ARRAY_OF,
    BigintArray,
    BooleanArray,
    ByteaArray,
    PackedArray,
    TextArray,
    UuidArray,
)
from governance.desk.items import Claimed, Figures, Held, PlaceHold, Refused, Settlement, Shrink
from governance.ledger.kinds import EntryKind

type RawConnection = psycopg.AsyncConnection[tuple[Any, ...]]
type Gone = tuple[int, int]
"""(period id, waiting since) of somebody who waits there no more."""
type Answer = Held | Refused | Claimed

CLAIM_LIFETIME_SECONDS = 24 * 3600


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
    answers: list[Answer]


@dataclass(slots=True)
class _Packed:
    """A batch ready to travel: everything is packed before the first byte leaves."""

    locked_periods: PackedArray
    settle: list[PackedArray] | None
    release: list[PackedArray] | None
    move_claim: list[PackedArray] | None
    shrink: list[PackedArray] | None
    record: list[PackedArray] | None
    leave: list[PackedArray] | None
    admit: list[PackedArray] | None
    claim: list[PackedArray] | None


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
    if packed.release:
        calls.append((b"release", packed.release))
    if packed.move_claim:
        calls.append((b"move_claim", packed.move_claim))
    if packed.shrink:
        calls.append((b"shrink", [*packed.shrink, lease.id]))
    if packed.record:
        calls.append((b"record", packed.record))
    if packed.leave:
        calls.append((b"leave", [*packed.leave, lease.id]))
    if packed.admit and packed.claim:
        calls.append(
            (b"admit_claimed", [*packed.admit, lease.id, *packed.claim, CLAIM_LIFETIME_SECONDS]),
        )
    elif packed.admit:
        calls.append((b"admit", [*packed.admit, lease.id]))
    results = await wire.run(connection.pgconn, calls)
    answers = dict(zip((name for name, _ in calls), results, strict=True))
    return Written(
        _uuids(answers.get(b"settle")),
        _uuids(answers.get(b"shrink")),
        _answers(batch.holds, answers.get(b"admit") or answers.get(b"admit_claimed"), lease.id),
    )


def _uuids(result: PGresult | None) -> set[UUID]:
    if result is None:
        return set()
    values = (result.get_value(row, 0) for row in range(result.ntuples))
    return {UUID(bytes=value) for value in values if value is not None}


def _answers(holds: Sequence[PlaceHold], result: PGresult | None, lease_id: int) -> list[Answer]:
    """What desk_admit_3 or desk_admit_claimed said of each hold, in their order."""
    return [] if result is None else [_answer(hold, result, row, lease_id) for row, hold in enumerate(holds)]


def _answer(hold: PlaceHold, result: PGresult, row: int, lease_id: int) -> Answer:
    if hold.claim is not None and result.get_value(row, 7) == b"\x01":
        return _claimed(result, row)
    refused_by, limit_nanos, spent_nanos, held_nanos, closed = (result.get_value(row, i) for i in range(5))
    figures = None
    if limit_nanos is not None:
        figures = Figures(wire.bigint(limit_nanos), wire.bigint(spent_nanos), wire.bigint(held_nanos))
    if refused_by is None:
        return Held(hold.id, figures, lease_id)
    assert figures is not None
    since, ahead_nanos = (wire.bigint(result.get_value(row, i)) for i in (5, 6))
    return Refused(wire.bigint(refused_by), figures, closed == b"\x01", since, ahead_nanos)


def _claimed(result: PGresult, row: int) -> Claimed:
    call_id, body_digest, hold_id, in_flight, age_seconds = (result.get_value(row, i) for i in range(8, 13))
    if call_id is None or hold_id is None:
        return Claimed(None, None, None, True, 0)
    return Claimed(
        UUID(bytes=call_id), UUID(bytes=hold_id), body_digest, in_flight == b"\x01", wire.bigint(age_seconds)
    )


def _pack(batch: Batch) -> _Packed:
    hold_periods = sorted(set(chain.from_iterable(hold.period_ids for hold in batch.holds)))
    locked = set(hold_periods)
    locked.update(chain.from_iterable(settlement.period_ids for settlement in batch.settlements))
    locked.update(chain.from_iterable(shrink.period_ids for shrink in batch.shrinks))
    locked.update(period_id for period_id, _ in batch.gone)
    return _Packed(
        locked_periods=BigintArray(sorted(locked)),
        settle=pack_settlements(batch.settlements) if batch.settlements else None,
        release=_pack_releases(batch.settlements),
        move_claim=_pack_moves(batch.settlements),
        shrink=_pack_shrinks(batch.shrinks) if batch.shrinks else None,
        record=_CALLS.pack(batch.records) if batch.records else None,
        leave=[BigintArray(column) for column in zip(*batch.gone, strict=True)] if batch.gone else None,
        admit=_pack_holds(batch.holds, hold_periods) if batch.holds else None,
        claim=_pack_claims(batch.holds),
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


def _pack_releases(settlements: Sequence[Settlement]) -> list[PackedArray] | None:
    released = [settlement for settlement in settlements if settlement.claimed]
    if not released:
        return None
    return [
        UuidArray([settlement.hold_id for settlement in released]),
        BooleanArray([settlement.kind is not EntryKind.VOID for settlement in released]),
    ]


def _pack_moves(settlements: Sequence[Settlement]) -> list[PackedArray] | None:
    moves = [
        (settlement.hold_id, settlement.claim_to)
        for settlement in settlements
        if settlement.claim_to is not None
    ]
    return [UuidArray(column) for column in zip(*moves, strict=True)] if moves else None


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


def _pack_claims(holds: Sequence[PlaceHold]) -> list[PackedArray] | None:
    """In the order of their keys, which is the order that every desk takes them in."""
    claims = sorted(
        (hold.tenant_id, hold.claim.lineage_id, hold.claim.idempotency_key, place, hold.claim)
        for place, hold in enumerate(holds, start=1)
        if hold.claim is not None
    )
    if not claims:
        return None
    return [
        BigintArray([place for _, _, _, place, _ in claims]),
        BigintArray([lineage_id for _, lineage_id, _, _, _ in claims]),
        TextArray([key for _, _, key, _, _ in claims]),
        ByteaArray([claim.body_digest for _, _, _, _, claim in claims]),
        UuidArray([claim.call_id for _, _, _, _, claim in claims]),
    ]
