"""The one long-lived session to the Claude API: fixed origin, no redirects, no proxy from the environment.

Three ways to fail, told apart because money hangs on them:
    NotReached   no connection was made: nothing can have been billed
    Lost         the connection broke after the request may have been sent: the outcome is unknown
    TimedOut     no answer in time: the outcome is unknown
Nothing is ever retried here.
"""

import asyncio
from collections.abc import Iterable

import aiohttp
from yarl import URL

CONNECT_SECONDS_MAX = 10
KEEP_ALIVE_SECONDS = 15
"""Idle connections are closed before a server would do it, so that no request is sent into a closed one."""


class NotReached(Exception):
    """No byte of the request was sent."""


class Lost(Exception):
    """The connection broke; upstream may have worked and billed."""


class TimedOut(Exception):
    """No answer within the time limit; upstream may have worked and billed."""


class Upstream:
    """Calls the Claude API at the operator's base URL; tenants cannot change where calls go."""

    def __init__(self, base_url: str, *, total_seconds_max: float, idle_seconds_max: float) -> None:
        self._base_url = base_url
        self._urls: dict[str, URL] = {}
        connect = {"sock_connect": CONNECT_SECONDS_MAX}
        self._whole = aiohttp.ClientTimeout(total=total_seconds_max, **connect)
        self._streamed = aiohttp.ClientTimeout(total=None, sock_read=idle_seconds_max, **connect)
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=KEEP_ALIVE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            # Plain, so that the tap reads it; and a name for callers that give none. (To have aiohttp leave a
            # header out would cost each call more than what else is done with its headers.)
            headers={"accept-encoding": "identity", "user-agent": "exchequer"},
            auto_decompress=False,
            trust_env=False,
            raise_for_status=False,
        )

    async def stop(self) -> None:
        if self._session:
            await self._session.close()

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
    ) -> aiohttp.ClientResponse:
        """Send the request; return when the response's headers are there. NotReached, Lost or TimedOut.

        `seconds_max`: for the whole exchange, a stream's too, where the operator does not allow less.
        """
        assert self._session is not None
        timeout = self._streamed if stream else self._whole
        if seconds_max is not None:
            timeout = aiohttp.ClientTimeout(
                total=min(seconds_max, timeout.total or seconds_max),
                sock_connect=timeout.sock_connect,
                sock_read=timeout.sock_read,
            )
        try:
            return await self._session.request(
                method,
                self._url(path, query),
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=timeout,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotReached(str(error)) from error
        except TimeoutError as error:
            raise TimedOut from error
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
            raise Lost(f"{type(error).__name__}: {error}") from error

    def _url(self, path: str, query: str) -> URL:
        if query:
            return URL(f"{self._base_url}{path}?{query}", encoded=True)
        url = self._urls.get(path)
        if url is None:
            url = URL(self._base_url + path, encoded=True)
            if len(self._urls) < 100:
                self._urls[path] = url
        return url


async def read_body(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """The whole body, still encoded as upstream sent it. Lost or TimedOut when it does not end."""
    parts: list[bytes] = []
    size = 0
    try:
        async for chunk in response.content.iter_any():
            parts.append(chunk)
            size += len(chunk)
            if size > bytes_max:
                raise Lost(f"the reply is longer than {bytes_max} bytes")
    except BaseException as error:
        response.close()  # what may still come, nobody reads
        if isinstance(error, TimeoutError):
            raise TimedOut from error
        if isinstance(error, aiohttp.ClientError | OSError):
            raise Lost(f"{type(error).__name__}: {error}") from error
        raise
    return parts[0] if len(parts) == 1 else b"".join(parts)
