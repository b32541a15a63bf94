"""A question of our own to a model, on the way of a call: to classify it, to sum something up.

Its attempt is one of the call's. Whatever comes of it, the call goes on.
"""

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from governance.gateway import admission, earlier, other_model
from governance.gateway.attempt import Attempt
from governance.gateway.bound import worst_case
from governance.gateway.charging import Charge
from governance.gateway.errors import CallRefused
from governance.gateway.relay import is_proof
from governance.gateway.request import Request, read_request
from governance.routing.capabilities import THINKING_ROOM_TOKENS, capabilities_of, least_thinking
from governance.upstream.failures import Lost, NotReached, TimedOut

if TYPE_CHECKING:
    from governance.gateway.exchange import Exchange

REPLY_BYTES_MAX = 64 * 1024
_encode = msgspec.json.Encoder().encode
_HEADERS = (("content-type", "application/json"), ("anthropic-version", "2023-06-01"))


class _Block(msgspec.Struct):
    type: str = ""
    text: str = ""


_decode_content = msgspec.json.Decoder(list[_Block]).decode


def question(exchange: "Exchange", model: str, *, system: str, text: str, max_tokens: int) -> Request:
    """What that model is asked. `text` may be anything that a client wrote; it is not thought about, and by a
    model that always thinks as little as it can, with room for that beside the answer."""
    facts = exchange.key.tenant.book.model(model)
    takes = capabilities_of(facts) if facts is not None else None
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": max_tokens,
        "system": system,
        "messages": [{"role": "user", "content": _sendable(text)}],
    }
    least = least_thinking(takes) if takes is not None else None
    if least is not None:
        body["thinking"] = {"type": least}
    else:
        body["max_tokens"] += THINKING_ROOM_TOKENS
        if takes is not None and takes.efforts:
            body["output_config"] = {"effort": takes.efforts[0]}
    return read_request(_encode(body))


def digest(exchange: "Exchange", model: str, instruction: str, text: str) -> bytes:
    """16 bytes under which the answer to such a question is remembered: never the same for two tenants."""
    tenant = exchange.key.tenant
    asked = f"{tenant.id} {model} {instruction} {text}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(asked, key=tenant.fingerprint_key[:64], digest_size=16).digest()


async def ask(exchange: "Exchange", question: Request, purpose: str, seconds_max: float) -> tuple[bytes, str]:
    """The answer's raw content, or b"" and why there is none, in a word. KeyTaken when another call was made
    under the Idempotency-Key, which the call's first hold finds out."""
    why_not = other_model.why_not_allowed(exchange, question.model)
    if why_not is not None:
        return b"", why_not
    aside = exchange.aside(question)
    try:
        attempt = await admission.hold(aside, worst_case(aside), purpose, waits=False)
    except CallRefused as error:
        return b"", error.refusal.reason
    aside.earlier = earlier.of(exchange)
    return await _asked(attempt, seconds_max)


async def _asked(attempt: Attempt, seconds_max: float) -> tuple[bytes, str]:
    """Send it and wait for its answer. Then the attempt has ended: what it costs is known, and the call's
    next hold may follow it."""
    charge: Charge | None = attempt.promise.full_hold("the answer did not come in time")
    why, proof, content = "late", None, b""
    try:
        async with asyncio.timeout(seconds_max):
            charge, proof, content = await _answer(attempt)
        why = "no_answer" if charge is None else ""
    except NotReached as error:
        charge, why, proof = None, "unreachable", f"no connection was made: {error}"
    except (Lost, TimedOut) as error:
        charge, why = attempt.promise.full_hold(f"outcome unknown: {error}"), "no_answer"
    except TimeoutError:
        pass
    finally:
        earlier.of(attempt.exchange).ended(attempt, charge, proof)
    return content, why


def text_of(content: bytes) -> str:
    """The text in a reply's raw content; "" where it cannot be read."""
    try:
        blocks = _decode_content(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return " ".join(block.text for block in blocks if block.type == "text")


def _sendable(text: str) -> str:
    """Without what JSON could not carry, or our own reading of a request refuses."""
    return text.encode("utf-8", "replace").decode().replace("\0", " ")


async def _answer(attempt: Attempt) -> tuple[Charge | None, str | None, bytes]:
    aside = attempt.exchange
    upstream = await aside.gateway.upstream.send(
        "POST",
        "/v1/messages",
        body=aside.request.body,
        headers=[*_HEADERS, *aside.key.tenant.upstream_headers],
    )
    attempt.began(upstream.status, upstream.headers.get("request-id"))
    aside.gateway.quotas.heard(aside, upstream)
    body = await upstream.read_all(REPLY_BYTES_MAX)
    encoding = upstream.headers.get("content-encoding", "").lower()
    if upstream.status == 200:
        charge, content = attempt.promise.message(body, encoding)
        return charge, None, content
    if is_proof(upstream.status, body, encoding):
        return None, f"upstream answered {upstream.status} before any output", b""
    return attempt.promise.full_hold(f"outcome unknown: {upstream.status}"), None, b""
