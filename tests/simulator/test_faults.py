"""Broken replies: exactly as broken as the script says, and billed all the same."""

import contextlib
import json
from typing import Any

import anthropic
import pytest

from governance.simulator.launch import RunningSimulator
from tests.simulator.asking import HELLO, body_of, connect, read_all, request_bytes, script_header, scripted


def ask(simulator: RunningSimulator, *, stream: bool, **script: Any) -> tuple[bytes, str]:
    body = json.dumps({**HELLO, "stream": stream}).encode()
    with connect(simulator.url) as connection:
        connection.sendall(request_bytes(body, script_header(**script), "connection: close"))
        return read_all(connection)


@pytest.mark.parametrize("stream", [False, True])
def test_a_reset_before_the_headers_sends_nothing(
    simulator: RunningSimulator, tag: str, stream: bool
) -> None:
    assert ask(simulator, stream=stream, fault="reset_before_headers", tag=tag) == (b"", "reset")
    assert len(simulator.charges(tag)) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_reset_before_the_body_sends_the_head_alone(
    simulator: RunningSimulator, tag: str, stream: bool
) -> None:
    received, ending = ask(simulator, stream=stream, fault="reset_before_body", tag=tag)
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert (received[-4:], ending) == (b"\r\n\r\n", "reset")
    assert len(simulator.charges(tag)) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("size", [0, 1, 150])
@pytest.mark.parametrize("delay_ms", [0, 1])
def test_a_close_comes_after_exactly_so_many_bytes(
    simulator: RunningSimulator, stream: bool, size: int, delay_ms: int
) -> None:
    fault = {"close_after_bytes": size}
    received, ending = ask(simulator, stream=stream, fault=fault, chunk_delay_ms=delay_ms)
    assert (len(body_of(received)), ending) == (size, "closed")
    assert not received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("stream", [False, True])
def test_a_stall_keeps_the_connection_open_and_silent(
    simulator: RunningSimulator, tag: str, stream: bool
) -> None:
    body = json.dumps({**HELLO, "stream": stream}).encode()
    with connect(simulator.url) as connection:
        connection.sendall(request_bytes(body, script_header(fault={"stall_after_bytes": 100}, tag=tag)))
        received = b""
        connection.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while data := connection.recv(65536):
                received += data
            pytest.fail("It closed instead.")
    assert len(body_of(received)) == 100


def test_an_error_event_comes_after_exactly_so_many_deltas(simulator: RunningSimulator, tag: str) -> None:
    for deltas in (0, 4):
        received, ending = ask(simulator, stream=True, fault={"error_event_after": deltas}, tag=tag)
        body = body_of(received)
        assert body.count(b"text_delta") == deltas
        assert b"overloaded_error" in body.split(b"event: ")[-1]
        assert b"message_delta" not in body
        assert (ending, received.endswith(b"0\r\n\r\n")) == ("closed", True)  # HTTP itself ends well
    assert len(simulator.charges(tag)) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_garbage_is_no_json(client: anthropic.Anthropic, simulator: RunningSimulator, stream: bool) -> None:
    received, _ = ask(simulator, stream=stream, fault="garbage_json")
    body = body_of(received)
    texts = [part.split(b"\n")[0] for part in body.split(b"data: ")[1:]] if stream else [body]
    broken = 0
    for text in texts:
        try:
            json.loads(text)
        except ValueError:
            broken += 1
    assert broken == 1


def test_usage_can_be_missing_everywhere(
    client: anthropic.Anthropic, simulator: RunningSimulator, tag: str
) -> None:
    raw = client.messages.with_raw_response.create(**HELLO, **scripted(fault="no_usage", tag=tag))
    assert "usage" not in raw.http_response.json()
    received, _ = ask(simulator, stream=True, fault="no_usage", tag=tag)
    assert b"usage" not in body_of(received)
    assert all(charge["usage"]["output_tokens"] > 0 for charge in simulator.charges(tag))
