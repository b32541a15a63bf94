"""The same over TLS, where connections end and pause in ways of their own."""

import asyncio
import socket
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from governance.upstream import client as client_module
from governance.upstream.client import Upstream
from governance.upstream.connection import Connection
from governance.upstream.failures import NotReached
from tests.upstream.origin import CHUNKED, OK, Origin, ask, silence, takes_nothing


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
    silent = await asyncio.start_server(silence, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    upstream = Upstream(f"https://127.0.0.1:{port}", total_seconds_max=5, idle_seconds_max=5)
    with pytest.raises(NotReached, match="in time"):
        await ask(upstream)
    silent.close()


async def test_one_who_hangs_up_before_tls_is_not_reached_at_once() -> None:
    async def leave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    server = await asyncio.start_server(leave, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    upstream = Upstream(f"https://127.0.0.1:{port}", total_seconds_max=5, idle_seconds_max=5)
    async with asyncio.timeout(3):
        for _ in range(10):
            with pytest.raises(NotReached):
                await ask(upstream)
    server.close()


async def test_a_connection_that_closes_before_tls_begins_is_not_waited_for() -> None:
    async with Origin() as origin, asyncio.timeout(2):
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(lambda _: None, lambda _: None), "127.0.0.1", origin.port
        )
        connection.abort("closed")
        with pytest.raises(ConnectionResetError):
            await connection.encrypt(ssl.create_default_context(), "localhost")


async def test_over_tls_too_an_early_answer_ends_its_connection(
    tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = await takes_nothing(OK, ends=False, tls=tls)
    port = server.sockets[0].getsockname()[1]
    upstream = Upstream(f"https://localhost:{port}", total_seconds_max=5, idle_seconds_max=5)
    reply = await upstream.send("POST", "/", body=b"x" * 30_000_000, headers=())
    assert await reply.read_all(10) == b"ok"
    assert not upstream._idle
    assert await ask(upstream) == b"ok"
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
