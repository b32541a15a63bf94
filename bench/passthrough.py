"""The yardstick: a proxy that governs nothing, made of the gateway's own server and of aiohttp.

    python -m bench.passthrough FD UPSTREAM_URL

It reads the body, sends it on with the headers that the gateway would pass on, and relays the reply as
it comes: no key, no budget, no ledger, no usage. Whatever the gateway takes beyond this is governance.
"""

import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp
import uvicorn
from yarl import URL

type Scope = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
type Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_FORWARDED = (b"anthropic-", b"x-stainless-", b"user-agent", b"content-type", b"x-api-key")
_RELAYED = {b"content-type", b"content-length", b"request-id"}
_BARE_BODY = b'{"answer": "yes"}'
_BARE_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BARE_BODY))]


class PassThrough:
    """An ASGI application."""

    def __init__(self, upstream: str) -> None:
        self.url = URL(upstream + "/v1/messages")
        self.session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._lifespan(receive, send)
        if scope["path"] == "/bare":  # not even a proxy: what the server itself costs on this machine
            await _read(receive)
            await send({"type": "http.response.start", "status": 200, "headers": _BARE_HEADERS})
            return await send({"type": "http.response.body", "body": _BARE_BODY})
        if scope["path"] != "/v1/messages":  # /readyz
            await send({"type": "http.response.start", "status": 200, "headers": []})
            return await send({"type": "http.response.body", "body": b"ok"})
        assert self.session is not None
        body = await _read(receive)
        headers = [
            (name.decode(), value.decode()) for name, value in scope["headers"] if name.startswith(_FORWARDED)
        ]
        async with self.session.post(self.url, data=body, headers=headers) as reply:
            relayed = [(name.lower(), value) for name, value in reply.raw_headers if name.lower() in _RELAYED]
            await send({"type": "http.response.start", "status": reply.status, "headers": relayed})
            async for chunk in reply.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"accept-encoding": "identity"},
        )
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.session.close()
        await send({"type": "lifespan.shutdown.complete"})


async def _read(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def main() -> None:
    fd, upstream = sys.argv[1:]
    config = uvicorn.Config(
        PassThrough(upstream),
        lifespan="on",
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        log_level="warning",
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(fd))])


if __name__ == "__main__":
    main()
