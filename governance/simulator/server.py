"""HTTP/1.1 at protocol level: parse with httptools, ask the Simulator, play the answer on a timeline."""

import asyncio
import socket
import struct
import traceback
from collections import deque
from collections.abc import Callable

import httptools

from governance.simulator.answer import Answer, error_answer
from governance.simulator.app import BODY_BYTES_MAX, Request, Simulator
from governance.simulator.errors import ApiError, invalid

RESET_DELAY_SECONDS = 0.02  # lets the bytes before a reset reach the client
DRAIN_SECONDS_MAX = 5.0
BACKLOG = 4096


class Connection(asyncio.Protocol):
    """One client connection. Requests on it are answered one after the other, in order."""

    transport: asyncio.Transport

    def __init__(
        self, simulator: Simulator, loop: asyncio.AbstractEventLoop, open_connections: set["Connection"]
    ) -> None:
        self._simulator = simulator
        self._loop = loop
        self._open = open_connections
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[tuple[Request | ApiError, bool]] = deque()
        self._answer: Answer | None = None
        self._keep_alive = True
        self._sent = 0  # writes of the answer that have been sent
        self._timer: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        return self._answer is not None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's transports are no asyncio.Transport
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        answer, bill = self._answer, self._simulator.bill
        if answer is not None and answer.charge is not None and bill is not None:
            line = {"kind": "left", "request_id": answer.request_id, "tag": answer.charge["tag"]}
            bill.append({**line, "writes_sent": self._sent, "writes": len(answer.writes)})
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(invalid("The request is not valid HTTP/1.1."))

    # httptools

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        length = self._headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > BODY_BYTES_MAX:
            self._too_large()
        elif self._headers.get(b"expect", b"").lower() == b"100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > BODY_BYTES_MAX:
            self._too_large()
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        path, _, query = self._url.decode("latin-1").partition("?")
        method = self._parser.get_method().decode()
        request = Request(method, path, query, self._headers, b"".join(self._body))
        self._waiting.append((request, self._parser.should_keep_alive()))
        self._next()

    # answering

    def _too_large(self) -> None:
        self._body.clear()
        self._refuse(ApiError("request_too_large", "Request exceeds the maximum size"))

    def _refuse(self, error: ApiError) -> None:
        """Answer with an error after what is under way, then close: the rest of the input is unreadable."""
        if not any(isinstance(waiting, ApiError) for waiting, _ in self._waiting) and self._keep_alive:
            self._waiting.append((error, False))
            self._next()

    def _next(self) -> None:
        if self._answer is not None or not self._waiting or self.transport.is_closing():
            return
        asked, self._keep_alive = self._waiting.popleft()
        answer = self._ask(asked)
        self._answer, self._sent = answer, 0
        if answer.charge is not None and self._simulator.bill is not None:
            self._simulator.bill.append(answer.charge, self._begin)
        else:
            self._begin()

    def _ask(self, asked: Request | ApiError) -> Answer:
        if isinstance(asked, ApiError):
            return error_answer(asked, "req_unreadable")
        try:
            return self._simulator.answer(asked)
        except Exception:
            traceback.print_exc()
            return error_answer(
                ApiError("api_error", "The simulator failed; its log says why."), "req_failed"
            )

    def _begin(self) -> None:
        """The charge is durable: wait for the latency, then send."""
        answer = self._answer
        if answer is None or self.transport.is_closing():
            return
        if answer.latency_seconds:
            self._later(answer.latency_seconds, self._send)
        else:
            self._send()

    def _send(self) -> None:
        """All at once where there is no delay between writes; otherwise one write now and the next later."""
        answer = self._answer
        assert answer is not None
        if not answer.delay_seconds:
            self.transport.write(b"".join((answer.head, *answer.writes)))
            self._sent = len(answer.writes)
        elif self._sent == 0:
            self.transport.write(answer.head + (answer.writes[0] if answer.writes else b""))
            self._sent = 1
        else:
            self.transport.write(answer.writes[self._sent])
            self._sent += 1
        if self._sent < len(answer.writes):
            self._later(answer.delay_seconds, self._send)
        else:
            self._end(answer)

    def _end(self, answer: Answer) -> None:
        if answer.ending == "stall":
            return  # until the client gives up
        if answer.ending == "reset":
            self._later(RESET_DELAY_SECONDS, self._reset)
            return
        self._answer = None
        if answer.ending == "close" or not self._keep_alive:
            self.transport.close()
        elif self._waiting:
            self._loop.call_soon(self._next)

    def _reset(self) -> None:
        """Close with RST instead of FIN."""
        self._answer = None
        raw: socket.socket = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._timer = self._loop.call_later(seconds, call)


async def serve(simulator: Simulator, listener: socket.socket, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then finish what is under way for at most five seconds."""
    loop = asyncio.get_running_loop()
    connections: set[Connection] = set()
    server = await loop.create_server(
        lambda: Connection(simulator, loop, connections), sock=listener, backlog=BACKLOG
    )
    await stop.wait()
    server.close()
    deadline = loop.time() + DRAIN_SECONDS_MAX
    while any(connection.busy for connection in connections) and loop.time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)  # only while shutting down
    for connection in list(connections):
        connection.transport.abort()
    await asyncio.sleep(0)
