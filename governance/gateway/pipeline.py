"""The path of one call: read this first.

Each step either fills in the exchange or ends the call with CallRefused (errors.py). Once money is held, the
attempt is resolved exactly once, whatever happens: by `relay`, or by what is caught here and in sending.py.
"""

from msgspec.structs import replace

from governance.calls.models import Outcome
from governance.gateway import (
    admission,
    cached_replies,
    call_record,
    cascade,
    conversations,
    dry_run,
    errors,
    fallbacks,
    idempotency,
    lookups,
    policy,
    prompt_caching,
    rate_limits,
    relay,
    sending,
)
from governance.gateway.attempt import Attempt
from governance.gateway.authentication import check_again, check_pauses
from governance.gateway.bound import worst_case
from governance.gateway.errors import CallRefused, Refusal, envelope, invalid
from governance.gateway.exchange import Exchange
from governance.gateway.inbound import merged_tags
from governance.gateway.key_rules import changed_meanwhile, check_policies
from governance.gateway.model_list import check_models, model_of_count
from governance.gateway.request import RequestRefused, read_request
from governance.gateway.responses import GatewayResponse
from governance.upstream.failures import Lost, NotReached, TimedOut


async def create_message(exchange: Exchange) -> GatewayResponse:
    """POST /v1/messages for an authenticated key (views.py)."""
    await read(exchange)
    if exchange.inbound.idempotency_key is not None:
        exchange.claim = await idempotency.claim(exchange)
    try:
        if exchange.key.router is not None:
            lookups.begin_call()
            answered = await policy.decide(exchange)
            if answered is not None:
                return answered
        check_policies(exchange)
        if exchange.route is not None and exchange.route.cache is not None and not exchange.inbound.dry_run:
            kept = await cached_replies.find(exchange)
            if kept is not None:
                return kept
        if exchange.route is not None and exchange.route.prompt_cache is not None:
            prompt_caching.mark(exchange)
        promise = worst_case(exchange)
        if exchange.inbound.dry_run:
            return await dry_run.report(exchange, promise)
        if exchange.key.call_limits:
            await rate_limits.take(exchange)
        if exchange.gateway.quotas.short:
            promise = await exchange.gateway.quotas.wait(exchange) or promise
        attempt = await admission.hold(exchange, promise)
    except idempotency.KeyTaken as taken:
        return await idempotency.replay(exchange, taken.first)
    refusal = await refused_meanwhile(exchange, attempt)
    if refusal is not None:
        return envelope(refusal, str(exchange.id))
    return await send(exchange, attempt)


async def read(exchange: Exchange) -> None:
    """Headers and body → tags and request."""
    key, inbound = exchange.key, exchange.inbound
    if inbound.content_type != b"application/json":
        raise invalid("content_type", "Send the request as content-type: application/json.", status=415)
    exchange.tags = merged_tags(inbound.tags, key.default_tags, key.required_tags)
    await exchange.read_body()
    # A body may take half a minute to come; a key that was revoked meanwhile is refused all the same.
    exchange.key = await check_again(key, inbound.credentials, exchange.gateway.store)
    if exchange.key.pauses:
        check_pauses(exchange.key.pauses, exchange.tags)
    try:
        exchange.request = read_request(exchange.body)
    except RequestRefused as error:
        raise invalid("invalid_body", error.sentence) from None


async def refused_meanwhile(exchange: Exchange, attempt: Attempt) -> Refusal | None:
    """A call may have waited for its hold: where what is settled of its key changed meanwhile and refuses it
    now, the hold is given back, and this is why."""
    key, store = exchange.key, exchange.gateway.store
    if store.key(key.public_id) is key:
        return None
    try:
        promise = await changed_meanwhile(exchange)
        if promise is not None:  # the hold stands as it is; the request may ask for less than it covers
            attempt.promise = replace(attempt.promise, max_tokens=promise.max_tokens)
    except CallRefused as error:
        refusal = error.refusal
        proof = f"refused before anything was sent: {refusal.reason}"
        attempt.void(proof, status=refusal.status, reason=refusal.reason, outcome=Outcome.REFUSED)
        return refusal
    except BaseException:
        attempt.void("failed before anything was sent", status=500, reason="internal")
        raise
    return None


async def send(exchange: Exchange, attempt: Attempt) -> GatewayResponse:
    """The call that is paid for: out, and its answer back."""
    route = exchange.route
    if route is None:
        return await sending.send(exchange, attempt)
    if cascade.applies(exchange):
        response = await cascade.send(exchange, attempt)
    elif route.fallbacks:
        response, _ = await fallbacks.send(exchange, attempt)
    else:
        response = await sending.send(exchange, attempt)
    conversations.answered(exchange)
    return response


async def relay_free(exchange: Exchange) -> GatewayResponse:
    """What costs nothing (count_tokens, models): relayed and recorded, never blocked by a budget."""
    key = exchange.key
    if not key.tenant.upstream_headers:
        raise CallRefused(errors.NO_UPSTREAM_CREDENTIAL)
    exchange.tags = merged_tags(exchange.inbound.tags, key.default_tags, ())
    if key.pauses:
        check_pauses(key.pauses, exchange.tags)
    if exchange.method == "POST":
        await exchange.read_body()
        rules = key.tenant.operator_rules
        if key.allowed_models or rules is not None:
            model = model_of_count(exchange.body)
            if key.allowed_models:
                check_models(key.allowed_models, (model,))
            if rules is not None:
                names = [("model", model), *(("beta", beta) for beta in exchange.inbound.beta)]
                rules.check_names(names, key.tenant.book)
    try:
        upstream = await exchange.gateway.upstream.send(
            exchange.method,
            exchange.path,
            query=exchange.query,
            body=exchange.body or None,
            headers=[*exchange.inbound.forward, *key.tenant.upstream_headers],
        )
        body = await upstream.read_all(relay.REPLY_BYTES_MAX)
    except (NotReached, Lost):
        raise CallRefused(errors.UPSTREAM_UNREACHABLE) from None
    except TimedOut:
        raise CallRefused(errors.UPSTREAM_NO_ANSWER) from None
    outcome = Outcome.SERVED if upstream.status < 400 else Outcome.FAILED
    reason = "served" if upstream.status < 400 else "upstream_error"
    exchange.first_byte_ms = exchange.elapsed_ms()
    exchange.gateway.record(call_record.of_call(exchange, outcome, upstream.status, reason))
    headers = relay.response_headers(exchange, upstream)
    headers.append((b"content-length", b"%d" % len(body)))
    return GatewayResponse(upstream.status, headers, body)
