"""What is written past ASGI's messages is the same bytes as through them."""

import asyncio
import logging
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from governance.gateway.http import send_whole, start_message, write_chunk

type Headers = list[tuple[bytes, bytes]]


class Wire:
    """The part of a transport that a response meets."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True


class Cycle(RequestResponseCycle):
    """One request to answer; `messages` counts what came through ASGI."""

    def __init__(self, *, method: str = "POST", keep_alive: bool = True) -> None:
        self.wire: Any = Wire()
        self.messages = self.ended = 0
        super().__init__(
            scope={"type": "http", "method": method},  # type: ignore[arg-type,typeddict-item]
            transport=self.wire,
            flow=FlowControl(self.wire),
            logger=logging.getLogger("tests"),
            access_logger=logging.getLogger("tests"),
            access_log=False,
            default_headers=[(b"date", b"Sat, 21 Nov 2026 12:00:00 GMT")],
            message_event=asyncio.Event(),
            expect_100_continue=True,
            keep_alive=keep_alive,
            on_response=self._on_end,
        )

    def _on_end(self) -> None:
        self.ended += 1

    async def send(self, message: Any) -> None:
        self.messages += 1
        await super().send(message)


def _headers(body: bytes, *more: tuple[bytes, bytes]) -> Headers:
    return [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *more,
        (b"x", b""),
    ]


@pytest.mark.parametrize("body", [b"", b'{"type":"message"}', b"long" * 100_000])
@pytest.mark.parametrize("method", ["POST", "HEAD"])
@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("more", [(), ((b"Connection", b"close"),), ((b"x-ours", b"a"), (b"x-ours", b"b"))])
async def test_a_whole_response_is_what_two_messages_would_be(
    body: bytes, method: str, keep_alive: bool, more: tuple[tuple[bytes, bytes], ...]
) -> None:
    body = b"" if method == "HEAD" else body
    whole, parts = (Cycle(method=method, keep_alive=keep_alive) for _ in range(2))

    await send_whole(whole.send, 200, _headers(body, *more), body)
    await parts.send(start_message(200, _headers(body, *more)))
    await parts.send({"type": "http.response.body", "body": body})

    assert whole.wire.written == parts.wire.written
    assert whole.wire.closed == parts.wire.closed
    assert whole.response_complete is parts.response_complete is True
    assert whole.ended == parts.ended == 1
    assert whole.waiting_for_100_continue is parts.waiting_for_100_continue is False
    assert whole.message_event.is_set()


async def test_a_plain_response_takes_no_messages() -> None:
    cycle = Cycle()
    await send_whole(cycle.send, 200, _headers(b"{}"), b"{}")
    assert cycle.messages == 0


@pytest.mark.parametrize("value", [b"a\r\nx-forged: 1", b"a\nb", b"a\rb", b"a\0b", b"a\x7fb"])
async def test_no_value_begins_a_header_of_its_own(value: bytes) -> None:
    cycle = Cycle()
    with pytest.raises(RuntimeError, match="Invalid HTTP header value"):
        await send_whole(cycle.send, 200, _headers(b"{}", (b"x-ours", value)), b"{}")
    assert cycle.wire.written == b""


async def test_a_length_that_is_not_the_bodys_is_an_error() -> None:
    cycle = Cycle()
    with pytest.raises(RuntimeError, match="longer than Content-Length"):
        await send_whole(cycle.send, 200, [(b"content-length", b"1")], b"{}")


async def test_whoever_left_is_written_nothing() -> None:
    cycle = Cycle()
    cycle.disconnected = True
    await send_whole(cycle.send, 200, _headers(b"{}"), b"{}")
    assert cycle.wire.written == b""


PARTS = [b"event: a\n\n", b"x" * 300, b"\r\n0\r\n\r\n"]


async def test_a_chunk_is_what_a_message_would_be() -> None:
    plain, written = Cycle(), Cycle()
    for cycle in (plain, written):
        await cycle.send(start_message(200, [(b"content-type", b"text/event-stream")]))
        for part in PARTS:
            if cycle is plain or not write_chunk(cycle.send, part):
                await cycle.send({"type": "http.response.body", "body": part, "more_body": True})
        await cycle.send({"type": "http.response.body"})
    assert written.wire.written == plain.wire.written
    assert (written.messages, plain.messages) == (2, 5)


@pytest.mark.parametrize("why", ["slow", "gone", "a length", "HEAD", "another server"])
async def test_a_chunk_for_whom_something_is_in_the_way_is_left_to_the_server(why: str) -> None:
    cycle = Cycle(method="HEAD" if why == "HEAD" else "POST")
    length = [(b"content-length", b"3")] if why == "a length" else []
    await cycle.send(start_message(200, length))
    before = cycle.wire.written
    cycle.disconnected = why == "gone"
    if why == "slow":
        cycle.flow.write_paused = True

    async def other_send(_: Any) -> None: ...

    assert not write_chunk(other_send if why == "another server" else cycle.send, b"abc")
    assert cycle.wire.written == before
