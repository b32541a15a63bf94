"""Which rows of ledger.BudgetPeriod a call is charged to, and making those that do not exist yet.

A process remembers the rows that it has seen, so that a call costs a dictionary look-up. A missing row
is made in a short transaction of its own, sorted, before any batch: made inside a batch it deadlocks.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import psycopg

from governance.budgets.terms import BudgetTerms
from governance.core.periods import Period

# FOR SHARE waits for a limit that is being changed right now, and makes the change wait for us: the new
# row either has the new limit or is seen by whoever changes it (limits.set_budget).
INSERT_PERIOD = """
INSERT INTO ledger_budgetperiod (tenant_id, budget_id, subject, starts_at, ends_at, limit_nanos,
    ceiling_nanos, spent_nanos, held_nanos, alert_percents)
SELECT b.tenant_id, b.id, '', %(starts_at)s, %(ends_at)s, b.limit_nanos,
    CASE WHEN b.enforcement = 'hard' THEN b.limit_nanos END, 0, 0, b.alert_percents
FROM (SELECT * FROM budgets_budget WHERE id = %(budget_id)s AND closed_at IS NULL FOR SHARE) b
ON CONFLICT (budget_id, subject, starts_at) DO NOTHING
"""
FIND_PERIODS = """
SELECT p.budget_id, p.id, p.starts_at, p.ends_at FROM ledger_budgetperiod p
WHERE p.budget_id = ANY(%s) AND p.subject = ''
  AND p.starts_at <= exchequer_now() AND exchequer_now() < p.ends_at
"""


class BudgetClosed(Exception):
    """A budget was closed after this process compiled its settings: compile them again."""


class PeriodRows:
    """The rows of current periods that this process knows. One a process; not a cache of money."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[int, Period]] = {}  # budget id → (row id, window)
        self._described: dict[int, tuple[BudgetTerms, Period]] = {}  # row id → whose it is

    def known(self, budgets: Sequence[BudgetTerms], now: datetime) -> tuple[int, ...] | None:
        """The row ids of these budgets at `now`; None when one is not known yet. Costs no query.

        `now` is this process's clock and only a guess: the desk refuses a row whose period has ended
        by the database's clock (`Refused.closed`).
        """
        ids = []
        for budget in budgets:
            row = self._rows.get(budget.id)
            if row is None or now not in row[1]:
                return None
            ids.append(row[0])
        return tuple(ids)

    async def ensure(
        self, connection: psycopg.AsyncConnection[Any], budgets: Sequence[BudgetTerms]
    ) -> tuple[int, ...]:
        """Find or make the current rows by the database's clock. BudgetClosed when one is gone.

        `connection` is in autocommit mode. A row is made from the budget as it stands in the database.
        """
        now = await _one(connection, "SELECT exchequer_now()")
        found = await self._find(connection, budgets)
        missing = [budget for budget in budgets if budget.id not in found]
        if missing:
            async with connection.transaction():
                for budget in sorted(missing, key=lambda budget: budget.id):
                    period = budget.period_at(now)
                    await connection.execute(
                        INSERT_PERIOD,
                        {"budget_id": budget.id, "starts_at": period.starts_at, "ends_at": period.ends_at},
                    )
            found = await self._find(connection, budgets)
        for budget in budgets:
            if budget.id not in found:
                raise BudgetClosed(budget.name)
            self._remember(budget, *found[budget.id])
        return tuple(found[budget.id][0] for budget in budgets)

    def _remember(self, budget: BudgetTerms, row_id: int, period: Period) -> None:
        """Keep this row and the one before it, which calls under way may still ask about."""
        before = self._rows.get(budget.id)
        if before and before[0] != row_id:
            self._described = {
                known_id: (terms, window)
                for known_id, (terms, window) in self._described.items()
                if terms.id != budget.id or known_id == before[0]
            }
        self._rows[budget.id] = row_id, period
        self._described[row_id] = budget, period

    def describe(self, period_id: int) -> tuple[BudgetTerms, Period]:
        """The budget and window of a row that `known` or `ensure` returned in this period or the last."""
        return self._described[period_id]

    def forget(self, period_id: int) -> None:
        """The database says that this period is over: look it up again. Others may have said so before."""
        budget, _ = self._described[period_id]
        if self._rows.get(budget.id, (None,))[0] == period_id:
            del self._rows[budget.id]

    async def _find(
        self, connection: psycopg.AsyncConnection[Any], budgets: Sequence[BudgetTerms]
    ) -> dict[int, tuple[int, Period]]:
        cursor = await connection.execute(FIND_PERIODS, [[budget.id for budget in budgets]])
        return {
            budget_id: (row_id, Period(starts_at, ends_at))
            for budget_id, row_id, starts_at, ends_at in await cursor.fetchall()
        }


async def _one(connection: psycopg.AsyncConnection[Any], sql: str) -> Any:
    row = await (await connection.execute(sql)).fetchone()
    assert row is not None
    return row[0]
