"""Secrets at rest: peppers for key digests, and keys that encrypt provider credentials and kept replies.

Both come from the environment as `id:base64(32 bytes)`, newest first, several at once so that they can
be rotated. They are never used as they are: HKDF derives one key per purpose, so that what leaks in one
place opens nothing elsewhere. The id of the secret that was used stands in each row.
"""

import base64
import binascii
import hmac
import os
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

SECRET_BYTES = 32
NONCE_BYTES = 12
SECRET_ID_LENGTH_MAX = 32


class SecretsMisconfigured(RuntimeError):
    """No usable secret in the environment. The message says what to set."""


class CannotDecrypt(RuntimeError):
    """The stored secret cannot be opened: its encryption key is not configured, or the row was moved."""


@dataclass(frozen=True, slots=True)
class Secret:
    """One configured secret, already derived for its purpose."""

    id: str
    key: bytes = field(repr=False)


def new_secret() -> str:
    """A fresh `id:base64` entry for EXCHEQUER_KEY_PEPPERS or EXCHEQUER_ENCRYPTION_KEYS."""
    return f"{os.urandom(4).hex()}:{base64.b64encode(os.urandom(SECRET_BYTES)).decode()}"


def key_peppers() -> tuple[Secret, ...]:
    """What API keys are digested with; new keys use the first."""
    return _derived("EXCHEQUER_KEY_PEPPERS", tuple(settings.KEY_PEPPERS), "exchequer api key digest v1")


def encryption_keys() -> tuple[Secret, ...]:
    """What provider credentials are encrypted with; new rows use the first."""
    entries = tuple(settings.ENCRYPTION_KEYS)
    return _derived("EXCHEQUER_ENCRYPTION_KEYS", entries, "exchequer provider credential v1")


def fingerprint_key(tenant_id: int) -> bytes:
    """What the tenant's call facts are fingerprinted with (calls/request_facts.py), 32 bytes.

    From the oldest pepper, so that adding one does not make a tenant's calls strangers to each other.
    """
    entries = tuple(settings.KEY_PEPPERS)
    secret = _derived("EXCHEQUER_KEY_PEPPERS", entries, "exchequer call fingerprint v1")[-1]
    return hmac.digest(secret.key, str(tenant_id).encode(), "sha256")


def encrypt(plaintext: str, associated: str) -> tuple[str, bytes]:
    """→ (id of the encryption key, nonce + AES-GCM ciphertext), openable only with the same `associated`."""
    secret = encryption_keys()[0]
    nonce = os.urandom(NONCE_BYTES)
    return secret.id, nonce + AESGCM(secret.key).encrypt(nonce, plaintext.encode(), associated.encode())


def decrypt(encryption_key_id: str, ciphertext: bytes, associated: str) -> str:
    """The plaintext. CannotDecrypt when the key is gone or the row is not the one that was written."""
    for secret in encryption_keys():
        if secret.id == encryption_key_id:
            nonce, sealed = bytes(ciphertext[:NONCE_BYTES]), bytes(ciphertext[NONCE_BYTES:])
            try:
                return AESGCM(secret.key).decrypt(nonce, sealed, associated.encode()).decode()
            except InvalidTag:
                raise CannotDecrypt(
                    "A stored credential does not open with its encryption key: the row was changed or "
                    "moved. Add the credential again and disable this one."
                ) from None
    raise CannotDecrypt(
        f"A stored credential was encrypted with key “{encryption_key_id}”, which is not in "
        "EXCHEQUER_ENCRYPTION_KEYS. Put that key back at the end of the list, or add the credential again."
    )


def seal_reply(plaintext: bytes, associated: bytes) -> bytes:
    """Encrypt a reply that is kept for a while; only `open_reply` with the same `associated` opens it.

    The id of the key stands in front: what is kept outlives a rotation for as long as the old key is listed.
    """
    head, cipher = _reply_ciphers(tuple(settings.ENCRYPTION_KEYS))[0]
    nonce = os.urandom(NONCE_BYTES)
    return head + nonce + cipher.encrypt(nonce, plaintext, associated)


def open_reply(sealed: bytes, associated: bytes) -> bytes | None:
    """The reply, or None for anything that `seal_reply` did not write for this very `associated`."""
    for head, cipher in _reply_ciphers(tuple(settings.ENCRYPTION_KEYS)):
        begin = len(head) + NONCE_BYTES
        if sealed.startswith(head) and len(sealed) > begin:
            try:
                return cipher.decrypt(sealed[len(head) : begin], sealed[begin:], associated)
            except InvalidTag:
                return None
    return None


@lru_cache(maxsize=8)
def _reply_ciphers(entries: tuple[str, ...]) -> tuple[tuple[bytes, AESGCM], ...]:
    """What a reply begins with, and what opens it; the newest first."""
    secrets = _derived("EXCHEQUER_ENCRYPTION_KEYS", entries, "exchequer kept reply v1")
    return tuple((secret.id.encode() + b":", AESGCM(secret.key)) for secret in secrets)


@lru_cache(maxsize=8)
def _derived(variable: str, entries: tuple[str, ...], purpose: str) -> tuple[Secret, ...]:
    if not entries:
        raise SecretsMisconfigured(
            f"{variable} is not set. Set it to “id:base64 of {SECRET_BYTES} random bytes”, newest first, "
            "separated by commas; `make up` writes one to .local/secrets.env."
        )
    secrets = [_derive(variable, entry, purpose) for entry in entries]
    if len({secret.id for secret in secrets}) != len(secrets):
        raise SecretsMisconfigured(f"{variable} has the same id twice; give each secret an id of its own.")
    return tuple(secrets)


def _derive(variable: str, entry: str, purpose: str) -> Secret:
    secret_id, _, encoded = entry.strip().partition(":")
    try:
        root = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        root = b""
    well_named = secret_id.isalnum() and secret_id.isascii() and len(secret_id) <= SECRET_ID_LENGTH_MAX
    if len(root) != SECRET_BYTES or len(set(root)) == 1 or not well_named:
        raise SecretsMisconfigured(
            f"{variable} has an entry that is not “id:base64 of {SECRET_BYTES} random bytes” "
            f"(the id being 1 to {SECRET_ID_LENGTH_MAX} letters and digits)."
        )
    derivation = HKDF(algorithm=SHA256(), length=SECRET_BYTES, salt=None, info=purpose.encode())
    return Secret(secret_id, derivation.derive(root))
