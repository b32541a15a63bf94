"""Requests to an origin of raw bytes: what is written, on which connection, and who is not reached."""

import asyncio
import socket

import pytest

from governance.upstream import client as client_module
from governance.upstream.client import Upstream
from governance.upstream.failures import Lost, NotReached
from tests.upstream.origin import BODY, CHUNKED, OK, Origin, ask, silence


# --- What is sent ----------------------------------------------------------------------------------
async def test_a_request_is_written_as_it_was_asked_for() -> None:
    async with Origin() as origin:
        upstream = origin.client("/anthropic/")
        headers = (("x-api-key", "secret"), ("anthropic-version", "2023-06-01"), ("x-name", "Zoë"))
        reply = await upstream.send("POST", "/v1/messages", query="beta=true", body=BODY, headers=headers)
        assert (reply.status, await reply.read_all(10)) == (200, b"ok")
        await upstream.stop()
    head, _, body = origin.requests[0].partition(b"\r\n\r\n")
    assert body == BODY
    assert head.decode().split("\r\n") == [
        "POST /anthropic/v1/messages?beta=true HTTP/1.1",
        f"host: localhost:{origin.port}",
        "accept: */*",
        "accept-encoding: identity",
        "x-api-key: secret",
        "anthropic-version: 2023-06-01",
        "x-name: Zoë",
        "user-agent: exchequer",
        "content-length: 8",
    ]


async def test_a_client_that_has_a_name_keeps_it() -> None:
    async with Origin() as origin:
        await (await origin.upstream.send("GET", "/", headers=(("user-agent", "x/1"),))).read_all(10)
    assert origin.requests[0].count(b"user-agent") == 1
    assert b"content-length" not in origin.requests[0]


async def test_a_post_without_a_body_says_so() -> None:
    async with Origin() as origin:
        await (await origin.upstream.send("POST", "/", headers=())).read_all(10)
    assert b"content-length: 0\r\n" in origin.requests[0]


@pytest.mark.parametrize(
    "value", ["a\r\nx-evil: 1", "a\nx-evil: 1", "a\rb", "a\0b", "a\r\n\r\nGET / HTTP/1.1"]
)
async def test_a_header_that_would_be_two_is_never_sent(value: str) -> None:
    async with Origin() as origin:
        with pytest.raises(NotReached, match="line break"):
            await origin.upstream.send("POST", "/", body=BODY, headers=(("x-api-key", value),))
        assert await ask(origin.upstream) == b"ok"
    assert len(origin.requests) == 1


async def test_a_target_stays_on_its_line() -> None:
    async with Origin() as origin:
        reply = await origin.upstream.send("GET", "/a b\r\nx: y", query="q=ä\n&r=%20", headers=())
        await reply.read_all(10)
    assert origin.requests[0].startswith(b"GET /a%20b%0D%0Ax:%20y?q=%C3%A4%0A&r=%20 HTTP/1.1\r\nhost: ")


async def test_a_large_body_arrives_whole() -> None:
    body = bytes(range(256)) * 40_000  # 10 MB
    async with Origin() as origin:
        reply = await origin.upstream.send("POST", "/", body=body, headers=())
        assert await reply.read_all(10) == b"ok"
    assert origin.requests[0].partition(b"\r\n\r\n")[2] == body


@pytest.mark.parametrize("url", ["api.anthropic.com", "ftp://a.example", "http://", "https://u:p@a.example"])
def test_an_address_that_is_none_is_refused_with_a_sentence(url: str) -> None:
    with pytest.raises(ValueError, match="ANTHROPIC_BASE_URL must be like"):
        Upstream(url, total_seconds_max=1, idle_seconds_max=1)


# --- Which connections are used again --------------------------------------------------------------
@pytest.mark.parametrize(
    ("answer", "connections"),
    [
        pytest.param(OK, 1, id="a length"),
        pytest.param(CHUNKED, 1, id="chunks"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", 1, id="no content"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK, 1, id="early hints"),
        pytest.param(CHUNKED[:-2] + b"x-trailer: 1\r\n\r\n", 1, id="trailers"),
        pytest.param(OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), 3, id="said to close"),
        pytest.param(OK.replace(b"1.1", b"1.0"), 3, id="HTTP/1.0"),
        pytest.param(OK + OK, 3, id="a second answer behind"),
        pytest.param(OK + b"rubbish", 3, id="rubbish behind"),
        pytest.param(OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n") + b"x", 3, id="closed, and more"),
    ],
)
async def test_a_connection_is_used_again_only_when_it_is_clean(answer: bytes, connections: int) -> None:
    async with Origin(answer) as origin:
        for _ in range(3):
            assert await ask(origin.upstream) == (b"" if b"204" in answer else b"ok")
            await asyncio.sleep(0.01)
        assert origin.connections == connections


async def test_an_answer_to_head_has_no_body_whatever_it_says() -> None:
    async with Origin(OK) as origin:
        assert await ask(origin.upstream, method="HEAD") == b""
        assert await ask(origin.upstream) == b"ok"
        assert origin.connections == 2


async def test_an_answer_that_comes_before_the_whole_request_was_taken_is_read() -> None:
    async def too_long(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 413 Too Long\r\ncontent-length: 2\r\n\r\nno")
        await writer.drain()
        await asyncio.sleep(10)

    async def read_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await too_long(reader, writer)

    server = await asyncio.start_server(read_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    upstream = Upstream(f"http://127.0.0.1:{port}", total_seconds_max=5, idle_seconds_max=5)
    reply = await upstream.send("POST", "/", body=b"x" * 30_000_000, headers=())
    assert (reply.status, await reply.read_all(10)) == (413, b"no")
    assert not upstream._idle, "the rest of the body would have been read as the next request"
    await upstream.stop()
    server.close()


async def test_a_connection_that_upstream_closed_is_not_used() -> None:
    async with Origin(OK, None, OK) as origin:
        assert await ask(origin.upstream) == b"ok"
        with pytest.raises(Lost):
            await ask(origin.upstream)  # closed instead of answered
        assert await ask(origin.upstream) == b"ok"
        assert origin.connections == 2
        assert len(origin.requests) == 3, "nothing is sent twice"


async def test_a_connection_that_upstream_closes_while_idle_is_not_used() -> None:
    async def answer_and_close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await writer.drain()
        raise ConnectionError

    async with Origin(answer_and_close) as origin:
        for _ in range(5):
            assert await ask(origin.upstream) == b"ok"
            await asyncio.sleep(0.05)
        assert origin.connections == 5


async def test_upstream_that_speaks_unasked_loses_its_connection() -> None:
    async def answer_twice(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await asyncio.sleep(0.05)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nother")

    async with Origin(answer_twice) as origin:
        assert await ask(origin.upstream) == b"ok"
        await asyncio.sleep(0.1)
        assert await ask(origin.upstream) == b"ok"
        assert origin.connections == 2


async def test_idle_connections_are_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "KEEP_ALIVE_SECONDS", 0.1)
    async with Origin() as origin:
        await asyncio.gather(*(ask(origin.upstream) for _ in range(5)))
        many = origin.connections
        assert many == 5
        await origin.until_closed(many)
        assert not origin.upstream._idle
        assert not origin.upstream._open
        assert await ask(origin.upstream) == b"ok"
        assert origin.connections == many + 1


async def test_a_connection_that_was_idle_for_too_long_is_not_used_though_it_is_open() -> None:
    async with Origin() as origin:
        await ask(origin.upstream)
        next(iter(origin.upstream._idle)).idle_since -= client_module.KEEP_ALIVE_SECONDS
        await ask(origin.upstream)
        assert origin.connections == 2


async def test_the_connection_that_was_used_last_is_used_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """So those that are not needed any more grow old and are closed."""
    monkeypatch.setattr(client_module, "KEEP_ALIVE_SECONDS", 0.2)
    async with Origin() as origin:
        await asyncio.gather(*(ask(origin.upstream) for _ in range(5)))
        for _ in range(10):
            await ask(origin.upstream)
            await asyncio.sleep(0.05)
        assert origin.connections == 5
        assert len(origin.upstream._open) == 1


async def test_many_at_once_each_get_their_own_answer() -> None:
    async def echo(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = origin.requests[-1].partition(b"\r\n\r\n")[2]
        for part in (b"HTTP/1.1 200 OK\r\n", b"content-length: %d\r\n\r\n" % len(body), body):
            writer.write(part)
            await asyncio.sleep(0.001)

    async def one(upstream: Upstream, number: int) -> bytes:
        reply = await upstream.send("POST", "/", body=b"%d" % number, headers=())
        return await reply.read_all(10)

    async with Origin(echo) as origin:
        for _ in range(3):
            answers = await asyncio.gather(*(one(origin.upstream, number) for number in range(100)))
            assert answers == [b"%d" % number for number in range(100)]
        assert origin.connections <= 200


async def test_a_long_silence_is_probed() -> None:
    async with Origin() as origin:
        await ask(origin.upstream)
        (connection,) = origin.upstream._open
        assert connection._wire is not None
        sock = connection._wire.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


async def test_stopping_ends_what_is_under_way() -> None:
    async with Origin(OK, silence) as origin:
        assert await ask(origin.upstream) == b"ok"
        under_way = asyncio.ensure_future(ask(origin.upstream))
        await asyncio.sleep(0.05)
        await origin.upstream.stop()
        with pytest.raises(Lost, match="the gateway stops"):
            await under_way


async def test_who_was_still_connecting_when_it_stopped_sends_nothing() -> None:
    async with Origin() as origin:
        connecting = asyncio.ensure_future(ask(origin.upstream))
        await asyncio.sleep(0)
        await origin.upstream.stop()
        with pytest.raises(NotReached, match="the gateway stops"):
            await connecting
        assert not origin.requests
        assert not origin.upstream._open


# --- No connection ---------------------------------------------------------------------------------
async def test_nobody_at_the_address_is_not_reached() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        upstream = Upstream(
            f"http://127.0.0.1:{nobody.getsockname()[1]}", total_seconds_max=5, idle_seconds_max=5
        )
        with pytest.raises(NotReached, match=r"127\.0\.0\.1"):
            await ask(upstream)


async def test_a_name_that_nobody_has_is_not_reached() -> None:
    upstream = Upstream("http://nobody.invalid", total_seconds_max=5, idle_seconds_max=5)
    for _ in range(2):
        with pytest.raises(NotReached, match=r"nobody\.invalid:80"):
            await ask(upstream)


async def test_the_next_address_is_tried_when_one_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Origin() as origin:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            refusing = (socket.AF_INET, socket.SOCK_STREAM, 6, "", nobody.getsockname())
            working = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", origin.port))

            async def both(*_: object) -> list[object]:
                return [refusing, working]

            monkeypatch.setattr(Upstream, "_resolved", both)
            assert await ask(origin.upstream) == b"ok"


async def test_a_moved_origin_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Origin() as origin:
        upstream = origin.client()
        gone = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))
        upstream._addresses, upstream._addresses_until = [gone], float("inf")  # type: ignore[list-item]
        with pytest.raises(NotReached):
            await ask(upstream)
        assert await ask(upstream) == b"ok"
        await upstream.stop()


async def test_an_address_is_looked_up_once_for_all_who_wait_and_again_when_it_is_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Origin() as origin:
        asked = 0
        found = asyncio.Event()

        async def look_up(host: str, *_: object, **__: object) -> list[object]:
            nonlocal asked
            if host == "localhost":  # uvloop looks up what it connects to, too
                asked += 1
                await found.wait()
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", origin.port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up, raising=False)
        upstream = Upstream(f"http://localhost:{origin.port}", total_seconds_max=5, idle_seconds_max=5)
        leaves, *stay = [asyncio.ensure_future(ask(upstream)) for _ in range(3)]
        await asyncio.sleep(0.01)
        leaves.cancel()
        await asyncio.sleep(0.01)
        found.set()
        assert await asyncio.gather(*stay) == [b"ok", b"ok"]
        assert asked == 1
        upstream._addresses_until = 0
        await asyncio.gather(*(ask(upstream) for _ in range(3)))
        assert asked == 2
        await upstream.stop()


async def test_addresses_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Origin(OK.replace(b"OK\r\n", b"OK\r\nconnection: close\r\n")) as origin:
        gone = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", origin.port))
        here = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", origin.port))
        first: list[object] = []

        async def both(*_: object) -> list[object]:
            return [here, gone]

        async def connect(addresses: list[object], **_: object) -> socket.socket:
            first.append(addresses[0])
            sock = socket.create_connection(("127.0.0.1", origin.port))
            sock.setblocking(False)
            return sock

        monkeypatch.setattr(Upstream, "_resolved", both)
        monkeypatch.setattr(client_module, "start_connection", connect)
        for _ in range(4):
            await ask(origin.upstream)
        assert first == [gone, here, gone, here]


async def test_a_call_of_a_second_does_not_connect_for_ten() -> None:
    silent = await asyncio.start_server(silence, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    upstream = Upstream(f"https://127.0.0.1:{port}", total_seconds_max=5, idle_seconds_max=5)
    async with asyncio.timeout(3):
        with pytest.raises(NotReached, match="in time"):
            await upstream.send("POST", "/", body=BODY, headers=(), seconds_max=1)
    silent.close()
