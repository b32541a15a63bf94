"""What the gateway answers with: bytes and header bytes that go on the wire as they are."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

from django.http.response import HttpResponseBase

if TYPE_CHECKING:
    from governance.gateway.charging import Charge

type Headers = Sequence[tuple[bytes, bytes]]

PRIVATE: Headers = ((b"cache-control", b"private, no-store"), (b"vary", b"authorization, x-api-key"))
"""On whatever we answer to a key: it is for that key alone."""


class GatewayResponse(HttpResponseBase):
    """A response whose headers are already wire bytes: either a whole `body`, or a `stream` of chunks.

    `after` settles the call and keeps nobody waiting: it runs once a stream has ended, and for a whole body
    when it is being sent, however long the client takes to read it.
    A stream that sets `complete` to False is cut off instead of ended.
    """

    streaming = False
    charged: "Callable[[], tuple[Charge, bytes | None]] | None" = None
    """What its attempt will be charged, and a Message's raw content (None for a stream's). Where somebody may
    still think better of it (cascade.py)."""

    def __init__(
        self,
        status: int,
        wire_headers: Headers,
        body: bytes = b"",
        stream: AsyncIterator[bytes] | None = None,
        after: Callable[[], None] | None = None,
    ) -> None:
        # Not the base's: it makes containers for headers and cookies, which nobody here asks for.
        self.status_code = status
        self.wire_headers = wire_headers
        self.body = body
        self.stream = stream
        self.after = after
        self.complete = True
