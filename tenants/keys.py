"""API keys: their text, their digest, and the five things that happen to one.

    exq_<8 id>_<43: 32 random bytes in base62>_<6: crc32 of what precedes, in base62>

The id is public and finds the row; the checksum refuses junk without asking anybody; the digest
(HMAC-SHA256 with a pepper that is not in the database) decides. The text itself is kept nowhere.
`parse_key` and `digest_key` are on the path of every call: pure, a few microseconds, no I/O.
"""

import hmac
import os
import re
import secrets
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.contrib.auth.models import User
from django.db import transaction

from governance.audit import events
from governance.audit.events import Actor
from governance.core.clock import utcnow
from tenants.models import ApiKey, Team, Tenant, next_id
from tenants.secrets import key_peppers

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PREFIX = "exq_"
PUBLIC_ID_LENGTH = 8
SECRET_BYTES = 32
SECRET_LENGTH = 43
CHECKSUM_LENGTH = 6
KEY_LENGTH = len(PREFIX) + PUBLIC_ID_LENGTH + 1 + SECRET_LENGTH + 1 + CHECKSUM_LENGTH

looks_like_key = re.compile(r"\bexq_[0-9A-Za-z]{8}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}\b")
"""Finds keys in text, for redaction and secret scanners. It does not check the checksum."""

_BODY_LENGTH = KEY_LENGTH - CHECKSUM_LENGTH - 1
_PUBLIC_ID_END = len(PREFIX) + PUBLIC_ID_LENGTH


class KeyStateError(ValueError):
    """The key cannot change that way; the message is a sentence for the person who asked."""


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key and its text: the one moment when both are in one place."""

    key: ApiKey
    text: str = field(repr=False)


# --- The text ------------------------------------------------------------------------------------


def mint_key() -> tuple[str, str]:
    """A new key → (its public id, its text)."""
    public_id = "".join(secrets.choice(BASE62) for _ in range(PUBLIC_ID_LENGTH))
    random_part = _base62(int.from_bytes(os.urandom(SECRET_BYTES)), SECRET_LENGTH)
    body = f"{PREFIX}{public_id}_{random_part}"
    return public_id, f"{body}_{_checksum(body)}"


def parse_key(text: str) -> str | None:
    """The public id of a well-formed key, or None for anything that we cannot have issued."""
    if len(text) != KEY_LENGTH or not text.startswith(PREFIX) or not text.isascii():
        return None
    body = text[:_BODY_LENGTH]
    if text[_BODY_LENGTH:] != "_" + _checksum(body) or not looks_like_key.fullmatch(text):
        return None
    return text[len(PREFIX) : _PUBLIC_ID_END]


def digest_key(text: str, pepper: bytes) -> bytes:
    """HMAC-SHA256 of a key's text: 32 bytes. Compare digests with `hmac.compare_digest`."""
    return hmac.digest(pepper, text.encode(), "sha256")


def key_matches(text: str, digest: bytes, pepper_id: str) -> bool:
    """Is this the text behind a stored digest? False too when its pepper is no longer configured."""
    for pepper in key_peppers():
        if pepper.id == pepper_id:
            return hmac.compare_digest(digest_key(text, pepper.key), digest)
    return False


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(BASE62[digit])
    return "".join(reversed(digits))


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), CHECKSUM_LENGTH)


# --- Its life ------------------------------------------------------------------------------------


def issue_key(
    tenant: Tenant,
    name: str,
    *,
    team: Team | None = None,
    created_by: User | None = None,
    expires_at: datetime | None = None,
    default_tags: Mapping[str, str] | None = None,
    required_tags: Sequence[str] = (),
    allowed_models: Sequence[str] = (),
    max_output_tokens: int | None = None,
    hold_wait_seconds: int = 10,
    clamp_floor_tokens: int | None = None,
    burn_nanos_per_10_minutes_max: int | None = None,
    unbounded_allowed: bool = False,
    as_asked_allowed: bool = False,
    actor: Actor | None = None,
) -> IssuedKey:
    """A new live key. ValidationError names the field that is wrong; KeyStateError for a closed tenant."""
    if tenant.status == Tenant.Status.CLOSED:
        raise KeyStateError(f"{tenant.name} is closed; a closed tenant gets no new keys.")
    key = ApiKey(
        tenant=tenant,
        team=team,
        name=name,
        created_by=created_by,
        expires_at=expires_at,
        default_tags=dict(default_tags or {}),
        required_tags=list(required_tags),
        allowed_models=list(allowed_models),
        max_output_tokens=max_output_tokens,
        hold_wait_seconds=hold_wait_seconds,
        clamp_floor_tokens=clamp_floor_tokens,
        burn_nanos_per_10_minutes_max=burn_nanos_per_10_minutes_max,
        unbounded_allowed=unbounded_allowed,
        as_asked_allowed=as_asked_allowed,
    )
    if team is not None and team.tenant_id != tenant.pk:
        raise KeyStateError(f"The team {team.name} belongs to another tenant; choose one of {tenant.name}.")
    with transaction.atomic():
        issued = _issue(key)
        events.record(actor, tenant.pk, "key.issue", key, after=key_facts(key))
    return issued


CHANGEABLE_SETTINGS = (
    "name",
    "expires_at",
    "default_tags",
    "required_tags",
    "allowed_models",
    "max_output_tokens",
    "hold_wait_seconds",
    "clamp_floor_tokens",
    "burn_nanos_per_10_minutes_max",
    "unbounded_allowed",
    "as_asked_allowed",
)


def change_key(key: ApiKey, settings: Mapping[str, object], *, actor: Actor | None = None) -> ApiKey:
    """Change some of CHANGEABLE_SETTINGS; in force in every worker within a second.

    A key never changes its tenant. `move_key` changes its team.
    """
    if unknown := settings.keys() - set(CHANGEABLE_SETTINGS):
        raise KeyStateError(f"A key's {', '.join(sorted(unknown))} cannot be changed; issue a new key.")
    with transaction.atomic():
        locked = _lock(key)
        before = key_facts(locked)
        for name, value in settings.items():
            setattr(locked, name, value)
        locked.full_clean()
        locked.save(update_fields=list(settings))
        events.record(actor, locked.tenant_id, "key.change", locked, before, key_facts(locked))
    return locked


def move_key(key: ApiKey, team: Team | None, *, reason: str, actor: Actor | None = None) -> list[ApiKey]:
    """Put the key and every other key of its rotations into another team, or into none → those that moved.

    From then on its calls are charged to the budgets of that team, counted by its limits and stopped by its
    pauses, in every worker within a second. What was charged stays charged where it was, and calls in flight
    settle where they were held. Budgets on the key itself go with it. KeyStateError for a team of another
    tenant, a revoked key, and a team that it is in already.
    """
    if team is not None and team.tenant_id != key.tenant_id:
        raise KeyStateError("A key moves to a team of its own tenant only; issue a key in the other one.")
    if not reason.strip():
        raise KeyStateError("Say why: the reason stays in the audit trail.")
    moved = []
    with transaction.atomic():
        lineage = ApiKey.objects.select_for_update().filter(
            tenant_id=key.tenant_id, lineage_id=key.lineage_id, revoked_at=None
        )
        rows = {row.pk: row for row in lineage.order_by("pk")}
        if key.pk not in rows:
            raise KeyStateError(f"{key} is revoked; there is nothing to move.")
        for row in rows.values():
            if row.team_id == (team and team.pk):
                continue
            before = key_facts(row)
            row.team = team
            row.save(update_fields=["team"])
            after = key_facts(row) | {"reason": reason.strip()}
            events.record(actor, row.tenant_id, "key.move", row, before, after)
            moved.append(row)
        if not moved:
            raise KeyStateError(f"{key} is in {team or 'no team'} already.")
    return moved


def revoke_key(key: ApiKey, reason: str, *, actor: Actor | None = None) -> ApiKey:
    """Refuse the key from now on, in every worker within a second. Revoking twice changes nothing."""
    with transaction.atomic():
        locked = _lock(key)
        if locked.revoked_at is None:
            before = key_facts(locked)
            locked.revoked_at, locked.revoked_reason = utcnow(), reason
            locked.full_clean()
            locked.save(update_fields=["revoked_at", "revoked_reason"])
            events.record(actor, locked.tenant_id, "key.revoke", locked, before, key_facts(locked))
    return locked


def rotate_key(
    key: ApiKey,
    overlap_seconds: int,
    *,
    created_by: User | None = None,
    actor: Actor | None = None,
) -> IssuedKey:
    """A new key with the same settings; the old one goes on for `overlap_seconds` and then expires.

    Both stand in one lineage: a budget on either is charged by both.

    KeyStateError when the old key is revoked, expired or already replaced.
    """
    if overlap_seconds < 0:
        raise KeyStateError("The overlap is a number of seconds, 0 or more.")
    with transaction.atomic():
        old = _lock(key)
        now = utcnow()
        _check_rotatable(old, now)
        before = key_facts(old)
        new = ApiKey.objects.get(pk=old.pk)  # its lineage too, so that no budget is left behind
        new.pk, new._state.adding, new.created_by = None, True, created_by
        issued = _issue(new)
        end = now + timedelta(seconds=overlap_seconds)
        old.replaced_by = new
        old.expires_at = end if old.expires_at is None else min(end, old.expires_at)
        old.save(update_fields=["replaced_by", "expires_at"])
        events.record(actor, old.tenant_id, "key.rotate", old, before, key_facts(old))
        events.record(actor, old.tenant_id, "key.issue", new, after=key_facts(new))
    return issued


def key_facts(key: ApiKey) -> dict[str, object]:
    """What the audit trail keeps of a key: its settings and state, never its text or digest."""
    return {
        "public_id": key.public_id,
        "name": key.name,
        "team": key.team_id,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "revoked_reason": key.revoked_reason,
        "replaced_by": key.replaced_by_id,
        "default_tags": key.default_tags,
        "required_tags": key.required_tags,
        "allowed_models": key.allowed_models,
        "max_output_tokens": key.max_output_tokens,
        "hold_wait_seconds": key.hold_wait_seconds,
        "clamp_floor_tokens": key.clamp_floor_tokens,
        "burn_nanos_per_10_minutes_max": key.burn_nanos_per_10_minutes_max,
        "unbounded_allowed": key.unbounded_allowed,
        "as_asked_allowed": key.as_asked_allowed,
    }


def _issue(key: ApiKey) -> IssuedKey:
    """Give an unsaved key its identity and save it."""
    pepper = key_peppers()[0]
    key.pk = next_id(ApiKey)
    key.lineage_id = key.lineage_id or key.pk
    key.public_id, text = mint_key()
    key.digest, key.pepper_id = digest_key(text, pepper.key), pepper.id
    key.full_clean()
    key.save(force_insert=True)
    return IssuedKey(key, text)


def _lock(key: ApiKey) -> ApiKey:
    locked: ApiKey = ApiKey.objects.select_for_update().get(pk=key.pk)
    return locked


def _check_rotatable(key: ApiKey, now: datetime) -> None:
    if key.revoked_at is not None:
        raise KeyStateError(f"{key} is revoked; issue a new key instead of rotating it.")
    if key.expires_at is not None and key.expires_at <= now:
        raise KeyStateError(f"{key} has expired; issue a new key instead of rotating it.")
    if key.replaced_by_id is not None:
        raise KeyStateError(f"{key} was already rotated; rotate its successor.")
