"""A client that leaves at any moment leaves a call in the ledger, with the right basis, and no hold."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection, transaction

from tests.gateway.asking import ASK, script
from tests.gateway.recorded_streams import STREAMS
from tests.gateway.recorded_upstream import RecordedUpstream, recorded_upstream
from tests.gateway.test_departures import left_upstream, read_until, send_raw
from tests.harness import Account, Stack, start_stack, wait_until

LONG = {**ASK, "max_tokens": 4_000}
STREAM = {**LONG, "stream": True}
MODES = pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])


def send_part(stack: Stack, account: Account, body_bytes: int, *, stream: bool) -> None:
    """The request's head and the first bytes of its body; then the client leaves."""
    host, port = stack.url.removeprefix("http://").split(":")
    body = json.dumps({**ASK, "stream": stream}).encode()
    head = (
        f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {account.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head.encode() + body[:body_bytes])


@contextmanager
def locked_budget(account: Account) -> Iterator[None]:
    """Somebody else keeps the budget's row, so that holds have to wait."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT 1 FROM ledger_budgetperiod WHERE tenant_id = %s FOR UPDATE", [account.tenant.pk]
        )
        yield


def one_call(account: Account) -> tuple[Any, Any, Any]:
    """The tenant's one call, its attempt and its entry."""
    account.wait_for_calls(1, seconds=15)
    (call,), (attempt,), (entry,) = account.calls(), account.attempts(), account.entries()
    assert attempt.id == entry.id
    assert attempt.call_id == call.id
    assert entry.amount_nanos <= entry.held_nanos
    assert account.period().spent_nanos == entry.amount_nanos
    return call, attempt, entry


def left_while_refused(stack: Stack) -> int:
    text = stack.workers[0].get("/metrics")[1]
    lines = [line for line in text.splitlines() if 'outcome="cut",reason="client_left"' in line]
    return int(float(lines[0].split()[-1])) if lines else 0


@MODES
@pytest.mark.parametrize("body_bytes", [0, 20], ids=["before_the_body", "during_the_body"])
def test_whoever_leaves_before_the_request_is_whole_costs_nothing(
    stack: Stack, account: Account, body_bytes: int, stream: bool
) -> None:
    before = left_while_refused(stack)
    send_part(stack, account, body_bytes, stream=stream)
    wait_until(lambda: left_while_refused(stack) > before, 10)
    assert not account.holds()
    assert not account.entries()


@MODES
def test_whoever_leaves_while_the_hold_is_waited_for_holds_nothing_in_the_end(
    stack: Stack, account: Account, stream: bool
) -> None:
    """Whether the call still goes out or not: what was billed is in the ledger."""
    tag = account.tenant.slug
    first = send_raw(stack, account, ASK, script(tag="first" + tag))
    read_until(first, b"}")
    account.wait_for_calls(1)  # now there is a row to lock
    with locked_budget(account):
        leaving = send_raw(stack, account, {**LONG, "stream": stream}, script(tag=tag, chunk_delay_ms=20))
        time.sleep(0.3)
        assert not stack.bill(tag)
        leaving.close()
    time.sleep(1)  # it may go out yet, or be dropped without a trace
    wait_until(lambda: not account.holds(), 15)
    charges = [entry for entry in account.entries()[1:] if entry.kind == "charge"]
    assert len(charges) == len(stack.bill(tag))


def test_a_json_call_left_in_the_middle_of_its_reply_is_charged_exactly(
    stack: Stack, account: Account
) -> None:
    """cases C4."""
    tag = account.tenant.slug
    client = send_raw(stack, account, LONG, script(tag=tag, output_tokens=4_000))
    client.recv(200)
    client.close()
    call, attempt, entry = one_call(account)
    assert (call.outcome, entry.basis, attempt.usage_source) == ("served", "exact", "message")
    assert attempt.output_tokens == stack.bill(tag)[0]["usage"]["output_tokens"]


def test_a_json_call_left_before_its_first_byte_is_charged_exactly(stack: Stack, account: Account) -> None:
    """cases C4."""
    tag = account.tenant.slug
    client = send_raw(stack, account, LONG, script(tag=tag, latency_ms=400))
    wait_until(lambda: bool(stack.bill(tag)), 10)
    client.close()
    call, attempt, entry = one_call(account)
    assert (call.outcome, entry.basis, attempt.usage_source) == ("served", "exact", "message")
    assert not left_upstream(stack, tag)  # it was drained


@pytest.fixture(scope="module")
def upstream() -> Iterator[RecordedUpstream]:
    with recorded_upstream() as running:
        yield running


@pytest.fixture(scope="module")
def recorded(upstream: RecordedUpstream) -> Iterator[Stack]:
    with start_stack(simulator=False, env={"ANTHROPIC_BASE_URL": upstream.url}) as stack:
        yield stack


@pytest.mark.parametrize("name", ["plain", "hidden_thinking", "tool_use", "web_search"])
def test_a_stream_left_after_any_event_is_closed_upstream_and_charged(
    recorded: Stack, upstream: RecordedUpstream, account_of_much: Account, name: str
) -> None:
    """trust.md fault 34, cases C1 and C2: bounded until the last totals, exact from there on."""
    account, stream = account_of_much, STREAMS[name]
    ask: dict[str, Any] = dict(STREAM)
    if name == "web_search":
        ask["tools"] = [{"type": "web_search_20250305", "name": "web_search", "max_uses": 1}]
    for number, at in enumerate(stream.boundaries):
        asked = f"{name}:{at}:0.3"
        client = send_raw(recorded, account, ask, {"anthropic-recorded": asked})
        if at:
            read_exactly(client, stream.data[:at])
        else:
            wait_until(lambda asked=asked: asked in upstream.asked, 10)
        client.close()
        account.wait_for_calls(number + 1, seconds=15)
        call, attempt, entry = account.calls()[-1], account.attempts()[-1], account.entries()[-1]
        finished = at >= stream.boundaries[-2]
        stopped = at == stream.boundaries[-1]
        if stopped:
            assert (call.outcome, call.reason) == ("served", "served")
        else:
            assert (call.outcome, call.status, call.reason) == ("cut", 499, "client_left")
            wait_until(lambda asked=asked: asked in upstream.left, 10)
        if finished:
            assert (entry.basis, attempt.usage_source) == ("exact", "stream")
        elif stream.single_pass:
            assert (entry.basis, attempt.usage_source) == ("bounded", "bound")
            assert attempt.input_tokens == stream.input_tokens
        else:
            assert (entry.basis, attempt.usage_source) == ("full_hold", "none")
        assert 0 < entry.amount_nanos <= entry.held_nanos


@pytest.fixture
def account_of_much() -> Account:
    from tests.harness import make_tenant

    return make_tenant("100000")


def read_exactly(client: socket.socket, data: bytes) -> None:
    """Read until those bytes of the reply's body have come, whatever frames them."""
    last = data[-24:]
    seen = read_until(client, last)
    while seen.count(b"event: ") < data.count(b"event: "):
        seen += client.recv(4096)
