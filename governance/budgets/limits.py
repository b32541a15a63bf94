"""Setting budgets: the one way in, for the console and the commands.

A changed limit is in force as soon as the transaction commits: the live period rows change with it,
under the same row lock as any hold. Lowering below what is spent and held breaks nothing and admits
nothing.
"""

from collections.abc import Sequence
from typing import Any

from django.db import transaction
from django.db.models import BigIntegerField, Case, F, Q, QuerySet, Value, When
from django.db.models.functions import Greatest

from governance.audit import events
from governance.audit.events import Actor
from governance.budgets.models import DEFAULT_ALERT_PERCENTS, Budget, Enforcement, PeriodKind, Scope
from governance.budgets.targets import BudgetRefused as BudgetRefused
from governance.budgets.targets import find_models, find_target
from governance.core.money import format_usd
from governance.ledger.models import BudgetPeriod, DatabaseNow
from tenants.models import Tenant
from tenants.scope import tenant_scope
from tenants.tenants import create_tenant

WALL = Q(scope=Scope.TENANT, enforcement=Enforcement.HARD, models_only=[], closed_at=None)
"""The budgets that hold for everything that a tenant does. At least one, always."""


def set_budget(
    tenant: Tenant,
    *,
    scope: str,
    ref: str = "",
    period: str,
    limit_nanos: int,
    enforcement: str = Enforcement.HARD,
    each: bool = False,
    subjects_max: int | None = None,
    models_only: Sequence[str] = (),
    week_starts_on: int | None = None,
    time_zone: str | None = None,
    name: str | None = None,
    alert_percents: list[int] | None = None,
    actor: Actor | None = None,
) -> Budget:
    """Create the budget of that scope, period and models, or change its limit. Writes an audit event.

    `ref` says which team, key, end user, tag or session (models.Scope), as targets.py reads it; "" for the
    tenant. With `each`, every subject of the scope gets the limit for itself. A budget on a key holds for
    every key of its lineage. What is None stays as it is. BudgetRefused, with a sentence, for a combination
    that cannot be; ValidationError names a field with a bad value.
    """
    with transaction.atomic(), tenant_scope(tenant.pk):
        identity, target_name = find_identity(
            tenant, scope, ref, each=each, models_only=models_only, period=period, enforcement=enforcement
        )
        found = Budget.objects.select_for_update().filter(tenant=tenant, closed_at=None, **identity)
        budget = found.first()
        before = _facts(budget) if budget else None
        if budget is None:
            budget = Budget(tenant=tenant, **identity)
            budget.time_zone = time_zone or tenant.time_zone
            budget.week_starts_on = week_starts_on or 0
            budget.alert_percents = list(DEFAULT_ALERT_PERCENTS)
            budget.name = _name(budget, target_name)
        _check_terms(budget, time_zone, week_starts_on, subjects_max)
        if each:
            _require_wall(tenant)
        _save(budget, before, limit_nanos, name, alert_percents, subjects_max, actor)
    return budget


def change_budget(
    budget: Budget,
    *,
    limit_nanos: int,
    name: str | None = None,
    alert_percents: list[int] | None = None,
    subjects_max: int | None = None,
    actor: Actor | None = None,
) -> Budget:
    """Change the limit, name, alerts or cap of a budget that is there. BudgetRefused for a closed one."""
    with transaction.atomic(), tenant_scope(budget.tenant_id):
        locked: Budget | None = (
            Budget.objects.select_for_update().filter(pk=budget.pk, closed_at=None).first()
        )
        if locked is None:
            raise BudgetRefused("This budget is closed; set a new one.")
        _check_terms(locked, None, None, subjects_max)
        _save(locked, _facts(locked), limit_nanos, name, alert_percents, subjects_max, actor)
    return locked


def find_identity(
    tenant: Tenant,
    scope: str,
    ref: str,
    *,
    each: bool,
    models_only: Sequence[str],
    period: str,
    enforcement: str,
) -> tuple[dict[str, Any], str]:
    """The columns that no two open budgets share, and what the target is called. BudgetRefused as targets.py
    says. Run in the tenant's scope."""
    target = find_target(tenant, scope, ref, each=each)
    identity = {
        "scope": scope,
        "scope_ref": target.ref,
        "each": each,
        "models_only": find_models(models_only),
        "period": period,
        "enforcement": enforcement,
    }
    return identity, target.name


def create_tenant_with_wall(
    name: str,
    *,
    limit_nanos: int,
    period: str = PeriodKind.MONTH,
    slug: str | None = None,
    time_zone: str = "UTC",
    actor: Actor | None = None,
) -> Tenant:
    """A new tenant and its first hard budget, or neither: a tenant always has one of its own.

    BudgetRefused or ValidationError as `set_budget` and `create_tenant` raise them.
    """
    with transaction.atomic():
        tenant = create_tenant(name, slug=slug, time_zone=time_zone, actor=actor)
        set_budget(tenant, scope=Scope.TENANT, period=period, limit_nanos=limit_nanos, actor=actor)
    return tenant


def close_budget(budget: Budget, *, actor: Actor | None = None) -> None:
    """Stop charging new calls to this budget; calls in flight settle into it. Never the last wall."""
    with transaction.atomic(), tenant_scope(budget.tenant_id):
        budget = Budget.objects.select_for_update().get(pk=budget.pk)
        walls = Budget.objects.filter(WALL, tenant_id=budget.tenant_id).order_by("pk").select_for_update()
        if [wall.pk for wall in walls] == [budget.pk]:
            raise BudgetRefused(
                "This is the tenant's only hard budget. Set another one first, or lower this one to 0."
            )
        before = _facts(budget)
        budget.closed_at = DatabaseNow()
        budget.save(update_fields=["closed_at"])
        events.record(actor, budget.tenant_id, "budget.close", budget, before)


def apply_to_live_periods(budget: Budget) -> None:
    """Give every period of this budget that is not over its limit and thresholds. Call in a transaction."""
    rows = BudgetPeriod.objects.filter(budget_id=budget.pk, ends_at__gt=DatabaseNow()).order_by("pk")
    locked = list(rows.select_for_update(no_key=True).values_list("pk", flat=True))
    refresh_limits(BudgetPeriod.objects.filter(pk__in=locked), budget)


def refresh_limits(rows: "QuerySet[BudgetPeriod]", budget: Budget) -> None:
    """The budget's limit, with what was added to each row, as these locked rows' limit and ceiling."""
    limit = Greatest(Value(0), Value(budget.limit_nanos) + F("added_nanos"))
    hard = budget.enforcement == Enforcement.HARD
    rows.update(
        limit_nanos=limit,
        alert_percents=budget.alert_percents,
        ceiling_nanos=Case(
            When(Value(hard), then=Greatest(limit, F("spent_nanos") + F("held_nanos"))),
            default=None,
            output_field=BigIntegerField(),
        ),
    )


def _save(
    budget: Budget,
    before: dict[str, object] | None,
    limit_nanos: int,
    name: str | None,
    alert_percents: list[int] | None,
    subjects_max: int | None,
    actor: Actor | None,
) -> None:
    """Write a locked or new budget, its live periods and its audit event. `before`: None for a new one."""
    if limit_nanos < 0:
        raise BudgetRefused("A limit cannot be below zero; 0 lets nothing through.")
    budget.limit_nanos = limit_nanos
    budget.name = name or budget.name
    budget.subjects_max = subjects_max if subjects_max is not None else budget.subjects_max
    budget.alert_percents = alert_percents if alert_percents is not None else budget.alert_percents
    budget.full_clean(exclude=["tenant"])
    budget.save()
    apply_to_live_periods(budget)
    action = "budget.change" if before else "budget.create"
    events.record(actor, budget.tenant_id, action, budget, before, _facts(budget))


def _check_terms(
    budget: Budget, time_zone: str | None, week_starts_on: int | None, subjects_max: int | None
) -> None:
    """BudgetRefused for terms that this budget cannot have, or that can no longer change."""
    if week_starts_on is not None and budget.period != PeriodKind.WEEK:
        raise BudgetRefused(f"Only a week has a first day; this budget counts by {budget.period}.")
    if subjects_max is not None and not budget.each:
        raise BudgetRefused("Only a budget on each subject has a cap on subjects; this one has one pot.")
    if time_zone not in (None, budget.time_zone):
        raise BudgetRefused(
            f"This budget counts its periods in {budget.time_zone}; periods of two zones would overlap. "
            "Close it and set a new one."
        )
    if week_starts_on not in (None, budget.week_starts_on):
        raise BudgetRefused(
            f"The weeks of this budget start on {budget.get_week_starts_on_display()}; others would overlap "
            "them. Close it and set a new one."
        )


def _require_wall(tenant: Tenant) -> None:
    if not Budget.objects.filter(WALL, tenant=tenant).exists():
        raise BudgetRefused(
            "Whoever calls chooses its own subject, so a budget on each of them needs a hard budget above it "
            f"that they all share. Set a hard budget on {tenant.name} first."
        )


def _name(budget: Budget, target_name: str) -> str:
    """What a budget is called until somebody names it."""
    models = f", {' and '.join(budget.models_only)} only" if budget.models_only else ""
    return f"{target_name[:60]}, {budget.period}{models}"[:120]


def _facts(budget: Budget) -> dict[str, object]:
    """What the audit trail keeps of a budget."""
    return {
        "name": budget.name,
        "scope": budget.scope,
        "scope_ref": budget.scope_ref,
        "each": budget.each,
        "subjects_max": budget.subjects_max if budget.each else None,
        "models_only": list(budget.models_only),
        "period": budget.period,
        "time_zone": budget.time_zone,
        "week_starts_on": budget.week_starts_on if budget.period == PeriodKind.WEEK else None,
        "limit": format_usd(budget.limit_nanos),
        "enforcement": budget.enforcement,
        "alert_percents": list(budget.alert_percents),
    }
