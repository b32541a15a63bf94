"""What the signed-in person may see and change. Superusers act for the platform; others by membership.

owner         everything in the tenant, members included
admin         keys, teams, budgets, credentials, pauses of the tenant
viewer        reads the tenant
lead          reads one team; issues, rotates and revokes that team's keys; pauses them and the team
team viewer   reads one team
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

from django.contrib.auth.models import AnonymousUser, User
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from governance.audit.events import Actor
from tenants.models import Membership

Role = Membership.Role
MANAGING_ROLES = frozenset({Role.OWNER.value, Role.ADMIN.value})


class HasOwner(Protocol):
    """A row that belongs to a tenant, and perhaps to one of its teams."""

    tenant_id: int
    team_id: int | None


@dataclass(frozen=True, slots=True)
class Access:
    """Roles of one person. `is_platform` may do everything."""

    is_platform: bool = False
    tenant_roles: dict[int, str] = field(default_factory=dict)
    team_roles: dict[int, str] = field(default_factory=dict)
    team_tenants: dict[int, int] = field(default_factory=dict)

    @property
    def is_member(self) -> bool:
        return self.is_platform or bool(self.tenant_roles or self.team_roles)

    @property
    def tenant_ids(self) -> frozenset[int]:
        """Tenants of which at least something may be seen."""
        return frozenset(self.tenant_roles) | frozenset(self.team_tenants.values())

    @property
    def managed_tenant_ids(self) -> frozenset[int]:
        return frozenset(t for t, role in self.tenant_roles.items() if role in MANAGING_ROLES)

    @property
    def led_team_ids(self) -> frozenset[int]:
        return frozenset(t for t, role in self.team_roles.items() if role == Role.LEAD)

    @property
    def manages_something(self) -> bool:
        return self.is_platform or bool(self.managed_tenant_ids)

    @property
    def issues_keys(self) -> bool:
        return self.manages_something or bool(self.led_team_ids)

    def owns(self, tenant_id: int | None) -> bool:
        return self.is_platform or (tenant_id is not None and self.tenant_roles.get(tenant_id) == Role.OWNER)

    def manages(self, tenant_id: int | None) -> bool:
        return self.is_platform or tenant_id in self.managed_tenant_ids

    def may_change_key(self, key: HasOwner) -> bool:
        """Managers change every key of their tenant, leads those of their team."""
        if self.manages(key.tenant_id):
            return True
        return key.team_id in self.led_team_ids

    def visible(
        self, rows: "QuerySet[Any]", tenant_field: str = "tenant_id", team_field: str | None = "team_id"
    ) -> "QuerySet[Any]":
        """Of these rows, what this person may see. Without a team field, members of a team see none."""
        if self.is_platform:
            return rows
        seen = Q(**{f"{tenant_field}__in": self.tenant_roles.keys()})
        if team_field is not None:
            seen |= Q(**{f"{team_field}__in": self.team_roles.keys()})
        return rows.filter(seen)


NOBODY = Access()


def load_access(user: User | AnonymousUser) -> Access:
    """One query; none for a superuser, and none for whoever is not signed in."""
    if not user.is_active:
        return NOBODY
    if user.is_superuser:
        return Access(is_platform=True)
    tenant_roles: dict[int, str] = {}
    team_roles: dict[int, str] = {}
    team_tenants: dict[int, int] = {}
    # The plain manager: this is what the scope is made from.
    rows = Membership._base_manager.filter(user_id=user.pk).values_list("tenant_id", "team_id", "role")
    for tenant_id, team_id, role in rows:
        if team_id is None:
            tenant_roles[tenant_id] = role
        else:
            team_roles[team_id], team_tenants[team_id] = role, tenant_id
    return Access(False, tenant_roles, team_roles, team_tenants)


def access_of(request: HttpRequest) -> Access:
    """What the middleware found; NOBODY where it did not run or nobody is signed in."""
    access: Access = getattr(request, "access", NOBODY)
    return access


def signed_in(request: HttpRequest) -> User:
    """Who asks for a page that nobody else gets to see."""
    user = request.user
    assert isinstance(user, User)
    return user


def actor_of(request: HttpRequest) -> Actor:
    """Whom the audit trail names for this request."""
    user = request.user
    return Actor(user.get_username(), user_id=user.pk, ip_address=request.META.get("REMOTE_ADDR") or None)
