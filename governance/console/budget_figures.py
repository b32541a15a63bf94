"""Budgets with their live figures, as the list, the budget's page and the overview show them."""

from collections.abc import Iterable
from typing import Any

from django.db.models import BigIntegerField, F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce

from governance.budgets.models import Budget, Scope, SubjectCount
from governance.console.access import Access
from governance.console.display import Bar
from governance.ledger.models import BudgetPeriod, DatabaseNow, limit_now
from tenants.models import ApiKey, Team


def visible_budgets(access: Access, budgets: "QuerySet[Budget]") -> "QuerySet[Budget]":
    """A tenant's members see all its budgets; members of one team see the team's and its keys'."""
    if access.is_platform:
        return budgets
    keys = ApiKey.objects.filter(team_id__in=access.team_roles.keys()).values_list("lineage_id", flat=True)
    return budgets.filter(
        Q(tenant_id__in=access.tenant_roles.keys())
        | Q(scope=Scope.TEAM, scope_ref__in=[str(team_id) for team_id in access.team_roles])
        | Q(scope=Scope.KEY, scope_ref__in=[str(key_id) for key_id in keys])
    )


def with_current_period(budgets: "QuerySet[Budget]") -> "QuerySet[Any]":
    """Adds spent_nanos, held_nanos and limit_now_nanos of the period that is now, by the database's clock; of
    a budget on each, those of the pot that is used most, and `pots`, how many there are."""
    current = (
        BudgetPeriod.objects.filter(
            budget_id=OuterRef("pk"), starts_at__lte=DatabaseNow(), ends_at__gt=DatabaseNow()
        )
        .annotate(limit_now_nanos=limit_now())
        .order_by(-(F("spent_nanos") + F("held_nanos")), "pk")
    )
    counts = SubjectCount.objects.filter(budget_id=OuterRef("pk"), starts_at=OuterRef("current_starts_at"))
    return budgets.annotate(
        current_starts_at=Subquery(current.values("starts_at")[:1]),
        spent_nanos=_of(current, "spent_nanos"),
        held_nanos=_of(current, "held_nanos"),
        limit_now_nanos=_of(current, "limit_now_nanos", F("limit_nanos")),
        pots=_of(counts, "subjects"),
    )


def bar_of(budget: Any) -> Bar:
    """The bar of a budget that came from `with_current_period`; no period yet means nothing spent."""
    return Bar(budget.spent_nanos, budget.held_nanos, budget.limit_now_nanos)


def pots_text(budget: Any) -> str:
    """Beside the bar of a budget on each; "" for others."""
    if not budget.each:
        return ""
    return f"fullest of {budget.pots:,}" if budget.pots else "no pot yet"


def scope_names(budgets: Iterable[Budget]) -> dict[tuple[str, str], str]:
    """{(scope, ref): name} of the teams and keys that these budgets are on; two queries."""
    return names_of((budget.scope, budget.scope_ref) for budget in budgets)


def names_of(references: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """{(scope, id): name} of those that are teams and keys; two queries."""
    refs: dict[str, set[str]] = {Scope.TEAM: set(), Scope.KEY: set()}
    for scope, ref in references:
        if scope in refs and ref:
            refs[scope].add(ref)
    teams = Team.objects.filter(pk__in=refs[Scope.TEAM]).values_list("pk", "name")
    keys = ApiKey.objects.filter(pk__in=refs[Scope.KEY]).values_list("pk", "name")
    return {
        **{(Scope.TEAM.value, str(pk)): name for pk, name in teams},
        **{(Scope.KEY.value, str(pk)): name for pk, name in keys},
    }


def _of(rows: "QuerySet[Any]", column: str, default: Any = 0) -> Coalesce:
    found = Subquery(rows.values(column)[:1], output_field=BigIntegerField())
    return Coalesce(found, default, output_field=BigIntegerField())
