"""Provider credentials: the keys of the Claude API that calls are made with.

Written once, never shown again. Rotation drops no call: add the new one, calls begin to use it, disable
the old one when its last call has ended.
"""

import re

from django.core.exceptions import ValidationError
from django.db import transaction

from governance.audit import events
from governance.audit.events import Actor
from governance.core.clock import utcnow
from tenants.models import ProviderCredential, Tenant, next_id
from tenants.secrets import decrypt, encrypt, encryption_keys

_HEADER_SAFE = re.compile(r"[\x21-\x7e]{16,512}")


def add_credential(
    tenant: Tenant | None, label: str, plaintext: str, *, actor: Actor | None = None
) -> ProviderCredential:
    """Store a credential of the tenant, or (None) the operator's for everybody. ValidationError if unfit."""
    check_credential(plaintext)
    credential = ProviderCredential(
        pk=next_id(ProviderCredential), tenant=tenant, label=label, hint=plaintext[-4:]
    )
    credential.encryption_key_id, credential.ciphertext = encrypt(
        plaintext, associated_data(credential.tenant_id, credential.pk)
    )
    credential.full_clean()
    with transaction.atomic():
        credential.save(force_insert=True)
        events.record(
            actor, credential.tenant_id, "credential.add", credential, after=credential_facts(credential)
        )
    return credential


def check_credential(plaintext: str) -> None:
    """ValidationError unless it can travel in a header: 16 to 512 visible ASCII characters."""
    if not _HEADER_SAFE.fullmatch(plaintext):
        raise ValidationError("A Claude API key has 16 to 512 visible ASCII characters and no spaces.")


def disable_credential(credential: ProviderCredential, *, actor: Actor | None = None) -> ProviderCredential:
    """New calls no longer use it; calls under way end on it. Disabling twice changes nothing."""
    with transaction.atomic():
        locked: ProviderCredential = ProviderCredential.objects.select_for_update().get(pk=credential.pk)
        if locked.disabled_at is None:
            before = credential_facts(locked)
            locked.disabled_at = utcnow()
            locked.save(update_fields=["disabled_at"])
            events.record(
                actor, locked.tenant_id, "credential.disable", locked, before, credential_facts(locked)
            )
    return locked


def open_credential(tenant_id: int | None, row_id: int, encryption_key_id: str, ciphertext: bytes) -> str:
    """The credential's text, from a row's columns: pure, for the gateway. May raise CannotDecrypt."""
    return decrypt(encryption_key_id, ciphertext, associated_data(tenant_id, row_id))


def reencrypt_all() -> int:
    """Encrypt every row under the newest key → how many changed. Then the older keys can be removed."""
    newest_id = encryption_keys()[0].id
    changed = 0
    stale = ProviderCredential.objects.exclude(encryption_key_id=newest_id).values_list("pk", flat=True)
    for row_id in list(stale):
        with transaction.atomic():
            row = ProviderCredential.objects.select_for_update().get(pk=row_id)
            plaintext = open_credential(row.tenant_id, row.pk, row.encryption_key_id, row.ciphertext)
            row.encryption_key_id, row.ciphertext = encrypt(plaintext, associated_data(row.tenant_id, row.pk))
            row.save(update_fields=["encryption_key_id", "ciphertext"])
            changed += 1
    return changed


def associated_data(tenant_id: int | None, row_id: int) -> str:
    """What a ciphertext is bound to: a row copied to another tenant or another id does not open."""
    return f"exchequer|provider-credential|{tenant_id or 0}|{row_id}"


def credential_facts(credential: ProviderCredential) -> dict[str, object]:
    """What the audit trail keeps of a credential: never its text."""
    return {
        "label": credential.label,
        "hint": credential.hint,
        "encryption_key_id": credential.encryption_key_id,
        "disabled_at": credential.disabled_at,
    }
