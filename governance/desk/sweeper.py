"""Settle what dead workers left behind. Runs beside the desk in every gateway process.

It needs no Celery, no Valkey and no leader: each process marks leases without a heartbeat as swept, and
puts the open holds of swept leases on its own desk as charges of the full hold, through the same
settlement as any other. Two sweepers, or a worker that was only slow, may settle the same hold: whoever
deletes it first writes the entry. A slow worker finds its lease gone and takes a new one.

A call of several attempts leaves one hold or two. Each hold but the first is placed while the one before it
is open and under the same lease (PlaceHold.follows), so a call can get no further hold once its lease was
swept, and whoever resolves its newest one writes its row. Here the others come first; when they are durable,
the row's sums are read from the attempts, which nobody changes any more.

After a database outage nobody could renew a lease, so silence proves nothing yet: it counts only from
this sweeper's own second success in a row.
"""

import asyncio
import logging
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from msgspec.structs import replace

from governance.calls.records import CallRecord
from governance.desk.connection import connect
from governance.desk.desk import Desk
from governance.desk.items import Settlement
from governance.desk.memo import charge_of_orphan, void_of_unmade_attempt

log = logging.getLogger(__name__)

_HOLDS_PER_SWEEP = 500

NOW = "SELECT exchequer_now()"
MARK_DEAD = """
UPDATE desk_workerlease SET swept_at = exchequer_now(), epoch = epoch + 1
WHERE swept_at IS NULL AND id <> $1
  AND heartbeat_at < exchequer_now() - make_interval(secs => $2)
  AND $3 < exchequer_now() - make_interval(secs => $2)
RETURNING id, worker
"""
# All holds of some calls, each call's in the order of its attempts. A hold beyond the first of a call that
# has its row already, seen in one snapshot, is of an attempt that was not made: the row comes with the
# newest attempt that was.
ORPHANS = """
WITH orphan AS MATERIALIZED (
    SELECT h.*, (h.memo->>'call')::uuid AS call_id, coalesce((h.memo->>'number')::int, 1) AS number
    FROM ledger_hold h JOIN desk_workerlease l ON l.id = h.lease_id WHERE l.swept_at IS NOT NULL
),
page AS (SELECT DISTINCT call_id FROM (SELECT call_id FROM orphan ORDER BY id LIMIT $1) AS oldest)
SELECT o.id, o.tenant_id, o.period_ids, o.amount_nanos, o.price_version, o.memo,
       CASE WHEN o.number > 1 THEN EXISTS (SELECT FROM calls_call c WHERE c.id = o.call_id) ELSE false END
FROM orphan o JOIN page USING (call_id) ORDER BY o.number, o.id
"""
SUMS = """
SELECT call_id, count(*) FILTER (WHERE number > 0), sum(held_nanos) FILTER (WHERE number > 0)::bigint,
       sum(cost_nanos)::bigint, sum(list_nanos)::bigint
FROM calls_attempt WHERE call_id = ANY($1) GROUP BY call_id
"""
FORGET_OLD_LEASES = """
DELETE FROM desk_workerlease l
WHERE l.swept_at < exchequer_now() - interval '1 day'
  AND NOT EXISTS (SELECT 1 FROM ledger_hold h WHERE h.lease_id = l.id)
"""
FORGET_OLD_CLAIMS = """
DELETE FROM desk_idempotencyclaim WHERE hold_id IN (
    SELECT k.hold_id FROM desk_idempotencyclaim k
    WHERE k.expires_at < exchequer_now() AND NOT EXISTS (SELECT FROM ledger_hold h WHERE h.id = k.hold_id)
    ORDER BY k.expires_at LIMIT 1000 FOR UPDATE SKIP LOCKED
)
"""
CLAIM_BATCHES_PER_SWEEP = 20


class Sweeper:
    """One loop: renew our own lease through the desk, then look for others' that went silent."""

    def __init__(
        self, desk: Desk, database_url: str, *, heartbeat_seconds: float, stale_seconds: float
    ) -> None:
        self._desk = desk
        self._database_url = database_url
        self._heartbeat_seconds = heartbeat_seconds
        self._stale_seconds = stale_seconds
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None
        self._successes = 0
        self._trusted_since: datetime | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="sweeper")

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._connection:
            await self._connection.close()

    async def _run(self) -> None:
        while True:
            self._desk.heartbeat()
            try:
                await self.sweep()
            except Exception as error:  # whatever it is, the next round may succeed; dying would not
                log.warning("The sweeper did not get through: %s", str(error).strip())
                self._successes, self._trusted_since = 0, None
                if self._connection:
                    await self._connection.close()
            await asyncio.sleep(self._heartbeat_seconds)

    async def sweep(self) -> int:
        """One round; returns how many holds were settled for dead workers."""
        connection = await self._live_connection()
        self._successes += 1
        if self._successes == 2:
            [(self._trusted_since,)] = await _rows(connection, NOW, [])
        if self._trusted_since is None:
            return 0
        for lease_id, worker in await _rows(
            connection, MARK_DEAD, [self._desk.lease_id, self._stale_seconds, self._trusted_since]
        ):
            log.error("Worker %s (lease %d) is silent; its open holds are charged in full.", worker, lease_id)
        swept = await self._settle_orphans(connection)
        await connection.execute(FORGET_OLD_LEASES)
        await _forget_old_claims(connection)
        return swept

    async def _settle_orphans(self, connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> int:
        swept = 0
        while orphans := await _rows(connection, ORPHANS, [_HOLDS_PER_SWEEP]):
            newest: dict[UUID, Settlement] = {}
            others: list[Settlement] = []
            for hold_id, tenant_id, period_ids, amount_nanos, price_version, memo, unused in orphans:
                settle = void_of_unmade_attempt if unused else charge_of_orphan
                orphan = settle(
                    hold_id=hold_id,
                    tenant_id=tenant_id,
                    period_ids=tuple(period_ids),
                    amount_nanos=amount_nanos,
                    price_version=price_version,
                    memo=memo,
                )
                if unused:
                    others.append(orphan)
                    continue
                call_id = orphan.attempt.call_id
                if call_id in newest:
                    others.append(replace(newest[call_id], call=None))
                newest[call_id] = orphan
            swept += sum(await asyncio.gather(*map(self._desk.settle, others)))
            swept += await self._settle_newest(connection, list(newest.values()), others)
        return swept

    async def _settle_newest(
        self,
        connection: psycopg.AsyncConnection[tuple[Any, ...]],
        charges: list[Settlement],
        others: list[Settlement],
    ) -> int:
        """The holds that end their calls: each call's row is written with the sums of its attempts."""
        with_others = {other.attempt.call_id for other in others}
        several = [
            charge for charge in charges if charge.attempt.number > 1 or charge.attempt.call_id in with_others
        ]
        sums = await _sums(connection, several)
        for charge in several:
            assert charge.call
            _add(charge.call, sums.get(charge.call.id))
        resolved = await asyncio.gather(*map(self._desk.settle, charges))
        ours = {charge.hold_id for charge, won in zip(charges, resolved, strict=True) if won}
        await self._record_late(connection, [charge for charge in several if charge.hold_id not in ours])
        return len(ours)

    async def _record_late(
        self, connection: psycopg.AsyncConnection[tuple[Any, ...]], charges: list[Settlement]
    ) -> None:
        """Somebody else resolved the newest hold of these calls. Their rows come with it, unless it was for
        an attempt that was not made after all, while the one before it was settled here."""
        sums = await _sums(connection, charges)
        for charge in charges:
            assert charge.call
            call = replace(charge.call, attempts=0, held_nanos=0, cost_nanos=0, list_nanos=0)
            _add(call, sums.get(call.id))
            await self._desk.record(call)

    async def _live_connection(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            self._connection = await connect(
                self._database_url, transaction_timeout_seconds=10, lock_timeout_seconds=2, name="sweeper"
            )
        return self._connection


async def _forget_old_claims(connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
    """Idempotency keys that may be used again, in short transactions: nobody waits for their locks."""
    for _ in range(CLAIM_BATCHES_PER_SWEEP):
        if not (await connection.execute(FORGET_OLD_CLAIMS)).rowcount:
            return


async def _sums(
    connection: psycopg.AsyncConnection[tuple[Any, ...]], charges: list[Settlement]
) -> dict[UUID, tuple[int, int, int, int]]:
    """call id → (attempts, held, cost, list) of what is written of it."""
    if not charges:
        return {}
    rows = await _rows(connection, SUMS, [[charge.attempt.call_id for charge in charges]])
    return {call_id: (count, held or 0, cost, list_) for call_id, count, held, cost, list_ in rows}


def _add(call: CallRecord, sums: tuple[int, int, int, int] | None) -> None:
    attempts, held_nanos, cost_nanos, list_nanos = sums or (0, 0, 0, 0)
    call.attempts += attempts
    call.held_nanos += held_nanos
    call.cost_nanos += cost_nanos
    call.list_nanos += list_nanos


async def _rows(
    connection: psycopg.AsyncConnection[tuple[Any, ...]], sql: str, parameters: list[Any]
) -> list[tuple[Any, ...]]:
    cursor = await psycopg.AsyncRawCursor(connection).execute(sql, parameters)
    return await cursor.fetchall()
