"""The gateway's connection to Valkey or Redis: it may lose anything, and no call waits for it long."""

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

SECONDS_MAX = 0.05
"""What a look-up may add to a call at most."""
CONNECTIONS_MAX = 64
FAILURES = (RedisError, OSError, TimeoutError)
"""Whatever goes wrong between us and it."""


def connect(url: str) -> Redis:
    """A client that connects when it is first used, gives up soon, and tries a stale connection once more.

    A command that is cut off closes its connection, so that no later command reads its answer.
    """
    return Redis.from_url(
        url,
        # Each use has a limit of its own, asyncio.timeout; these are for what nobody waits for any more.
        socket_connect_timeout=5,
        socket_timeout=5,
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        max_connections=CONNECTIONS_MAX,
        protocol=2,
    )
