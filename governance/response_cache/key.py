"""What makes two requests the same one: a digest over everything that can change the answer. Pure."""

import hashlib
from collections.abc import Collection, Iterable
from typing import Literal

import msgspec

type ScopeKind = Literal["tenant", "team", "key"]

DIGEST_BYTES = 32
UNLIKE_IN_NOTHING = frozenset(
    ("anthropic-version", "anthropic-beta", "anthropic-dangerous-direct-browser-access")
)
"""Headers that are told apart by themselves, or that say something about the client alone."""

_encode = msgspec.json.Encoder().encode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def entry_digest(
    *,
    secret: bytes,
    tenant_id: int,
    scope_kind: ScopeKind,
    scope_id: int,
    model: str,
    version: str,
    betas: Iterable[str],
    headers: Iterable[tuple[str, str]],
    query: str,
    body: bytes,
    volatile: Collection[str],
    also: Collection[str],
    account: int | None,
    ladder: msgspec.Struct | None,
) -> bytes:
    """32 bytes. Whose entries are shared has no default: a caller that forgets it fails.

    `secret`: the tenant's own, so that whoever reads Valkey cannot try out what was asked. `headers`: those
    that go upstream, of which only anthropic-* count; in any order. `body`: one JSON object that was accepted
    before, so no key is in it twice. `volatile`: top-level fields that make no difference to this rule;
    another rule, to which they do, is given none of its answers.
    `also`: what the rule keeps that others do not, so that they do not get it either; signed thinking is of
    use with one `account` upstream only. `ladder`: the cascade that the answer has passed or come to, so that
    no answer which was not checked is taken for one that was, nor a better model's for the cheap one's.
    """
    others = sorted(
        f"{name}={value}"
        for name, value in headers
        if name.startswith("anthropic-") and name not in UNLIKE_IN_NOTHING
    )
    kept = [sorted(volatile), *sorted(also), account if "thinking" in also else None]
    head = [tenant_id, scope_kind, scope_id, model, version, sorted(betas), others, query, kept, ladder]
    parts: list[bytes | msgspec.Raw] = [secret, _encode(head)]
    for name, value in sorted(_decode_fields(body).items()):
        if name != "stream" and name not in volatile:
            # With its length in front no value can pretend to be two.
            parts += b"\n%b %d\n" % (name.encode(), len(value)), value
    return hashlib.sha256(b"".join(parts)).digest()
