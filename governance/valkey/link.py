"""One connection to Valkey or Redis (RESP2), shared by everybody who asks; opened when somebody does.

    link = Link("redis://127.0.0.1:6379/0")
    value = await link.ask("GET", "name")      bytes, int, list or None

Each use sets its own limit of time (asyncio.timeout). A caller that stops waiting leaves its place in the
line of replies to nobody, so that no later command reads its answer.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Collection
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

SECONDS_MAX = 0.05
"""What a look-up may add to a call at most."""
CONNECT_SECONDS_MAX = 5.0
SILENCE_SECONDS_MAX = 5.0
UNANSWERED_MAX = 10_000
UNSENT_BYTES_MAX = 16 * 1024 * 1024

type Part = bytes | str | int


class ValkeyError(Exception):
    """There is no answer to be had."""


class Away(ValkeyError):
    """No connection, or it broke, or nothing comes: nobody knows whether the command was carried out."""


class Declined(ValkeyError):
    """Valkey answered with an error, such as a value of another type."""


class Link(asyncio.Protocol):
    """See above. Use it from one event loop only."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._introductions = 0
        self._connecting: asyncio.Task[None] | None = None
        self._answered_at = 0.0
        self._watch: asyncio.TimerHandle | None = None

    def ask(self, *command: Part) -> "asyncio.Future[Any]":
        """The reply to one command, in time. Away or Declined."""
        (reply,) = self.ask_all((command,))
        return reply

    def tell(self, *commands: tuple[Part, ...]) -> None:
        """Have them carried out if they can be; nobody waits for that."""
        for reply in self.ask_all(commands) if commands else ():
            reply.add_done_callback(ignored)

    def ask_all(self, commands: Collection[tuple[Part, ...]]) -> "list[asyncio.Future[Any]]":
        """The replies to several, which leave together."""
        loop = asyncio.get_running_loop()
        replies: list[asyncio.Future[Any]] = [loop.create_future() for _ in commands]
        transport = self._transport
        unsent = self._unsent_bytes if transport is None else transport.get_write_buffer_size()
        if len(self._waiting) >= UNANSWERED_MAX or unsent > UNSENT_BYTES_MAX:
            for reply in replies:
                reply.set_exception(Away("too much is not answered yet"))
            return replies
        if not self._waiting:
            self._answered_at = loop.time()
            if self._watch is None:
                self._watch = loop.call_later(SILENCE_SECONDS_MAX, self._look)
        self._waiting.extend(replies)
        data = b"".join(map(_encoded, commands))
        if transport is not None:
            transport.write(data)
        else:
            self._unsent.append(data)
            self._unsent_bytes += len(data)
            if self._connecting is None:
                self._connecting = loop.create_task(self._connect())
        return replies

    def close(self) -> None:
        """Whoever still waits gets Away. A later `ask` connects again."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._transport is not None:
            self._transport.abort()
        self._lose("closed")

    # --- connecting -------------------------------------------------------------------------------
    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        parts = urlsplit(self._url)
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                if parts.scheme == "unix":
                    await loop.create_unix_connection(lambda: self, unquote(parts.path))
                else:
                    secure = _tls(options) if parts.scheme == "rediss" else None
                    host, port = parts.hostname or "127.0.0.1", parts.port or 6379
                    await loop.create_connection(lambda: self, host, port, ssl=secure)
        except (OSError, TimeoutError, ValueError) as error:
            self._connecting = None
            self._lose(str(error) or "no connection in time")
            return
        self._connecting = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._reader = hiredis.Reader()
        self._transport = transport
        # Introductions go first, and nothing else is believed when one is declined.
        first = _introductions(self._url)
        self._introductions = len(first)
        transport.write(b"".join([*map(_encoded, first), *self._unsent]))
        self._unsent, self._unsent_bytes = [], 0

    # --- replies ----------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                self._answer(reply)
        except (hiredis.ProtocolError, IndexError, Declined) as error:  # not the Valkey that we are to use
            if self._transport is not None:
                self._transport.abort()
            self._lose(str(error))
            return
        self._answered_at = asyncio.get_running_loop().time()

    def _answer(self, reply: Any) -> None:
        if self._introductions:
            self._introductions -= 1
            if isinstance(reply, hiredis.ReplyError):
                raise Declined(str(reply))
            return
        waiting = self._waiting.popleft()
        if waiting.done():
            return
        if isinstance(reply, hiredis.ReplyError):
            waiting.set_exception(Declined(str(reply)))
        else:
            waiting.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(str(exc or "the connection was closed"))

    def _lose(self, why: str) -> None:
        self._transport = None
        self._unsent, self._unsent_bytes = [], 0
        waiting, self._waiting = self._waiting, deque()
        for reply in waiting:
            if not reply.done():
                reply.set_exception(Away(why))

    def _look(self) -> None:
        """Is anybody there? Runs while something waits, and once more."""
        self._watch = None
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        silent_seconds = loop.time() - self._answered_at
        if silent_seconds >= SILENCE_SECONDS_MAX:
            if self._transport is not None:
                self._transport.abort()
            self._lose("no answer in time")
        else:
            self._watch = loop.call_later(SILENCE_SECONDS_MAX - silent_seconds, self._look)


def ignored(reply: "asyncio.Future[Any]") -> None:
    """Whatever became of it, nobody needs to know."""
    if not reply.cancelled():
        reply.exception()


def _encoded(command: tuple[Part, ...]) -> bytes:
    parts = [b"*%d\r\n" % len(command)]
    for part in command:
        value = part if isinstance(part, bytes) else str(part).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(value), value))
    return b"".join(parts)


def _introductions(url: str) -> list[tuple[Part, ...]]:
    """Who we are, where the URL says so, and which database it names."""
    parts = urlsplit(url)
    commands: list[tuple[Part, ...]] = []
    if parts.password:
        user = (unquote(parts.username),) if parts.username else ()
        commands.append(("AUTH", *user, unquote(parts.password)))
    named = parse_qs(parts.query).get("db", [""])[-1]
    if not named and parts.scheme != "unix":
        named = parts.path.strip("/")
    if named:
        commands.append(("SELECT", named))
    return commands


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_cert_reqs", "required") in ("none", "CERT_NONE"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
