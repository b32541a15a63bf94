"""What a draft would do: the router of a key as it would be with that draft in force."""

import msgspec
from django.db import connection
from django.db.models import Q

from governance.pricing.loading import read_models
from governance.routing.document import Policy
from governance.routing.models import RoutingPolicy, Scope
from governance.routing.router import CompiledInput, Router, compile_router
from tenants.models import ApiKey, Team

DRAFT_ID = 0
"""Stands for the version that a draft has not got yet."""


def router_with(policy: RoutingPolicy, draft: Policy, key: ApiKey | None) -> Router:
    """The router of `key` with this draft as the policy's version, in force or not. Without a key: of any key
    that has no policy of its own. Run in the tenant's scope; `key` is one that the policy holds for."""
    team_id = key.team_id if key else int(policy.scope_ref) if policy.scope == Scope.TEAM else None
    wanted = [(Scope.TEAM, str(team_id)), (Scope.TENANT, "")]
    if key is not None:
        wanted.insert(0, (Scope.KEY, str(key.lineage_id)))
    reaching = Q()
    for scope, ref in wanted:
        reaching |= Q(scope=scope, scope_ref=ref)
    rows = RoutingPolicy.objects.select_related("live").filter(reaching, tenant_id=policy.tenant_id)
    by_scope = {(row.scope, row.scope_ref): row for row in rows}
    inputs = []
    for where in wanted:
        row = by_scope.get(where)
        if row is not None and row.pk == policy.pk:
            inputs.append(CompiledInput(policy.pk, DRAFT_ID, draft))
        elif row is not None and row.enabled and row.live is not None:
            document = msgspec.convert(row.live.document, Policy)
            inputs.append(CompiledInput(row.pk, row.live.pk, document))
    team_ids = dict(Team.objects.filter(tenant_id=policy.tenant_id).values_list("slug", "pk"))
    return compile_router(inputs, models=read_models(connection), team_ids=team_ids)
