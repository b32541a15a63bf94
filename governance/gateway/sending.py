"""One attempt, sent and answered: whatever happens, its hold is resolved, or the response will resolve it."""

from governance.calls.models import Outcome
from governance.gateway import errors, facts, relay
from governance.gateway.attempt import Attempt
from governance.gateway.errors import envelope
from governance.gateway.exchange import Exchange
from governance.gateway.responses import GatewayResponse
from governance.upstream.connection import Reply
from governance.upstream.failures import Lost, NotReached, TimedOut


async def send(exchange: Exchange, attempt: Attempt) -> GatewayResponse:
    """The request out, and its answer back."""
    upstream: Reply | None = None
    try:
        request = exchange.request
        if exchange.early_facts is None:
            facts.begin(exchange)
        upstream = await exchange.gateway.upstream.send(
            "POST",
            exchange.path,
            query=exchange.query,
            body=request.body,
            headers=[*exchange.inbound.forward, *exchange.key.tenant.upstream_headers],
            stream=request.stream,
            seconds_max=None if exchange.route is None else exchange.route.timeout_seconds,
        )
        if upstream.status == 200 and exchange.conversation is not None:
            exchange.conversation.answered_by = request.model
        return await relay.relay(exchange, attempt, upstream)
    except NotReached as error:
        attempt.void(f"no connection was made: {error}", status=502, reason="upstream_unreachable")
        return envelope(errors.UPSTREAM_UNREACHABLE, str(exchange.id))
    except (Lost, TimedOut) as error:
        return relay.unknown_outcome(exchange, attempt, error)
    except BaseException as error:
        if upstream is not None:
            upstream.close()  # nobody else will
        if not attempt.void_now():
            charge = attempt.promise.full_hold(f"outcome unknown: {type(error).__name__}")
            attempt.charge(charge, outcome=Outcome.FAILED, status=500, reason="internal")
        raise
