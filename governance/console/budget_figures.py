"""Budgets with their live figures, as the list, the budget's page and the overview show them."""

from collections.abc import Iterable
from typing import Any

from django.db.models import BigIntegerField, OuterRef, Q, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce

from governance.budgets.models import Budget, Scope
from governance.console.access import Access
from governance.console.display import Bar
from governance.ledger.models import BudgetPeriod, DatabaseNow
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
    """Adds spent_nanos and held_nanos of the period that is now, by the database's clock."""
    current = BudgetPeriod.objects.filter(
        budget_id=OuterRef("pk"), subject="", starts_at__lte=DatabaseNow(), ends_at__gt=DatabaseNow()
    )
    return budgets.annotate(
        spent_nanos=_of(current, "spent_nanos"),
        held_nanos=_of(current, "held_nanos"),
    )


def bar_of(budget: Any) -> Bar:
    """The bar of a budget that came from `with_current_period`; no period yet means nothing spent."""
    return Bar(budget.spent_nanos, budget.held_nanos, budget.limit_nanos)


def scope_names(budgets: Iterable[Budget]) -> dict[tuple[str, str], str]:
    """{(scope, ref): name} of the teams and keys that these budgets are on; two queries."""
    refs: dict[str, set[str]] = {Scope.TEAM: set(), Scope.KEY: set()}
    for budget in budgets:
        if budget.scope in refs:
            refs[budget.scope].add(budget.scope_ref)
    teams = Team.objects.filter(pk__in=refs[Scope.TEAM]).values_list("pk", "name")
    keys = ApiKey.objects.filter(pk__in=refs[Scope.KEY]).values_list("pk", "name")
    return {
        **{(Scope.TEAM.value, str(pk)): name for pk, name in teams},
        **{(Scope.KEY.value, str(pk)): name for pk, name in keys},
    }


def _of(periods: "QuerySet[Any]", column: str) -> Coalesce:
    found = Subquery(periods.values(column)[:1], output_field=BigIntegerField())
    return Coalesce(found, Value(0), output_field=BigIntegerField())
