"""Tenants and teams: create, pause, resume, close."""

from django.db import transaction
from django.utils.text import slugify

from governance.audit import events
from governance.audit.events import Actor
from tenants.models import Team, Tenant


def create_tenant(
    name: str, *, slug: str | None = None, time_zone: str = "UTC", actor: Actor | None = None
) -> Tenant:
    """A new, active tenant. ValidationError names the field that is wrong.

    Give it a hard budget in the same transaction: a tenant always has one of its own
    (budgets.limits.set_budget; the command `create_tenant` does both).
    """
    tenant = Tenant(name=name, slug=slug or slugify(name), time_zone=time_zone)
    tenant.full_clean()
    with transaction.atomic():
        tenant.save(force_insert=True)
        events.record(actor, tenant.pk, "tenant.create", tenant, after=tenant_facts(tenant))
    return tenant


def create_team(tenant: Tenant, name: str, *, slug: str | None = None, actor: Actor | None = None) -> Team:
    """A new team of the tenant. ValidationError names the field that is wrong."""
    team = Team(tenant=tenant, name=name, slug=slug or slugify(name))
    team.full_clean()
    with transaction.atomic():
        team.save(force_insert=True)
        events.record(actor, tenant.pk, "team.create", team, after={"name": team.name, "slug": team.slug})
    return team


def set_tenant_status(tenant: Tenant, status: str, reason: str, *, actor: Actor | None = None) -> Tenant:
    """Active, paused or closed, with the reason that its callers will read in the refusal."""
    with transaction.atomic():
        locked: Tenant = Tenant.objects.select_for_update().get(pk=tenant.pk)
        before = tenant_facts(locked)
        locked.status, locked.status_reason = status, reason
        locked.full_clean()
        locked.save(update_fields=["status", "status_reason"])
        events.record(actor, locked.pk, "tenant.status", locked, before, tenant_facts(locked))
    return locked


def tenant_facts(tenant: Tenant) -> dict[str, object]:
    """What the audit trail keeps of a tenant."""
    return {
        "name": tenant.name,
        "slug": tenant.slug,
        "time_zone": tenant.time_zone,
        "status": tenant.status,
        "status_reason": tenant.status_reason,
    }
