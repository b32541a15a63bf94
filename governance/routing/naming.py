"""What a tenant's policies can name: its keys and teams, the models of the price book, and tiers.

check_draft(policy.draft, known_of(policy))
"""

from django.db import connection

from governance.core.clock import utcnow
from governance.pricing.loading import load_book
from governance.pricing.tables import PriceBookIncomplete
from governance.routing.document import Tier
from governance.routing.known import Known
from governance.routing.models import RoutingPolicy, Scope
from tenants.models import ApiKey, Team
from tenants.scope import tenant_scope


def known_of(policy: RoutingPolicy) -> Known:
    """For the draft of that policy."""
    return known_to(policy.tenant_id, policy.scope, policy.scope_ref)


def known_to(tenant_id: int, scope: str = Scope.TENANT, scope_ref: str = "") -> Known:
    """`scope_ref` as in RoutingPolicy. Without loaded prices no model is checked."""
    with tenant_scope(tenant_id):
        keys = frozenset(ApiKey.objects.filter(tenant=tenant_id).values_list("public_id", flat=True))
        teams = {
            str(pk): slug for pk, slug in Team.objects.filter(tenant=tenant_id).values_list("pk", "slug")
        }
        tiers = _tiers_above(tenant_id, scope, scope_ref)
    names = frozenset([*teams, *teams.values()])
    try:
        book = load_book(connection)
    except PriceBookIncomplete:
        return Known(utcnow().date(), keys=keys, teams=names, tiers=tiers)
    return Known.of_book(book, utcnow(), keys=keys, teams=names, tiers=tiers)


def _tiers_above(tenant_id: int, scope: str, scope_ref: str) -> dict[Tier, str]:
    """What the tiers mean to less specific live policies, the team's before the tenant's."""
    above: list[tuple[str, str]] = []
    if scope == Scope.KEY:
        key = ApiKey.objects.filter(tenant=tenant_id, lineage_id=scope_ref).order_by("-pk").first()
        if key is not None and key.team_id is not None:
            above.append((Scope.TEAM, str(key.team_id)))
    if scope != Scope.TENANT:
        above.append((Scope.TENANT, ""))
    tiers: dict[Tier, str] = {}
    for place, ref in above:
        found = RoutingPolicy.objects.filter(tenant=tenant_id, scope=place, scope_ref=ref, enabled=True)
        live = found.select_related("live").first()
        if live is not None and live.live is not None:
            tiers = {**live.live.document.get("tiers", {}), **tiers}
    return tiers
