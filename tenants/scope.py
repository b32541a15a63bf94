"""Which tenants' rows the running code may see: the first wall between tenants.

A model that belongs to a tenant has `objects = TenantScopedManager()`. With no scope set, every query
through it raises: forgetting the scope is a loud error, never a leak. Work enters a scope once, at its
edge: a console request, a task, a command.

    with tenant_scope(tenant.id):
        ApiKey.objects.count()      # this tenant's keys
    with platform_scope():
        ApiKey.objects.count()      # everybody's keys: operators and commands only

Django's `_base_manager` stays plain, so foreign keys resolve and cascades collect whatever the scope.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from django.db import models


class ScopeNotSet(RuntimeError):
    """A tenant-owned table was read outside any scope."""


@dataclass(frozen=True, slots=True)
class Scope:
    """`tenant_ids=None` is the whole platform; an empty set sees nothing."""

    tenant_ids: frozenset[int] | None

    def allows(self, tenant_id: int | None) -> bool:
        """May rows of this tenant be seen? Rows of no tenant belong to the operator alone."""
        return self.tenant_ids is None or tenant_id in self.tenant_ids


PLATFORM = Scope(None)
_current: ContextVar[Scope | None] = ContextVar("exchequer_tenant_scope", default=None)


def current_scope() -> Scope | None:
    """The scope that is set, or None."""
    return _current.get()


@contextmanager
def tenant_scope(*tenant_ids: int) -> Iterator[Scope]:
    """See the rows of these tenants and of no other. Scopes nest; the inner one holds."""
    with _entered(Scope(frozenset(tenant_ids))) as scope:
        yield scope


@contextmanager
def platform_scope() -> Iterator[Scope]:
    """See everybody's rows. For operators, commands and jobs that work for all tenants."""
    with _entered(PLATFORM) as scope:
        yield scope


@contextmanager
def _entered(scope: Scope) -> Iterator[Scope]:
    token = _current.set(scope)
    try:
        yield scope
    finally:
        _current.reset(token)


class TenantScopedManager(models.Manager[Any]):
    """A manager that shows only rows of the current scope.

    `tenant_field` is the lookup from the model to its tenant's id, `tenant_id` unless told: a foreign
    key's column, a plain bigint, or a path such as `budget__tenant_id`.
    """

    def __init__(self, tenant_field: str = "tenant_id") -> None:
        super().__init__()
        self.tenant_field = tenant_field

    def get_queryset(self) -> models.QuerySet[Any]:
        scope = current_scope()
        if scope is None:
            raise ScopeNotSet(
                f"{self.model.__name__} belongs to tenants, and no tenant scope is set. Wrap the work in "
                "tenant_scope(tenant_id), or in platform_scope() where it is meant for every tenant."
            )
        queryset = super().get_queryset()
        if scope.tenant_ids is None:
            return queryset
        return queryset.filter(**{f"{self.tenant_field}__in": scope.tenant_ids})
