"""uvicorn's HTTP protocol with one system call per response instead of two, and whole responses at once.

uvicorn writes the head and the body of a response apart, and uvloop sends each at once. A write that wakes
the other side is the dearest thing that a small call does, so what is written within one turn of the event
loop leaves together. And a connection whose client does not read is dropped in the end: to the application
its client has left.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

_IN_HEADERS = bytes(code for code in range(256) if (code >= 32 and code != 127) or code in b"\t\r\n")


class JoiningTransport:
    """A transport that keeps what is written until the end of the loop's turn. The rest is the real one's."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._call_soon, self._call_later = loop.call_soon, loop.call_later
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():  # less than what pauses writing, and still unread
            self._call_later(settings.GATEWAY_SEND_SECONDS_MAX, self._transport.abort)

    def _flush(self) -> None:
        parts = self._parts
        if parts:
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))
            self._parts = []


class JoiningProtocol(HttpToolsProtocol):
    """For uvicorn.Config(http=…)."""

    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(JoiningTransport(transport, self.loop))  # type: ignore[arg-type]

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.headers = []  # the request's scope has them, and they need not outlive it

    def pause_writing(self) -> None:
        """The client has stopped reading; what waits for it fills the buffer, open or closing."""
        super().pause_writing()
        self._unread = self.loop.call_later(settings.GATEWAY_SEND_SECONDS_MAX, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_waiting()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


def start_message(status: int, headers: Sequence[tuple[bytes, bytes]]) -> dict[str, Any]:
    """ASGI's first half of a response."""
    return {"type": "http.response.start", "status": status, "headers": headers}


async def send_whole(send: Any, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
    """Answer with a body of which `headers` tell the length. As through `send`, which looks at each header
    alone and takes two messages, at a quarter of its cost: so much a small answer spends on being written."""
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle) or not _is_plain(cycle):
        return await _send_in_two(send, status, headers, body)
    lines = [b"%b: %b\r\n" % header for header in (*cycle.default_headers, *headers)]
    head = b"".join([STATUS_LINE[status], *lines, b"\r\n"])
    if b"content-length: %d\r\n" % len(body) not in lines or not _is_sound(head, len(lines)):
        return await _send_in_two(send, status, headers, body)
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(head)
    cycle.transport.write(body)
    cycle.message_event.set()
    cycle.on_response()


def write_chunk(send: Any, chunk: bytes) -> bool:
    """Whether a part of a response that has begun, not an empty one, was written at once. If not, it is to be
    sent: which waits where the client is slow to read, and knows what to do for one that has gone."""
    cycle = getattr(send, "__self__", None)
    if (
        not isinstance(cycle, RequestResponseCycle)
        or not cycle.chunked_encoding
        or cycle.disconnected
        or cycle.flow.write_paused
    ):
        return False
    cycle.transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
    return True


def _is_plain(cycle: RequestResponseCycle) -> bool:
    """Is nothing in the way: nobody gone or slow to read, nothing sent before, the connection to be kept?"""
    return (
        cycle.keep_alive
        and not (cycle.disconnected or cycle.response_started or cycle.flow.write_paused)
        and cycle.scope["method"] != "HEAD"
    )


def _is_sound(head: bytes, lines: int) -> bool:
    """Does no value begin a line of its own, nor any header say what else is to be done?"""
    if head.translate(None, _IN_HEADERS) or not head.count(b"\r") == head.count(b"\n") == lines + 2:
        return False
    lower = head.lower()
    return b"\r\nconnection:" not in lower and b"\r\ntransfer-encoding:" not in lower


async def _send_in_two(send: Any, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
    await send(start_message(status, headers))
    await send({"type": "http.response.body", "body": body})
