"""Which rows of ledger.BudgetPeriod a call is charged to, and making those that do not exist yet.

A process remembers the rows that it has seen, so that a call costs a dictionary look-up. A missing row
is made in a short transaction of its own, sorted, before any batch: made inside a batch it deadlocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from governance.budgets.terms import OPEN_PERIOD, Leg
from governance.core.periods import Period

FIND_PERIODS = """
SELECT p.budget_id, p.subject, p.id, p.starts_at, p.ends_at
FROM unnest(%s::bigint[], %s::text[]) AS leg(budget_id, subject)
JOIN ledger_budgetperiod p ON p.budget_id = leg.budget_id AND p.subject = leg.subject
WHERE p.starts_at <= %s AND %s < p.ends_at
"""
SUBJECT_ROWS_KEPT_MAX = 50_000
"""Rows of single subjects, about 20 MB; the longest unused is looked up again."""


class BudgetClosed(Exception):
    """A budget was closed after this process compiled its settings: compile them again."""


class SubjectsFull(Exception):
    """As many subjects as the budget allows have a pot in this period, and this one is new."""

    def __init__(self, leg: Leg, period: Period) -> None:
        super().__init__(leg.title)
        self.leg = leg
        self.period = period


@dataclass(slots=True, frozen=True, eq=False)
class PeriodRow:
    """A row of ledger.BudgetPeriod by its id, whose it is, and its window."""

    id: int
    leg: Leg
    period: Period


class PeriodRows:
    """The rows of current periods that this process knows. One a process; not a cache of money."""

    def __init__(self, subject_rows_max: int = SUBJECT_ROWS_KEPT_MAX) -> None:
        self._shared: dict[int, PeriodRow] = {}  # by budget id
        self._of_subjects: dict[tuple[int, str], PeriodRow] = {}  # by Leg.key, the longest unused first
        self._subject_rows_max = subject_rows_max

    def known(self, legs: Sequence[Leg], now: datetime) -> tuple[PeriodRow, ...] | None:
        """The rows of these legs at `now`; None when one is not known yet. Costs no query.

        `now` is this process's clock and only a guess: the desk refuses a row whose period has ended
        by the database's clock (`Refused.closed`).
        """
        rows = []
        for leg in legs:
            row = self._of_subject(leg) if leg.subject else self._shared.get(leg.budget.id)
            if row is None or now not in row.period:
                return None
            rows.append(row)
        return tuple(rows)

    async def ensure(
        self, connection: psycopg.AsyncConnection[Any], legs: Sequence[Leg]
    ) -> tuple[PeriodRow, ...]:
        """Find or make the current rows by the database's clock.

        BudgetClosed when a budget is gone; SubjectsFull when it gives no new subject a pot.
        `connection` is in autocommit mode. A row is made from the budget as it stands in the database.
        """
        # One reading of the clock for all: a period that ends meanwhile is refused by the desk.
        now = await _one(connection, "SELECT exchequer_now()")
        found = await self._find(connection, legs, now)
        missing = [leg for leg in legs if leg.key not in found]
        if missing:
            async with connection.transaction():
                for leg in sorted(missing, key=lambda leg: leg.key):
                    period = leg.budget.period_at(now)
                    arguments = [leg.budget.id, leg.subject, period.starts_at, period.ends_at]
                    if await _one(connection, OPEN_PERIOD, arguments) == "full":
                        raise SubjectsFull(leg, period)
            found = await self._find(connection, legs, now)
        for leg in legs:
            if leg.key not in found:
                raise BudgetClosed(leg.title)
            self._remember(found[leg.key])
        return tuple(found[leg.key] for leg in legs)

    async def existing(
        self, connection: psycopg.AsyncConnection[Any], legs: Sequence[Leg]
    ) -> tuple[PeriodRow, ...]:
        """Those of the current rows that are there; none is made."""
        now = await _one(connection, "SELECT exchequer_now()")
        return tuple((await self._find(connection, legs, now)).values())

    def forget(self, row: PeriodRow) -> None:
        """The database says that this period is over: look it up again. Others may have said so before."""
        if row.leg.subject:
            if self._of_subjects.get(row.leg.key) is row:
                del self._of_subjects[row.leg.key]
        elif self._shared.get(row.leg.budget.id) is row:
            del self._shared[row.leg.budget.id]

    def _of_subject(self, leg: Leg) -> PeriodRow | None:
        row = self._of_subjects.pop(leg.key, None)
        if row is not None:
            self._of_subjects[leg.key] = row
        return row

    def _remember(self, row: PeriodRow) -> None:
        if not row.leg.subject:
            self._shared[row.leg.budget.id] = row
            return
        self._of_subjects[row.leg.key] = row
        if len(self._of_subjects) > self._subject_rows_max:
            del self._of_subjects[next(iter(self._of_subjects))]

    async def _find(
        self, connection: psycopg.AsyncConnection[Any], legs: Sequence[Leg], now: datetime
    ) -> dict[tuple[int, str], PeriodRow]:
        budget_ids, subjects = [leg.budget.id for leg in legs], [leg.subject for leg in legs]
        cursor = await connection.execute(FIND_PERIODS, [budget_ids, subjects, now, now])
        by_key = {leg.key: leg for leg in legs}
        return {
            (budget_id, subject): PeriodRow(row_id, by_key[budget_id, subject], Period(starts_at, ends_at))
            for budget_id, subject, row_id, starts_at, ends_at in await cursor.fetchall()
        }


async def _one(connection: psycopg.AsyncConnection[Any], sql: str, arguments: Sequence[Any] = ()) -> Any:
    row = await (await connection.execute(sql, arguments)).fetchone()
    assert row is not None
    return row[0]
