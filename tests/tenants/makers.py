"""Tenants of a test's own. Names are random: tests share one database and never clean it."""

import secrets

from django.contrib.auth.models import User

from tenants.models import Membership, Team, Tenant
from tenants.scope import platform_scope
from tenants.tenants import create_team, create_tenant


def make_tenant(name: str = "Tenant", **settings: str) -> Tenant:
    with platform_scope():
        return create_tenant(f"{name} {secrets.token_hex(6)}", **settings)


def make_team(tenant: Tenant, name: str = "Team") -> Team:
    with platform_scope():
        return create_team(tenant, name)


def make_user(name: str = "user", *, superuser: bool = False) -> User:
    return User.objects.create_user(
        f"{name}-{secrets.token_hex(6)}", password=None, is_staff=True, is_superuser=superuser
    )


def make_member(tenant: Tenant, role: str, name: str = "user", team: Team | None = None) -> User:
    user = make_user(name)
    with platform_scope():
        Membership.objects.create(user=user, tenant=tenant, team=team, role=role)
    return user
