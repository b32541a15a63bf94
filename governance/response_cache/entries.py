"""One kept reply: what it says, and how it is sealed for its tenant and digest alone."""

from typing import Any

import msgspec
from django.conf import settings
from django.core.cache.backends.base import get_key_func

from governance.core.usage import Pass
from tenants.secrets import open_reply, seal_reply

ALIAS = "responses"
TTL_SECONDS_MAX = 30 * 86_400
_KIND = "response cache v1"


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A complete reply as its first caller got it. `stored_at`: Unix seconds. `purges_seen`: the newest purge
    of the tenant when its call began. `headers`: those that may be sent again. `passes`: what was used."""

    stored_at: float
    purges_seen: int
    asked_model: str
    served_model: str
    tags: dict[str, str]
    is_stream: bool
    headers: list[tuple[bytes, bytes]]
    body: bytes
    passes: tuple[Pass, ...]
    cost_nanos: int
    list_nanos: int
    call_id: str
    facts: str = ""
    fingerprints: bytes = b""
    cache_digest: bytes = b""
    """What calls/request_facts.py tells of the request, the same for everybody who sends it; "" where its
    caller asked for something else than was sent."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


def sealed(entry: Entry, tenant_id: int, digest: bytes) -> bytes:
    """What is kept in Valkey."""
    return seal_reply(_encode(entry), _owner(tenant_id, digest))


def opened(value: bytes, tenant_id: int, digest: bytes) -> Entry | None:
    """The entry; None for anything that `sealed` did not write for this tenant and digest."""
    plain = open_reply(value, _owner(tenant_id, digest))
    if plain is None:
        return None
    try:
        return _decode(plain)
    except msgspec.DecodeError:  # written by another version of ours
        return None


def _owner(tenant_id: int, digest: bytes) -> bytes:
    return b"%b %d %b" % (_KIND.encode(), tenant_id, digest)


class Names:
    """Where entries are in Valkey: as django-redis names them for the alias, without importing it."""

    def __init__(self) -> None:
        options: dict[str, Any] = settings.CACHES[ALIAS]
        self._function = get_key_func(options.get("KEY_FUNCTION"))
        self._prefix = options.get("KEY_PREFIX", "")
        self._version = options.get("VERSION", 1)

    def entry(self, digest: bytes) -> str:
        return str(self._function(digest.hex(), self._prefix, self._version))

    def lease(self, digest: bytes) -> str:
        """Who is making that entry just now."""
        return str(self._function(f"{digest.hex()}:lease", self._prefix, self._version))
