"""Who is calling: one Exchequer key, in `x-api-key` or as Bearer.

A key that we cannot have issued costs no query: its checksum is checked first. `find_key` may wait for the
database, once per key; the DRF authenticator after it only looks and compares.
"""

import hashlib
from collections.abc import Iterable, Mapping, Set
from typing import Any

import psycopg
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from governance.core.clock import utcnow
from governance.gateway import errors
from governance.gateway.errors import CallRefused
from governance.gateway.snapshot import KeySnapshot, LookupsBusy, SnapshotStore, TenantSnapshot
from tenants.keys import key_matches, parse_key
from tenants.models import Tenant
from tenants.pauses import PauseTerms


async def find_key(credentials: Set[bytes], store: SnapshotStore) -> KeySnapshot:
    """The key whose text was sent, live or not; CallRefused for none, several, junk or unknown.

    `credentials`: the distinct values of the two headers. Whether the key may be used is KeyAuthentication's.
    """
    if len(credentials) != 1:
        raise CallRefused(errors.TWO_KEYS if credentials else errors.NO_KEY)
    (sent,) = credentials
    digest = hashlib.sha256(sent).digest()
    known = store.accepted(digest)
    if known is not None and store.fresh:
        return known
    key = await _look_up(sent.decode("ascii", "replace"), store)
    store.accept(digest, key)
    return key


async def _look_up(text: str, store: SnapshotStore) -> KeySnapshot:
    public_id = parse_key(text)
    if public_id is None:
        raise CallRefused(errors.JUNK_KEY)
    if not store.fresh:
        raise CallRefused(errors.SETTINGS_STALE)
    key = store.key(public_id)
    if key is None:
        try:
            key = await store.load_key(public_id)
        except LookupsBusy:
            raise CallRefused(errors.KEY_LOOKUPS_BUSY) from None
        except (psycopg.Error, TimeoutError):
            raise CallRefused(errors.SETTINGS_STALE) from None
    if key is None or not key_matches(text, key.digest, key.pepper_id):
        raise CallRefused(errors.UNKNOWN_KEY)
    return key


def check_live(key: KeySnapshot) -> None:
    """CallRefused for a key that was revoked or has expired."""
    if key.revoked_at is not None:
        raise CallRefused(errors.KEY_REVOKED)
    if key.expires_at is not None and key.expires_at <= utcnow():
        raise CallRefused(errors.KEY_EXPIRED)


def check_tenant(tenant: TenantSnapshot) -> None:
    """CallRefused for a tenant that is paused or closed: its keys stay, and may not spend."""
    if tenant.status != Tenant.Status.ACTIVE:
        why = f": {tenant.status_reason.rstrip('.')}" if tenant.status_reason else ""
        raise errors.forbidden(
            "tenant_paused" if tenant.status == Tenant.Status.PAUSED else "tenant_closed",
            f"{tenant.name} is {tenant.status}{why}. Its keys cannot be used; ask your administrator.",
        )


def check_pauses(pauses: Iterable[PauseTerms], tags: Mapping[str, str]) -> None:
    """CallRefused for a call that somebody paused: its key, team, tenant or one of its tags."""
    for pause in pauses:
        if pause.reaches_call(tags):
            raise CallRefused(errors.paused(pause.what, pause.reason, pause.began_by))


async def check_again(key: KeySnapshot, credentials: Set[bytes], store: SnapshotStore) -> KeySnapshot:
    """The key as it stands now, for whoever has waited since it was found. CallRefused as above."""
    if store.fresh and store.key(key.public_id) is key:
        check_live(key)  # nothing changed, but time went on
        return key
    key = await find_key(credentials, store)
    check_live(key)
    check_tenant(key.tenant)
    return key


class KeyAuthentication(BaseAuthentication):
    """DRF's view of the key that the exchange carries."""

    def authenticate(self, request: Request) -> tuple[KeySnapshot, KeySnapshot]:
        key: KeySnapshot = request._request.exchange.key  # type: ignore[attr-defined]  # asgi.py puts it there
        check_live(key)
        return key, key


class TenantIsActive(BasePermission):
    """DRF's view of the tenant's status."""

    def has_permission(self, request: Request, view: Any) -> bool:
        key: KeySnapshot = request.auth  # type: ignore[assignment]
        check_tenant(key.tenant)
        return True
