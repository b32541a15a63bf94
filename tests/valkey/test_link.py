"""The gateway's connection to a real Valkey: in order, once, and never for long."""

import asyncio
import os
import secrets
import subprocess
import sys

import pytest
import uvloop

from governance.valkey import link as link_module
from governance.valkey.link import Away, Declined, Link


@pytest.fixture
def name() -> str:
    return f"test:{secrets.token_hex(8)}"


async def test_replies_come_in_the_order_of_their_commands(name: str) -> None:
    link = Link(os.environ["REDIS_URL"])
    asked = [link.ask("INCR", name) for _ in range(100)]
    assert await asyncio.gather(*asked) == list(range(1, 101))
    assert await link.ask("SET", name, b"\r\n\x00\xff" * 100_000, "EX", 60) == b"OK"
    assert await link.ask("MGET", name, "nothing") == [b"\r\n\x00\xff" * 100_000, None]
    link.close()


def test_it_works_under_the_gateways_event_loop(name: str) -> None:
    async def echo() -> object:
        link = Link(os.environ["REDIS_URL"])
        try:
            return await link.ask("ECHO", name)
        finally:
            link.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(echo()) == name.encode()


async def test_an_error_is_for_the_one_who_asked(name: str) -> None:
    link = Link(os.environ["REDIS_URL"])
    await link.ask("RPUSH", name, "a")
    wrong, right = link.ask("GET", name), link.ask("LLEN", name)
    with pytest.raises(Declined, match="WRONGTYPE"):
        await wrong
    assert await right == 1
    await link.ask("DEL", name)
    link.close()


async def test_who_stops_waiting_leaves_its_answer_to_nobody(name: str) -> None:
    link = Link(os.environ["REDIS_URL"])
    await link.ask("SET", name, "mine", "EX", 60)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await link.ask("BLPOP", f"{name}:empty", "0.1")
    assert await link.ask("GET", name) == b"mine"
    link.close()


async def test_the_database_of_the_url_is_used(name: str) -> None:
    link = Link(os.environ["REDIS_URL"])
    number = int(os.environ["REDIS_URL"].rpartition("=")[2])
    assert f"db={number} ".encode() in await link.ask("CLIENT", "INFO")
    link.close()


async def test_a_wrong_password_is_no_answer_at_all() -> None:
    address = os.environ["REDIS_URL"].replace("unix://", "unix://nobody:wrong@")
    link = Link(address)
    with pytest.raises(Away):
        await link.ask("PING")
    link.close()


async def test_a_broken_connection_is_opened_again_and_nothing_is_sent_twice(name: str) -> None:
    path = os.environ["REDIS_URL"].removeprefix("unix://").partition("?")[0]
    heard: list[bytes] = []

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1000))
        writer.transport.abort()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    link = Link(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    with pytest.raises(Away):
        await link.ask("INCR", name)
    assert len(heard) == 1
    server.close()
    link._url = f"unix://{path}"
    assert await link.ask("INCR", name) == 1
    await link.ask("DEL", name)
    link.close()


async def test_a_valkey_that_falls_silent_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "SILENCE_SECONDS_MAX", 0.2)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    link = Link(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    for _ in range(2):
        with pytest.raises(Away, match="no answer in time"):
            await link.ask("PING")
    link.close()
    server.close()


async def test_what_waits_for_a_connection_is_bounded() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    server = await asyncio.start_server(silent, "127.0.0.1", 0, limit=1024)
    link = Link(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    asked = [link.ask("SET", "name", b"x" * 4_000_000) for _ in range(8)]
    assert [reply.done() for reply in asked] == [False] * 5 + [True] * 3
    with pytest.raises(Away, match="too much"):
        await asked[-1]
    link.close()
    await asyncio.gather(*asked, return_exceptions=True)
    server.close()


async def test_what_is_no_valkey_is_left(name: str) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    link = Link(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    with pytest.raises(Away):
        await link.ask("PING")
    link.close()
    server.close()


async def test_a_slow_one_keeps_its_order(name: str) -> None:
    """Through a proxy that sends crumbs."""
    path = os.environ["REDIS_URL"].removeprefix("unix://").partition("?")[0]

    async def to_valkey(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(path)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(3):
                target.write(data)
            target.close()

        await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer))

    server = await asyncio.start_server(to_valkey, "127.0.0.1", 0)
    link = Link(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
    asked = [link.ask("ECHO", f"word {number}") for number in range(200)]
    assert await asyncio.gather(*asked) == [f"word {number}".encode() for number in range(200)]
    link.close()
    server.close()


def test_a_gateway_never_imports_the_redis_library() -> None:
    """5 MB of each worker's memory."""
    program = "import sys, governance.gateway.asgi; sys.exit('redis' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
    twin = "import sys, governance.gateway.asgi, redis; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", twin]).returncode == 1
