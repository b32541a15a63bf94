"""What budgets had left, as of at most a second ago, for response headers. Admission never looks here.

A call costs two look-ups in dictionaries; one query a second, whatever the load, refreshes the rows that
calls of the last ten minutes were charged to. All others are forgotten.
"""

from collections.abc import Collection
from dataclasses import dataclass
from time import monotonic
from typing import Any

import psycopg

LOAD_FIGURES = """
SELECT id, limit_nanos, spent_nanos, held_nanos FROM ledger_budgetperiod
WHERE id = ANY(%s) AND ceiling_nanos IS NOT NULL
"""
PERIODS_KEPT_MAX = 10_000
UNUSED_SECONDS_MAX = 600


@dataclass(frozen=True, slots=True)
class Figures:
    """One hard budget's period as it was at the last look."""

    limit_nanos: int
    spent_nanos: int
    held_nanos: int

    @property
    def spent_percent(self) -> int:
        return 100 if self.limit_nanos == 0 else self.spent_nanos * 100 // self.limit_nanos

    @property
    def left_nanos(self) -> int:
        return max(0, self.limit_nanos - self.spent_nanos - self.held_nanos)


class Headroom:
    """Figures of the period rows that calls were lately charged to, refreshed together once a second."""

    def __init__(self) -> None:
        self._asked: dict[int, float] = {}
        self._figures: dict[int, Figures] = {}

    def tightest(self, period_ids: Collection[int]) -> Figures | None:
        """The figures of the hard budget with the least left; None before the first look at them."""
        now = monotonic()
        self._asked.update(dict.fromkeys(period_ids, now))
        known = [self._figures[row] for row in period_ids if row in self._figures]
        return min(known, key=lambda figures: figures.left_nanos, default=None)

    async def refresh(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Look again at the rows that calls of the last ten minutes were charged to."""
        oldest = monotonic() - UNUSED_SECONDS_MAX
        newest_first = sorted(self._asked.items(), key=lambda asked: -asked[1])[:PERIODS_KEPT_MAX]
        self._asked = {row: asked_at for row, asked_at in newest_first if asked_at > oldest}
        if not self._asked:
            self._figures = {}
            return
        rows = await (await connection.execute(LOAD_FIGURES, [list(self._asked)])).fetchall()
        self._figures = {row[0]: Figures(*row[1:]) for row in rows}
