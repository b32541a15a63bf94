"""The facts of a call's request and reply (calls/request_facts.py), without keeping anybody waiting.

Usually they are computed when the reply has left. A body of megabytes would stop the event loop for
milliseconds, so its facts are computed in a thread while upstream works, and without the reply's fingerprint.
"""

import asyncio
from typing import TYPE_CHECKING

from governance.calls.records import CallRecord
from governance.calls.request_facts import RequestFacts, cache_digest, request_facts

if TYPE_CHECKING:
    from governance.gateway.exchange import Exchange

LARGE_BODY_BYTES = 512 * 1024


def begin(exchange: "Exchange") -> None:
    """Start on a large request's facts; call it when the request is being sent."""
    if len(exchange.request.body) >= LARGE_BODY_BYTES:
        loop = asyncio.get_running_loop()
        exchange.early_facts = loop.run_in_executor(None, _compute, exchange, b"")


def add(call: CallRecord, exchange: "Exchange", reply_content: bytes) -> None:
    """Write the facts into the call's row. A large request's are left out if they are not ready yet."""
    early = exchange.early_facts
    if early is not None:
        if not early.done() or early.exception() is not None:
            return
        found, digest = early.result()
    elif len(exchange.request.body) < LARGE_BODY_BYTES:
        found, digest = _compute(exchange, reply_content)
    else:
        return
    call.facts, call.fingerprints, call.cache_digest = found.facts, found.fingerprints, digest


def _compute(exchange: "Exchange", reply_content: bytes) -> tuple[RequestFacts, bytes]:
    request, tenant, inbound = exchange.request, exchange.key.tenant, exchange.inbound
    found = request_facts(request, tenant.fingerprint_key, reply_content)
    beta = ",".join(inbound.beta)
    return found, cache_digest(tenant.id, request.model, inbound.version, beta, request.body)
