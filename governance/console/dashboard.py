"""The first page: what is spent, held and left, the last calls, and what to do when there is nothing yet."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import Count, F, Min, Q, Sum
from django.db.models.functions import Greatest
from django.http import HttpRequest

from governance.budgets.models import Budget, Enforcement, PeriodKind, Scope
from governance.calls.models import Call
from governance.console.access import Access, access_of
from governance.console.budget_figures import (
    bar_of,
    pots_text,
    scope_names,
    visible_budgets,
    with_current_period,
)
from governance.console.display import STATE_LABELS, bar_html, scope_text, short_usd
from governance.console.policy_rights import visible_policies
from governance.core.clock import utcnow
from governance.core.ids import id_floor
from governance.ledger.models import Hold
from governance.pricing.loading import read_models
from governance.pricing.models import PriceBookVersion
from governance.pricing.tables import PriceBookIncomplete
from governance.routing.capabilities import is_retired
from governance.routing.models import RoutingPolicy
from governance.routing.retiring import retiring
from tenants.models import ApiKey, ProviderCredential, Tenant

BUDGETS_SHOWN = 12
CALLS_SHOWN = 12
POLICIES_MAX = 200
CALLS_WITHIN = timedelta(days=7)


def dashboard(request: HttpRequest) -> dict[str, Any]:
    """What templates/console/home.html names, for the person who asks."""
    access = access_of(request)
    calls = last_calls(access)
    return {
        "budgets": budget_cards(access),
        "figures": figures(access),
        "calls": calls,
        "retiring": retiring_models(access),
        "steps": [] if calls else first_steps(access),
        "gateway_url": settings.GATEWAY_PUBLIC_URL,
        "error_pages_url": settings.ERROR_PAGES_URL,
    }


def figures(access: Access) -> list[dict[str, str]]:
    """Spent today and this month, and what is held: from period rows and open holds, no scan of facts."""
    walls = with_current_period(visible_budgets(access, Budget.objects.filter(closed_at=None)))
    walls = walls.filter(scope=Scope.TENANT, enforcement=Enforcement.HARD, models_only=[])
    shown = []
    for period, words in (("day", "Spent today"), ("month", "Spent this month")):
        sums = walls.filter(period=period).aggregate(spent=Sum("spent_nanos"), limit=Sum("limit_now_nanos"))
        if sums["limit"] is not None:
            spent, limit = int(sums["spent"]), int(sums["limit"])
            shown.append({"title": words, "figure": short_usd(spent), "note": f"of {short_usd(limit)}"})
    holds = access.visible(Hold.objects.all(), team_field=None).aggregate(
        count=Count("pk"), total=Sum("amount_nanos"), oldest=Min("placed_at")
    )
    note = "nothing in flight"
    if holds["count"]:
        age_seconds = max(int((utcnow() - holds["oldest"]).total_seconds()), 0)
        note = f"in {holds['count']:,} calls in flight, the oldest for {age_seconds} s"
    shown.append({"title": "Held", "figure": short_usd(int(holds["total"] or 0)), "note": note})
    live = access.visible(ApiKey.objects.filter(revoked_at=None)).filter(
        Q(expires_at=None) | Q(expires_at__gt=utcnow())
    )
    shown.append({"title": "Live API keys", "figure": f"{live.count():,}", "note": "issued by Exchequer"})
    return shown


def budget_cards(access: Access) -> list[dict[str, Any]]:
    """The budgets nearest to their limit first."""
    rows = with_current_period(visible_budgets(access, Budget.objects.filter(closed_at=None)))
    percent_used = (F("spent_nanos") + F("held_nanos")) / Greatest(F("limit_now_nanos") / 100, 1)
    budgets = list(rows.select_related("tenant").order_by(percent_used.desc(), "pk")[:BUDGETS_SHOWN])
    names = scope_names(budgets)
    several_tenants = len({budget.tenant_id for budget in budgets}) > 1
    return [
        {
            "pk": budget.pk,
            "name": budget.name,
            "tenant": budget.tenant if several_tenants else "",
            "scope": scope_text(budget, names),
            "enforcement": budget.enforcement,
            "bar": bar_html(bar_of(budget), f"of {short_usd(budget.limit_now_nanos)} {per(budget)}"),
        }
        for budget in budgets
    ]


def per(budget: Any) -> str:
    """“a month”, “in total”, “a day, fullest of 12”."""
    text = "in total" if budget.period == PeriodKind.TOTAL else f"a {budget.period}"
    return f"{text}, {pots_text(budget)}" if budget.each else text


def last_calls(access: Access) -> list[dict[str, Any]]:
    """The newest calls of the last seven days."""
    floor = id_floor(int((utcnow() - CALLS_WITHIN).timestamp() * 1000))
    calls = list(access.visible(Call.objects.filter(pk__gte=floor)).order_by("-pk")[:CALLS_SHOWN])
    keys = ApiKey.objects.filter(pk__in={call.key_id for call in calls}).in_bulk()
    return [
        {
            "pk": call.pk,
            "at": f"{call.at:%b %d %H:%M:%S}",
            "state": call.outcome,
            "state_class": STATE_LABELS.get(call.outcome, "info"),
            "model": call.served_model or call.requested_model or "—",
            "key": keys[call.key_id].name if call.key_id in keys else "—",
            "reason": call.reason,
            "cost": short_usd(call.cost_nanos),
        }
        for call in calls
    ]


def retiring_models(access: Access) -> list[dict[str, Any]]:
    """What live policies send calls to and is retired, or will be soon: who wrote them may not look again."""
    policies = visible_policies(access, RoutingPolicy.objects.filter(enabled=True, live__isnull=False))
    rows = list(policies.select_related("live").order_by("pk")[:POLICIES_MAX])
    if not rows:
        return []
    try:
        models = read_models(connection)
    except PriceBookIncomplete:
        return []
    today = utcnow().date()
    return [
        {
            "policy": policy,
            "model": model.model_id,
            "words": "is retired" if is_retired(model, today) else f"retires on {model.retires_on}",
        }
        for policy in rows
        for model in retiring(policy.live.document, models, today)
    ]


def first_steps(access: Access) -> list[dict[str, Any]]:
    """What a newcomer does, in order, with what is done already. Operators see the operator's steps."""
    own = [
        {
            "done": ApiKey.objects.exists(),
            "title": "Issue an API key",
            "text": "Callers use it instead of one of Anthropic's. Its text is shown once.",
            "command": "python manage.py issue_key --tenant acme --name production",
            "page": "admin:tenants_apikey_add" if access.issues_keys else None,
        },
        {
            "done": False,
            "title": "Make the first call",
            "text": "Point the official SDK, Claude Code or plain HTTP at the gateway.",
            "snippet": True,
        },
    ]
    if not access.is_platform:
        return own
    operator = [
        {
            "done": PriceBookVersion.objects.exists(),
            "title": "Load the price book",
            "text": "Holds and charges are computed from it; without prices nothing is served.",
            "command": "python manage.py load_prices",
            "page": "admin:pricing_pricerow_changelist",
        },
        {
            "done": bool(settings.ANTHROPIC_API_KEY)
            or ProviderCredential.objects.filter(disabled_at=None).exists(),
            "title": "Store a key of the Claude API",
            "text": "Encrypted, never shown again. The bundled simulator takes any key.",
            "command": "python manage.py add_credential --label main",
            "page": "admin:tenants_providercredential_add",
        },
        {
            "done": Tenant.objects.exists(),
            "title": "Create a tenant with its monthly limit",
            "text": "The limit is hard: not a nano-dollar more, under any concurrency.",
            "command": 'python manage.py create_tenant "Acme" --monthly-limit-usd 500',
            "page": "admin:tenants_tenant_add",
        },
    ]
    return [*operator, *own]
