"""Tenants and teams: create and change; pause, resume and close."""

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


def change_tenant(
    tenant: Tenant,
    *,
    name: str | None = None,
    time_zone: str | None = None,
    status: str | None = None,
    status_reason: str | None = None,
    actor: Actor | None = None,
) -> Tenant:
    """Change what is given. A new time zone holds for budgets that are set from now on.

    Callers of a paused or closed tenant read `status_reason` in the refusal.
    """
    given = {"name": name, "time_zone": time_zone, "status": status, "status_reason": status_reason}
    changes = {field: value for field, value in given.items() if value is not None}
    with transaction.atomic():
        locked: Tenant = Tenant.objects.select_for_update().get(pk=tenant.pk)
        before = tenant_facts(locked)
        for field, value in changes.items():
            setattr(locked, field, value)
        locked.full_clean()
        locked.save(update_fields=list(changes))
        events.record(actor, locked.pk, "tenant.change", locked, before, tenant_facts(locked))
    return locked


def rename_team(team: Team, name: str, *, actor: Actor | None = None) -> Team:
    """Give the team another name; its slug stays, because commands and exports refer to it."""
    with transaction.atomic():
        locked: Team = Team.objects.select_for_update().get(pk=team.pk)
        before = {"name": locked.name}
        locked.name = name
        locked.full_clean()
        locked.save(update_fields=["name"])
        events.record(actor, locked.tenant_id, "team.rename", locked, before, {"name": name})
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
