"""HTTP itself: what a client, a proxy or a supervisor does to a server."""

import asyncio
import contextlib
import gzip
import json
import socket
import subprocess
import sys
import threading
import time
import zlib
from typing import Any

import anthropic
import pytest

from governance.simulator.answer import Answer
from governance.simulator.app import Request, Simulator
from governance.simulator.launch import PROJECT, RunningSimulator, running_simulator
from governance.simulator.server import serve
from tests.simulator.asking import HELLO, body_of, connect, read_all, request_bytes, script_header

BODY = json.dumps(HELLO).encode()


def ask(simulator: RunningSimulator, data: bytes) -> tuple[int, dict[str, Any]]:
    """The status and the decoded body of the answer to these bytes."""
    with connect(simulator.url) as connection:
        with contextlib.suppress(ConnectionError):  # the server may close before it has read everything
            connection.sendall(data.replace(b"host: simulator", b"host: simulator\r\nconnection: close", 1))
        received, _ = read_all(connection)
    return int(received.split()[1]), json.loads(body_of(received))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": None}, "model: Field required"),
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"messages": None}, "messages: Field required"),
        ({"max_tokens": "10"}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": True}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": -1}, "max_tokens: Input should be greater"),
        ({"max_tokens": 128_001}, "max_tokens: 128001 > 128000"),
        ({"messages": []}, "at least one message is required"),
        ({"messages": "hi"}, "messages: Input should be a valid list"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}, "must be non-empty"),
        (
            {"messages": [{"role": "assistant", "content": "I say"}]},
            "does not support assistant message prefill",
        ),
        ({"messages": [{"role": "user", "content": "x" * 4_000_000}]}, "prompt is too long: 1300003 tokens"),
        ({"system": 3}, "system: Input should be"),
        ({"tools": [{"name": "t"}]}, "tools.0.input_schema: Field required"),
        ({"tool_choice": {"type": "any"}}, "while providing tools"),
        ({"thinking": {"type": "disabled"}, "model": "claude-opus-5-5"}, "'disabled' is not supported"),
        ({"stop_sequences": "x"}, "stop_sequences: Input should be"),
        ({"output_config": {"format": "json"}}, "output_config.format: Input should be an object"),
        ({"output_config": {"format": {"schema": {"type": []}}}}, "The JSON schema is invalid"),
        ({"temperature": 1.0}, "temperature: Extra inputs are not permitted"),
        ({"speed": "fast"}, "fast mode is not supported"),
        (
            {"inference_geo": "us", "model": "claude-haiku-4-5", "max_tokens": 5},
            "inference_geo: not supported",
        ),
    ],
)
def test_a_bad_body_is_a_400_with_the_sentence_of_the_api(
    simulator: RunningSimulator, change: dict[str, Any], sentence: str
) -> None:
    body = {name: value for name, value in {**HELLO, **change}.items() if value is not None}
    status, answer = ask(simulator, request_bytes(json.dumps(body).encode()))
    assert (status, answer["type"], answer["error"]["type"]) == (400, "error", "invalid_request_error")
    assert sentence in answer["error"]["message"]


@pytest.mark.parametrize(
    ("data", "status", "error_type"),
    [
        (request_bytes(b"{not json"), 400, "invalid_request_error"),
        (request_bytes(b"[" * 100_000), 400, "invalid_request_error"),
        (request_bytes(b'"text"'), 400, "invalid_request_error"),
        (request_bytes(b'{"a":"\xff"}'), 400, "invalid_request_error"),
        (request_bytes(BODY.replace(b"claude-haiku-5-5", b"claude-nobody")), 404, "not_found_error"),
        (request_bytes(BODY, target="POST /v1/nothing"), 404, "not_found_error"),
        (request_bytes(b"", target="GET /v1/models/claude-nobody"), 404, "not_found_error"),
        (request_bytes(b"", target="GET /v1/messages"), 405, "invalid_request_error"),
        (request_bytes(BODY).replace(b"x-api-key: sim\r\n", b""), 401, "authentication_error"),
        (
            request_bytes(BODY).replace(b"x-api-key: sim", b"authorization: Basic sim"),
            401,
            "authentication_error",
        ),
        (
            request_bytes(BODY).replace(b"anthropic-version: 2026-10-21\r\n", b""),
            400,
            "invalid_request_error",
        ),
        (request_bytes(BODY).replace(b"2026-10-21", b"2020-01-01"), 400, "invalid_request_error"),
        (request_bytes(b"", "content-length: 33554433"), 413, "request_too_large"),
        (request_bytes(b"not", "content-encoding: gzip"), 400, "invalid_request_error"),
        (request_bytes(BODY, "content-encoding: br"), 400, "invalid_request_error"),
        (request_bytes(gzip.compress(b"0" * 40_000_000), "content-encoding: gzip"), 413, "request_too_large"),
        (b"this is not http\r\n\r\n", 400, "invalid_request_error"),
    ],
)
def test_a_bad_request_gets_the_documented_envelope(
    simulator: RunningSimulator, data: bytes, status: int, error_type: str
) -> None:
    got, answer = ask(simulator, data)
    assert (got, answer["error"]["type"]) == (status, error_type)
    assert answer["request_id"].startswith("req_")


def test_sampling_parameters_pass_under_the_old_version(simulator: RunningSimulator) -> None:
    body = json.dumps({**HELLO, "temperature": 0.5}).encode()
    assert ask(simulator, request_bytes(body).replace(b"2026-10-21", b"2023-06-01"))[0] == 200


@pytest.mark.parametrize(("encoding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_request_is_understood(simulator: RunningSimulator, encoding: str, encode: Any) -> None:
    assert ask(simulator, request_bytes(encode(BODY), f"content-encoding: {encoding}"))[0] == 200


def test_a_chunked_request_in_tiny_pieces_is_understood(simulator: RunningSimulator) -> None:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY[:10], BODY[10:])) + b"0\r\n\r\n"
    data = request_bytes(b"", "transfer-encoding: chunked") + chunks
    with connect(simulator.url) as connection:
        for i in range(len(data)):
            connection.sendall(data[i : i + 1])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_answered_in_order(simulator: RunningSimulator) -> None:
    slow = request_bytes(BODY, script_header(latency_ms=100, text="first"))
    fast = request_bytes(BODY, script_header(text="second"))
    with connect(simulator.url) as connection:
        connection.sendall(
            slow + fast + request_bytes(BODY, script_header(text="third"), "connection: close")
        )
        received, _ = read_all(connection)
    assert received.count(b"HTTP/1.1 200") == 3
    positions = [received.index(word) for word in (b'"first"', b'"second"', b'"third"')]
    assert positions == sorted(positions)


def test_100_continue_is_sent_before_the_body(simulator: RunningSimulator) -> None:
    head = request_bytes(BODY, "expect: 100-continue").removesuffix(BODY)
    with connect(simulator.url) as connection:
        connection.sendall(head)
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


async def test_a_failure_of_the_simulator_itself_is_a_500_and_ends_nothing(capsys: Any) -> None:
    class Broken(Simulator):
        def answer(self, request: Request) -> Answer:
            raise ZeroDivisionError

    listener = socket.create_server(("127.0.0.1", 0))
    port, stop = listener.getsockname()[1], asyncio.Event()
    serving = asyncio.create_task(serve(Broken(), listener, stop))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):
        writer.write(request_bytes(BODY))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 500")
        await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
    assert "ZeroDivisionError" in capsys.readouterr().err
    writer.close()
    stop.set()
    await serving


def test_a_taken_port_is_one_clear_sentence(simulator: RunningSimulator) -> None:
    port = simulator.url.rpartition(":")[2]
    command = [sys.executable, "-m", "governance.simulator", "--port", port]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.strip() == f"The simulator cannot listen on 127.0.0.1:{port}: Address already in use."


def test_sigterm_finishes_what_is_under_way() -> None:
    body = json.dumps({**HELLO, "stream": True}).encode()
    with running_simulator() as running, connect(running.url) as connection:
        connection.sendall(request_bytes(body, script_header(deltas=20, chunk_delay_ms=20)))
        received = connection.recv(65536)
        threading.Timer(0.05, running.process.terminate).start()
        received += read_all(connection)[0]
        assert received.endswith(b"0\r\n\r\n")
        assert running.process.wait(10) == 0


def test_an_inherited_socket_is_served() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "governance.simulator", "--fd", str(listener.fileno())]
        process = subprocess.Popen(
            command, cwd=PROJECT, pass_fds=[listener.fileno()], stdout=subprocess.DEVNULL
        )
    try:
        with anthropic.Anthropic(api_key="sim", base_url=f"http://127.0.0.1:{port}") as client:
            assert client.messages.create(**HELLO).content
    finally:
        process.terminate()
        process.wait(10)


def test_plain_mode_repeats_itself_and_still_follows_scripts() -> None:
    script = json.dumps({"deltas": 3})
    with (
        running_simulator("--plain", "--script", script) as running,
        anthropic.Anthropic(api_key="sim", base_url=running.url, max_retries=0) as client,
    ):
        first = client.messages.create(**HELLO)
        other = client.messages.create(**{**HELLO, "messages": [{"role": "user", "content": "Bye"}]})
        assert other == first
        assert client.messages.create(**{**HELLO, "model": "claude-opus-5"}).model == "claude-opus-5"
        streamed = list(client.messages.create(**HELLO, stream=True))
        assert [event.type for event in streamed].count("content_block_delta") == 3
        scripted = client.messages.create(**HELLO, extra_headers={"anthropic-simulator": '{"text": "mine"}'})
        assert scripted.content[0].text == "mine"


def test_a_connection_that_sends_nothing_costs_nothing(simulator: RunningSimulator) -> None:
    with connect(simulator.url), connect(simulator.url):
        started = time.monotonic()
        assert ask(simulator, request_bytes(BODY))[0] == 200
        assert time.monotonic() - started < 2
