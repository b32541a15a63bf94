"""Upstream's answer to the client, byte for byte, with the usage read on the side.

What is stripped or added are headers only: hop-by-hop, quota and organisation headers go, ours come.
"""

import asyncio
from collections.abc import AsyncIterator
from functools import lru_cache
from time import monotonic

import msgspec

from governance.calls.models import Outcome
from governance.core.money import nanos_to_usd
from governance.gateway import errors, facts, idempotency
from governance.gateway.attempt import Attempt
from governance.gateway.charging import Charge
from governance.gateway.errors import Refusal, envelope, error_body
from governance.gateway.exchange import VISIBLE, Exchange
from governance.gateway.responses import GatewayResponse
from governance.gateway.sse import UNDECODABLE, StreamTap, UnreadableEncoding, unpacked
from governance.routing.route import Route
from governance.upstream.connection import Reply
from governance.upstream.failures import Lost, TimedOut

REPLY_BYTES_MAX = 64 * 1024 * 1024
CLIENT_CLOSED = 499
OVERLOADED = 529
"""A status that only the API itself answers with."""
WARN_PERCENTS = (95, 75)

_STRIPPED = frozenset(
    (
        b"alt-svc",
        b"anthropic-organization-id",
        b"connection",
        b"content-length",  # ours is written from what is sent
        b"date",  # the server writes its own
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-connection",
        b"server",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_STRIPPED_PREFIXES = (b"anthropic-ratelimit-", b"anthropic-priority-", b"anthropic-fast-", b"exchequer-")


class _Error(msgspec.Struct):
    type: str


class _Envelope(msgspec.Struct, tag_field="type", tag="error"):
    error: _Error


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


@lru_cache(maxsize=512)  # upstream sends the same few names with every reply
def _passes(name: bytes) -> bool:
    lower = name.lower()
    return lower not in _STRIPPED and not lower.startswith(_STRIPPED_PREFIXES)


def response_headers(exchange: Exchange, upstream: Reply) -> list[tuple[bytes, bytes]]:
    """Upstream's headers without what is not the client's business, and ours."""
    return [header for header in upstream.raw_headers if _passes(header[0])] + own_headers(exchange)


def own_headers(exchange: Exchange) -> list[tuple[bytes, bytes]]:
    """What we say of any call that is answered, wherever its answer came from."""
    headers = [
        (b"exchequer-call-id", msgspec.json.encode(exchange.id)[1:-1]),
        (b"exchequer-decision", exchange.decision_header),
        (b"exchequer-cache", exchange.cache.encode()),
    ]
    if exchange.asked is not None:
        headers.append((b"exchequer-rewrites", ", ".join(exchange.decision["policy"]["rewrites"]).encode()))
    max_tokens = exchange.decision.get("max_tokens")  # lowered, by the key's cap or to fit in a budget
    if max_tokens is not None:
        headers.append((b"exchequer-max-tokens", b"%d" % max_tokens))
    if exchange.taken is not None:
        headers += exchange.taken.headers()
    return headers


def say_decision_again(exchange: Exchange, response: GatewayResponse) -> None:
    """More was decided after upstream's answer was made ready for the client."""
    name = b"exchequer-decision"
    response.wire_headers = [
        (given, exchange.decision_header if given == name and value.startswith(b"allowed") else value)
        for given, value in response.wire_headers
    ]


def say_cost_again(response: GatewayResponse, paid_nanos: int) -> None:
    """More was paid for the call since."""
    name, cost = b"exchequer-cost-usd", nanos_to_usd(paid_nanos).encode()
    response.wire_headers = [
        (given, cost if given == name else value) for given, value in response.wire_headers
    ]


def _header_value(text: str | None) -> bytes:
    """A text that came from outside, as it may stand in a header: a line break would begin another one."""
    return (text or "").encode("ascii", "replace").translate(VISIBLE)


def budget_headers(attempt: Attempt) -> list[tuple[bytes, bytes]]:
    """What the tightest hard budget had left when this call was admitted, its own hold taken off, and the
    warning that Claude Code shows for it."""
    figures = attempt.held.tightest
    if figures is None:
        return []
    headers = [(b"exchequer-budget-remaining-usd", nanos_to_usd(figures.left_nanos).encode())]
    passed = next((percent for percent in WARN_PERCENTS if figures.spent_percent >= percent), None)
    if passed is not None:
        headers += (
            (b"anthropic-ratelimit-unified-status", b"allowed_warning"),
            (b"anthropic-ratelimit-unified-representative-claim", b"overage"),
            (b"anthropic-ratelimit-unified-overage-utilization", b"%.2f" % (figures.spent_percent / 100)),
            (b"anthropic-ratelimit-unified-overage-surpassed-threshold", b"%.2f" % (passed / 100)),
        )
    return headers


async def relay(exchange: Exchange, attempt: Attempt, upstream: Reply) -> GatewayResponse:
    """The response to send. It resolves the attempt: now for what failed, after it has left for the rest."""
    attempt.began(upstream.status, upstream.headers.get("request-id"))
    exchange.gateway.quotas.heard(exchange, upstream)
    if upstream.status >= 400:
        return await _relay_error(exchange, attempt, upstream)
    if upstream.status >= 300:
        upstream.close()
        attempt.void(
            f"upstream answered {upstream.status}, a redirect", status=502, reason="upstream_redirect"
        )
        return envelope(errors.UPSTREAM_REDIRECT, str(exchange.id))
    if upstream.content_type == "text/event-stream":
        return EventStream(exchange, attempt, upstream).response
    return await _relay_message(exchange, attempt, upstream)


async def _relay_error(exchange: Exchange, attempt: Attempt, upstream: Reply) -> GatewayResponse:
    """Upstream's refusal as it came. It is proof that nothing was billed if the API itself wrote it: what
    stands in front of the API can give up on a request (504, 524) that the API goes on with and bills."""
    status = upstream.status
    is_proof = status < 500 or status == OVERLOADED
    proof = f"upstream answered {status} before any output"
    if is_proof:
        attempt.void(proof, status=status, reason="upstream_error")
    headers = response_headers(exchange, upstream)
    try:
        body = await upstream.read_all(REPLY_BYTES_MAX)
    except (Lost, TimedOut):
        body = None
    if not is_proof and _is_envelope(body, upstream.headers.get("content-encoding", "").lower()):
        attempt.void(proof, status=status, reason="upstream_error")
    elif not is_proof:
        charge = attempt.promise.full_hold(f"outcome unknown: {status} without the API's error envelope")
        attempt.charge(charge, outcome=Outcome.FAILED, status=status, reason="upstream_error_unproven")
    if body is None:
        return envelope(
            Refusal(status, "api_error", "upstream_error", f"The Claude API answered {status} and no more."),
            str(exchange.id),
        )
    headers.append((b"content-length", b"%d" % len(body)))
    return GatewayResponse(status, headers, body)


def is_proof(status: int, body: bytes | None, content_encoding: str) -> bool:
    """Whether such an answer proves that nothing was billed: the API itself refused the request."""
    if status < 400:
        return False
    return status < 500 or status == OVERLOADED or _is_envelope(body, content_encoding)


def _is_envelope(body: bytes | None, content_encoding: str) -> bool:
    """Whether a body is the API's own `{"type": "error", "error": {"type": …}}`."""
    try:
        return _decode_envelope(unpacked(body or b"", content_encoding)).error.type != ""
    except (UnreadableEncoding, *UNDECODABLE):
        return False


async def _relay_message(exchange: Exchange, attempt: Attempt, upstream: Reply) -> GatewayResponse:
    """A whole Message, read to its end whether or not the client is still there, and charged exactly."""
    try:
        body = await upstream.read_all(REPLY_BYTES_MAX)
    except (Lost, TimedOut) as error:
        return unknown_outcome(exchange, attempt, error)
    charge, content = attempt.promise.message(body, upstream.headers.get("content-encoding", "").lower())
    headers = response_headers(exchange, upstream)
    served = charge.passes[0].model if charge.passes else attempt.model
    headers += budget_headers(attempt)
    paid_nanos = 0 if exchange.earlier is None else exchange.earlier.paid_nanos
    headers += (
        (b"content-length", b"%d" % len(body)),
        (b"exchequer-model", _header_value(served)),
        (b"exchequer-cost-usd", nanos_to_usd(charge.cost_nanos + paid_nanos).encode()),
    )
    reason = "served" if charge.passes else "usage_unreadable"
    if exchange.keeping is not None:
        exchange.keeping.keep(exchange, upstream.status, headers, body, charge, content)

    def settle() -> None:
        attempt.charge(charge, outcome=Outcome.SERVED, status=upstream.status, reason=reason, content=content)

    def keep_and_settle() -> None:
        idempotency.keep(attempt, upstream.status, headers, body, attempt.settling(settle))

    after = attempt.settling(settle if exchange.claim is None else keep_and_settle)
    response = GatewayResponse(upstream.status, headers, body, after=after)
    if exchange.route is not None and _is_kept_back(exchange.route, attempt):
        response.charged = lambda: (charge, content)
    return response


def _is_kept_back(route: Route, attempt: Attempt) -> bool:
    """Whether the reply may be looked at before the client gets it (cascade.py)."""
    ladder = route.cascade
    if ladder is None or attempt.purpose == "escalate":
        return False
    return ladder.terms.buffer_streams or not attempt.exchange.request.stream


def unknown_outcome(exchange: Exchange, attempt: Attempt, error: Lost | TimedOut) -> GatewayResponse:
    """The request may have been worked on and billed: its whole hold is charged."""
    refusal = errors.UPSTREAM_TIMEOUT if isinstance(error, TimedOut) else errors.UPSTREAM_CUT
    charge = attempt.promise.full_hold(f"outcome unknown: {refusal.reason} {error}".strip())
    attempt.charge(charge, outcome=Outcome.FAILED, status=refusal.status, reason=refusal.reason)
    return envelope(refusal, str(exchange.id))


class EventStream:
    """One relayed stream: its chunks, its tap, and how it ended.

    A client that leaves ends it: upstream is closed as soon as message_start has told the input, since
    that much is billed in any case. With an Idempotency-Key it has said that it will come back for the reply:
    then the stream is read to its end, and kept.
    """

    __slots__ = (
        "_attempt",
        "_exchange",
        "_failure",
        "_kept",
        "_kept_bytes_max",
        "_kept_headers",
        "_tap",
        "_upstream",
        "response",
    )

    def __init__(self, exchange: Exchange, attempt: Attempt, upstream: Reply) -> None:
        self._exchange = exchange
        self._attempt = attempt
        self._upstream = upstream
        self._tap = StreamTap(upstream.headers.get("content-encoding", "").lower())
        self._failure: Refusal | None = None
        self._kept = None if exchange.claim is None and exchange.keeping is None else bytearray()
        self._kept_bytes_max = max(
            0 if exchange.claim is None else exchange.gateway.kept_replies.bytes_max,
            0 if exchange.keeping is None else exchange.keeping.terms.reply_bytes_max,
        )
        headers = response_headers(exchange, upstream) + budget_headers(attempt)
        headers.append((b"exchequer-model", _header_value(attempt.model)))
        self._kept_headers = [] if self._kept is None else headers
        self.response = GatewayResponse(
            upstream.status, headers, stream=self._chunks(), after=attempt.settling(self._settle)
        )
        if exchange.route is not None and _is_kept_back(exchange.route, attempt):
            self.response.charged = self._charged
        exchange.on_leave = self._leave

    async def _chunks(self) -> AsyncIterator[bytes]:
        tap, exchange = self._tap, self._exchange
        try:
            while chunk := await self._upstream.read():
                if tap.feed(chunk):
                    self._shrink()
                    asyncio.get_running_loop().call_soon(self._forget_request)
                if self._kept is not None:
                    self._keep(chunk)
                if exchange.client_left:
                    if not self._is_read_on and (tap.usage.started or tap.unreadable):
                        return
                else:
                    yield chunk
        except TimedOut:
            self._failure = errors.UPSTREAM_TIMEOUT
        except Lost:
            self._failure = errors.UPSTREAM_CUT
        if self._failure and not exchange.client_left:
            if tap.between_events:
                # So that clients raise instead of guess.
                yield b"event: error\ndata: %b\n\n" % error_body(self._failure, str(exchange.id))
            else:
                self.response.complete = False  # half an event cannot be finished honestly: cut it off too

    def _leave(self) -> None:
        if not self._is_read_on and self._tap.usage.started:
            self._upstream.close()

    @property
    def _is_read_on(self) -> bool:
        """Somebody will come back for the reply."""
        return self._kept is not None and self._exchange.claim is not None

    def _keep(self, chunk: bytes) -> None:
        assert self._kept is not None
        self._kept += chunk
        if len(self._kept) > self._kept_bytes_max:
            self._kept = None

    def _shrink(self) -> None:
        amount_nanos = self._attempt.promise.after_start(self._tap)
        if amount_nanos is not None:
            self._attempt.shrink(amount_nanos)

    def _forget_request(self) -> None:
        """The first chunk has left: whatever is still to be told of the request is told now. Not where the
        stream is kept back: the request may be sent to another model."""
        if not self._attempt.resolved and self.response.charged is None:
            facts.take(self._exchange)

    def _charged(self) -> tuple[Charge, None]:
        return self._charge(), None

    def _charge(self) -> Charge:
        return self._attempt.promise.stream(self._tap, monotonic() - self._attempt.sent_monotonic)

    def _settle(self) -> None:
        tap = self._tap
        self._upstream.close()
        charge = self._charge()
        outcome, status, reason = Outcome.SERVED, self._upstream.status, "served"
        if tap.error is not None:
            outcome, reason = Outcome.FAILED, "upstream_error_event"
        elif tap.stopped:
            reason = "served" if charge.passes else "usage_unreadable"
        elif self._exchange.client_left:
            outcome, status, reason = Outcome.CUT, CLIENT_CLOSED, "client_left"
        else:
            outcome, reason = Outcome.FAILED, (self._failure or errors.UPSTREAM_CUT).reason

        def settle() -> None:
            self._attempt.charge(charge, outcome=outcome, status=status, reason=reason)

        exchange = self._exchange
        if self._kept is None or not tap.stopped:
            if tap.stopped and exchange.keeping is not None:
                exchange.keeping.decline(exchange, "too long")
            return settle()
        reply = (self._upstream.status, self._kept_headers, bytes(self._kept))
        if exchange.keeping is not None:
            exchange.keeping.keep(exchange, *reply, charge, None)
        if exchange.claim is None:
            settle()
        else:
            idempotency.keep(self._attempt, *reply, self._attempt.settling(settle))
