"""A request's headers, read once: what concerns us, and what goes upstream byte for byte."""

import re
from collections.abc import Iterable, Mapping

import msgspec
from django.core.exceptions import ValidationError

from governance.gateway.errors import CallRefused, invalid
from governance.routing.document import LatencyClass
from tenants.validators import TAGS_MAX, validate_tags

_FORWARDED = {b"user-agent", b"content-type"}
_FORWARDED_PREFIXES = (b"anthropic-", b"x-stainless-")
_READ = {
    b"x-api-key",
    b"authorization",
    b"content-type",
    b"content-encoding",
    b"content-length",
    b"exchequer-tags",
    b"exchequer-latency-class",
    b"exchequer-dry-run",
    b"exchequer-route",
    b"exchequer-cache-control",
    b"idempotency-key",
    b"anthropic-version",
    b"anthropic-beta",
    b"x-claude-code-session-id",
    b"user-agent",
    b"traceparent",
}
_IDEMPOTENCY_KEY = re.compile(rb"[!-~]{1,255}")
_NAMES_KEPT_MAX = 256
_HEADERS_KEPT_MAX = 1024
_HEADER_KEPT_BYTES_MAX = 128
_TEXT_LENGTH_MAX = 256

LATENCY_CLASSES: tuple[LatencyClass, ...] = ("interactive", "background", "batch")

_plans: dict[bytes, tuple[str | None, bool]] = {}
"""Header name → (the name that it is forwarded under, if it is; whether we read it). Clients send the same
few names on every request."""
_forwarded: dict[tuple[bytes, bytes], tuple[str, str]] = {}
"""Headers as they are forwarded; most of a client's are the same on every request."""


class Inbound(msgspec.Struct):
    """`forward` is what upstream gets, in order; the rest is for us."""

    forward: list[tuple[str, str]] = []
    credentials: set[bytes] = msgspec.field(default_factory=set)
    content_type: bytes = b""
    content_encoding: bytes = b""
    content_length: int | None = None
    tags: str = ""
    idempotency_key: str | None = None
    latency: LatencyClass = "interactive"
    dry_run: bool = False
    as_asked: bool = False
    cache_control: str = ""
    cache_max_age_seconds: int | None = None
    version: str = ""
    beta: list[str] = []
    session: str | None = None
    user_agent: str | None = None
    traceparent: str | None = None


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> Inbound:
    """ASGI's headers (names in lower case) → Inbound. CallRefused for one of ours that cannot be read."""
    inbound = Inbound()
    for name, value in raw:
        forward_as, read = _plans.get(name) or _plan(name)
        if forward_as is not None:
            inbound.forward.append(_forwarded.get((name, value)) or _forward(forward_as, name, value))
        if read:
            _read(inbound, name, value)
    return inbound


def _forward(forward_as: str, name: bytes, value: bytes) -> tuple[str, str]:
    header = forward_as, _text(name, value)
    if len(_forwarded) < _HEADERS_KEPT_MAX and len(value) <= _HEADER_KEPT_BYTES_MAX:
        _forwarded[name, value] = header
    return header


def _plan(name: bytes) -> tuple[str | None, bool]:
    forwarded = name.startswith(_FORWARDED_PREFIXES) or name in _FORWARDED
    plan = (name.decode("ascii") if forwarded else None, name in _READ)
    if len(_plans) < _NAMES_KEPT_MAX:
        _plans[name] = plan
    return plan


def _read(inbound: Inbound, name: bytes, value: bytes) -> None:
    match name:
        case b"x-api-key":
            if value.strip():
                inbound.credentials.add(value.strip())
        case b"authorization":
            scheme, _, credential = value.partition(b" ")
            if scheme.lower() == b"bearer" and credential.strip():
                inbound.credentials.add(credential.strip())
        case b"content-type":
            inbound.content_type = value.partition(b";")[0].strip().lower()
        case b"content-encoding":
            inbound.content_encoding = value.strip().lower()
        case b"content-length":
            inbound.content_length = int(value) if value.isdigit() else None
        case b"exchequer-tags":
            inbound.tags = _text(name, value)
        case b"exchequer-latency-class":
            inbound.latency = _one_of(name, value, LATENCY_CLASSES)
        case b"exchequer-dry-run":
            inbound.dry_run = _one_of(name, value, ("true", "false")) == "true"
        case b"exchequer-route":
            inbound.as_asked = _one_of(name, value, ("as-asked", "policy")) == "as-asked"
        case b"exchequer-cache-control":
            _read_cache_control(inbound, value)
        case b"idempotency-key":
            if inbound.idempotency_key is not None or not _IDEMPOTENCY_KEY.fullmatch(value):
                raise invalid(
                    "bad_idempotency_key",
                    "The header Idempotency-Key must be sent once and have 1 to 255 visible ASCII "
                    "characters. A UUID will do.",
                )
            inbound.idempotency_key = value.decode("ascii")
        case b"anthropic-version":
            inbound.version = _text(name, value)
        case b"anthropic-beta":
            inbound.beta += [beta.strip() for beta in _text(name, value).split(",") if beta.strip()]
        case b"x-claude-code-session-id":
            inbound.session = _text(name, value)[:_TEXT_LENGTH_MAX]
        case b"user-agent":
            inbound.user_agent = _text(name, value)[:_TEXT_LENGTH_MAX]
        case b"traceparent":
            inbound.traceparent = _text(name, value)[:64]


def _one_of[Word: str](name: bytes, value: bytes, words: tuple[Word, ...]) -> Word:
    given = value.strip().lower().decode("ascii", "replace")
    for word in words:
        if word == given:
            return word
    raise invalid(
        "bad_header", f"The header {name.decode('ascii')} must be {' or '.join(words)}, not “{given[:40]}”."
    )


def _read_cache_control(inbound: Inbound, value: bytes) -> None:
    """no-store: neither look it up nor keep it; no-cache: keep it only; max-age: none that is older."""
    given = value.strip().lower().decode("ascii", "replace")
    name, _, seconds = given.partition("=")
    if given in ("no-store", "no-cache"):
        inbound.cache_control = given
    elif name == "max-age" and seconds.isdecimal() and len(seconds) <= 9:
        inbound.cache_max_age_seconds = int(seconds)
    else:
        raise invalid(
            "bad_header",
            "The header exchequer-cache-control must be no-store, no-cache or max-age=SECONDS, not "
            f"“{given[:40]}”.",
        )


def _text(name: bytes, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise invalid("bad_header", f"The header {name.decode('ascii')} is not UTF-8.") from None


def merged_tags(header: str, defaults: Mapping[str, str], required: Iterable[str]) -> dict[str, str]:
    """The key's default tags with those of `exchequer-tags: endpoint=faq,feature=search` over them."""
    tags = dict(defaults)
    if header:
        for part in header.split(","):
            name, equals, value = part.partition("=")
            if not equals:
                raise _bad_tags(f"“{part.strip()[:80]}” is not name=value")
            tags[name.strip()] = value.strip()
        try:
            validate_tags(tags)
        except ValidationError as error:
            raise _bad_tags(" ".join(error.messages).rstrip(".")) from None
    missing = [name for name in required if not tags.get(name)]
    if missing:
        raise invalid(
            "required_tag_missing",
            f"This key requires the tag{'s' if missing[1:] else ''} {', '.join(missing)}. Send "
            f"“exchequer-tags: {','.join(f'{name}=…' for name in missing)}”.",
        )
    return tags


def _bad_tags(why: str) -> CallRefused:
    return invalid(
        "bad_tags",
        f"The header exchequer-tags cannot be read: {why}. Write it like endpoint=faq,feature=search, "
        f"with at most {TAGS_MAX} tags.",
    )
