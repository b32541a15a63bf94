"""The load generator: a process of its own, speaking HTTP at the level of bytes, so that it costs little.

    python -m bench.load '{"port": 8000, "key": "exq_…", "stream": false, "concurrency": 16, "seconds": 3}'

With `concurrency` as many callers each make one call after another (closed loop). With `rate` calls
start at that many a second, whatever became of the earlier ones (open loop). With `hold_open` so many
streams are opened and kept open until standard input ends. Prints one JSON object (see `Result`).
"""

import asyncio
import json
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import cast

import uvloop

_PROMPT = (
    "You are the assistant of a shop that sells garden tools. Answer in at most two sentences, say when you "
    "do not know, and never promise a delivery date. "
) * 8
_QUESTION = "Which of your spades suits heavy clay soil, and can I return it after trying it out? " * 4
_SDK_HEADERS = """accept: application/json
user-agent: Anthropic/Python 2.10.0
anthropic-version: 2023-06-01
x-stainless-lang: python
x-stainless-package-version: 2.10.0
x-stainless-os: Linux
x-stainless-arch: x64
x-stainless-runtime: CPython
x-stainless-runtime-version: 3.13.0
x-stainless-async: false
x-stainless-retry-count: 0
x-stainless-read-timeout: 600
content-type: application/json
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What to send. One of `concurrency`, `rate` and `hold_open` is above zero."""

    port: int
    key: str
    stream: bool
    seconds: float = 0.0
    concurrency: int = 0
    rate: float = 0.0
    hold_open: int = 0
    path: str = "/v1/messages"
    script: str = ""
    """A script for the simulator (its request header); none: the plain reply."""

    def request(self) -> bytes:
        body = {
            "model": "claude-sonnet-5",
            "max_tokens": 512,
            "system": _PROMPT,
            "messages": [{"role": "user", "content": _QUESTION}],
        }
        if self.stream:
            body["stream"] = True
        payload = json.dumps(body, separators=(",", ":")).encode()
        script = f"anthropic-simulator: {self.script}\n" if self.script else ""
        head = (
            f"POST {self.path} HTTP/1.1\nhost: 127.0.0.1:{self.port}\nx-api-key: {self.key}\n"
            f"{_SDK_HEADERS}{script}content-length: {len(payload)}\n\n"
        )
        return head.replace("\n", "\r\n").encode() + payload


@dataclass(slots=True)
class Result:
    """`latencies_ms` only for open loops, in order of start."""

    calls: int = 0
    seconds: float = 0.0
    statuses: dict[int, int] = field(default_factory=dict)
    """Status → replies; 0 for a stream that ended while it should have been open."""
    latencies_ms: list[float] = field(default_factory=list)

    def count(self, status: int) -> None:
        self.calls += 1
        self.statuses[status] = self.statuses.get(status, 0) + 1


class Connection(asyncio.Protocol):
    """One keep-alive connection, one call at a time: just enough HTTP/1.1 to find a reply's end."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.done: asyncio.Future[int] | None = None
        self.first_byte: asyncio.Future[None] | None = None
        self._reset()

    def _reset(self) -> None:
        self.head = b""
        self.status = 0
        self.left: int | None = None  # body bytes to come; None: chunked
        self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class

    def connection_lost(self, error: Exception | None) -> None:
        if self.done and not self.done.done():
            self.done.set_exception(ConnectionError("the server closed the connection in mid-reply"))

    def call(self, request: bytes) -> "asyncio.Future[int]":
        """→ the status, once the reply has ended."""
        assert self.transport is not None
        loop = asyncio.get_running_loop()
        self._reset()
        self.done, self.first_byte = loop.create_future(), loop.create_future()
        self.transport.write(request)
        return self.done

    def data_received(self, data: bytes) -> None:
        if not self.status:
            self.head += data
            head, separator, rest = self.head.partition(b"\r\n\r\n")
            if not separator:
                return
            self.status = int(head[9:12])
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            self.left = int(lengths[0].split(b":")[1]) if lengths else None
            data = rest
            assert self.first_byte is not None
            self.first_byte.set_result(None)
        if self.left is None:
            self.tail = (self.tail + data)[-5:]
            finished = self.tail == b"0\r\n\r\n"
        else:
            self.left -= len(data)
            finished = self.left <= 0
        if finished and self.done and not self.done.done():
            self.done.set_result(self.status)


async def connect(port: int) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return connection


async def closed_loop(load: Load) -> Result:
    request, result = load.request(), Result()
    began = time.perf_counter()
    end = began + load.seconds

    async def caller() -> None:
        connection = await connect(load.port)
        while time.perf_counter() < end:
            result.count(await connection.call(request))

    await asyncio.gather(*(caller() for _ in range(load.concurrency)))
    result.seconds = time.perf_counter() - began
    return result


async def open_loop(load: Load) -> Result:
    request, result = load.request(), Result()
    idle: deque[Connection] = deque([await connect(load.port) for _ in range(8)])
    count = round(load.rate * load.seconds)
    began = time.perf_counter()

    async def one(number: int) -> float:
        due = began + number / load.rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        connection = idle.popleft() if idle else await connect(load.port)
        sent = time.perf_counter()
        result.count(await connection.call(request))
        taken = time.perf_counter() - sent
        idle.append(connection)
        return taken * 1000

    result.latencies_ms = await asyncio.gather(*(one(number) for number in range(count)))
    result.seconds = time.perf_counter() - began
    return result


async def hold_open(load: Load) -> Result:
    """Prints "open" once all streams have begun; ends when standard input does."""
    request = load.request()
    connections = [await connect(load.port) for _ in range(load.hold_open)]
    calls = [connection.call(request) for connection in connections]
    for connection in connections:
        assert connection.first_byte is not None
        await connection.first_byte
    print("open", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    result = Result()
    for connection, call in zip(connections, calls, strict=True):
        result.count(0 if call.done() else connection.status)
        call.cancel()
    return result


def main() -> None:
    load = Load(**json.loads(sys.argv[1]))
    run = closed_loop if load.concurrency else open_loop if load.rate else hold_open
    print(json.dumps(asdict(uvloop.run(run(load)))))


if __name__ == "__main__":
    main()
