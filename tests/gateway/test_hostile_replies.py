"""Replies that stall, trickle, or are not what they should be: bounded in time and memory, and charged."""

import json
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from governance.gateway.relay import _is_envelope
from tests.gateway.asking import ASK, assert_refused, post
from tests.gateway.fixed_upstream import REPLY, fixed_upstream
from tests.gateway.recorded_streams import STREAMS
from tests.gateway.recorded_upstream import RecordedUpstream, recorded_upstream
from tests.harness import Account, Stack, make_tenant, start_stack

STREAM = {**ASK, "stream": True, "max_tokens": 4_000}
IDLE_SECONDS = 1
DEEP = b"[" * 200_000 + b"]" * 200_000


@pytest.fixture(scope="module")
def upstream() -> Iterator[RecordedUpstream]:
    with recorded_upstream() as running:
        yield running


@pytest.fixture(scope="module")
def impatient(upstream: RecordedUpstream) -> Iterator[Stack]:
    """A gateway that gives a stream one silent second, and a whole reply two."""
    env = {
        "ANTHROPIC_BASE_URL": upstream.url,
        "EXCHEQUER_STREAM_IDLE_SECONDS_MAX": str(IDLE_SECONDS),
        "EXCHEQUER_UPSTREAM_SECONDS_MAX": "2",
    }
    with start_stack(simulator=False, env=env) as stack:
        yield stack


def one(account: Account) -> tuple[Any, Any, Any]:
    account.wait_for_calls(1, seconds=15)
    return account.calls()[-1], account.attempts()[-1], account.entries()[-1]


@pytest.mark.parametrize("name", ["plain", "hidden_thinking", "tool_use", "web_search"])
def test_a_half_open_stream_ends_in_an_error_event_and_is_charged(
    impatient: Stack, upstream: RecordedUpstream, name: str
) -> None:
    """trust.md fault 28: no bytes and no end. Between two events the client is told; the rest is charged."""
    recorded = STREAMS[name]
    ask: dict[str, Any] = dict(STREAM)
    if name == "web_search":
        ask["tools"] = [{"type": "web_search_20250305", "name": "web_search", "max_uses": 1}]
    for at in (recorded.boundaries[1], recorded.boundaries[4]):
        account = make_tenant("100000")
        began = time.monotonic()
        asked = f"{name}:{at}:6"
        response = post(impatient, account, ask, headers={"anthropic-recorded": asked})
        assert IDLE_SECONDS <= time.monotonic() - began < 5
        assert response.content[:at] == recorded.data[:at]
        assert response.content[at:].startswith(b"event: error\ndata: ")
        told = json.loads(response.content[at:].partition(b"data: ")[2])
        assert told["error"]["type"] == "timeout_error"
        assert told["request_id"] == response.headers["exchequer-call-id"]
        call, attempt, entry = one(account)
        assert (call.outcome, call.reason) == ("failed", "upstream_timeout")
        expected = ("bounded", "bound") if recorded.single_pass else ("full_hold", "none")
        assert (entry.basis, attempt.usage_source) == expected
        assert 0 < entry.amount_nanos <= entry.held_nanos


def test_a_stream_that_stalls_inside_an_event_is_cut_off_and_charged(impatient: Stack) -> None:
    account, recorded = make_tenant(), STREAMS["plain"]
    at = recorded.boundaries[4] + 10
    with pytest.raises(httpx2.RemoteProtocolError):
        post(impatient, account, STREAM, headers={"anthropic-recorded": f"plain:{at}:6"})
    call, attempt, entry = one(account)
    assert (call.reason, entry.basis, attempt.usage_source) == ("upstream_timeout", "bounded", "bound")


def test_a_stream_that_stalls_before_its_first_event_is_charged_in_full(impatient: Stack) -> None:
    """trust.md fault 27: the body was sent, and nobody can tell."""
    account = make_tenant()
    response = post(impatient, account, STREAM, headers={"anthropic-recorded": "plain:0:6"})
    assert json.loads(response.content.partition(b"data: ")[2])["error"]["type"] == "timeout_error"
    call, attempt, entry = one(account)
    assert (call.reason, entry.basis, attempt.usage_source) == ("upstream_timeout", "full_hold", "none")


def test_a_whole_reply_that_does_not_end_is_a_504_and_charged_in_full(impatient: Stack) -> None:
    """trust.md fault 27, JSON: the headers came, and then nothing."""
    account = make_tenant()
    began = time.monotonic()
    # What comes is a stream's, but nobody asked for one: read as a whole reply, under its limit of time.
    response = post(
        impatient, account, STREAM | {"stream": False}, headers={"anthropic-recorded": "plain:0:9"}
    )
    assert time.monotonic() - began < 8
    assert b"timeout_error" in response.content
    call, attempt, entry = one(account)
    assert (call.reason, entry.basis, attempt.usage_source) == ("upstream_timeout", "full_hold", "none")


# --- what is not a reply: trust.md fault 31 ---------------------------------------------------------

BAD_REPLIES = {
    "deep_content": REPLY[:-1] + b', "content": ' + DEEP + b"}",
    "deep_usage": b'{"model": "claude-sonnet-5-5", "usage": {"x": ' + DEEP + b"}}",
    "not_an_object": b"[1, 2, 3]",
    "not_json": b"<html>Welcome</html>",
    "half": REPLY[: len(REPLY) // 2],
    "empty": b"",
    "not_utf8": b'{"model": "\xff\xfe"}',
    "endless_number": b'{"model": "m", "usage": {"input_tokens": ' + b"9" * 100_000 + b"}}",
}


@pytest.mark.parametrize("name", BAD_REPLIES)
def test_a_reply_that_cannot_be_read_is_relayed_and_charged_in_full(account: Account, name: str) -> None:
    reply = BAD_REPLIES[name]
    with fixed_upstream(reply) as url, start_stack(simulator=False, env={"ANTHROPIC_BASE_URL": url}) as stack:
        response = post(stack, account)
        assert (response.status_code, response.content) == (200, reply)
        call, attempt, entry = one(account)
    assert (call.outcome, call.reason) == ("served", "usage_unreadable")
    assert (entry.basis, attempt.usage_source) == ("full_hold", "none")
    assert entry.amount_nanos == entry.held_nanos > 0


BAD_EVENTS = {
    "deep_start": b'event: message_start\ndata: {"message": ' + DEEP + b"}\n\n",
    "deep_error": b'event: error\ndata: {"error": ' + DEEP + b"}\n\n",
    "deep_delta": STREAMS["plain"].events[0].data
    + b'event: message_delta\ndata: {"usage": '
    + DEEP
    + b"}\n\n",
    "not_utf8": b'event: message_start\ndata: {"message": "\xff"}\n\n',
    "not_json": b"event: message_start\ndata: {{{{\n\n",
    "no_events": b"Welcome to the login page",
}


@pytest.mark.parametrize("name", BAD_EVENTS)
def test_a_stream_that_cannot_be_read_is_relayed_and_charged_in_full(account: Account, name: str) -> None:
    data = BAD_EVENTS[name]
    with (
        fixed_upstream(data, "text/event-stream") as url,
        start_stack(simulator=False, env={"ANTHROPIC_BASE_URL": url}) as stack,
    ):
        assert post(stack, account, STREAM).content == data
        _, attempt, entry = one(account)
    assert (entry.basis, attempt.usage_source) == ("full_hold", "none")


def test_a_deep_error_body_proves_nothing() -> None:
    assert not _is_envelope(b'{"type": "error", "error": {"type": "x", "y": ' + DEEP + b"}}", "")


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
def test_a_reply_that_unpacks_to_far_too_much_stays_packed(account: Account, content_type: str) -> None:
    """600 MB in 600 kB: relayed as it came, charged in full, and never in memory."""
    opener = zlib.compressobj(1, wbits=31)
    packed = b"".join(opener.compress(bytes(10_000_000)) for _ in range(60)) + opener.flush()
    stream = content_type != "application/json"
    with (
        fixed_upstream(packed, content_type, "gzip") as url,
        start_stack(simulator=False, env={"ANTHROPIC_BASE_URL": url}) as stack,
    ):
        assert raw_reply(stack, account, {**STREAM, "stream": stream}) == packed
        _, attempt, entry = one(account)
        assert peak_mb(stack) < 350
    assert (entry.basis, attempt.usage_source) == ("full_hold", "none")


def raw_reply(stack: Stack, account: Account, ask: dict[str, Any]) -> bytes:
    """The reply's bytes as they came, still packed."""
    headers = {"x-api-key": account.key}
    with httpx2.stream("POST", stack.url + "/v1/messages", json=ask, headers=headers) as response:
        return b"".join(response.iter_raw())


def peak_mb(stack: Stack) -> int:
    """The most memory that the worker has had so far."""
    status = Path(f"/proc/{stack.workers[0].pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def test_a_reply_over_64_mb_ends_in_a_502_and_is_charged_in_full(account: Account) -> None:
    reply = REPLY[:-1] + b', "padding": "' + b"x" * (65 * 1024 * 1024) + b'"}'
    with fixed_upstream(reply) as url, start_stack(simulator=False, env={"ANTHROPIC_BASE_URL": url}) as stack:
        response = post(stack, account, seconds=60)
        assert_refused(response, 502, "api_error", "worst case was charged")
        call, attempt, entry = one(account)
        assert peak_mb(stack) < 400
    assert (call.reason, entry.basis, attempt.usage_source) == ("upstream_cut", "full_hold", "none")


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_a_models_name_cannot_add_a_header(account: Account, stream: bool) -> None:
    name = "claude\r\nset-cookie: a=b"
    message = json.loads(REPLY) | {"model": name}
    reply, kind = json.dumps(message).encode(), "application/json"
    if stream:
        event = json.dumps({"type": "message_start", "message": message}).encode()
        reply, kind = b"event: message_start\ndata: " + event + b"\n\n", "text/event-stream"
    with (
        fixed_upstream(reply, kind) as url,
        start_stack(simulator=False, env={"ANTHROPIC_BASE_URL": url}) as stack,
    ):
        answer = post(stack, account, {**ASK, "model": name, "stream": stream})
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    assert answer.headers["exchequer-model"] == "claude??set-cookie: a=b"
