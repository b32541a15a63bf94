"""A budget as the call path knows it: frozen, with no database behind it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from governance.core.periods import Period, period_at

LOAD_TERMS = """
SELECT id, tenant_id, name, scope, scope_ref, period, time_zone, week_starts_on, limit_nanos,
       enforcement = 'hard' AS hard
FROM budgets_budget WHERE tenant_id = %s AND closed_at IS NULL ORDER BY id
"""
"""Rows for `terms_from_row`, in its order; for any connection."""


@dataclass(slots=True, frozen=True)
class BudgetTerms:
    """What covers which calls, in which window. `limit_nanos` is for texts: admission reads the row."""

    id: int
    tenant_id: int
    name: str
    scope: str
    scope_ref: str
    period: str
    time_zone: str
    week_starts_on: int
    limit_nanos: int
    hard: bool

    def period_at(self, instant: datetime) -> Period:
        """The window of this budget that contains `instant`."""
        return period_at(instant, self.period, self.time_zone, self.week_starts_on)


def terms_from_row(row: Sequence[Any]) -> BudgetTerms:
    """A row of LOAD_TERMS → terms."""
    return BudgetTerms(*row)


def covering(terms: Iterable[BudgetTerms], *, team_id: int | None, key_id: int) -> tuple[BudgetTerms, ...]:
    """The budgets that a key's calls are charged to: its tenant's, its team's, its own.

    `key_id` is the key's lineage: rotating a key leaves no budget behind.
    """
    refs = {("tenant", ""), ("key", str(key_id))}
    if team_id is not None:
        refs.add(("team", str(team_id)))
    return tuple(budget for budget in terms if (budget.scope, budget.scope_ref) in refs)


def has_tenant_wall(terms: Iterable[BudgetTerms]) -> bool:
    """Is there a hard budget on the tenant itself? Without one nothing of a tenant may be served."""
    return any(budget.hard and budget.scope == "tenant" for budget in terms)
