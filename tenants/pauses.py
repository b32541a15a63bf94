"""The pause switch: refuse every call of a key, a team, a tag value or a tenant, with a reason to read.

A pause is in force in every worker within a second, for calls that wait for a hold too; calls that are
already upstream go on, since they are paid for. It is a switch of the tenant's own people. What an operator
sets is `Tenant.status`, which they cannot undo.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from django.contrib.auth.models import User
from django.db import transaction

from governance.audit import events
from governance.audit.events import Actor
from governance.core.clock import utcnow
from tenants.models import ApiKey, Pause, Team, Tenant

Scope = Pause.Scope

LOAD_PAUSES = """
SELECT p.scope, p.scope_ref, p.reason, coalesce(u.username, '')
FROM tenants_pause p LEFT JOIN auth_user u ON u.id = p.began_by_id
WHERE p.tenant_id = %s AND p.ended_at IS NULL ORDER BY p.id
"""
"""Rows for PauseTerms, in its order; for any connection."""


class PauseRefused(ValueError):
    """A pause that cannot be made; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class PauseTerms:
    """An open pause as the call path knows it. `began_by` is a person's name, or ""."""

    scope: str
    scope_ref: str
    reason: str
    began_by: str

    def reaches_key(self, *, team_id: int | None, lineage_id: int) -> bool:
        """May it refuse calls of this key? Of a pause on a tag only the call can tell."""
        match self.scope:
            case Scope.TEAM:
                return self.scope_ref == str(team_id)
            case Scope.KEY:
                return self.scope_ref == str(lineage_id)
        return True

    def reaches_call(self, tags: Mapping[str, str]) -> bool:
        """Does it refuse a call with these tags, of a key that it reaches?"""
        if self.scope != Scope.TAG:
            return True
        name, _, value = self.scope_ref.partition("=")
        return tags.get(name) == value

    @property
    def what(self) -> str:
        """What is paused, for the caller: “this API key”."""
        match self.scope:
            case Scope.TEAM:
                return "the team of this API key"
            case Scope.KEY:
                return "this API key"
            case Scope.TAG:
                return f"the tag {self.scope_ref[:80]}"
        return "this tenant"


def reaching(pauses: Iterable[PauseTerms], *, team_id: int | None, lineage_id: int) -> tuple[PauseTerms, ...]:
    """Those of a tenant's pauses that may refuse calls of a key."""
    return tuple(pause for pause in pauses if pause.reaches_key(team_id=team_id, lineage_id=lineage_id))


def pause(
    tenant: Tenant,
    reason: str,
    *,
    scope: str = Scope.TENANT,
    ref: str = "",
    began_by: User | None = None,
    is_automatic: bool = False,
    actor: Actor | None = None,
) -> Pause:
    """Refuse the calls of that scope from now on. `ref`: the id of the team's or key's row, "name=value" of a
    tag, "" for the tenant. A pause of a key holds for every key of its lineage. One that `is_automatic` is
    mailed to the tenant's people (governance/limits/telling.py).

    PauseRefused for a target of another tenant and for what is paused already; ValidationError for a reason
    that is empty or too long.
    """
    kept_ref = _kept_ref(tenant, scope, ref)
    if find_pause(tenant, scope=scope, ref=ref) is not None:
        raise PauseRefused("That is paused already; resume it first, to give another reason.")
    row = Pause(tenant=tenant, scope=scope, scope_ref=kept_ref, reason=reason, began_by=began_by)
    row.is_automatic = is_automatic
    row.full_clean()
    with transaction.atomic():
        row.save(force_insert=True)
        events.record(actor, tenant.pk, "pause.begin", row, after=pause_facts(row))
    return row


def resume(row: Pause, *, actor: Actor | None = None) -> Pause:
    """Let calls pass again, in every worker within a second. Resuming twice changes nothing."""
    with transaction.atomic():
        locked: Pause = Pause.objects.select_for_update().get(pk=row.pk)
        if locked.ended_at is None:
            before = pause_facts(locked)
            locked.ended_at = utcnow()
            locked.save(update_fields=["ended_at"])
            events.record(actor, locked.tenant_id, "pause.end", locked, before, pause_facts(locked))
    return locked


def find_pause(tenant: Tenant, *, scope: str, ref: str = "") -> Pause | None:
    """The open pause of that scope. `ref` as for `pause`."""
    found: Pause | None = Pause.objects.filter(
        tenant=tenant, scope=scope, scope_ref=_kept_ref(tenant, scope, ref), ended_at=None
    ).first()
    return found


def pause_facts(row: Pause) -> dict[str, object]:
    """What the audit trail keeps of a pause."""
    return {"scope": row.scope, "scope_ref": row.scope_ref, "reason": row.reason, "ended_at": row.ended_at}


def _kept_ref(tenant: Tenant, scope: str, ref: str) -> str:
    if scope == Scope.TENANT:
        return ""
    if scope == Scope.TAG:
        name, equals, value = (part.strip() for part in ref.partition("="))
        if not (name and equals and value):
            raise PauseRefused("Write the tag as name=value, such as feature=search.")
        return f"{name}={value}"
    if scope == Scope.TEAM:
        team = Team.objects.filter(tenant=tenant, pk=ref).first() if ref.isdigit() else None
        if team is None:
            raise PauseRefused(f"{tenant.name} has no team with the id “{ref}”.")
        return str(team.pk)
    key = ApiKey.objects.filter(tenant=tenant, pk=ref).first() if ref.isdigit() else None
    if key is None:
        raise PauseRefused(f"{tenant.name} has no key with the id “{ref}”.")
    return str(key.lineage_id)
