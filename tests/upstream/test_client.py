"""Calls to an origin of raw bytes: which connections are used again, which of the three failures comes."""

import asyncio
import datetime
import ipaddress
import socket
import ssl
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from governance.upstream import client as client_module
from governance.upstream.client import Upstream
from governance.upstream.connection import HEAD_BYTES_MAX, READ_AHEAD_BYTES_MAX
from governance.upstream.failures import Lost, NotReached, TimedOut
from tests.upstream.origin import OK, Origin

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
BODY = b'{"a": 1}'


async def ask(upstream: Upstream, *, method: str = "POST", stream: bool = False) -> bytes:
    reply = await upstream.send(
        method, "/v1/messages", body=BODY if method == "POST" else None, headers=(), stream=stream
    )
    return await reply.read_all(100_000_000)


async def ask_into(came: bytearray, upstream: Upstream) -> None:
    """Read a stream as it comes."""
    reply = await upstream.send("POST", "/v1/messages", body=BODY, headers=(), stream=True)
    while part := await reply.read():
        came += part


# --- What is sent ---------------------------------------------------------------------------------
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


# --- Which connections are used again -------------------------------------------------------------
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


async def test_a_reply_without_an_end_of_its_own_ends_with_its_connection() -> None:
    async def until_the_end(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000)
        await writer.drain()
        raise ConnectionError

    async with Origin(until_the_end) as origin:
        for _ in range(2):
            assert await ask(origin.upstream) == b"x" * 100_000
        assert origin.connections == 2


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


# --- Replies that are not whole -------------------------------------------------------------------
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


# --- Time, and who does not read ------------------------------------------------------------------
async def _silence(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def test_no_answer_in_time_is_timed_out_and_closed() -> None:
    async with Origin(_silence) as origin:
        upstream = origin.client(total_seconds_max=0.1)
        with pytest.raises(TimedOut):
            await ask(upstream)
        assert not upstream._open or await _gone(upstream)


async def _gone(upstream: Upstream) -> bool:
    async with asyncio.timeout(1):  # sooner than any limit of the calls
        while upstream._open:
            await asyncio.sleep(0.005)
    return True


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


# --- Who stops waiting ----------------------------------------------------------------------------
async def test_a_reply_that_is_given_up_is_closed_at_once() -> None:
    async with Origin(_silence) as origin:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await ask(origin.upstream)
        assert await _gone(origin.upstream)


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


async def test_stopping_ends_what_is_under_way() -> None:
    async with Origin(OK, _silence) as origin:
        assert await ask(origin.upstream) == b"ok"
        under_way = asyncio.ensure_future(ask(origin.upstream))
        await asyncio.sleep(0.05)
        await origin.upstream.stop()
        with pytest.raises(Lost, match="the gateway stops"):
            await under_way


# --- No connection --------------------------------------------------------------------------------
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


# --- TLS ------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of localhost, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.2"))]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_calls_go_over_tls_and_connections_are_used_again(
    tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    large = b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n" + b"x" * 3_000_000
    async with Origin(OK, large, CHUNKED, tls=tls) as origin:
        assert await ask(origin.upstream) == b"ok"
        assert len(await ask(origin.upstream)) == 3_000_000
        assert await ask(origin.upstream) == b"ok"
        assert origin.connections == 1


async def test_a_certificate_that_nobody_vouches_for_is_not_reached(tls: ssl.SSLContext) -> None:
    async with Origin(tls=tls) as origin:
        with pytest.raises(NotReached, match="certificate verify failed"):
            await ask(origin.upstream)
        assert not origin.requests


async def test_a_certificate_for_another_name_is_not_reached(
    tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with Origin(tls=tls) as origin:
        upstream = Upstream(f"https://127.0.0.1:{origin.port}", total_seconds_max=5, idle_seconds_max=5)
        with pytest.raises(NotReached, match="127\\.0\\.0\\.1"):
            await ask(upstream)
        assert not origin.requests


async def test_a_handshake_that_nobody_answers_is_not_reached_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "CONNECT_SECONDS_MAX", 0.1)
    silent = await asyncio.start_server(_silence, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    upstream = Upstream(f"https://127.0.0.1:{port}", total_seconds_max=5, idle_seconds_max=5)
    with pytest.raises(NotReached, match="in time"):
        await ask(upstream)
    silent.close()


# --- Ends that are easily mistaken ----------------------------------------------------------------
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


async def _takes_nothing(answer: bytes, *, ends: bool, tls: ssl.SSLContext | None) -> asyncio.Server:
    """The first connection is answered before its request was taken; the others as they should be."""
    seen = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        await reader.readuntil(b"\r\n\r\n")
        if seen == 1:
            writer.transport.pause_reading()
        writer.write(answer if seen == 1 else OK)
        if ends:
            writer.write_eof()
        await asyncio.sleep(10)

    return await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)


async def test_over_tls_too_an_early_answer_ends_its_connection(
    tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = await _takes_nothing(OK, ends=False, tls=tls)
    port = server.sockets[0].getsockname()[1]
    upstream = Upstream(f"https://localhost:{port}", total_seconds_max=5, idle_seconds_max=5)
    reply = await upstream.send("POST", "/", body=b"x" * 30_000_000, headers=())
    assert await reply.read_all(10) == b"ok"
    assert not upstream._idle
    assert await ask(upstream) == b"ok"
    await upstream.stop()
    server.close()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 413 Too Long\r\n\r\nno"])
async def test_upstream_that_says_no_more_is_not_waited_for(answer: bytes) -> None:
    server = await _takes_nothing(answer, ends=True, tls=None)
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


@pytest.mark.parametrize("pause_seconds", [0, 0.005])
async def test_over_tls_nothing_of_a_long_reply_is_lost_when_upstream_closes_behind_it(
    tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch, pause_seconds: float
) -> None:
    """In a thread: asyncio's own server waits for our side before it closes."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    def serve() -> None:
        with suppress(OSError):
            while True:
                with tls.wrap_socket(listener.accept()[0], server_side=True) as connection:
                    connection.recv(65536)
                    connection.sendall(
                        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1000000\r\n\r\n"
                        + b"x" * 1_000_000
                    )
                    socket.socket.shutdown(connection, socket.SHUT_WR)
                    time.sleep(0.2)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        port = listener.getsockname()[1]
        upstream = Upstream(f"https://localhost:{port}", total_seconds_max=5, idle_seconds_max=5)
        for _ in range(3):
            reply = await upstream.send("POST", "/", body=b"", headers=(), stream=True)
            size = 0
            while part := await reply.read():
                size += len(part)
                await asyncio.sleep(pause_seconds)
            assert size == 1_000_000
        await upstream.stop()
