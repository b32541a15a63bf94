"""Setting limits on calls: the one way in, for the console and the command. Each change is audited."""

from collections.abc import Mapping

from django.db import transaction

from governance.audit import events
from governance.audit.events import Actor
from governance.limits.models import CallLimit, Scope
from tenants.models import ApiKey, Team, Tenant
from tenants.scope import tenant_scope

MEASURES = (
    "requests_per_minute",
    "input_tokens_per_minute",
    "output_tokens_per_minute",
    "concurrent_calls",
    "open_streams",
)


class LimitRefused(ValueError):
    """A limit that cannot be set; the text says why and what to do."""


def set_limit(
    tenant: Tenant,
    measures: Mapping[str, int | None],
    *,
    scope: str,
    ref: str = "",
    model: str = "",
    actor: Actor | None = None,
) -> CallLimit:
    """Create the limit of that scope and model, or change the `measures` given; None lifts one.

    `ref` is the id of the team's or key's row; a limit on a key holds for its lineage. In force in every
    worker within a second. LimitRefused for a target of another tenant; ValidationError for a measure that
    is not one or more, or where nothing is left to limit.
    """
    if unknown := measures.keys() - set(MEASURES):
        raise LimitRefused(f"{', '.join(sorted(unknown))} cannot be limited.")
    with transaction.atomic(), tenant_scope(tenant.pk):
        kept_ref = _kept_ref(tenant, scope, ref)
        row = (
            CallLimit.objects.select_for_update()
            .filter(tenant=tenant, scope=scope, scope_ref=kept_ref, model=model)
            .first()
        )
        before = limit_facts(row) if row else None
        if row is None:
            row = CallLimit(tenant=tenant, scope=scope, scope_ref=kept_ref, model=model)
        for measure, limit in measures.items():
            setattr(row, measure, limit)
        row.full_clean()
        row.save()
        events.record(
            actor, tenant.pk, "limit.change" if before else "limit.create", row, before, limit_facts(row)
        )
    return row


def find_limit(tenant: Tenant, *, scope: str, ref: str = "", model: str = "") -> CallLimit:
    """The limit of that scope and model; LimitRefused where there is none. `ref` as for `set_limit`."""
    with tenant_scope(tenant.pk):
        row: CallLimit | None = CallLimit.objects.filter(
            tenant=tenant, scope=scope, scope_ref=_kept_ref(tenant, scope, ref), model=model
        ).first()
    if row is None:
        raise LimitRefused(f"{tenant.name} has no such limit. The console lists those that there are.")
    return row


def remove_limit(row: CallLimit, *, actor: Actor | None = None) -> None:
    """Lift the limit altogether."""
    with transaction.atomic(), tenant_scope(row.tenant_id):
        events.record(actor, row.tenant_id, "limit.remove", row, before=limit_facts(row))
        row.delete()


def limit_facts(row: CallLimit) -> dict[str, object]:
    """What the audit trail keeps of a limit."""
    return {name: getattr(row, name) for name in ("scope", "scope_ref", "model", *MEASURES)}


def _kept_ref(tenant: Tenant, scope: str, ref: str) -> str:
    if scope == Scope.TENANT:
        return ""
    target: type[Team] | type[ApiKey] = Team if scope == Scope.TEAM else ApiKey
    row = target.objects.filter(tenant=tenant, pk=ref).first() if ref.isdigit() else None
    if row is None:
        raise LimitRefused(f"{tenant.name} has no {scope} with the id “{ref}”.")
    return str(row.lineage_id if isinstance(row, ApiKey) else row.pk)
