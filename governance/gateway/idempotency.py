"""`Idempotency-Key`: one upstream call under a key, whoever repeats it, and its reply for those who do.

The claim is a row that is taken in the transaction of the hold (desk/models.py): it decides. The reply is in
Valkey (kept_replies.py): it may be gone, and then a repetition is told so instead of being called again.

    the first call is in flight     409, retry-after: SDKs come back by themselves
    it was charged, reply kept      the reply, byte for byte, for nothing
    it was charged, reply gone      409, do not retry
    Valkey does not answer          409, retry-after
    it was voided                   no claim is left: the repetition is the first call
    the key was for something else  422
"""

import asyncio
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from governance.calls.models import Outcome
from governance.desk.items import Claim, Claimed
from governance.gateway import call_record
from governance.gateway.errors import DO_NOT_RETRY, CallRefused, Refusal, retry_after
from governance.gateway.kept_replies import OutOfReach, Reply
from governance.gateway.responses import PRIVATE, GatewayResponse, Headers

if TYPE_CHECKING:
    from governance.gateway.attempt import Attempt
    from governance.gateway.exchange import Exchange

DIGEST_IN_THREAD_BYTES = 1024 * 1024
RETRY_SECONDS_MAX = 30
_OF_ONE_SENDING = {
    b"cache-control",
    b"content-length",
    b"exchequer-budget-remaining-usd",
    b"exchequer-call-id",
    b"exchequer-cost-usd",
    b"exchequer-decision",
    b"vary",
}

_encode = msgspec.json.Encoder().encode


class KeyTaken(Exception):
    """Another call was made under this key: `first`."""

    def __init__(self, first: Claimed) -> None:
        super().__init__()
        self.first = first


async def claim(exchange: "Exchange") -> Claim:
    """The claim of a call that has an Idempotency-Key."""
    key, inbound = exchange.key, exchange.inbound
    assert inbound.idempotency_key is not None
    asked = _encode([inbound.version, inbound.beta, exchange.query])  # the rest of what is asked for
    if len(exchange.body) > DIGEST_IN_THREAD_BYTES:
        digest = await asyncio.to_thread(_digest, asked, exchange.body)
    else:
        digest = _digest(asked, exchange.body)
    return Claim(key.lineage_id, inbound.idempotency_key, digest, exchange.id)


def _digest(asked: bytes, body: bytes) -> bytes:
    digest = hashlib.sha256(asked)
    digest.update(body)
    return digest.digest()


def keep(attempt: "Attempt", status: int, headers: Headers, body: bytes, settle: Callable[[], None]) -> None:
    """Keep the complete reply of a call that has a claim, then settle it."""
    exchange = attempt.exchange
    kept = [header for header in headers if not _is_of_one_sending(header[0])]
    exchange.gateway.kept_replies.keep(
        attempt.hold_id, _associated(exchange), Reply(status, kept, body), settle
    )


async def replay(exchange: "Exchange", first: Claimed) -> GatewayResponse:
    """What a repetition gets. CallRefused unless the first call's reply is there."""
    assert exchange.claim is not None
    if first.call_id is not None:
        exchange.decision["first_call"] = str(first.call_id)
    if first.body_digest is not None and first.body_digest != exchange.claim.body_digest:
        raise CallRefused(_other_request(first))
    if first.in_flight:
        raise CallRefused(_in_flight(first))
    assert first.hold_id is not None
    try:
        reply = await exchange.gateway.kept_replies.find(first.hold_id, _associated(exchange))
    except OutOfReach:
        raise CallRefused(_OUT_OF_REACH) from None
    if reply is None:
        raise CallRefused(_reply_gone(first))
    exchange.first_byte_ms = exchange.elapsed_ms()
    exchange.gateway.record(call_record.of_call(exchange, Outcome.SERVED, reply.status, "replayed"))
    headers = [
        *reply.headers,
        (b"exchequer-call-id", str(exchange.id).encode()),
        (b"exchequer-decision", exchange.decision_header),
        (b"exchequer-replayed", b"true"),
        *PRIVATE,
        (b"exchequer-cost-usd", b"0.00"),
        (b"content-length", b"%d" % len(reply.body)),
    ]
    return GatewayResponse(reply.status, headers, reply.body)


def _is_of_one_sending(name: bytes) -> bool:
    """A header that is written anew, or left out, when the reply is sent again."""
    return name in _OF_ONE_SENDING or name.startswith(b"anthropic-ratelimit-")


def _associated(exchange: "Exchange") -> bytes:
    """What a kept reply belongs to, beside its hold: nobody else's call opens it."""
    mine = exchange.claim
    assert mine is not None
    return _encode([exchange.key.tenant.id, mine.lineage_id, mine.idempotency_key, mine.body_digest])


def _other_request(first: Claimed) -> Refusal:
    return Refusal(
        422,
        "invalid_request_error",
        "idempotency_key_reused",
        f"This Idempotency-Key was sent with a different request before (call {first.call_id}). Send a key "
        "again only with the same body and the same anthropic-version and anthropic-beta, and a new key with "
        "everything else.",
    )


def _in_flight(first: Claimed) -> Refusal:
    # Twice as long each time: an SDK gives up after a few tries, and long calls deserve more of its patience.
    seconds = min(first.age_seconds + 1, RETRY_SECONDS_MAX)
    return Refusal(
        409,
        "conflict_error",
        "idempotency_key_in_flight",
        "The call with this Idempotency-Key is still in flight. Its reply will be sent to whoever repeats "
        f"the request once it has ended: try again in {seconds} second{'s' if seconds > 1 else ''}.",
        retry_after(seconds),
    )


_OUT_OF_REACH = Refusal(
    409,
    "conflict_error",
    "idempotency_reply_out_of_reach",
    "The call with this Idempotency-Key has ended and was charged, and its reply cannot be read at the "
    "moment. Try again in 2 seconds.",
    retry_after(2),
)


def _reply_gone(first: Claimed) -> Refusal:
    return Refusal(
        409,
        "conflict_error",
        "idempotency_reply_gone",
        f"The call with this Idempotency-Key has ended and was charged (call {first.call_id}), and its reply "
        "is no longer kept. To make the call again, and to pay for it again, send a new Idempotency-Key.",
        DO_NOT_RETRY,
    )
