"""The facts of a call's request and reply (calls/request_facts.py), without keeping anybody waiting.

Usually they are computed when the reply has left; a stream's when it has begun, so that its request need not
stay in memory for as long as it lasts. A body of megabytes would stop the event loop for milliseconds, so its
facts are computed in a thread while upstream works. Both are without the reply's fingerprint.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from governance.calls.records import CallRecord
from governance.calls.request_facts import RequestFacts, cache_digest, request_facts
from governance.gateway.request import Request

if TYPE_CHECKING:
    from governance.gateway.exchange import Exchange

log = logging.getLogger(__name__)

LARGE_BODY_BYTES = 512 * 1024


def begin(exchange: "Exchange") -> None:
    """Start on a large request's facts; call it when the request is being sent."""
    if len(exchange.request.body) >= LARGE_BODY_BYTES:
        loop = asyncio.get_running_loop()
        try:
            exchange.early_facts = loop.run_in_executor(None, _compute, exchange, exchange.client_request)
        except RuntimeError as error:  # no thread is to be had: the call matters more than its facts
            log.error("Call %s has no facts: %s", exchange.id, error)


def take(exchange: "Exchange") -> None:
    """Compute a stream's facts now, and let go of its request."""
    if exchange.early_facts is None:
        exchange.early_facts = asyncio.get_running_loop().create_future()
        try:
            exchange.early_facts.set_result(_compute(exchange, exchange.client_request))
        except Exception as error:
            exchange.early_facts.set_exception(error)  # logged by `add`
    exchange.forget_request()


def told(exchange: "Exchange", reply_content: bytes) -> tuple[RequestFacts, bytes] | None:
    """What `add` will write, computed now if it has not been; None where that is not known yet."""
    early = exchange.early_facts
    if early is None and len(exchange.request.body) < LARGE_BODY_BYTES:
        try:
            tell(exchange, *_compute(exchange, exchange.client_request, reply_content))
        except Exception:
            return None  # `add` tries again, and says why not
        early = exchange.early_facts
    return early.result() if early is not None and early.done() and not early.exception() else None


def tell(exchange: "Exchange", found: RequestFacts, digest: bytes) -> None:
    """These are the facts of the call's request."""
    exchange.early_facts = asyncio.get_running_loop().create_future()
    exchange.early_facts.set_result((found, digest))


def add(call: CallRecord, exchange: "Exchange", reply_content: bytes) -> None:
    """Write the facts into the call's row. They are left out if they cannot be told, or not yet: upstream
    may take what our reading of a part stumbles over, and its call has to be recorded all the same."""
    try:
        early = exchange.early_facts
        if early is not None:
            if not early.done():
                return
            found, digest = early.result()
        elif len(exchange.request.body) < LARGE_BODY_BYTES:
            found, digest = _compute(exchange, exchange.client_request, reply_content)
        else:
            return
    except (Exception, asyncio.CancelledError):
        log.exception("The facts of call %s cannot be told.", exchange.id)
        return
    call.facts, call.fingerprints, call.cache_digest = found.facts, found.fingerprints, digest


def _compute(
    exchange: "Exchange", request: Request, reply_content: bytes = b""
) -> tuple[RequestFacts, bytes]:
    tenant, inbound = exchange.key.tenant, exchange.inbound
    found = request_facts(request, tenant.fingerprint_key, reply_content)
    beta = ",".join(inbound.beta)
    return found, cache_digest(tenant.id, request.model, inbound.version, beta, request.body)
