"""How full the budgets are that cover a call, for policies that ask: read from the rows that enforce.

Figures are at most a second old while calls come, and nothing is decided by them but which way a call goes:
whether it fits is the desk's to say.
"""

import asyncio
import logging
from time import monotonic
from typing import TYPE_CHECKING

import psycopg

from governance.budgets.periods import BudgetClosed, PeriodRow, SubjectsFull
from governance.core.clock import utcnow
from governance.gateway.callers import legs_of

if TYPE_CHECKING:
    from governance.gateway.exchange import Exchange
    from governance.gateway.snapshot import SnapshotStore

log = logging.getLogger(__name__)

FRESH_SECONDS = 1.0
STALE_SECONDS_MAX = 5.0
"""Older figures are waited for; younger ones are used while newer ones are read."""
ROWS_KEPT_MAX = 50_000

LOAD_FIGURES = """
SELECT id, CASE WHEN ceiling_nanos IS NULL THEN NULL ELSE
    limit_nanos + CASE WHEN raised_until > exchequer_now() THEN raised_nanos ELSE 0 END END,
    spent_nanos + held_nanos
FROM ledger_budgetperiod WHERE id = ANY(%s)
"""


class BudgetUse:
    """The figures that one process has read. One a gateway."""

    def __init__(self) -> None:
        self._percents: dict[int, tuple[float, int | None]] = {}
        """Period row → when it was read, and percent of a hard limit."""
        self._asked: set[int] = set()
        self._reading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def percent(self, exchange: "Exchange") -> int | None:
        """Spent and held, in percent of the limit, of the fullest hard budget that covers the call.

        None where no hard budget covers it, or where the figures cannot be read now.
        """
        ids = [row.id for row in await _rows(exchange) or ()]
        now, never = monotonic(), (0.0, None)
        age = max((now - self._percents.get(row_id, never)[0] for row_id in ids), default=0.0)
        if age > STALE_SECONDS_MAX:
            await self._read(exchange.gateway.store, ids)
        elif age > FRESH_SECONDS and not self._asked.issuperset(ids):
            task = asyncio.create_task(self._read(exchange.gateway.store, ids))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        percents = [self._percents.get(row_id, never)[1] for row_id in ids]
        unused = exchange.inbound.dry_run and any(leg.budget.hard for leg in legs_of(exchange))
        # A dry run makes no rows: a budget that has none yet is not used yet.
        return max((percent for percent in percents if percent is not None), default=0 if unused else None)

    async def _read(self, store: "SnapshotStore", ids: list[int]) -> None:
        """Whoever reads takes what all others have asked for meanwhile."""
        self._asked.update(ids)
        async with self._reading:
            if not self._asked:
                return
            asked, self._asked = list(self._asked), set()
            try:
                async with store.connection() as connection:
                    found = await (await connection.execute(LOAD_FIGURES, [asked])).fetchall()
            except (psycopg.Error, TimeoutError) as error:
                log.warning(
                    "Budget figures for policies cannot be read: %s", str(error).strip() or "time-out"
                )
                return
        now = monotonic()
        for row_id, limit_nanos, used_nanos in found:
            self._keep(row_id, now, limit_nanos, used_nanos)

    def _keep(self, row_id: int, now: float, limit_nanos: int | None, used_nanos: int) -> None:
        percent = None
        if limit_nanos is not None:
            percent = 100 if limit_nanos <= 0 else used_nanos * 100 // limit_nanos
        if len(self._percents) >= ROWS_KEPT_MAX:
            del self._percents[next(iter(self._percents))]
        self._percents[row_id] = now, percent


async def _rows(exchange: "Exchange") -> tuple[PeriodRow, ...] | None:
    """None where a row cannot be found or made: admission will say why."""
    gateway, legs = exchange.gateway, legs_of(exchange)
    known = gateway.periods.known(legs, utcnow())
    if known is not None:
        return known
    try:
        async with gateway.store.connection() as connection:
            if exchange.inbound.dry_run:
                return await gateway.periods.existing(connection, legs)
            return await gateway.periods.ensure(connection, legs)
    except (psycopg.Error, TimeoutError, BudgetClosed, SubjectsFull):
        return None
