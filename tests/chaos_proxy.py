"""A TCP proxy that spoils what passes: slow, in crumbs, cut at byte N, reset, or silent with the line open.

Put it in front of PostgreSQL or Valkey (`server` is their URL), of the Claude API or of the gateway
(`server` is an http URL). Each direction has its own `Chaos`; what is set holds for every connection,
open ones too. In an async test: `await start()`; in a synchronous one: `with in_thread(proxy) as url`.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

COMMIT_SECONDS = 0.05
"""How long a server gets to do what was asked, before its answer is lost."""


@dataclass
class Chaos:
    """What happens to the bytes of one direction. `cut_after_bytes` counts for each connection."""

    latency_seconds: float = 0.0
    trickle_bytes: int = 0
    cut_after_bytes: int | None = None
    cut: Literal["close", "reset", "half_open"] = "close"

    def pieces(self, data: bytes) -> Iterator[bytes]:
        size = self.trickle_bytes or len(data)
        return (data[i : i + size] for i in range(0, len(data), size))


@dataclass
class ChaosProxy:
    """Listens on 127.0.0.1, on one port for good; `url` is the server's URL through the proxy."""

    server: str
    to_server: Chaos = field(default_factory=Chaos)
    to_client: Chaos = field(default_factory=Chaos)
    answers_lost: int = 0
    _armed: bool = False
    _port: int = 0

    def __post_init__(self) -> None:
        self._parts = urlsplit(self.server)
        self._listening: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        if self._parts.scheme == "http":
            return f"http://127.0.0.1:{self._port}"
        if self._parts.scheme in ("redis", "unix"):
            database = parse_qs(self._parts.query).get("db", [self._parts.path.strip("/")])[0]
            return f"redis://127.0.0.1:{self._port}/{database or 0}"
        user = f"{self._parts.username}:{self._parts.password or ''}"
        path = f"{self._parts.path}?sslmode=disable&gssencmode=disable"
        return f"postgresql://{user}@127.0.0.1:{self._port}{path}"

    async def start(self) -> str:
        """Listen, after a `stop` at the same port; returns `url`."""
        self._loop = asyncio.get_running_loop()
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._listening.sockets[0].getsockname()[1]
        return self.url

    async def stop(self) -> None:
        """Refuse new connections; open ones go on."""
        if self._listening:
            self._listening.close()

    def cut_all(self) -> None:
        """Reset every open connection, soon. From any thread."""
        for writer in list(self._open):
            self._loop.call_soon_threadsafe(_reset, writer)

    def lose_next_answer(self) -> None:
        """The next request arrives and is worked on; its answer and the connection are lost."""
        self._armed = True

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._parts.scheme == "unix":
            return await asyncio.open_unix_connection(self._parts.path)
        folder = parse_qs(self._parts.query).get("host")
        if folder:
            return await asyncio.open_unix_connection(str(Path(folder[0]) / ".s.PGSQL.5432"))
        return await asyncio.open_connection(self._parts.hostname, self._parts.port)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            server, to_server = await self._connect()
        except OSError:
            return _reset(to_client)
        self._open |= {to_client, to_server}
        lost = asyncio.Event()
        ends = (
            self._pump(client, to_server, self.to_server, to_client, lost, asks=True),
            self._pump(server, to_client, self.to_client, to_server, lost, asks=False),
        )
        await asyncio.gather(*ends, return_exceptions=True)
        self._open -= {to_client, to_server}

    async def _pump(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        chaos: Chaos,
        back: asyncio.StreamWriter,
        lost: asyncio.Event,
        *,
        asks: bool,
    ) -> None:
        passed = 0
        while data := await source.read(1 << 16):
            if asks and self._armed:
                self._armed = False
                lost.set()
            elif lost.is_set():
                continue
            if chaos.latency_seconds:
                await asyncio.sleep(chaos.latency_seconds)
            for piece in chaos.pieces(data):
                limit = chaos.cut_after_bytes
                allowed = len(piece) if limit is None else max(0, limit - passed)
                target.write(piece[:allowed])
                await target.drain()
                passed += len(piece)
                if allowed < len(piece):
                    return await _end(chaos.cut, source, target, back)
                if chaos.trickle_bytes:
                    await asyncio.sleep(0.001)
            if asks and lost.is_set():
                await asyncio.sleep(COMMIT_SECONDS)
                self.answers_lost += 1
                _reset(back)
                return _reset(target)
        if not lost.is_set():
            target.close()


async def _end(
    how: str, source: asyncio.StreamReader, target: asyncio.StreamWriter, back: asyncio.StreamWriter
) -> None:
    if how == "half_open":  # nobody hears anything any more, and nobody is told
        while await source.read(1 << 16):
            pass
    elif how == "reset":
        _reset(target)
        _reset(back)
    else:
        target.close()
        back.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN: what is not delivered yet is lost."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_INET:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def in_thread(proxy: ChaosProxy) -> Iterator[ChaosProxy]:
    """Run the proxy beside a synchronous test. Its Chaos may be set at any time."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(proxy.start(), loop).result(10)
    try:
        yield proxy
    finally:

        async def end() -> None:
            await proxy.stop()
            proxy.cut_all()
            await asyncio.sleep(0.05)  # the pumps end

        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
