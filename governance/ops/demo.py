"""The demo tenant of a first `make up`: one team, one key, budgets by day and month, one admin."""

import secrets
from dataclasses import dataclass

from django.contrib.auth.models import User
from django.db import transaction

from governance.audit.events import Actor
from governance.budgets.limits import create_tenant_with_wall, set_budget
from governance.core.money import usd_to_nanos
from tenants.keys import issue_key, key_matches, parse_key
from tenants.models import ApiKey, Team, Tenant
from tenants.scope import platform_scope
from tenants.tenants import create_team

MONTHLY_LIMIT_USD = "100"
TENANT, TEAM, KEY, ADMIN = "Demo", "Engineering", "demo", "admin"
_ACTOR = Actor("make up")
_BUDGETS = (
    # scope, period, limit in US dollars; beside the tenant's month
    ("tenant", "day", "20"),
    ("team", "month", "50"),
    ("key", "day", "5"),
)


@dataclass(frozen=True)
class Demo:
    """What a person needs to try it. Key and password exist in `.local/demo.env` and nowhere else.

    `admin_password` is "" where somebody has set another one, or the file was lost.
    """

    api_key: str
    admin_user: str
    admin_password: str


def ensure_demo(known_key: str, known_password: str) -> Demo:
    """The demo tenant, made where it is missing. What `.local/demo.env` still knows is kept while it works.

    Where that file was lost a new key is issued: the old one cannot be read back. A password that is
    not ours any more is left alone.
    """
    with platform_scope(), transaction.atomic():
        tenant = Tenant.objects.filter(slug="demo").first() or _create_tenant()
        team = Team.objects.get(tenant=tenant, slug="engineering")
        api_key = known_key if _is_live(tenant, known_key) else _issue_key(tenant, team)
        return Demo(api_key, ADMIN, _ensure_admin(known_password))


def _create_tenant() -> Tenant:
    tenant = create_tenant_with_wall(TENANT, limit_nanos=usd_to_nanos(MONTHLY_LIMIT_USD), actor=_ACTOR)
    team = create_team(tenant, TEAM, actor=_ACTOR)
    for scope, period, limit_usd in _BUDGETS:
        if scope != "key":
            ref = str(team.pk) if scope == "team" else ""
            _set_budget(tenant, scope, ref, period, limit_usd)
    return tenant


def _issue_key(tenant: Tenant, team: Team) -> str:
    issued = issue_key(tenant, KEY, team=team, actor=_ACTOR)
    for scope, period, limit_usd in _BUDGETS:
        if scope == "key":
            _set_budget(tenant, scope, str(issued.key.pk), period, limit_usd)
    return issued.text


def _set_budget(tenant: Tenant, scope: str, ref: str, period: str, limit_usd: str) -> None:
    set_budget(tenant, scope=scope, ref=ref, period=period, limit_nanos=usd_to_nanos(limit_usd), actor=_ACTOR)


def _is_live(tenant: Tenant, text: str) -> bool:
    key = ApiKey.objects.filter(tenant=tenant, public_id=parse_key(text) or "", revoked_at=None).first()
    return key is not None and key_matches(text, bytes(key.digest), key.pepper_id)


def _ensure_admin(known_password: str) -> str:
    user = User.objects.filter(username=ADMIN).first()
    if user is not None:
        return known_password if user.check_password(known_password) else ""
    password = secrets.token_urlsafe(15)
    User.objects.create_superuser(ADMIN, password=password)
    return password
