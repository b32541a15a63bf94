"""What the gateway answers with: bytes and header bytes that go on the wire as they are."""

from collections.abc import AsyncIterator, Callable, Sequence

from django.http.response import HttpResponseBase

type Headers = Sequence[tuple[bytes, bytes]]


class GatewayResponse(HttpResponseBase):
    """A response whose headers are already wire bytes: either a whole `body`, or a `stream` of chunks.

    `after` runs once the response has left or can no longer leave: settling a call keeps nobody waiting.
    A stream that sets `complete` to False is cut off instead of ended.
    """

    streaming = False

    def __init__(
        self,
        status: int,
        wire_headers: Headers,
        body: bytes = b"",
        stream: AsyncIterator[bytes] | None = None,
        after: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(status=status)
        self.wire_headers = wire_headers
        self.body = body
        self.stream = stream
        self.after = after
        self.complete = True
