"""Reads usage off an event stream while its bytes pass by.

Only message_start, message_delta, message_stop and error are decoded; every other event is skipped by a
substring test, without decoding JSON. Any chunking will do: events split at every byte, CRLF, compressed.
The tap never raises and never changes a byte; what it cannot read it says (`unreadable`).
"""

import zlib
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from governance.core.usage import UsageTap

EVENT_BYTES_MAX = 16 * 1024 * 1024
"""A longer event is not kept: its usage counts as unreadable."""

UNPACKED_BYTES_MAX = 64 * 1024 * 1024
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for JSON that is none, is not UTF-8, or is nested too deep."""

_decode = msgspec.json.Decoder().decode
_WANTED = {b"message_start", b"message_delta", b"message_stop", b"error"}


class _Decompressor(Protocol):
    @property
    def unconsumed_tail(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class UnreadableEncoding(ValueError):
    """The reply is compressed in a way that cannot be read here."""


def decompressor(content_encoding: str) -> _Decompressor | None:
    """None for identity. Raises UnreadableEncoding for what the standard library cannot open."""
    if content_encoding in ("", "identity"):
        return None
    if content_encoding in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(zlib.MAX_WBITS | 32)  # reads both gzip's and zlib's header
    raise UnreadableEncoding(f"The reply is encoded as {content_encoding[:40]}.")


def unpacked(body: bytes, content_encoding: str) -> bytes:
    """A whole reply without its compression. UnreadableEncoding, also where that would be too large."""
    opener = decompressor(content_encoding)
    if opener is None:
        return body
    try:
        plain = opener.decompress(body, UNPACKED_BYTES_MAX)
    except zlib.error as error:
        raise UnreadableEncoding(f"The reply's compression is broken: {error}.") from None
    if opener.unconsumed_tail:
        raise UnreadableEncoding(f"The reply unpacks to more than {UNPACKED_BYTES_MAX} bytes.")
    return plain


class StreamTap:
    """Feed it every chunk; ask it afterwards what was seen."""

    __slots__ = (
        "_buffer",
        "_inflate",
        "content_bytes",
        "error",
        "hides_output",
        "stop_reason",
        "stopped",
        "unreadable",
        "usage",
    )

    def __init__(self, content_encoding: str = "") -> None:
        self.usage = UsageTap()
        self.content_bytes = 0
        """Bytes of complete events that carry content."""
        self.hides_output = False
        """A block may have been seen that upstream writes before it sends: thinking, or a tool's input,
        which comes in whole values. What is not seen of it was generated too."""
        self.stop_reason: str | None = None
        self.stopped = False
        """message_stop was seen: the reply is complete."""
        self.error: str | None = None
        """The type of an `error` event."""
        self.unreadable: str | None = None
        self._buffer = bytearray()
        self._inflate: _Decompressor | None = None
        try:
            self._inflate = decompressor(content_encoding)
        except UnreadableEncoding as error:
            self.unreadable = str(error)

    @property
    def bytes_seen(self) -> int:
        """Of content, the event that is not complete yet included: no fewer than the tokens in them."""
        return self.content_bytes + len(self._buffer)

    @property
    def between_events(self) -> bool:
        """Nothing is half-received: an event of our own may follow."""
        return not self._buffer and self._inflate is None and self.unreadable is None

    def feed(self, chunk: bytes) -> bool:
        """True when the chunk completed message_start."""
        if self.unreadable is not None:
            return False
        if self._inflate is not None:
            try:
                chunk = self._inflate.decompress(chunk, EVENT_BYTES_MAX)
            except zlib.error:
                self.unreadable = "The reply's compression is broken."
                return False
            if self._inflate.unconsumed_tail:
                self.unreadable = "The reply unpacks to too much."
                return False
        buffer = self._buffer
        if not buffer and chunk.endswith(b"\n\n") and b"message_" not in chunk and b"error" not in chunk:
            self._count(chunk)
            return False
        searched = len(buffer)
        buffer += chunk
        end = _last_boundary(buffer, searched)
        if end == 0:
            if len(buffer) > EVENT_BYTES_MAX:
                self.unreadable = "An event of the reply is too long."
                buffer.clear()
            return False
        complete = bytes(buffer[:end])
        del buffer[:end]
        was_started = self.usage.started
        self._read(complete)
        return self.usage.started and not was_started

    def _count(self, events: bytes) -> None:
        self.content_bytes += len(events)
        if not self.hides_output and (b"thinking" in events or b"tool_use" in events):
            self.hides_output = True

    def _read(self, events: bytes) -> None:
        if b"\r" in events:
            events = events.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        others = []
        for event in events.split(b"\n\n")[:-1]:
            if b"message_" in event or b"error" in event:
                name, data = _fields(event)
                if name in _WANTED:
                    self._take(name, data)
                    continue
            others.append(event)
        if others:
            self._count(b"\n\n".join(others) + b"\n\n")

    def _take(self, name: bytes, data: bytes) -> None:
        if name == b"message_stop":
            self.stopped = True
            return
        try:
            payload = _decode(data)
        except UNDECODABLE:
            payload = None
        if not isinstance(payload, Mapping):
            self.unreadable = f"A {name.decode()} event of the reply is not a JSON object."
        elif name == b"message_start":
            self.usage.on_message_start(payload)
        elif name == b"message_delta":
            self._take_delta(payload)
        else:
            error = payload.get("error")
            kind = error.get("type") if isinstance(error, Mapping) else None
            self.error = kind if isinstance(kind, str) else "error"

    def _take_delta(self, payload: Mapping[str, Any]) -> None:
        self.usage.on_message_delta(payload)
        delta = payload.get("delta")
        reason = delta.get("stop_reason") if isinstance(delta, Mapping) else None
        if isinstance(reason, str):
            self.stop_reason = reason


def _last_boundary(buffer: bytearray, searched: int) -> int:
    """Where the last complete event ends; 0 if none does. `searched` bytes had no boundary in them."""
    start = max(0, searched - 3)
    at = buffer.rfind(b"\n\n", start)
    end = at + 2 if at >= 0 else 0
    if b"\r" in buffer:
        for mark in (b"\r\n\r\n", b"\r\r"):
            at = buffer.rfind(mark, start)
            if at >= 0:
                end = max(end, at + len(mark))
    return end


def _fields(event: bytes) -> tuple[bytes, bytes]:
    """An event's name and data; its name is its data's type where it has none of its own."""
    name = b""
    data = []
    for line in event.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            name = value
        elif field == b"data":
            data.append(value)
    joined = b"\n".join(data)
    if not name:
        name = next((wanted for wanted in _WANTED if b'"type":"%s"' % wanted in joined[:64]), b"")
    return name, joined
