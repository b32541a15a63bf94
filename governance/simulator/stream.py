"""A reply as server-sent events, grouped into the writes that a client would see arrive one by one."""

from typing import Any

import msgspec

from governance.simulator.errors import envelope
from governance.simulator.reply import Reply, stop_details
from governance.simulator.script import Script

DELTAS_DEFAULT_MAX = 20
CHARACTERS_PER_DELTA = 8

Event = tuple[str, bytes]  # (event name, the whole event as bytes)

PING: Event = ("ping", b'event: ping\ndata: {"type": "ping"}\n\n')
UNKNOWN: Event = (
    "unknown",
    b'event: from_the_future\ndata: {"type":"from_the_future","detail":{"since":"2027-01-01"}}\n\n',
)
GARBAGE: Event = (
    "content_block_delta",
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type\n\n',
)


def event(name: str, data: dict[str, Any]) -> Event:
    return name, b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode({"type": name, **data}))


def stream_writes(reply: Reply, script: Script, request_id: str) -> list[bytes]:
    """The body as a list of writes: what comes before the first delta, each delta alone, what comes between
    blocks, and the end. Without thinking or tools that is the number of deltas + 2."""
    fault = script.fault_set
    events = _events(reply, script, with_usage=not fault.no_usage)
    if script.unknown_events:
        events[2:2] = [UNKNOWN]
        events.insert(-1, UNKNOWN)
    if fault.garbage_json:
        events.insert(_position_after_deltas(events, 1), GARBAGE)
    if fault.error_event_after is not None:
        del events[_position_after_deltas(events, fault.error_event_after) :]
        body = envelope("overloaded_error", "Overloaded", request_id)
        events.append(("error", b"event: error\ndata: %b\n\n" % body))
    return _group(events)


def _events(reply: Reply, script: Script, *, with_usage: bool) -> list[Event]:
    start = {
        **reply.message(),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
    }
    start |= script.extra_fields
    start["usage"] = script.usage_start or usage_at_start(reply.usage)
    if not with_usage:
        del start["usage"]
    events = [event("message_start", {"message": start})]
    for index, block in enumerate(reply.content):
        events += _block_events(index, block, script)
        if index == 0:
            events.insert(2, PING)
    usage_delta = script.usage_delta or usage_at_end(reply.usage)
    deltas = usage_delta if isinstance(usage_delta, list) else [usage_delta]
    for usage in deltas[:-1]:
        nothing = {"stop_reason": None, "stop_sequence": None}
        events.append(event("message_delta", {"delta": nothing, "usage": usage}))
    stop = {"stop_reason": reply.stop_reason, "stop_sequence": reply.stop_sequence}
    last: dict[str, Any] = {"delta": {**stop, "stop_details": stop_details(reply.stop_reason)}}
    if with_usage and deltas:
        last["usage"] = deltas[-1]
    events.append(event("message_delta", last))
    events.append(event("message_stop", {}))
    return events


def usage_at_start(usage: dict[str, Any]) -> dict[str, Any]:
    """The whole input side, and the first output token."""
    start = {
        name: value for name, value in usage.items() if name not in ("output_tokens_details", "iterations")
    }
    output_tokens = usage.get("output_tokens")
    if isinstance(output_tokens, int):
        start["output_tokens"] = min(1, output_tokens)
    return start


def usage_at_end(usage: dict[str, Any]) -> dict[str, Any]:
    """Cumulative totals. As documented there is no split of cache writes, no tier, no geography, no speed."""
    absent = ("cache_creation", "service_tier", "inference_geo", "speed")
    return {name: value for name, value in usage.items() if name not in absent and value is not None}


def _block_events(index: int, block: dict[str, Any], script: Script) -> list[Event]:
    kind = block["type"]
    if kind == "text":
        opened: dict[str, Any] = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": part} for part in _parts(block["text"], script.deltas)]
    elif kind == "thinking":
        opened = {"type": "thinking", "thinking": "", "signature": ""}
        parts = _parts(block["thinking"], script.deltas) if block["thinking"] else []
        deltas = [{"type": "thinking_delta", "thinking": part} for part in parts]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    else:
        opened = {**block, "input": {}}
        parts = ["", *_parts(msgspec.json.encode(block["input"]).decode(), None)]
        deltas = [{"type": "input_json_delta", "partial_json": part} for part in parts]
    return [
        event("content_block_start", {"index": index, "content_block": opened}),
        *(event("content_block_delta", {"index": index, "delta": delta}) for delta in deltas),
        event("content_block_stop", {"index": index}),
    ]


def _parts(text: str, count: int | None) -> list[str]:
    """The text in `count` nearly equal parts, none of them empty."""
    if count is None:
        count = min(DELTAS_DEFAULT_MAX, len(text) // CHARACTERS_PER_DELTA)
    count = max(1, min(count, len(text)))
    return [text[len(text) * i // count : len(text) * (i + 1) // count] for i in range(count)]


def _position_after_deltas(events: list[Event], count: int) -> int:
    """Where to insert so that exactly `count` content deltas come before; 0 means after the start events."""
    for position, (name, _) in enumerate(events):
        if name == "content_block_delta":
            if count == 0:
                return position
            count -= 1
        elif count == 0 and name == "content_block_stop":
            return position
    return len(events)


def _group(events: list[Event]) -> list[bytes]:
    writes: list[list[bytes]] = []
    previous_was_delta = True
    for name, data in events:
        is_delta = name == "content_block_delta"
        if is_delta or previous_was_delta:
            writes.append([data])
        else:
            writes[-1].append(data)
        previous_was_delta = is_delta
    return [b"".join(write) for write in writes]
