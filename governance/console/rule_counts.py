"""How often each rule of a policy acted of late, or would have: from the rows of calls, so many at most."""

from collections import Counter
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse

from governance.calls.models import Call
from governance.console.access import Access
from governance.core.clock import utcnow
from governance.core.ids import id_floor
from governance.routing.models import PolicyVersion, RoutingPolicy, Scope
from tenants.models import ApiKey

CALLS_MAX = 5_000
SPAN = timedelta(days=7)


def rule_counts(policy: RoutingPolicy, access: Access) -> dict[str, Any] | None:
    """The live version's rules in order, with what the person's calls say of them whichever version they were
    under; `calls` is how many were looked at. None where nothing is live."""
    if policy.live is None:
        return None
    versions = set(PolicyVersion.objects.filter(policy=policy).values_list("pk", flat=True))
    counts: Counter[tuple[str, str]] = Counter()
    calls = list(_applied(policy, access))
    for applied in calls:
        for row in applied or ():
            if row.get("version") in versions:
                what = "would" if row.get("shadow") else "acted" if row.get("did") else "later"
                counts[row["rule"], what] += 1
    names = [rule["name"] for rule in policy.live.document["rules"]]
    return {
        "calls": len(calls),
        "is_all": len(calls) < CALLS_MAX,
        "days": SPAN.days,
        "rules": [
            {"rule": name, "page": _page(name)}
            | {what: counts[name, what] for what in ("acted", "would", "later")}
            for name in names
        ],
    }


def _applied(policy: RoutingPolicy, access: Access) -> Any:
    """Of the newest calls that the policy may hold for: which rules of whichever policy matched."""
    floor = id_floor(int((utcnow() - SPAN).timestamp() * 1000))
    calls = access.visible(Call.objects.filter(pk__gte=floor, tenant_id=policy.tenant_id))
    if policy.scope == Scope.TEAM:
        calls = calls.filter(team_id=int(policy.scope_ref))
    elif policy.scope == Scope.KEY:
        keys = ApiKey.objects.filter(tenant_id=policy.tenant_id, lineage_id=int(policy.scope_ref))
        calls = calls.filter(key_id__in=list(keys.values_list("pk", flat=True)))
    return calls.order_by("-pk").values_list("decision__policy__applied", flat=True)[:CALLS_MAX]


def _page(rule: str) -> str:
    """The calls that it matched."""
    query = urlencode({"q": f"rule:{rule}", "window": f"{SPAN.days}d"})
    return f"{reverse('admin:calls_call_changelist')}?{query}"
