"""A reply that nobody reads is settled all the same."""

import json
import socket
import time

import psutil

from tests.gateway.asking import ASK
from tests.gateway.fixed_upstream import REPLY, fixed_upstream
from tests.harness import Account, Stack, start_stack, wait_until

STARTED = {"model": "claude-sonnet-5-5", "usage": {"input_tokens": 5, "output_tokens": 1}}
DELTA = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x" * 1000}}
LONG_STREAM = (
    b"event: message_start\ndata: " + json.dumps({"type": "message_start", "message": STARTED}).encode()
) + (b"\n\nevent: content_block_delta\ndata: " + json.dumps(DELTA).encode()) * 30_000
LONG_REPLY = json.dumps(
    {**json.loads(REPLY), "content": [{"type": "text", "text": "x" * 20_000_000}]}
).encode()


def ask_and_never_read(stack: Stack, account: Account, *, stream: bool, times: int) -> socket.socket:
    host, port = stack.url.removeprefix("http://").split(":")
    body = json.dumps({**ASK, "stream": stream}).encode()
    head = (
        f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {account.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((host, int(port)))
    connection.sendall((head.encode() + body) * times)
    return connection


def test_json_replies_that_nobody_reads_are_settled_at_once(account: Account) -> None:
    with (
        fixed_upstream(LONG_REPLY) as url,
        start_stack(simulator=False, env={"ANTHROPIC_BASE_URL": url}) as stack,
        ask_and_never_read(stack, account, stream=False, times=2),
    ):
        account.wait_for_calls(2, seconds=10)
    assert [entry.basis for entry in account.entries()] == ["exact", "exact"]


def test_a_stream_that_nobody_reads_ends_as_if_its_client_had_left(account: Account) -> None:
    with (
        fixed_upstream(LONG_STREAM, "text/event-stream") as url,
        start_stack(
            simulator=False, env={"ANTHROPIC_BASE_URL": url, "EXCHEQUER_SEND_SECONDS_MAX": "1"}
        ) as stack,
        ask_and_never_read(stack, account, stream=True, times=1),
    ):
        (call,) = account.wait_for_calls(1, seconds=10)
    assert (call.outcome, call.reason) == ("cut", "client_left")
    (entry,) = account.entries()
    assert 0 < entry.amount_nanos <= entry.held_nanos


def test_a_stream_that_nobody_reads_is_not_gathered_in_memory(account: Account) -> None:
    """trust.md fault 35: 30 MB wait upstream, and not here."""
    with (
        fixed_upstream(LONG_STREAM, "text/event-stream") as url,
        start_stack(
            simulator=False, env={"ANTHROPIC_BASE_URL": url, "EXCHEQUER_SEND_SECONDS_MAX": "4"}
        ) as stack,
    ):
        worker = psutil.Process(stack.workers[0].pid)
        before = worker.memory_info().rss
        with ask_and_never_read(stack, account, stream=True, times=1):
            wait_until(lambda: bool(account.holds()), 5)
            time.sleep(2)
            assert account.holds()
            assert worker.memory_info().rss - before < 12_000_000
            account.wait_for_calls(1, seconds=15)
    assert account.attempts()[0].usage_source == "bound"
