"""A cheap model answers first; where its reply fails a check, or it is not sure of it, a better one is asked,
once. All are paid for.

Only where the reply may be kept back until it was checked: a whole Message, or a stream that the policy says
may be buffered. The reply of the last attempt is relayed byte for byte. Where the better model cannot be
asked (no room in a budget, no attempt left, incompatible) or upstream refuses it, the first reply goes to the
client after all: it was paid for. What may have been billed and did not come is told as ever.
"""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from governance.calls.models import Outcome
from governance.gateway import call_record, earlier, errors, fallbacks, idempotency, sending
from governance.gateway.attempt import Attempt
from governance.gateway.confidence import confidence_in
from governance.gateway.errors import CallRefused
from governance.gateway.exchange import Exchange
from governance.gateway.left_open import is_first_step
from governance.gateway.relay import say_cost_again, say_decision_again
from governance.gateway.reply_checks import answer_in, failed_check
from governance.gateway.request import ABSENT, Request, value_of
from governance.gateway.responses import GatewayResponse
from governance.gateway.sse import UnreadableEncoding, unpacked
from governance.response_cache.replay import NotReplayable, message_of_events
from governance.routing.document import Confidence

if TYPE_CHECKING:
    from governance.gateway.keeping import Keeping


def applies(exchange: Exchange) -> bool:
    """Whether this call is on the first step of a cascade, and its reply may be kept back."""
    route = exchange.route
    return route is not None and is_first_step(route, exchange.request, exchange.key.tenant.book)


async def send(exchange: Exchange, attempt: Attempt) -> GatewayResponse:
    """The first model's reply if it is good enough, else the better one's."""
    keeping, exchange.keeping = exchange.keeping, None  # a reply that is not good enough is kept for nobody
    try:
        response, attempt = await fallbacks.send(exchange, attempt)
        try:
            return await _judged(exchange, attempt, response, keeping)
        except BaseException:
            if not attempt.resolved and response.after is not None:
                earlier.of(exchange).resumed()
                response.after()
            raise
    finally:
        exchange.keeping = keeping


async def _judged(
    exchange: Exchange, attempt: Attempt, response: GatewayResponse, keeping: "Keeping | None"
) -> GatewayResponse:
    assert exchange.route is not None
    assert exchange.route.cascade is not None
    ladder = exchange.route.cascade
    is_stream = response.stream is not None
    if is_stream:
        await _buffer(response)
    message = _message(response, is_stream)
    if message is None:
        return response
    why = failed_check(message, ladder.terms.checks, _schema(exchange), _begun(exchange.request))
    if why is None and ladder.terms.confidence is not None:
        why = await _doubt(exchange, attempt, response, ladder.terms.confidence, answer_in(message))
    if why is not None:
        exchange.decision["cascade"] = f"{ladder.first} ({why})"
        return await _escalate(exchange, attempt, response, ladder.then, keeping)
    if keeping is not None:
        assert response.charged is not None
        charge, content = response.charged()
        keeping.keep(exchange, response.status_code, response.wire_headers, response.body, charge, content)
    return _as_it_is(exchange, attempt, response)


async def _doubt(
    exchange: Exchange, first: Attempt, response: GatewayResponse, terms: Confidence, answer: str
) -> str | None:
    """Why the first model's answer does not do, by its own judgement. None where it does, or that cannot be
    had."""
    if not answer.strip():
        return None
    calls = _ended(exchange, first, response)
    percent, why_not = None, "no_attempt_left"
    if fallbacks.may_begin_another(exchange):
        percent, why_not = await confidence_in(exchange, answer, first.model, terms)
    if calls.over:  # what was to be settled was not: the call has ended without an answer
        raise CallRefused(errors.LEDGER_UNAVAILABLE)
    exchange.decision["confidence"] = f"not ({why_not})" if percent is None else percent
    return "unsure" if percent is not None and percent < terms.at_least else None


async def _escalate(
    exchange: Exchange,
    first: Attempt,
    response: GatewayResponse,
    model: str,
    keeping: "Keeping | None",
) -> GatewayResponse:
    """The better model's reply, or the first one where that cannot be had for nothing; the first is kept for
    nobody else."""
    calls = _ended(exchange, first, response)
    second: Attempt | str = "no_attempt_left"
    if fallbacks.may_begin_another(exchange):
        second = await fallbacks.held_for(exchange, model, "escalate")
    if not isinstance(second, Attempt):
        exchange.decision["cascade_not"] = f"{model} ({second})"
        if keeping is not None:
            keeping.decline(exchange, "not good enough")
        return _as_it_is(exchange, first, response)
    if keeping is not None:
        keeping.go_on(model)
        exchange.keeping = keeping
    second.may_go_on = True
    better = await sending.send(exchange, second)
    refused = second.voided
    if refused is None:
        return better
    second.may_go_on = False
    calls.ended(second, None, refused.proof)
    exchange.decision["cascade_not"] = f"{model} ({second.upstream_status or 'unreachable'})"
    if keeping is not None:
        keeping.decline(exchange, "not good enough")
    return _as_it_is(exchange, first, response)


def _ended(exchange: Exchange, first: Attempt, response: GatewayResponse) -> earlier.Earlier:
    """The call goes on after the first model's attempt."""
    calls = earlier.of(exchange)
    if calls.unsettled is None:
        assert response.charged is not None
        calls.ended(first, response.charged()[0], None)
    return calls


def _as_it_is(exchange: Exchange, first: Attempt, response: GatewayResponse) -> GatewayResponse:
    """The first model's reply after all, and the attempt that came last ends the call."""
    calls = exchange.earlier
    last = None if calls is None else calls.unsettled
    if calls is None or last is None:
        return response
    say_decision_again(exchange, response)
    if last is first:
        calls.resumed()
        return response
    assert response.charged is not None
    charge, content = response.charged()
    say_cost_again(response, calls.paid_nanos)

    def record() -> None:
        baseline_nanos = first.baseline(charge, calls.paid_nanos)
        call = call_record.of_call(exchange, Outcome.SERVED, response.status_code, "served", content or b"")
        call.served_model = charge.passes[0].model[:128] if charge.passes else None
        call.baseline_nanos = baseline_nanos
        exchange.gateway.record(call)

    def keep_and_record() -> None:
        kept = response.wire_headers, response.body
        idempotency.keep(last, response.status_code, *kept, last.settling(record))

    response.after = last.settling(record if exchange.claim is None else keep_and_record)
    return response


async def _buffer(response: GatewayResponse) -> None:
    """A stream becomes a whole body, unless it was cut off: that ends as it came."""
    assert response.stream is not None
    chunks = [chunk async for chunk in response.stream]
    response.body = b"".join(chunks)
    if response.complete:
        response.stream = None
        response.wire_headers = [*response.wire_headers, (b"content-length", b"%d" % len(response.body))]
    else:
        response.stream = _again(chunks)


async def _again(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def _message(response: GatewayResponse, is_stream: bool) -> bytes | None:
    """The complete Message in the response; None for an error, and for what is cut or cannot be read."""
    if response.status_code != 200 or response.charged is None or not response.complete:
        return None
    if not response.charged()[0].passes:
        return None
    headers = {name.lower(): value for name, value in response.wire_headers}
    try:
        body = unpacked(response.body, headers.get(b"content-encoding", b"").decode("latin-1").lower())
        return message_of_events(body) if is_stream else body
    except (UnreadableEncoding, NotReplayable):
        return None


def _schema(exchange: Exchange) -> dict[str, Any] | None:
    """The schema that the reply was asked to have, by the client or by the policy."""
    wanted = value_of((exchange.request.fields.output_config or {}).get("format", ABSENT), dict)
    if wanted is not None and isinstance(wanted.get("schema"), dict):
        return dict(wanted["schema"])
    assert exchange.route is not None
    return exchange.route.json_output.schema if exchange.route.json_output is not None else None


def _begun(request: Request) -> str:
    """The beginning of the reply, where the request has it."""
    last = request.fields.messages[-1] if request.fields.messages else None
    if last is None or last.role != "assistant" or not isinstance(last.content, str):
        return ""
    return last.content
