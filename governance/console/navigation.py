"""The side bar: what a person can open, in the order in which people look for it."""

from typing import Any

from django.http import HttpRequest
from django.urls import reverse

from governance.console.access import Access, access_of

PAGES: dict[str, list[tuple[str, str, str]]] = {
    "Spending": [
        ("Overview", "space_dashboard", "admin:index"),
        ("Calls", "receipt_long", "admin:calls_call_changelist"),
        ("Budgets", "savings", "admin:budgets_budget_changelist"),
        ("Requests", "front_hand", "admin:budgets_increaserequest_changelist"),
        ("Ledger", "account_balance", "admin:ledger_ledgerentry_changelist"),
    ],
    "Routing": [
        ("Policies", "alt_route", "admin:routing_routingpolicy_changelist"),
        ("Savings", "trending_down", "admin:savings"),
        ("Response cache", "cached", "admin:response_cache"),
        ("Prompt cache", "bolt", "admin:calls_call_prompt_cache"),
    ],
    "Access": [
        ("API keys", "key", "admin:tenants_apikey_changelist"),
        ("Call limits", "speed", "admin:limits_calllimit_changelist"),
        ("Pauses", "pause_circle", "admin:tenants_pause_changelist"),
        ("Teams", "groups", "admin:tenants_team_changelist"),
        ("Members", "badge", "admin:tenants_membership_changelist"),
        ("Tenants", "domain", "admin:tenants_tenant_changelist"),
    ],
    "Terms": [
        ("Price book", "sell", "admin:pricing_pricerow_changelist"),
        ("Contract prices", "handshake", "admin:pricing_contractprice_changelist"),
        ("Broken bounds", "gpp_bad", "admin:pricing_brokenbound_changelist"),
        ("Refused names", "block", "admin:pricing_refusedname_changelist"),
        ("Names seen", "visibility", "admin:pricing_seenname_changelist"),
        ("Provider credentials", "lock", "admin:tenants_providercredential_changelist"),
        ("Audit trail", "history", "admin:audit_auditevent_changelist"),
        ("Users", "person", "admin:auth_user_changelist"),
    ],
}

OPERATORS_PAGES = {
    "admin:auth_user_changelist",
    "admin:pricing_brokenbound_changelist",
    "admin:pricing_refusedname_changelist",
    "admin:pricing_seenname_changelist",
}


def _may_open(access: Access, page: str) -> bool:
    if page in OPERATORS_PAGES:
        return access.is_platform
    if page in ("admin:tenants_providercredential_changelist", "admin:audit_auditevent_changelist"):
        return access.manages_something
    return access.is_member


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Groups of links, as unfold's SIDEBAR setting wants them."""
    access = access_of(request)
    return [
        {
            "title": title,
            "separator": title != "Spending",
            "items": [
                {"title": name, "icon": icon, "link": reverse(page)}
                for name, icon, page in pages
                if _may_open(access, page)
            ],
        }
        for title, pages in PAGES.items()
    ]
