"""The session to upstream: what nobody waits for any more is closed at once."""

import asyncio

import pytest

from governance.gateway.upstream import Upstream, read_body


async def test_a_reply_that_is_given_up_is_closed_and_not_left_to_the_garbage_collector() -> None:
    closed = asyncio.Event()

    async def begin_to_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
        while await reader.read(100):
            pass
        closed.set()
        writer.close()

    server = await asyncio.start_server(begin_to_answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    upstream = Upstream(f"http://127.0.0.1:{port}", total_seconds_max=60, idle_seconds_max=60)
    await upstream.start()
    response = await upstream.send("POST", "/v1/messages", body=b"", headers=())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await read_body(response, 1_000)
    await asyncio.wait_for(closed.wait(), 5)
    assert response.closed  # it is still here to be collected
    await upstream.stop()
    server.close()
