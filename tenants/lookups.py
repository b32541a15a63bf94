"""Finding a tenant, a team or a key by what a person types."""

from tenants.keys import PREFIX
from tenants.models import ApiKey, Team, Tenant


class NotFound(LookupError):
    """Nothing in the current scope has that name; the message is a sentence."""


def find_tenant(reference: str) -> Tenant:
    """By slug or by name."""
    tenant: Tenant | None = (
        Tenant.objects.filter(slug=reference).first() or Tenant.objects.filter(name=reference).first()
    )
    if tenant is None:
        raise NotFound(f"No tenant has the slug or name “{reference}”.")
    return tenant


def find_team(tenant: Tenant, reference: str) -> Team:
    """One of the tenant's teams, by slug or by name."""
    teams = Team.objects.filter(tenant=tenant)
    team: Team | None = teams.filter(slug=reference).first() or teams.filter(name=reference).first()
    if team is None:
        raise NotFound(f"{tenant.name} has no team with the slug or name “{reference}”.")
    return team


def find_key(reference: str) -> ApiKey:
    """By public id: the eight characters after `exq_`, with or without that prefix."""
    public_id = reference.removeprefix(PREFIX)
    key: ApiKey | None = ApiKey.objects.select_related("tenant").filter(public_id=public_id).first()
    if key is None:
        raise NotFound(
            f"No key has the id “{public_id[:8]}”; the id is the eight characters after “{PREFIX}”."
        )
    return key
