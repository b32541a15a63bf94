"""An upstream that answers with bytes of the test's choice, so that nothing in between mends them."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable

from governance.upstream.client import Upstream

type Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
BODY = b'{"a": 1}'


class Origin:
    """`answers`: what is written for each request of a connection, in turn; the last one again and again.
    A function does as it likes. None closes the connection."""

    def __init__(self, *answers: bytes | Answer | None, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed = 0
        self._answers = answers or (OK,)
        self._tls = tls
        self._served = 0

    async def __aenter__(self) -> "Origin":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.upstream = self.client()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.upstream.stop()
        self._server.close()

    def client(
        self, prefix: str = "", *, total_seconds_max: float = 5, idle_seconds_max: float = 5
    ) -> Upstream:
        scheme = "https" if self._tls else "http"
        return Upstream(
            f"{scheme}://localhost:{self.port}{prefix}",
            total_seconds_max=total_seconds_max,
            idle_seconds_max=idle_seconds_max,
        )

    async def until_closed(self, count: int = 1) -> None:
        async with asyncio.timeout(5):
            while self.closed < count:
                await asyncio.sleep(0.005)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                self.requests.append(await _request(reader))
                answer = self._answers[min(self._served, len(self._answers) - 1)]
                self._served += 1
                if answer is None:
                    return
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            self.closed += 1
            writer.close()


async def _request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    _, _, length = head.partition(b"content-length: ")
    return head + await reader.readexactly(int(length.split(b"\r\n")[0] or 0))


async def takes_nothing(answer: bytes, *, ends: bool, tls: ssl.SSLContext | None) -> asyncio.Server:
    """The first connection is answered before its request was taken; the others as they should be."""
    seen = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        await reader.readuntil(b"\r\n\r\n")
        if seen == 1:
            writer.transport.pause_reading()
        writer.write(answer if seen == 1 else OK)
        if ends:
            writer.write_eof()
        await asyncio.sleep(10)

    return await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)


async def ask(upstream: Upstream, *, method: str = "POST", stream: bool = False) -> bytes:
    reply = await upstream.send(
        method, "/v1/messages", body=BODY if method == "POST" else None, headers=(), stream=stream
    )
    return await reply.read_all(100_000_000)


async def ask_into(came: bytearray, upstream: Upstream) -> None:
    """Read a stream as it comes."""
    reply = await upstream.send("POST", "/v1/messages", body=BODY, headers=(), stream=True)
    while part := await reply.read():
        came += part


async def silence(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def gone(upstream: Upstream) -> bool:
    async with asyncio.timeout(1):  # sooner than any limit of the calls
        while upstream._open:
            await asyncio.sleep(0.005)
    return True
