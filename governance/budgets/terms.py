"""A budget as the call path knows it: frozen, with no database behind it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from governance.budgets.subjects import CALLER_SCOPES, SUBJECT_NAMES, Caller
from governance.core.periods import Period, period_at

LOAD_TERMS = """
SELECT id, tenant_id, name, scope, scope_ref, period, time_zone, week_starts_on, limit_nanos,
       enforcement = 'hard' AS hard, each, subjects_max, models_only
FROM budgets_budget WHERE tenant_id = %s AND closed_at IS NULL ORDER BY id
"""
"""Rows for `terms_from_row`, in its order; for any connection."""
OPEN_PERIOD = "SELECT budgets_open_period(%s, %s, %s, %s)"
"""(budget id, subject, starts at, ends at) → made | there | closed | full: see migration 0002."""


@dataclass(slots=True, frozen=True)
class BudgetTerms:
    """What covers which calls, in which window. `limit_nanos` is for texts: admission reads the row.

    With `each`, every subject of the scope has a period row of its own; `subjects_max` of them in a period.
    """

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
    each: bool = False
    subjects_max: int = 0
    models_only: Sequence[str] = ()

    def period_at(self, instant: datetime) -> Period:
        """The window of this budget that contains `instant`."""
        return period_at(instant, self.period, self.time_zone, self.week_starts_on)


def terms_from_row(row: Sequence[Any]) -> BudgetTerms:
    """A row of LOAD_TERMS → terms."""
    return BudgetTerms(*row)


@dataclass(slots=True, frozen=True, eq=False)
class Leg:
    """One period row's worth of a budget: the budget, and the subject whose pot it is ("" for the shared
    one). `key` is what rows are remembered under."""

    budget: BudgetTerms
    subject: str = ""
    key: tuple[int, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", (self.budget.id, self.subject))

    @property
    def title(self) -> str:
        """The budget's name for people, with whose pot it is where calls name that."""
        if not self.budget.each or self.budget.scope not in CALLER_SCOPES:
            return self.budget.name
        nobody = f"calls that name no {SUBJECT_NAMES[self.budget.scope]}"
        return f"{self.budget.name}: {self.subject or nobody}"


@dataclass(slots=True, frozen=True)
class Coverage:
    """The budgets of a key: legs that every call of it takes, and what depends on the call.

    `by_call` are budgets whose subject the call names (no leg yet), and those on some models only.
    """

    legs: tuple[Leg, ...]
    by_call: tuple[tuple[BudgetTerms, Leg | None], ...]

    def of_call(self, caller: Caller) -> tuple[Leg, ...]:
        """All legs of one call. Every budget is asked, whatever the call says or leaves out."""
        found = list(self.legs)
        for budget, leg in self.by_call:
            if budget.models_only and not caller.may_use(budget.models_only):
                continue
            leg = leg or _named_leg(budget, caller)
            if leg is not None:
                found.append(leg)
        return tuple(found)


def _named_leg(budget: BudgetTerms, caller: Caller) -> Leg | None:
    """The pot of whom the call names; None where the budget is on somebody else."""
    tag, _, value = budget.scope_ref.partition("=") if budget.scope == "tag" else ("", "", budget.scope_ref)
    subject = caller.subject(budget.scope, tag)
    if budget.each:
        return Leg(budget, subject)
    return Leg(budget) if subject and subject == value else None


def covering(terms: Iterable[BudgetTerms], *, team_id: int | None, key_id: int) -> Coverage:
    """The budgets that a key's calls are charged to: its tenant's, its team's, its own, and those on what
    a call names.

    `key_id` is the key's lineage: rotating a key leaves no budget behind.
    """
    own = {"tenant": "", "key": str(key_id), "team": "" if team_id is None else str(team_id)}
    legs: list[Leg] = []
    by_call: list[tuple[BudgetTerms, Leg | None]] = []
    for budget in terms:
        subject = own.get(budget.scope)
        if subject is None:
            by_call.append((budget, None))
        elif budget.each or budget.scope_ref == subject:
            leg = Leg(budget, subject if budget.each else "")
            if budget.models_only:
                by_call.append((budget, leg))
            else:
                legs.append(leg)
    return Coverage(tuple(legs), tuple(by_call))


def has_tenant_wall(terms: Iterable[BudgetTerms]) -> bool:
    """Is there a hard budget on all that a tenant does? Without one nothing of it may be served."""
    return any(budget.hard and budget.scope == "tenant" and not budget.models_only for budget in terms)
