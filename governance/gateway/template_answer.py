"""An answer that a policy gives by itself: nothing is sent to Claude, and nothing is paid."""

from typing import TYPE_CHECKING

import msgspec

from governance.calls.models import Outcome
from governance.gateway import call_record
from governance.gateway.responses import PRIVATE, GatewayResponse
from governance.response_cache.replay import events_of_message

if TYPE_CHECKING:
    from governance.gateway.exchange import Exchange

_NOTHING = {
    "input_tokens": 0,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "output_tokens": 0,
}
_encode = msgspec.json.Encoder().encode


def template_answer(exchange: "Exchange", text: str) -> GatewayResponse:
    """The text as a Message, or as the events of one where the client wants a stream; recorded as a call."""
    message = {
        "id": f"msg_{exchange.id.hex}",
        "type": "message",
        "role": "assistant",
        "model": exchange.request.model,
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": _NOTHING,
    }
    stream = exchange.request.stream
    body = events_of_message(_encode(message)) if stream else _encode(message)
    exchange.first_byte_ms = exchange.elapsed_ms()
    exchange.gateway.record(call_record.of_call(exchange, Outcome.SERVED, 200, "template_answer"))
    call_id = str(exchange.id).encode()
    headers = [
        (b"content-type", b"text/event-stream; charset=utf-8" if stream else b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *PRIVATE,
        (b"request-id", call_id),
        (b"exchequer-call-id", call_id),
        (b"exchequer-decision", exchange.decision_header),
        (b"exchequer-cost-usd", b"0.00"),
    ]
    return GatewayResponse(200, headers, body)
