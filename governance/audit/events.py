"""Writing the audit trail: one explicit call next to each change, in the transaction of the change."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from django.db import models

from governance.audit.models import AuditEvent

SECRET_FIELDS = frozenset({"ciphertext", "digest", "key", "password", "plaintext", "secret", "text"})
SECRET_TEXT = re.compile(r"\bexq_\w{8}_\w{43}_\w{6}\b|\bsk-ant-[\w-]{16,}")


class SecretInAuditTrail(ValueError):
    """Somebody tried to record a secret. The message names the field, never the value."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it. `user_id` None is a command or a background job."""

    name: str
    user_id: int | None = None
    ip_address: str | None = None


SYSTEM = Actor("system")


def record(
    actor: Actor | None,
    tenant_id: int | None,
    action: str,
    target: models.Model,
    before: Mapping[str, object] | None = None,
    after: Mapping[str, object] | None = None,
) -> AuditEvent:
    """Record one change. `action` reads noun.verb (`key.revoke`); `actor` None is the system itself.

    `before` and `after` hold what JSON, dates, decimals and UUIDs can say; where both are given, only
    the fields that differ are kept. SecretInAuditTrail when one of them holds a secret.
    """
    for facts in (before, after):
        _refuse_secrets(facts)
    if before is not None and after is not None:
        changed = [name for name in after if before.get(name) != after[name]]
        before = {name: before.get(name) for name in changed}
        after = {name: after[name] for name in changed}
    who = actor or SYSTEM
    return AuditEvent.objects.create(
        tenant_id=tenant_id,
        actor_user_id=who.user_id,
        actor_name=who.name[:200],
        ip_address=who.ip_address,
        action=action,
        target_type=target._meta.label_lower,
        target_id=str(target.pk),
        target_label=str(target)[:300],
        before=before,
        after=after,
    )


def _refuse_secrets(facts: Mapping[str, object] | None) -> None:
    for name, value in (facts or {}).items():
        if name in SECRET_FIELDS or SECRET_TEXT.search(str(value)):
            raise SecretInAuditTrail(
                f"The field “{name}” looks like a secret; record a label or a hint instead."
            )
