"""One HTTP/1.1 connection to upstream, and the reply that is read from it.

llhttp parses (httptools). A connection carries one request at a time and is used again only when the reply
was whole, said itself where it ends, and had nothing behind it.
"""

import asyncio
import ssl
from collections.abc import Callable
from functools import lru_cache
from math import inf

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from governance.upstream.failures import Lost, TimedOut

READ_AHEAD_BYTES_MAX = 128 * 1024
"""What is received and nobody has taken yet; above it upstream is not read on."""
HEAD_BYTES_MAX = 128 * 1024
"""What may come before a reply's headers are whole. (It can be one read of a socket, body and all.)"""
JOINED_BYTES_MAX = 64 * 1024
"""A body up to this length is copied behind its head, to leave with it."""


@lru_cache(maxsize=512)  # upstream sends the same few names with every reply
def _name(raw: bytes) -> str:
    return raw.decode("latin-1").lower()


class Reply:
    """Upstream's answer: status and headers once they are there, then the body as it comes.

    `raw_headers` as upstream wrote them, in order; `headers` by their names in lower case, of one that comes
    twice the last.
    """

    __slots__ = (
        "_bytes",
        "_connection",
        "_ended",
        "_failure",
        "_parts",
        "_waiter",
        "headers",
        "raw_headers",
        "status",
    )

    def __init__(self, connection: "Connection") -> None:
        self.status = 0
        self.raw_headers: list[tuple[bytes, bytes]] = []
        self.headers: dict[str, str] = {}
        self._connection: Connection | None = connection
        self._parts: list[bytes] = []
        self._bytes = 0
        self._ended = False
        self._failure: Lost | TimedOut | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def content_type(self) -> str:
        """Without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def begun(self) -> None:
        """Until status and headers are there. Lost or TimedOut when they do not come."""
        while not self.status:
            if self._failure is not None:
                raise self._failure
            await self._news()

    async def read(self) -> bytes:
        """What came of the body since, at least a byte; none at its end. Lost or TimedOut when it breaks off:
        not before all that came was read."""
        while not self._parts:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return b""
            await self._news()
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._bytes = 0
        if self._connection is not None:
            self._connection.read_on()
        return data

    async def read_all(self, bytes_max: int) -> bytes:
        """The whole body, still encoded as upstream sent it. Lost or TimedOut when it does not end."""
        parts: list[bytes] = []
        size = 0
        try:
            while part := await self.read():
                parts.append(part)
                size += len(part)
                if size > bytes_max:
                    raise Lost(f"the reply is longer than {bytes_max} bytes")
        finally:
            self.close()  # what may still come, nobody reads
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Nobody reads on: a reply that is not whole yet ends with its connection."""
        if self._connection is not None:
            self._connection.abort("the reply was closed")

    async def _news(self) -> None:
        assert self._waiter is None, "one reads at a time"
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # --- what the connection tells ----------------------------------------------------------------
    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.raw_headers = headers
        self.headers = {_name(name): value.decode("latin-1") for name, value in headers}
        self.status = status

    def _add(self, part: bytes) -> None:
        self._parts.append(part)
        self._bytes += len(part)

    @property
    def _is_far_ahead(self) -> bool:
        """More has come than should wait, and nobody is about to take it."""
        waiter = self._waiter
        return self._bytes > READ_AHEAD_BYTES_MAX and (waiter is None or waiter.done())

    def _end(self, failure: Lost | TimedOut | None) -> None:
        self._ended = True
        self._failure = failure
        self._connection = None
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(asyncio.Protocol):
    """See above. `on_free` is called when it can carry the next request, `on_lost` when it never will."""

    def __init__(
        self, on_free: "Callable[[Connection], None]", on_lost: "Callable[[Connection], None]"
    ) -> None:
        self.idle_since = 0.0
        self._on_free, self._on_lost = on_free, on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._wire: asyncio.Transport | None = None
        self._parser = HttpResponseParser(self)
        self._reply: Reply | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._is_head_request = False
        self._is_interim = False
        self._ends_with_connection = False
        self._is_whole = False
        self._is_reusable = False
        self._is_paused = False
        self._until = inf
        self._idle_seconds = inf
        self._heard_at = 0.0
        self._watch: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def encrypt(self, tls: ssl.SSLContext, host: str) -> None:
        """Before anything is sent. OSError and others when the other side is not who it should be.

        The bare connection below is kept: only it knows what has not left yet; and it is paused when nobody
        reads, for what a paused TLS transport still holds is lost with the connection (uvloop 0.23).
        """
        if self._wire is None or self._wire.is_closing():  # uvloop would wait for ever
            raise ConnectionResetError("upstream closed the connection")
        self._transport = await self._loop.start_tls(self._wire, self, tls, server_hostname=host)

    def send(self, head: bytes, body: bytes, *, is_head: bool, until: float, idle_seconds: float) -> Reply:
        """Write one request. `until` when, of the loop's clock, its reply must be whole; `idle_seconds` that
        may pass without a byte of it (math.inf for either: no limit)."""
        assert self._transport is not None
        assert self._reply is None
        reply = self._reply = Reply(self)
        self._headers = []
        self._head_bytes = 0
        self._is_head_request = is_head
        self._is_whole = self._is_reusable = self._ends_with_connection = False
        self._until, self._idle_seconds = until, idle_seconds
        self._heard_at = self._loop.time()
        self._watch_over(min(until - self._heard_at, idle_seconds))
        if len(body) > JOINED_BYTES_MAX:
            self._transport.write(head)
            self._transport.write(body)
        else:
            self._transport.write(head + body)
        return reply

    def read_on(self) -> None:
        """What was received has been taken."""
        if self._is_paused and self._wire is not None:
            self._is_paused = False
            self._heard_at = self._loop.time()  # upstream was silent because it was not listened to
            self._wire.resume_reading()

    def abort(self, reason: str) -> None:
        """Close at once. A reply that is not whole is Lost, for the reason."""
        self._fail(Lost(reason))

    # --- asyncio.Protocol -------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = self._wire = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        reply = self._reply
        if reply is None:
            return self.abort("upstream spoke unasked")
        self._heard_at = self._loop.time()
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self._is_whole:
                return self._fail(Lost(f"upstream's answer is not HTTP: {error}"))
            self._is_reusable = False  # something stands behind the reply
        if self._is_whole:
            return self._finish()
        if not reply.status:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                return self._fail(Lost(f"upstream's headers are longer than {HEAD_BYTES_MAX} bytes"))
        if reply._is_far_ahead:
            assert self._wire is not None
            self._is_paused = True
            self._wire.pause_reading()
        reply._wake()

    def eof_received(self) -> None:
        """Upstream says no more, whatever it has still to take of the request."""
        if self._reply is not None and self._reply.status and self._ends_with_connection:
            self._finish()
        else:
            self._fail(Lost("upstream closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = self._wire = None
        self._fail(Lost(f"{type(exc).__name__}: {exc}" if exc else "upstream closed the connection"))
        del self._parser  # it refers to us
        self._on_lost(self)

    # --- HttpResponseParser -----------------------------------------------------------------------
    def on_message_begin(self) -> None:
        if self._is_whole:
            self._is_reusable = False  # a second answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reply is not None and not self._reply.status:  # else a trailer
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        reply = self._reply
        if self._is_whole or reply is None:
            return
        self._is_interim = status < 200
        if self._is_interim:
            self._headers = []
            return
        reply._begin(status, self._headers)
        self._ends_with_connection = not {"content-length", "transfer-encoding"} & reply.headers.keys()
        self._is_whole = self._is_head_request

    def on_body(self, body: bytes) -> None:
        if self._reply is not None and not self._is_whole:
            self._reply._add(body)

    def on_message_complete(self) -> None:
        if self._is_interim or self._is_whole:
            return
        self._is_whole = True
        self._is_reusable = self._parser.should_keep_alive()

    # --- ends -------------------------------------------------------------------------------------
    def _finish(self) -> None:
        """The reply is whole, even if not all of it was taken yet."""
        reply, self._reply = self._reply, None
        assert reply is not None
        self._stop_watching()
        reply._end(None)
        assert self._transport is not None
        assert self._wire is not None
        unsent = self._transport.get_write_buffer_size() + self._wire.get_write_buffer_size()
        if not self._is_reusable or unsent or self._transport.is_closing():
            self._wire.abort()
        else:
            self._on_free(self)

    def _fail(self, failure: Lost | TimedOut) -> None:
        reply, self._reply = self._reply, None
        self._stop_watching()
        if reply is not None:
            reply._end(failure)
        if self._wire is not None:
            self._wire.abort()

    # --- time -------------------------------------------------------------------------------------
    def _watch_over(self, seconds: float) -> None:
        if seconds < inf:
            self._watch = self._loop.call_later(max(seconds, 0), self._look)

    def _look(self) -> None:
        now = self._loop.time()
        silent_since = now if self._is_paused else self._heard_at
        left = min(self._until - now, silent_since + self._idle_seconds - now)
        if left <= 0:
            return self._fail(TimedOut("upstream did not answer in time"))
        self._watch_over(left)

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
