"""What a key's budgets have left, for whoever holds the key: GET /api/oauth/usage.

Claude Code asks here for dollars (`extra_usage`, in cents, of the tightest hard budget); `budgets` has every
budget that covers all of the key's calls, spent and held apart, as one read of the rows that enforce them.
"""

from collections.abc import Sequence
from time import monotonic
from typing import Any

import msgspec
import psycopg

from governance.budgets.terms import Leg
from governance.core.clock import utcnow
from governance.core.money import NANOS_PER_USD, ceil_div, nanos_to_usd
from governance.desk.items import Figures
from governance.gateway import errors
from governance.gateway.errors import CallRefused
from governance.gateway.snapshot import KeySnapshot, SnapshotStore

KEPT_SECONDS = 1.0
KEPT_MAX = 1_000
READS_AT_ONCE_MAX = 8
NANOS_PER_CENT = NANOS_PER_USD // 100
FIND_FIGURES = """
SELECT p.limit_nanos + CASE WHEN p.raised_until > exchequer_now() THEN p.raised_nanos ELSE 0 END,
       p.spent_nanos, p.held_nanos, p.ends_at
FROM unnest(%s::bigint[], %s::text[]) WITH ORDINALITY AS leg(budget_id, subject, number)
LEFT JOIN ledger_budgetperiod p ON p.budget_id = leg.budget_id AND p.subject = leg.subject
  AND p.starts_at <= exchequer_now() AND exchequer_now() < p.ends_at
ORDER BY leg.number
"""


class UsageReports:
    """The reports of one process. Each is kept for KEPT_SECONDS, so that a client that polls costs others
    nothing; and only so many are read at once."""

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store
        self._kept: dict[int, tuple[float, KeySnapshot, bytes]] = {}
        self._reading = 0

    async def of_key(self, key: KeySnapshot) -> bytes:
        """The report as JSON. CallRefused when the database is away or too many ask at once."""
        made_at, made_for, report = self._kept.get(key.id, (0.0, None, b""))
        if made_for is key and monotonic() - made_at < KEPT_SECONDS:
            return report
        if self._reading >= READS_AT_ONCE_MAX:
            raise CallRefused(errors.USAGE_BUSY)
        self._reading += 1
        try:
            report = msgspec.json.encode(await self._read(key))
        except (psycopg.Error, TimeoutError):
            raise CallRefused(errors.SETTINGS_STALE) from None
        finally:
            self._reading -= 1
        if len(self._kept) >= KEPT_MAX:
            del self._kept[next(iter(self._kept))]
        self._kept[key.id] = monotonic(), key, report
        return report

    async def _read(self, key: KeySnapshot) -> dict[str, Any]:
        legs = [*key.coverage.legs, *(leg for _, leg in key.coverage.by_call if leg is not None)]
        arguments = [[leg.budget.id for leg in legs], [leg.subject for leg in legs]]
        async with self._store.connection() as connection:
            rows = await (await connection.execute(FIND_FIGURES, arguments)).fetchall()
        return report_of(legs, rows)


def report_of(legs: Sequence[Leg], rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """The report of these legs. `rows` of FIND_FIGURES; of nulls where nothing was spent in the period."""
    now, budgets, tightest = utcnow(), [], None
    for leg, (limit_nanos, spent_nanos, held_nanos, ends_at) in zip(legs, rows, strict=True):
        budget = leg.budget
        if limit_nanos is None:
            limit_nanos, spent_nanos, held_nanos = budget.limit_nanos, 0, 0
            ends_at = budget.period_at(now).ends_at
        figures = Figures(limit_nanos, spent_nanos, held_nanos)
        resets_at = None if budget.period == "total" else ends_at.isoformat()
        budgets.append(
            {
                "name": leg.title,
                "scope": budget.scope,
                "period": budget.period,
                "models": list(budget.models_only),
                "enforcement": "hard" if budget.hard else "soft",
                "limit_usd": nanos_to_usd(limit_nanos),
                "spent_usd": nanos_to_usd(spent_nanos),
                "held_usd": nanos_to_usd(held_nanos),
                "left_usd": nanos_to_usd(figures.left_nanos),
                "resets_at": resets_at,
            }
        )
        # A budget on some models only does not speak for the key's other calls.
        is_wall = budget.hard and not budget.models_only
        if is_wall and (tightest is None or figures.left_nanos < tightest.left_nanos):
            tightest = figures
    return {
        "five_hour": None,
        "seven_day": None,
        "extra_usage": extra_usage(tightest),
        "budgets": budgets,
        "as_of": now.isoformat(),
    }


def extra_usage(figures: Figures | None) -> dict[str, Any]:
    """The one budget that Claude Code shows: whole cents, never more left than there is; percent of 100."""
    if figures is None:
        return {"is_enabled": False, "monthly_limit": None, "used_credits": None, "utilization": None}
    return {
        "is_enabled": True,
        "monthly_limit": figures.limit_nanos // NANOS_PER_CENT,
        "used_credits": ceil_div(figures.spent_nanos, NANOS_PER_CENT),
        "utilization": min(figures.spent_percent, 100),
        "currency": "USD",
        "decimal_places": 2,
        "spend_limit_reached": figures.left_nanos <= 0,
    }
