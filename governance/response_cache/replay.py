"""A kept reply in the other form: events of a Message, the Message of events. Pure.

Values that are not text pass as raw bytes: no number and no signature is written anew. The official SDK's
stream accumulates the events of a Message to that very Message.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw

type Fields = dict[str, Raw]


class NotReplayable(ValueError):
    """The reply cannot be told in the other form; the text says what is in the way."""


_decode_fields = msgspec.json.Decoder(Fields).decode
_decode_blocks = msgspec.json.Decoder(list[Fields]).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode

_NULL = Raw(b"null")
_EMPTY_TEXT, _EMPTY_OBJECT, _EMPTY_LIST = Raw(b'""'), Raw(b"{}"), Raw(b"[]")
_TOLD_AT_THE_END = ("stop_reason", "stop_sequence", "stop_details")
_START_ONLY = frozenset(("cache_creation", "service_tier", "inference_geo", "speed"))
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, IndexError)


def events_of_message(message: bytes) -> bytes:
    """The server-sent events of a complete Message. NotReplayable."""
    try:
        return b"".join(_events(_decode_fields(message)))
    except _UNDECODABLE as error:
        raise NotReplayable(f"This is not a Message: {error}") from None


def _events(fields: Fields) -> Iterator[bytes]:
    started = {**fields, "content": _EMPTY_LIST}
    delta = {name: fields.get(name, _NULL) for name in _TOLD_AT_THE_END if name in fields}
    started |= dict.fromkeys(delta, _NULL)
    usage = _decode_fields(fields["usage"])
    yield _event("message_start", message=started)
    for index, block in enumerate(_decode_blocks(fields["content"])):
        opened, deltas = _opened(block)
        yield _event("content_block_start", index=index, content_block=opened)
        for each in deltas:
            yield _event("content_block_delta", index=index, delta=each)
        yield _event("content_block_stop", index=index)
    totals = {name: value for name, value in usage.items() if name not in _START_ONLY and value != _NULL}
    yield _event("message_delta", delta=delta, usage=totals)
    yield _event("message_stop")


def _opened(block: Fields) -> tuple[Fields, list[dict[str, Any]]]:
    """A block as it begins, and the deltas that make it whole."""
    kind = _decode_text(block["type"])
    if kind == "text":
        opened = {**block, "text": _EMPTY_TEXT}
        deltas: list[dict[str, Any]] = [{"type": "text_delta", "text": block["text"]}]
        citations = block.get("citations", _NULL)
        if citations != _NULL:
            opened["citations"] = _EMPTY_LIST
            deltas = [
                {"type": "citations_delta", "citation": each} for each in _decode_list(citations)
            ] + deltas
        return opened, deltas
    if kind == "thinking":
        deltas = [{"type": "signature_delta", "signature": block["signature"]}]
        if block["thinking"] != _EMPTY_TEXT:
            deltas.insert(0, {"type": "thinking_delta", "thinking": block["thinking"]})
        return {**block, "thinking": _EMPTY_TEXT, "signature": _EMPTY_TEXT}, deltas
    if kind.endswith("tool_use") and "input" in block:
        written = bytes(block["input"]).decode()
        return {**block, "input": _EMPTY_OBJECT}, [{"type": "input_json_delta", "partial_json": written}]
    return block, []


def _event(name: str, **data: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode({"type": name, **data}))


# --- The other way ------------------------------------------------------------------------------


class _Event(msgspec.Struct):
    """What the events that matter have in common; the rest of them stays raw."""

    type: str
    index: int = -1
    message: Raw = _NULL
    content_block: Raw = _NULL
    delta: Raw = _NULL
    usage: Raw = _NULL
    context_management: Raw = _NULL


_decode_event = msgspec.json.Decoder(_Event).decode


def message_of_events(events: bytes) -> bytes:
    """The Message that a complete stream tells. NotReplayable for one that is not complete or says what we
    do not know."""
    whole = _Whole()
    try:
        for data in _data_of(events):
            whole.take(_decode_event(data))
        return whole.message()
    except _UNDECODABLE as error:
        raise NotReplayable(f"This stream cannot be read: {error}") from None


class _Whole:
    """A Message that is being put together."""

    def __init__(self) -> None:
        self._fields: Fields = {}
        self._usage: Fields = {}
        self._blocks: list[Fields] = []
        self._parts: dict[tuple[int, str], list[Any]] = {}
        self._stopped = False

    def take(self, event: _Event) -> None:
        if not self._fields and event.type not in ("message_start", "ping"):
            raise NotReplayable("It does not begin with message_start.")
        match event.type:
            case "message_start":
                self._fields = _decode_fields(event.message)
                self._usage = _decode_fields(self._fields["usage"])
            case "content_block_start":
                if event.index != len(self._blocks):
                    raise NotReplayable("Its blocks are out of order.")
                self._blocks.append(_decode_fields(event.content_block))
            case "content_block_delta":
                self._take_delta(event.index, _decode_fields(event.delta))
            case "message_delta":
                self._fields |= _decode_fields(event.delta)
                if event.context_management != _NULL:
                    self._fields["context_management"] = event.context_management
                if event.usage != _NULL:
                    totals = _decode_fields(event.usage)
                    self._usage |= {name: raw for name, raw in totals.items() if raw != _NULL}
            case "message_stop":
                self._stopped = True
            case "error":
                raise NotReplayable("It ended with an error.")

    def _take_delta(self, index: int, delta: Fields) -> None:
        kind = _decode_text(delta["type"])
        match kind:
            case "text_delta":
                self._add(index, "text", _decode_text(delta["text"]))
            case "thinking_delta":
                self._add(index, "thinking", _decode_text(delta["thinking"]))
            case "signature_delta":  # not in parts: the last one stands
                self._blocks[index]["signature"] = delta["signature"]
            case "input_json_delta":
                self._add(index, "input", _decode_text(delta["partial_json"]))
            case "citations_delta":
                self._add(index, "citations", delta["citation"])
            case _:
                raise NotReplayable(f"It has a delta of type {kind[:40]}.")

    def _add(self, index: int, name: str, part: Any) -> None:
        if index >= len(self._blocks) or index < 0:
            raise NotReplayable("It has a delta of no block.")
        self._parts.setdefault((index, name), []).append(part)

    def message(self) -> bytes:
        if not self._stopped:
            raise NotReplayable("It is not complete.")
        for (index, name), parts in self._parts.items():
            block = self._blocks[index]
            if name == "citations":
                before = block.get("citations", _NULL)
                block[name] = Raw(_encode([*(_decode_list(before) if before != _NULL else ()), *parts]))
            elif name == "input":
                written = "".join(parts)
                if written:
                    block[name] = Raw(written.encode())
                    msgspec.json.decode(block[name])
            else:
                block[name] = Raw(_encode(_decode_text(block.get(name, _EMPTY_TEXT)) + "".join(parts)))
        return _encode({**self._fields, "content": self._blocks, "usage": self._usage})


def _data_of(events: bytes) -> Iterator[bytes]:
    """The data of each event."""
    if b"\r" in events:
        events = events.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for event in events.split(b"\n\n"):
        data = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
        if data:
            yield b"\n".join(data)
