"""Secrets at rest: one derived key per purpose, rotation, and ciphertexts that cannot be moved."""

import pytest
from django.core.exceptions import ValidationError
from django.db import connection

from governance.audit.models import AuditEvent
from tenants import credentials, secrets
from tenants.models import ProviderCredential, Tenant
from tenants.scope import platform_scope, tenant_scope

CLAUDE_KEY = "sk-ant-api03-planted-Zq81-tail"


def test_one_configured_secret_gives_a_different_key_for_each_purpose(settings) -> None:
    shared = secrets.new_secret()
    settings.KEY_PEPPERS = settings.ENCRYPTION_KEYS = [shared]
    pepper, encryption_key = secrets.key_peppers()[0].key, secrets.encryption_keys()[0].key
    assert pepper != encryption_key
    assert shared.partition(":")[2] not in repr(secrets.key_peppers())


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [""],
        ["one:"],
        ["one:c2hvcnQ="],
        ["one:" + "AAAA" * 10 + "AAA="],
        ["no-id" + secrets.new_secret()],
        ["one:!!!"],
        ["one:" + secrets.new_secret().partition(":")[2]] * 2,
    ],
)
def test_a_missing_weak_or_malformed_secret_is_refused_without_showing_it(settings, entries) -> None:
    settings.KEY_PEPPERS = entries
    with pytest.raises(secrets.SecretsMisconfigured, match="EXCHEQUER_KEY_PEPPERS") as refusal:
        secrets.key_peppers()
    for entry in entries:
        assert not entry.partition(":")[2] or entry.partition(":")[2] not in str(refusal.value)


def test_a_credential_is_stored_encrypted_and_opens_only_where_it_was_written(
    alice: Tenant, bob: Tenant
) -> None:
    with tenant_scope(alice.pk):
        one = credentials.add_credential(alice, "main", CLAUDE_KEY)
        two = credentials.add_credential(alice, "spare", CLAUDE_KEY)
    stored = bytes(one.ciphertext)
    assert CLAUDE_KEY.encode() not in stored
    assert stored != bytes(two.ciphertext)
    assert one.hint == "tail"
    assert credentials.open_credential(alice.pk, one.pk, one.encryption_key_id, stored) == CLAUDE_KEY
    for tenant_id, row_id in [(bob.pk, one.pk), (None, one.pk), (alice.pk, two.pk)]:
        with pytest.raises(secrets.CannotDecrypt):
            credentials.open_credential(tenant_id, row_id, one.encryption_key_id, stored)
    with pytest.raises(secrets.CannotDecrypt):
        credentials.open_credential(alice.pk, one.pk, one.encryption_key_id, stored[:-1] + b"\0")


def test_a_credential_appears_in_no_other_column_and_no_audit_event(alice: Tenant) -> None:
    with tenant_scope(alice.pk):
        credential = credentials.add_credential(alice, "main", CLAUDE_KEY)
        credentials.disable_credential(credential)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT to_jsonb(c)::text FROM tenants_providercredential c WHERE id = %s", [credential.pk]
        )
        assert CLAUDE_KEY not in cursor.fetchone()[0]
    for event in AuditEvent.objects.filter(tenant_id=alice.pk):
        assert CLAUDE_KEY not in f"{event.before} {event.after} {event.target_label}"
    assert CLAUDE_KEY not in repr(vars(credential))


@pytest.mark.parametrize("plaintext", ["", "short", "a" * 513, "with space in the middle", "new\nline" * 3])
def test_text_that_cannot_be_a_header_is_no_credential(alice: Tenant, plaintext: str) -> None:
    with tenant_scope(alice.pk), pytest.raises(ValidationError):
        credentials.add_credential(alice, "main", plaintext)


def test_rotating_the_encryption_key_moves_every_row_and_loses_none(alice: Tenant, settings) -> None:
    original = list(settings.ENCRYPTION_KEYS)
    with platform_scope():
        credentials.reencrypt_all()
        row = credentials.add_credential(alice, "main", CLAUDE_KEY)
        newest = secrets.new_secret()
        settings.ENCRYPTION_KEYS = [newest, *original]
        try:
            assert credentials.reencrypt_all() >= 1
            moved = ProviderCredential.objects.get(pk=row.pk)
            assert moved.encryption_key_id == newest.partition(":")[0] != row.encryption_key_id
            assert credentials.reencrypt_all() == 0
            settings.ENCRYPTION_KEYS = [newest]
            opened = credentials.open_credential(
                alice.pk, moved.pk, moved.encryption_key_id, bytes(moved.ciphertext)
            )
            assert opened == CLAUDE_KEY
        finally:
            settings.ENCRYPTION_KEYS = [*original, newest]
            credentials.reencrypt_all()


def test_a_credential_under_a_key_that_is_gone_says_which_key_to_bring_back(alice: Tenant, settings) -> None:
    with tenant_scope(alice.pk):
        row = credentials.add_credential(alice, "main", CLAUDE_KEY)
    settings.ENCRYPTION_KEYS = [secrets.new_secret()]
    with pytest.raises(secrets.CannotDecrypt, match=f"“{row.encryption_key_id}”"):
        credentials.open_credential(alice.pk, row.pk, row.encryption_key_id, bytes(row.ciphertext))


def test_two_credentials_are_live_at_once_and_disabling_is_final(alice: Tenant) -> None:
    with tenant_scope(alice.pk):
        old = credentials.add_credential(alice, "old", CLAUDE_KEY)
        credentials.add_credential(alice, "new", CLAUDE_KEY)
        assert ProviderCredential.objects.filter(disabled_at=None).count() == 2
        disabled = credentials.disable_credential(old)
        assert credentials.disable_credential(old).disabled_at == disabled.disabled_at
        assert [row.label for row in ProviderCredential.objects.filter(disabled_at=None)] == ["new"]


def test_a_sealed_reply_opens_only_with_what_it_was_sealed_for(settings) -> None:
    sealed = secrets.seal_reply(b"a reply", b"tenant 1")
    assert b"a reply" not in sealed
    assert secrets.open_reply(sealed, b"tenant 1") == b"a reply"
    assert secrets.open_reply(sealed, b"tenant 2") is None
    assert all(secrets.open_reply(junk, b"tenant 1") is None for junk in (b"", b":", b"k1:", sealed[:-1]))
    original = list(settings.ENCRYPTION_KEYS)
    settings.ENCRYPTION_KEYS = [secrets.new_secret(), *original]
    assert secrets.open_reply(sealed, b"tenant 1") == b"a reply"
    settings.ENCRYPTION_KEYS = [secrets.new_secret()]
    assert secrets.open_reply(sealed, b"tenant 1") is None


def test_credentials_and_replies_are_sealed_with_different_keys() -> None:
    identifier, sealed = secrets.encrypt("a secret", "tenant 1")
    assert secrets.decrypt(identifier, sealed, "tenant 1") == "a secret"
    # The same bytes under the same name open as no reply: another purpose, another key.
    assert secrets.open_reply(identifier.encode() + b":" + sealed, b"tenant 1") is None
