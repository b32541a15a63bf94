"""A cost above its hold: the provider billed more than the worst case that was computed.

The charge is recorded in full. Every leg gets the same amount: the hold, plus as much of the excess as
the tightest hard budget can carry. The rest is the operator's: an `overrun` entry without legs.
"""

import logging
from contextlib import suppress
from typing import Any

import psycopg
from msgspec.structs import replace

from governance.core.ids import uuid7
from governance.desk import statements
from governance.desk.arrays import BigintArray
from governance.desk.batch import Lease, RawConnection, pack_settlements
from governance.desk.items import Settlement
from governance.ledger.kinds import Basis

log = logging.getLogger(__name__)


async def settle_overrun(connection: RawConnection, lease: Lease, settlement: Settlement) -> bool:
    """Settle one attempt in a transaction of its own, whatever it cost; True when this resolved the hold.

    Raises as batch.write does.
    """
    lease.batch += 1
    locked = BigintArray(sorted(settlement.period_ids))
    try:
        await connection.execute("BEGIN")
        await _run(connection, statements.OPEN_BATCH, [lease.id, lease.epoch, lease.batch, locked])
        hold = await _run(connection, statements.ROOM_ABOVE_HOLD, [settlement.hold_id])
        if not hold:
            await _correct_late(connection, settlement)
            await connection.execute("COMMIT")
            return False
        held_nanos, room_nanos = hold[0]
        carried_nanos = min(settlement.cost_nanos, held_nanos + room_nanos)
        overrun_nanos = settlement.cost_nanos - carried_nanos
        if carried_nanos > held_nanos:
            await _run(connection, statements.GROW, [settlement.hold_id, carried_nanos - held_nanos])
        charged = replace(settlement, cost_nanos=carried_nanos)
        await _run(connection, statements.SETTLE, pack_settlements([charged]))
        if overrun_nanos:
            await _record(connection, settlement, overrun_nanos)
        await connection.execute("COMMIT")
    except BaseException:
        with suppress(psycopg.Error):
            await connection.rollback()
        raise
    if settlement.cost_nanos > held_nanos:
        _report(settlement, held_nanos, overrun_nanos)
    return True


async def _correct_late(connection: RawConnection, settlement: Settlement) -> None:
    """Somebody else resolved the hold: a sweeper, for instance, that took a slow worker for a dead one and
    charged it at a bound. Where this settlement knows better, the difference is given back, or is the
    operator's where the call cost more."""
    if settlement.basis not in (None, Basis.EXACT):
        return
    attempt = settlement.attempt
    known = "nothing was billed" if settlement.basis is None else "its usage came late"
    why = f"{known}: {settlement.reason}" if settlement.basis is None else known
    if attempt.output_tokens is not None:
        why += f" ({attempt.served_model}: {attempt.input_tokens} in, {attempt.output_tokens} out)"
    parameters = [settlement.hold_id, uuid7(), settlement.cost_nanos, why[:256]]
    for (excess_nanos,) in await _run(connection, statements.LATE_OVERRUN, parameters):
        _report(settlement, settlement.cost_nanos - excess_nanos, excess_nanos)
    if settlement.claimed and settlement.basis is None:
        await _run(connection, statements.RELEASE_LATE, [settlement.hold_id])
    rows = await _run(connection, statements.LATE_CREDIT, parameters)
    for credited_nanos, _ in rows:
        log.warning(
            "Attempt %s was charged at a bound before its settlement came; %d nano-dollars are given back.",
            settlement.hold_id,
            credited_nanos,
        )


def _report(settlement: Settlement, held_nanos: int, overrun_nanos: int) -> None:
    log.error(
        "Attempt %s cost %d nano-dollars above its hold; %d of them are the operator's overrun.",
        settlement.hold_id,
        settlement.cost_nanos - held_nanos,
        overrun_nanos,
    )


async def _record(connection: RawConnection, settlement: Settlement, overrun_nanos: int) -> None:
    attempt = settlement.attempt
    reason = f"cost above the hold for {attempt.served_model}"[:256]
    await _run(
        connection,
        statements.RECORD_OVERRUN,
        [
            uuid7(),
            attempt.tenant_id,
            attempt.key_id,
            attempt.call_id,
            overrun_nanos,
            attempt.price_version,
            settlement.hold_id,
            reason,
        ],
    )


async def _run(connection: RawConnection, sql: str, parameters: list[Any]) -> list[tuple[Any, ...]]:
    cursor = await psycopg.AsyncRawCursor(connection).execute(sql, parameters, binary=True)
    return await cursor.fetchall() if cursor.description else []
