"""Calls to the Claude API: one fixed origin, no redirects, no cookies, no proxy from the environment.

Nothing is ever sent twice. What fails, fails as one of three (failures.py).
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Iterable
from math import inf
from typing import Any
from urllib.parse import quote, urlsplit

from aiohappyeyeballs import AddrInfoType, start_connection

from governance.upstream.connection import Connection, Reply
from governance.upstream.failures import NotReached

CONNECT_SECONDS_MAX = 10
NEXT_ADDRESS_SECONDS = 0.25
"""How long one address of the origin may take before the next is tried beside it (RFC 8305)."""
ADDRESSES_KEPT_SECONDS = 60
KEEP_ALIVE_SECONDS = 15
"""Idle connections are closed before a server would do it, so that no request is sent into a closed one."""

_PROBES = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 60), ("TCP_KEEPCNT", 5))
"""A long answer is silent for minutes: without these the routers on the way forget the connection."""
_VISIBLE = re.compile(r"[!-~]*")
_TARGETS_KEPT_MAX = 100


class Upstream:
    """Calls the Claude API at the operator's base URL; tenants cannot change where calls go."""

    def __init__(self, base_url: str, *, total_seconds_max: float, idle_seconds_max: float) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError(f"ANTHROPIC_BASE_URL must be like https://api.anthropic.com, not “{base_url}”.")
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._prefix = parts.path.rstrip("/")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._first_lines = (
            f" HTTP/1.1\r\nhost: {parts.netloc}\r\n"
            "accept: */*\r\naccept-encoding: identity\r\n"  # plain, so that the tap reads it
        )
        self._targets: dict[str, str] = {}
        self._total_seconds, self._idle_seconds = total_seconds_max, idle_seconds_max
        self._addresses: list[AddrInfoType] = []
        self._addresses_until = 0.0
        self._turn = 0
        self._resolving: asyncio.Future[Any] | None = None
        self._open: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._stopped = False

    async def stop(self) -> None:
        self._stopped = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in list(self._open):
            connection.abort("the gateway stops")

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        body: bytes | None = None,
        headers: Iterable[tuple[str, str]],
        stream: bool = False,
        seconds_max: int | None = None,
    ) -> Reply:
        """Send the request; return when the reply's headers are there. NotReached, Lost or TimedOut.

        `headers` with their names in lower case. `seconds_max`: for the whole exchange, a stream's too, where
        the operator does not allow less.
        """
        head = self._head(method, path, query, body, headers)
        seconds = inf if stream else self._total_seconds
        if seconds_max is not None and seconds_max < seconds:
            seconds = seconds_max
        until = asyncio.get_running_loop().time() + seconds
        connection = self._take_idle() or await self._connect(seconds)
        reply = connection.send(
            head,
            body or b"",
            is_head=method == "HEAD",
            until=until,
            idle_seconds=self._idle_seconds if stream else inf,
        )
        try:
            await reply.begun()
        except BaseException:
            reply.close()
            raise
        return reply

    # --- the request's head -----------------------------------------------------------------------
    def _head(
        self, method: str, path: str, query: str, body: bytes | None, headers: Iterable[tuple[str, str]]
    ) -> bytes:
        """NotReached for headers that would be more than they say."""
        lines = [f"{name}: {value}\r\n" for name, value in headers]
        expected = len(lines)
        text = "".join(lines)
        breaks = text.count("\n"), text.count("\r"), text.count("\r\n")
        if breaks != (expected, expected, expected) or "\0" in text:
            raise NotReached("a header has a line break in it")
        if "user-agent: " not in text:
            text += "user-agent: exchequer\r\n"
        if body is not None or method == "POST":
            text += f"content-length: {len(body or b'')}\r\n"
        return f"{method} {self._target(path, query)}{self._first_lines}{text}\r\n".encode()

    def _target(self, path: str, query: str) -> str:
        target = self._targets.get(path)
        if target is None:
            target = _visible(self._prefix + path)
            if len(self._targets) < _TARGETS_KEPT_MAX:
                self._targets[path] = target
        return f"{target}?{_visible(query)}" if query else target

    # --- connections ------------------------------------------------------------------------------
    def _take_idle(self) -> Connection | None:
        """The one that was used last, so that those not needed any more grow old."""
        while self._idle:
            connection, _ = self._idle.popitem()
            age = asyncio.get_running_loop().time() - connection.idle_since
            if connection.is_open and age < KEEP_ALIVE_SECONDS:
                return connection
            connection.abort("idle")
        return None

    async def _connect(self, seconds_max: float) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(min(CONNECT_SECONDS_MAX, seconds_max)):
                addresses = await self._resolved()
                self._turn = (self._turn + 1) % len(addresses)
                sock = await start_connection(
                    addresses[self._turn :] + addresses[: self._turn],
                    happy_eyeballs_delay=NEXT_ADDRESS_SECONDS,
                )
                _keep_alive(sock)
                _, connection = await loop.create_connection(
                    lambda: Connection(self._free, self._lost), sock=sock
                )
                if self._tls is not None:
                    try:
                        await connection.encrypt(self._tls, self._host)
                    except BaseException:
                        connection.abort("no TLS")
                        raise
        except TimeoutError:
            self._addresses = []
            raise NotReached(f"{self._host}:{self._port} did not take a connection in time") from None
        except (OSError, RuntimeError, ValueError) as error:  # uvloop has RuntimeErrors for refused ones
            self._addresses = []  # the origin may have moved
            raise NotReached(f"{self._host}:{self._port}: {error or type(error).__name__}") from error
        if self._stopped:
            connection.abort("the gateway stops")
            raise NotReached("the gateway stops")
        self._open.add(connection)
        return connection

    async def _resolved(self) -> list[AddrInfoType]:
        loop = asyncio.get_running_loop()
        if self._addresses and loop.time() < self._addresses_until:
            return self._addresses
        if self._resolving is None or self._resolving.done():
            self._resolving = asyncio.ensure_future(
                loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            )
        addresses: list[AddrInfoType] = await asyncio.shield(self._resolving)  # others wait for it too
        self._addresses, self._addresses_until = addresses, loop.time() + ADDRESSES_KEPT_SECONDS
        return addresses

    def _free(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle[connection] = None
        if self._sweep is None:
            self._sweep = loop.call_later(KEEP_ALIVE_SECONDS, self._close_old)

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def _close_old(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep = None
        for connection in list(self._idle):
            if loop.time() - connection.idle_since < KEEP_ALIVE_SECONDS:
                break  # the others were used later
            del self._idle[connection]
            connection.abort("idle")
        if self._idle:
            self._sweep = loop.call_later(KEEP_ALIVE_SECONDS, self._close_old)


def _visible(text: str) -> str:
    return text if _VISIBLE.fullmatch(text) else quote(text, safe="!#$%&'()*+,/:;=?@[]~")


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES:
        option = getattr(socket, name, None)  # not every system has them
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
