"""Many calls at once against a running gateway, with plain HTTP: the SDK would cost more than the gateway."""

import asyncio
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

MODEL = "claude-haiku-4-5"
"""A model without geo multiplier or long-prompt price: its worst case is what it says."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client saw; status 0 when the connection broke."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.body)["error"] if self.body else {}


def a_call(*, max_tokens: int = 1000, stream: bool = False) -> dict[str, Any]:
    message = {"role": "user", "content": "Say something."}
    return {"model": MODEL, "max_tokens": max_tokens, "stream": stream, "messages": [message]}


def headers(key: str, script: dict[str, Any] | None = None) -> dict[str, str]:
    sent = {"x-api-key": key, "content-type": "application/json", "anthropic-version": "2023-06-01"}
    if script:
        sent["anthropic-simulator"] = json.dumps(script)
    return sent


async def call(
    session: aiohttp.ClientSession,
    url: str,
    key: str,
    body: dict[str, Any],
    script: dict[str, Any] | None = None,
) -> Reply:
    """One call to its end. A connection that breaks is a reply of status 0."""
    try:
        async with session.post(f"{url}/v1/messages", json=body, headers=headers(key, script)) as response:
            return Reply(response.status, await response.read(), dict(response.headers))
    except aiohttp.ClientError as error:
        return Reply(0, b"", {"error": repr(error)})


async def storm(
    urls: Sequence[str],
    keys: Sequence[str],
    *,
    calls: int,
    concurrency: int,
    body: dict[str, Any],
    script: dict[str, Any],
    after: Iterable[tuple[int, Any]] = (),
) -> list[Reply]:
    """`calls` calls, `concurrency` at once, over all workers and keys in turn.

    `after` holds (number of replies, function) pairs: the function is called at that many replies.
    """
    turns = iter(range(calls))
    workers, callers = itertools.cycle(urls), itertools.cycle(keys)
    due = sorted(after, key=lambda pair: pair[0])
    replies: list[Reply] = []

    async def caller(session: aiohttp.ClientSession) -> None:
        for _ in turns:
            replies.append(await call(session, next(workers), next(callers), body, script))
            while due and len(replies) >= due[0][0]:
                due.pop(0)[1]()

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(60)) as session:
        await asyncio.gather(*(caller(session) for _ in range(concurrency)))
    return replies


async def varied_storm(
    orders: Sequence[tuple[str, str, dict[str, Any], dict[str, Any]]], *, concurrency: int
) -> list[Reply]:
    """Each (worker's address, key, body, script) once, so many at once; a 503 again after its retry-after,
    as SDKs do it: a process that is asked for 500 calls in its first instant may be too busy for some."""
    waiting = iter(orders)
    replies: list[Reply] = []

    async def caller(session: aiohttp.ClientSession) -> None:
        for url, key, body, script in waiting:
            reply = await call(session, url, key, body, script)
            while reply.status == 503:
                await asyncio.sleep(int(reply.headers.get("retry-after", "1")))
                reply = await call(session, url, key, body, script)
            replies.append(reply)

    # A connection each: one that is kept may be closed by the server in the moment of its next call.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(600)) as session:
        await asyncio.gather(*(caller(session) for _ in range(concurrency)))
    return replies
