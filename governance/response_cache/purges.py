"""Purging the response cache: by tenant, tag or model, everywhere within a second.

A purge is a row that workers load with the tenant's settings. An entry carries the number of the newest
purge that its worker knew when its call began; a purge with a higher number covers it. So a reply that was on
its way when it was purged counts as older, whoever keeps it, and no two clocks are compared.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from django.contrib.auth.models import User
from django.db import transaction

from governance.audit import events
from governance.audit.events import Actor
from governance.core.clock import utcnow
from governance.response_cache.entries import TTL_SECONDS_MAX, Entry
from governance.response_cache.models import CachePurge, Kind
from tenants.models import Tenant

KEEP_SECONDS = TTL_SECONDS_MAX + 86_400
"""Longer than any entry lives; the rest is for clocks."""

LOAD_PURGES = "SELECT id, kind, value FROM response_cache_cachepurge WHERE tenant_id = %s ORDER BY id"
"""Rows for `compiled`; for any connection."""


@dataclass(frozen=True, slots=True)
class Purges:
    """A tenant's purges as the call path knows them: what → the newest number."""

    newest: int = 0
    everything: int = 0
    tags: dict[tuple[str, str], int] = field(default_factory=dict)
    models: dict[str, int] = field(default_factory=dict)

    def cover(self, entry: Entry) -> bool:
        """Was the entry purged since its call began?"""
        seen = entry.purges_seen
        if seen >= self.newest:
            return False
        return (
            self.everything > seen
            or self.models.get(entry.served_model, 0) > seen
            or self.models.get(entry.asked_model, 0) > seen
            or any(self.tags.get(tag, 0) > seen for tag in entry.tags.items())
        )


def compiled(rows: Iterable[tuple[int, str, str]]) -> Purges:
    """The purges of one tenant, from rows in the order of their numbers."""
    newest = everything = 0
    tags: dict[tuple[str, str], int] = {}
    models: dict[str, int] = {}
    for newest, kind, value in rows:
        if kind == Kind.TENANT:
            everything = newest
        elif kind == Kind.MODEL:
            models[value] = newest
        else:
            name, _, tag_value = value.partition("=")
            tags[name, tag_value] = newest
    return Purges(newest, everything, tags, models)


def purge(
    tenant: Tenant, kind: str, value: str = "", *, by: User | None = None, actor: Actor | None = None
) -> CachePurge:
    """Give no kept answer of that kind any more. ValidationError for a value that does not fit its kind."""
    row = CachePurge(tenant=tenant, kind=kind, value=value, by=by)
    row.full_clean()
    with transaction.atomic():
        # One at a time, so that numbers become visible in their order: who knows one knows all before it.
        Tenant.objects.select_for_update(no_key=True).get(pk=tenant.pk)
        mine = CachePurge.objects.filter(tenant=tenant)
        mine.filter(at__lt=utcnow() - timedelta(seconds=KEEP_SECONDS)).delete()
        # What is purged again, or with everything, needs no older row.
        (mine if kind == Kind.TENANT else mine.filter(kind=kind, value=value)).delete()
        row.save(force_insert=True)
        events.record(actor, tenant.pk, "cache.purge", row, after={"kind": kind, "value": value})
    return row
