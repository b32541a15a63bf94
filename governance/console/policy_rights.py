"""Whose policies a person sees and changes: managers their tenant's, leads their team's and its keys'."""

from typing import Any

from django.db.models import Q, QuerySet

from governance.console.access import Access
from governance.routing.models import RoutingPolicy, Scope
from tenants.models import ApiKey


def visible_policies(access: Access, rows: "QuerySet[RoutingPolicy]") -> "QuerySet[Any]":
    """A tenant's members see all of its policies; members of a team those that its calls are served by."""
    if access.is_platform:
        return rows
    ours = Q(tenant_id__in=access.team_tenants.values())
    return rows.filter(
        Q(tenant_id__in=access.tenant_roles)
        | ours & Q(scope=Scope.TENANT)
        | ours & Q(scope=Scope.TEAM, scope_ref__in=[str(team_id) for team_id in access.team_roles])
        | ours & Q(scope=Scope.KEY, scope_ref__in=_lineages(access.team_roles))
    )


def may_change_policy(access: Access, policy: RoutingPolicy) -> bool:
    if access.manages(policy.tenant_id):
        return True
    if policy.scope == Scope.TEAM:
        return int(policy.scope_ref) in access.led_team_ids
    return policy.scope == Scope.KEY and policy.scope_ref in _lineages(access.led_team_ids)


def _lineages(team_ids: Any) -> list[str]:
    """Of keys of these teams. A key that moved leaves its revoked rotations behind: it is where it went."""
    teams = list(team_ids)
    elsewhere = ApiKey.objects.filter(revoked_at=None).exclude(team_id__in=teams).values("lineage_id")
    found = (
        ApiKey.objects.filter(team_id__in=teams)
        .exclude(lineage_id__in=elsewhere)
        .values_list("lineage_id", flat=True)
    )
    return [str(lineage_id) for lineage_id in found]
