"""What a draft would do: the router of a key as it would be with that draft in force."""

import msgspec
from django.contrib.postgres.aggregates import ArrayAgg
from django.db import connection
from django.db.models import Count, Q

from governance.pricing.loading import read_models
from governance.routing.document import Policy
from governance.routing.models import RoutingPolicy, Scope
from governance.routing.router import Router, compile_router
from governance.routing.rules import CompiledInput
from tenants.models import ApiKey, Team

DRAFT_ID = 0
"""Stands for the version that a draft has not got yet."""


def policies_of(tenant_id: int, team_id: int | None, lineage_id: int | None) -> list[RoutingPolicy]:
    """Those of a key with that team and lineage, in the order in which they are asked; also what is off or
    was never published."""
    wanted = [(Scope.KEY, str(lineage_id)), (Scope.TEAM, str(team_id)), (Scope.TENANT, "")]
    reaching = Q()
    for scope, ref in wanted:
        reaching |= Q(scope=scope, scope_ref=ref)
    rows = RoutingPolicy.objects.select_related("live").filter(reaching, tenant_id=tenant_id)
    return sorted(rows, key=lambda row: wanted.index((row.scope, row.scope_ref)))


def router_with(policy: RoutingPolicy, draft: Policy, key: ApiKey | None) -> Router:
    """The router of `key` with this draft as the policy's version, in force or not. Without a key: of any key
    that has no policy of its own. Run in the tenant's scope; `key` is one that the policy holds for."""
    team_id = key.team_id if key else int(policy.scope_ref) if policy.scope == Scope.TEAM else None
    inputs = []
    for row in policies_of(policy.tenant_id, team_id, key.lineage_id if key else None):
        if row.pk == policy.pk:
            inputs.append(CompiledInput(policy.pk, DRAFT_ID, draft))
        elif row.enabled and row.live is not None:
            document = msgspec.convert(row.live.document, Policy)
            inputs.append(CompiledInput(row.pk, row.live.pk, document))
    team_ids = dict(Team.objects.filter(tenant_id=policy.tenant_id).values_list("slug", "pk"))
    lineages = ApiKey.objects.filter(tenant_id=policy.tenant_id).values("lineage_id")
    rotated = lineages.annotate(keys=Count("pk"), ids=ArrayAgg("public_id")).filter(keys__gt=1)
    rotations = rotated.values_list("ids", flat=True)
    return compile_router(inputs, models=read_models(connection), team_ids=team_ids, rotations=rotations)
