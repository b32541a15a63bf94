"""Another model where one cannot answer: a policy's `fallbacks`, in order, each with a hold of its own.

It goes on where upstream answers 429, 529 or 5xx before any output, with proof that nothing was billed, or
cannot be reached. What may have been billed is charged and not tried elsewhere; an error inside a stream that
has begun is the client's. Where nothing works, the last answer of upstream is relayed as it came.

One budget of attempts per call, whatever they are for: ATTEMPTS_MAX, none of them begun later than
BEGIN_SECONDS_MAX after the call (cases I2).
"""

from collections.abc import Iterator
from time import monotonic

from governance.gateway import admission, earlier, other_model, sending
from governance.gateway.attempt import Attempt, Voided
from governance.gateway.bound import worst_case
from governance.gateway.errors import CallRefused
from governance.gateway.exchange import Exchange
from governance.gateway.relay import say_decision_again
from governance.gateway.responses import GatewayResponse

ATTEMPTS_MAX = 4
BEGIN_SECONDS_MAX = 120.0


async def send(exchange: Exchange, attempt: Attempt) -> tuple[GatewayResponse, Attempt]:
    """The first answer that is not a failure, or the last failure, and whose it is."""
    assert exchange.route is not None
    models = iter(exchange.route.fallbacks)
    while True:
        attempt.may_go_on = True
        response = await sending.send(exchange, attempt)
        failed = attempt.voided
        if failed is None:
            attempt.may_go_on = False
            return response, attempt
        following = await _next(exchange, attempt, models) if _is_passing(failed) else None
        if following is None:
            attempt.void_now()
            say_decision_again(exchange, response)
            return response, attempt
        attempt = following


def may_begin_another(exchange: Exchange) -> bool:
    """An attempt has ended. Is there another left, and time for it; and do the rules stand that the call
    was let in by?"""
    key = exchange.key
    return (
        earlier.of(exchange).next_number <= ATTEMPTS_MAX
        and monotonic() - exchange.started_monotonic < BEGIN_SECONDS_MAX
        and exchange.gateway.store.key(key.public_id) is key
    )


def _is_passing(failed: Voided) -> bool:
    """Whether another model may well do better: not with a request that is wrong."""
    if failed.reason == "upstream_unreachable":
        return True
    return failed.reason == "upstream_error" and (failed.status == 429 or failed.status >= 500)


async def _next(exchange: Exchange, failed: Attempt, models: Iterator[str]) -> Attempt | None:
    """The next attempt, held and ready to be sent; None where there is none to be had."""
    assert failed.voided is not None
    calls = earlier.of(exchange)
    try:
        calls.ended(failed, None, failed.voided.proof)
        for model in models:
            if not may_begin_another(exchange):
                _say(exchange, "fallback_not", f"{model} (no_attempt_left)")
                break
            if model == failed.model:
                continue
            following = await held_for(exchange, model, "fallback")
            if isinstance(following, Attempt):
                why = str(failed.upstream_status or "unreachable")
                _say(exchange, "fallback_from", f"{failed.model} ({why})")
                return following
            _say(exchange, "fallback_not", f"{model} ({following})")
    except BaseException:
        if not failed.resolved:
            calls.resumed()
            failed.void_now()
        raise
    calls.resumed()
    return None


async def held_for(exchange: Exchange, model: str, purpose: str) -> Attempt | str:
    """An attempt with that model, after one that has ended; or the reason why not."""
    request = other_model.request_for(exchange, model)
    if isinstance(request, str):
        return request
    before = other_model.ask_instead(exchange, request)
    try:
        return await admission.hold(exchange, worst_case(exchange), purpose, waits=False)
    except CallRefused as error:
        if exchange.earlier is not None and exchange.earlier.open_hold is None:
            raise  # the failed attempt is settled: its call has ended
        other_model.undo(exchange, before)
        exchange.decision.pop("refused", None)
        return error.refusal.reason


def _say(exchange: Exchange, name: str, what: str) -> None:
    said = exchange.decision.get(name)
    exchange.decision[name] = f"{said}, {what}" if said else what
