"""The one place that makes this process's clients of Valkey or Redis.

The library is imported when a client is first asked for, and in a thread: it takes 5 MB, which a worker that
needs no Valkey keeps, and up to a second, for which no event loop may stand still.
"""

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis.asyncio import Redis

SECONDS_MAX = 0.05
"""What a look-up may add to a call at most."""
CONNECTIONS_MAX = 64
_is_loaded = False


async def load() -> None:
    """Import the library; wait for this outside a look-up's time limit."""
    global _is_loaded
    if not _is_loaded:
        await asyncio.to_thread(import_module, "redis.asyncio")
        _is_loaded = True


def failures() -> tuple[type[Exception], ...]:
    """Whatever goes wrong between us and it: for `except`, which asks only once something did."""
    from redis.exceptions import RedisError

    return RedisError, OSError, TimeoutError


def is_refusal(error: Exception) -> bool:
    """Whether Valkey did answer, and would not: the value is of a type that the command is not for."""
    from redis.exceptions import ResponseError

    return isinstance(error, ResponseError)


class Valkey:
    """A client for look-ups, made on first use. Valkey may lose anything, and no call waits for it long.

    It connects when it is first used, gives up soon, and tries a stale connection once more. A command that
    is cut off closes its connection, so that no later command reads its answer.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Redis | None = None

    async def client(self) -> "Redis":
        """The client; the first time it may take a while."""
        if self._client is None:
            await load()
            if self._client is None:
                self._client = _for_lookups(self._url)
        return self._client

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()


def _for_lookups(url: str) -> "Redis":
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError

    return Redis.from_url(
        url,
        # Each use has a limit of its own, asyncio.timeout; these are for what nobody waits for any more.
        socket_connect_timeout=5,
        socket_timeout=5,
        retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
        max_connections=CONNECTIONS_MAX,
        protocol=2,
    )


def for_counting(url: str) -> "Redis":
    """A client with one connection, after `load`. It never sends a command twice, to be counted twice."""
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    return Redis.from_url(
        url, decode_responses=True, single_connection_client=True, retry=Retry(NoBackoff(), 0), protocol=2
    )
