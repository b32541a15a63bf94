"""Reading a request's body: capped in size, in time, in memory over all requests, and when decompressed."""

import asyncio
import zlib
from collections.abc import Callable, Coroutine, MutableMapping
from typing import Any

from governance.gateway.errors import CallRefused, Refusal, invalid, retry_after

RATIO_MAX = 100
"""A body may grow this much when it is decompressed. JSON of a real conversation grows about tenfold."""
DECODED_BYTES_FREE = 64 * 1024
"""What any body may decompress to, whatever the ratio."""

type Message = MutableMapping[str, Any]
type Receive = Callable[[], Coroutine[Any, Any, Message]]


class ClientLeft(Exception):
    """The client closed its connection before it had sent its request."""


class BodyBudget:
    """Bytes of request bodies in this process's memory, in all and per tenant."""

    def __init__(self, bytes_max: int, tenant_bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._tenant_bytes_max = tenant_bytes_max
        self._in_all = 0
        self._of_tenant: dict[int, int] = {}

    def take(self, tenant_id: int, size: int) -> None:
        """CallRefused when it does not fit."""
        mine = self._of_tenant.get(tenant_id, 0) + size
        if mine > self._tenant_bytes_max:
            raise CallRefused(
                Refusal(
                    429,
                    "rate_limit_error",
                    "tenant_body_bytes",
                    "Your organisation is sending more large requests at once than this gateway keeps in "
                    "memory. Try again when some have finished.",
                    retry_after(2),
                    close=True,
                )
            )
        if self._in_all + size > self._bytes_max:
            raise CallRefused(
                Refusal(
                    503,
                    "overloaded_error",
                    "body_bytes",
                    "This gateway has no memory left for request bodies. Try again in a few seconds.",
                    retry_after(2),
                    close=True,
                )
            )
        self._of_tenant[tenant_id] = mine
        self._in_all += size

    def give_back(self, tenant_id: int, size: int) -> None:
        self._in_all -= size
        left = self._of_tenant.get(tenant_id, 0) - size
        if left > 0:
            self._of_tenant[tenant_id] = left
        else:
            self._of_tenant.pop(tenant_id, None)

    @property
    def in_flight(self) -> int:
        return self._in_all


async def read_body(
    receive: Receive, declared: int | None, *, bytes_max: int, seconds_max: float, take: Callable[[int], None]
) -> bytes:
    """The body as sent. CallRefused 413 or 408; ClientLeft. `take` sees each size before it is kept.

    What is declared and not sent takes no memory, so it reserves none.
    """
    if declared is not None and declared > bytes_max:
        raise CallRefused(_too_large(bytes_max, close=False))
    parts: list[bytes] = []
    size = 0
    # Most bodies are there with their headers, and a timer costs more than such a body does.
    message = _without_waiting(receive)
    if message is not None:
        parts.append(_part(message, 0, bytes_max, take))
        if not message.get("more_body"):
            return parts[0]
        size = len(parts[0])
    try:
        async with asyncio.timeout(seconds_max):
            while True:
                message = await receive()
                parts.append(_part(message, size, bytes_max, take))
                if not message.get("more_body"):
                    return b"".join(parts)
                size += len(parts[-1])
    except TimeoutError:
        raise CallRefused(
            Refusal(
                408,
                "timeout_error",
                "body_too_slow",
                f"The request body did not arrive within {seconds_max:g} seconds.",
                close=True,
            )
        ) from None


def _part(message: Message, size: int, bytes_max: int, take: Callable[[int], None]) -> bytes:
    """The next part of a body, of which `size` bytes were read."""
    if message["type"] == "http.disconnect":
        raise ClientLeft
    part: bytes = message.get("body", b"")
    if size + len(part) > bytes_max:
        raise CallRefused(_too_large(bytes_max, close=True))
    if part:
        take(len(part))
    return part


def _without_waiting(receive: Receive) -> Message | None:
    """The next message if it has come already; None if it has to be waited for."""
    receiving = receive()
    try:
        receiving.send(None)
    except StopIteration as done:
        message: Message = done.value
        return message
    receiving.close()  # it took nothing yet
    return None


def decoded(body: bytes, encoding: bytes, *, bytes_max: int) -> bytes:
    """The body without its content-encoding. CallRefused: 415 for one we do not open, 413 for a bomb."""
    if encoding in (b"", b"identity"):
        return body
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        raise invalid(
            "body_encoding",
            f"The content-encoding {encoding.decode('ascii', 'replace')[:40]} is not supported; send gzip, "
            "deflate or no content-encoding.",
            status=415,
        )
    limit = min(bytes_max, max(len(body) * RATIO_MAX, DECODED_BYTES_FREE))
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        plain = inflate.decompress(body, limit + 1)
    except zlib.error:
        raise invalid(
            "body_encoding", f"The body is not valid {encoding.decode()}, as its content-encoding says."
        ) from None
    if len(plain) > limit:
        raise CallRefused(
            Refusal(
                413,
                "request_too_large",
                "body_too_large_decoded",
                f"The body decompresses to more than {limit:,} bytes. Send it uncompressed.",
            )
        )
    if not inflate.eof:
        raise invalid("body_encoding", f"The {encoding.decode()} body ends too early.")
    return plain


def _too_large(bytes_max: int, *, close: bool) -> Refusal:
    return Refusal(
        413,
        "request_too_large",
        "body_too_large",
        f"The request body is larger than {bytes_max:,} bytes, the most that the Claude API takes.",
        close=close,
    )
