"""Replies of raw bytes: whole or lost, in time or not, and closed when nobody reads on."""

import asyncio
import socket
import struct

import pytest

from governance.upstream.client import Upstream
from governance.upstream.connection import HEAD_BYTES_MAX, READ_AHEAD_BYTES_MAX
from governance.upstream.failures import Lost, TimedOut
from tests.upstream.origin import BODY, CHUNKED, OK, Origin, ask, ask_into, gone, silence, takes_nothing


# --- Whole, or not ---------------------------------------------------------------------------------
async def test_a_reply_without_an_end_of_its_own_ends_with_its_connection() -> None:
    async def until_the_end(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000)
        await writer.drain()
        raise ConnectionError

    async with Origin(until_the_end) as origin:
        for _ in range(2):
            assert await ask(origin.upstream) == b"x" * 100_000
        assert origin.connections == 2


async def test_a_reply_without_a_length_that_is_reset_is_lost() -> None:
    async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await asyncio.sleep(0.05)
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        raise ConnectionError

    async with Origin(reset) as origin:
        with pytest.raises(Lost):
            await ask(origin.upstream)


@pytest.mark.parametrize("whole", [OK, CHUNKED], ids=["a length", "chunks"])
async def test_a_reply_that_is_cut_at_any_byte_is_lost_after_what_came(whole: bytes) -> None:
    start = whole.index(b"\r\n\r\n") + 4

    def cut_at(end: int) -> object:
        async def cut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(whole[:end])
            await writer.drain()
            raise ConnectionError

        return cut

    async with Origin(*(cut_at(end) for end in range(len(whole)))) as origin:  # type: ignore[arg-type]
        for end in range(len(whole)):
            came = bytearray()
            with pytest.raises(Lost):
                await ask_into(came, origin.upstream)
            body_at = start if whole == OK else start + 3  # after the chunk's own length
            assert came == b"ok"[: max(end - body_at, 0)]
        assert origin.connections == len(whole)


@pytest.mark.parametrize("head", [b"transfer-encoding: chunked \r\n", b"transfer-encoding: chunked, x\r\n"])
async def test_a_reply_that_says_it_comes_in_chunks_is_never_whole_at_the_end_of_its_connection(
    head: bytes,
) -> None:
    async def cut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n5\r\nhello\r\n")
        await writer.drain()
        raise ConnectionError

    async with Origin(cut) as origin:
        with pytest.raises(Lost):
            await ask(origin.upstream)


@pytest.mark.parametrize("whole", [OK, CHUNKED], ids=["a length", "chunks"])
async def test_a_reply_is_the_same_however_its_bytes_come(whole: bytes) -> None:
    async def by_bytes(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for at in range(len(whole)):
            writer.write(whole[at : at + 1])
            await writer.drain()
            await asyncio.sleep(0)

    async with Origin(by_bytes) as origin:
        for _ in range(3):
            assert await ask(origin.upstream) == b"ok"
        assert origin.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"rubbish\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nok",
    ],
)
async def test_what_is_not_http_is_lost(answer: bytes) -> None:
    async with Origin(answer) as origin:
        with pytest.raises(Lost, match="not HTTP"):
            await ask(origin.upstream)
        await origin.until_closed()


@pytest.mark.parametrize("piece", [b"x-name: value\r\n", b"\r\nHTTP/1.1 103 Early\r\n", b"x" * 50])
async def test_headers_without_end_are_lost(piece: bytes) -> None:
    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 103 Early\r\n")
        while True:
            writer.write(piece * 100)
            await writer.drain()

    async with Origin(endless) as origin:
        with pytest.raises(Lost, match=f"longer than {HEAD_BYTES_MAX}"):
            await ask(origin.upstream)


async def test_trailers_are_not_headers() -> None:
    async with Origin(CHUNKED[:-2] + b"request-id: forged\r\n\r\n") as origin:
        reply = await origin.upstream.send("POST", "/", body=BODY, headers=())
        assert await reply.read_all(10) == b"ok"
        assert "request-id" not in reply.headers
        assert len(reply.raw_headers) == 1


async def test_headers_are_found_whatever_their_case_and_kept_as_they_came() -> None:
    lines = b"Content-Type: Text/Event-Stream; x=y\r\nRequest-ID: req_\xe9\r\ncontent-length: 0"
    answer = b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n\r\n"
    async with Origin(answer) as origin:
        reply = await origin.upstream.send("POST", "/", body=BODY, headers=())
        assert reply.content_type == "text/event-stream"
        assert reply.headers["request-id"] == "req_é"
        assert (b"Request-ID", b"req_\xe9") in reply.raw_headers


async def test_a_reply_that_is_too_long_is_lost_and_closed() -> None:
    async with Origin(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b"x" * 99_999) as origin:
        reply = await origin.upstream.send("POST", "/", body=BODY, headers=())
        with pytest.raises(Lost, match="longer than 1000 bytes"):
            await reply.read_all(1000)
        await origin.until_closed()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 413 Too Long\r\n\r\nno"])
async def test_upstream_that_says_no_more_is_not_waited_for(answer: bytes) -> None:
    server = await takes_nothing(answer, ends=True, tls=None)
    port = server.sockets[0].getsockname()[1]
    upstream = Upstream(f"http://127.0.0.1:{port}", total_seconds_max=5, idle_seconds_max=5)
    async with asyncio.timeout(2):
        if answer:
            reply = await upstream.send("POST", "/", body=b"x" * 30_000_000, headers=())
            assert await reply.read_all(10) == b"no"
        else:
            with pytest.raises(Lost):
                await upstream.send("POST", "/", body=b"x" * 30_000_000, headers=())
    await upstream.stop()
    server.close()


# --- Time, and who does not read -------------------------------------------------------------------
async def test_no_answer_in_time_is_timed_out_and_closed() -> None:
    async with Origin(silence) as origin:
        upstream = origin.client(total_seconds_max=0.1)
        with pytest.raises(TimedOut):
            await ask(upstream)
        assert not upstream._open or await gone(upstream)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_limit_for_the_whole_exchange_holds_while_bytes_still_come(stream: bool) -> None:
    async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with Origin(trickle) as origin:
        reply = await origin.upstream.send("POST", "/", body=BODY, headers=(), stream=stream, seconds_max=1)
        began = asyncio.get_running_loop().time()
        with pytest.raises(TimedOut):
            await reply.read_all(1_000)
        assert 0.5 < asyncio.get_running_loop().time() - began < 2


async def test_a_stream_may_take_as_long_as_it_likes_but_not_be_silent() -> None:
    async def slow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _number in range(8):
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.1)
        await asyncio.sleep(60)

    async with Origin(slow) as origin:
        upstream = origin.client(total_seconds_max=0.3, idle_seconds_max=0.3)
        came = bytearray()
        with pytest.raises(TimedOut):
            await ask_into(came, upstream)
        assert came == b"........"


async def test_what_nobody_reads_is_not_received_and_not_called_silent() -> None:
    sent = 0

    async def much(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 40000000\r\n\r\n")
        for _number in range(400):
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000

    async with Origin(much) as origin:
        upstream = origin.client(idle_seconds_max=0.2)
        reply = await upstream.send("POST", "/", body=BODY, headers=(), stream=True)
        await asyncio.sleep(0.5)
        assert reply._bytes < READ_AHEAD_BYTES_MAX + 300_000
        assert sent < 20_000_000, "the rest is in sockets, or not sent"
        assert len(await reply.read_all(50_000_000)) == 40_000_000
        assert await ask(upstream, stream=True)
        assert origin.connections == 1, "one that was paused can be used again"
        await upstream.stop()


async def test_a_call_that_has_ended_leaves_no_timer_behind() -> None:
    async with Origin() as origin:
        await ask(origin.upstream)
        (connection,) = origin.upstream._open
        assert connection._watch is None


# --- Who stops waiting -----------------------------------------------------------------------------
async def test_a_reply_that_is_given_up_is_closed_at_once() -> None:
    async with Origin(silence) as origin:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await ask(origin.upstream)
        assert await gone(origin.upstream)


async def test_a_body_that_is_given_up_is_closed_at_once() -> None:
    async with Origin(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{") as origin:
        reply = await origin.upstream.send("POST", "/v1/messages", body=b"", headers=())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reply.read_all(1_000)
        await origin.until_closed()
        with pytest.raises(Lost, match="the reply was closed"):
            await reply.read_all(1_000)


async def test_closing_a_reply_that_is_whole_leaves_its_connection_alone() -> None:
    async with Origin() as origin:
        first = await origin.upstream.send("POST", "/", body=BODY, headers=())
        second = await origin.upstream.send("POST", "/", body=BODY, headers=())
        first.close()
        assert await second.read_all(10) == b"ok"
        assert await first.read_all(10) == b"ok", "what was received can still be read"
        assert origin.connections == 1
