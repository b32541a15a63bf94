"""Is this worker alive, may it get calls, and how is it doing. No key is needed; no tenant is named."""

from typing import Any

import msgspec

from governance.gateway.responses import GatewayResponse

_TEXT = b"text/plain; charset=utf-8"
_JSON = b"application/json"


async def livez(request: Any) -> GatewayResponse:
    """200 as long as the event loop runs."""
    return _respond(200, _TEXT, b"alive\n")


async def readyz(request: Any) -> GatewayResponse:
    """200 when calls can be admitted: the desk can write and settings are fresh; else 503 and why.
    `notes` say what works less well, such as limits on calls without Valkey."""
    gateway = request.exchange.gateway
    trouble = gateway.trouble
    body = msgspec.json.encode({"ready": not trouble, "trouble": trouble, "notes": gateway.notes})
    return _respond(503 if trouble else 200, _JSON, body)


async def metrics(request: Any) -> GatewayResponse:
    """Prometheus' text format; see metrics.py for which workers it covers."""
    return _respond(
        200, b"text/plain; version=1.0.0; charset=utf-8", await request.exchange.gateway.exposition()
    )


def _respond(status: int, content_type: bytes, body: bytes) -> GatewayResponse:
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    return GatewayResponse(status, headers, body)
