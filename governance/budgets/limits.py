"""Setting budgets: the one way in, for the console and the commands.

A changed limit is in force as soon as the transaction commits: the live period rows change with it,
under the same row lock as any hold. Lowering below what is spent and held breaks nothing and admits
nothing.
"""

from django.db import transaction
from django.db.models import BigIntegerField, Case, F, Value, When
from django.db.models.functions import Greatest

from governance.audit import events
from governance.audit.events import Actor
from governance.budgets.models import DEFAULT_ALERT_PERCENTS, Budget, Enforcement, Scope
from governance.core.money import format_usd
from governance.ledger.models import BudgetPeriod, DatabaseNow
from tenants.models import ApiKey, Team, Tenant
from tenants.scope import tenant_scope


class BudgetRefused(ValueError):
    """A budget that cannot be set; the text says why and what to do."""


def set_budget(
    tenant: Tenant,
    *,
    scope: str,
    ref: str = "",
    period: str,
    limit_nanos: int,
    enforcement: str = Enforcement.HARD,
    time_zone: str | None = None,
    name: str | None = None,
    alert_percents: list[int] | None = None,
    actor: Actor | None = None,
) -> Budget:
    """Create the budget of that scope and period, or change its limit. Writes an audit event.

    `ref` is the id of the team's or key's row, "" for the tenant. A budget on a key holds for every key
    of its lineage. BudgetRefused for a team or key of another tenant, for a limit below zero, and for
    another time zone than the budget has.
    """
    if limit_nanos < 0:
        raise BudgetRefused("A limit cannot be below zero; 0 lets nothing through.")
    with transaction.atomic(), tenant_scope(tenant.pk):
        ref, target_name = _check_target(tenant, scope, ref)
        found = Budget.objects.select_for_update().filter(
            tenant=tenant, scope=scope, scope_ref=ref, period=period, enforcement=enforcement, closed_at=None
        )
        budget = found.first()
        before = _facts(budget) if budget else None
        if budget is None:
            budget = Budget(tenant=tenant, scope=scope, scope_ref=ref, period=period, enforcement=enforcement)
            budget.time_zone = time_zone or tenant.time_zone
            budget.alert_percents = list(DEFAULT_ALERT_PERCENTS)
            budget.name = f"{target_name}, {period}"
        if time_zone not in (None, budget.time_zone):
            raise BudgetRefused(
                f"This budget counts its periods in {budget.time_zone}; periods of two zones would overlap. "
                "Close it and set a new one."
            )
        budget.limit_nanos = limit_nanos
        budget.name = name or budget.name
        budget.alert_percents = alert_percents if alert_percents is not None else budget.alert_percents
        budget.full_clean(exclude=["tenant"])
        budget.save()
        apply_to_live_periods(budget)
        action = "budget.change" if before else "budget.create"
        events.record(actor, tenant.pk, action, budget, before, _facts(budget))
    return budget


def close_budget(budget: Budget, *, actor: Actor | None = None) -> None:
    """Stop charging new calls to this budget; calls in flight settle into it. Never the last wall."""
    with transaction.atomic(), tenant_scope(budget.tenant_id):
        budget = Budget.objects.select_for_update().get(pk=budget.pk)
        others = Budget.objects.filter(
            tenant_id=budget.tenant_id, scope=Scope.TENANT, enforcement=Enforcement.HARD, closed_at=None
        ).exclude(pk=budget.pk)
        is_wall = budget.scope == Scope.TENANT and budget.enforcement == Enforcement.HARD
        if is_wall and not others.select_for_update().exists():
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
    hard = budget.enforcement == Enforcement.HARD
    BudgetPeriod.objects.filter(pk__in=locked).update(
        limit_nanos=budget.limit_nanos,
        alert_percents=budget.alert_percents,
        ceiling_nanos=Case(
            When(
                Value(hard),
                then=Greatest(Value(budget.limit_nanos), F("spent_nanos") + F("held_nanos")),
            ),
            default=None,
            output_field=BigIntegerField(),
        ),
    )


def _check_target(tenant: Tenant, scope: str, ref: str) -> tuple[str, str]:
    """The scope's reference in its kept form, and a name for people."""
    if scope == Scope.TENANT:
        return "", tenant.name
    if scope == Scope.TEAM:
        team = Team.objects.filter(tenant=tenant, pk=ref).first() if ref.isdigit() else None
        if team is None:
            raise BudgetRefused(f"{tenant.name} has no team with the id “{ref}”; create it first.")
        return str(team.pk), team.name
    if scope == Scope.KEY:
        key = ApiKey.objects.filter(tenant=tenant, pk=ref).first() if ref.isdigit() else None
        if key is None:
            raise BudgetRefused(f"{tenant.name} has no key with the id “{ref}”; issue it first.")
        return str(key.lineage_id), key.name
    raise BudgetRefused(f"Budgets on a {scope} cannot be set yet; use tenant, team or key.")


def _facts(budget: Budget) -> dict[str, object]:
    """What the audit trail keeps of a budget."""
    return {
        "name": budget.name,
        "scope": budget.scope,
        "scope_ref": budget.scope_ref,
        "period": budget.period,
        "time_zone": budget.time_zone,
        "limit": format_usd(budget.limit_nanos),
        "enforcement": budget.enforcement,
        "alert_percents": list(budget.alert_percents),
    }
