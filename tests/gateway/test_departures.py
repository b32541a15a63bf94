"""Clients that leave, and upstreams that break: what was generated is charged, never more than was held."""

import json
import socket
import time
from base64 import b64encode
from typing import Any

import httpx2
import pytest

from tests.gateway.asking import ASK, assert_refused, post, script
from tests.harness import Account, Stack, start_stack, wait_until

ENVELOPE = b'{"type": "error", "error": {"type": "api_error", "message": "Internal server error"}}'


def send_raw(stack: Stack, account: Account, ask: dict[str, Any], headers: dict[str, str]) -> socket.socket:
    """A connection with the request on it, to be dropped at will."""
    host, port = stack.url.removeprefix("http://").split(":")
    body = json.dumps(ask).encode()
    lines = {
        "host": "x",
        "x-api-key": account.key,
        "content-type": "application/json",
        "anthropic-version": "2023-06-01",
        "content-length": str(len(body)),
        **headers,
    }
    head = "POST /v1/messages HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    connection = socket.create_connection((host, int(port)))
    connection.sendall(head.encode() + b"\r\n" + body)
    return connection


def read_until(connection: socket.socket, word: bytes) -> bytes:
    seen = b""
    while word not in seen:
        part = connection.recv(4096)
        assert part, seen
        seen += part
    return seen


def left_upstream(stack: Stack, tag: str) -> list[dict[str, Any]]:
    """The simulator's notes about this tag's requests whose connection was closed on it."""
    from governance.simulator.bill import read_bill

    return [line for line in read_bill(stack.folder / "bill.jsonl", kind="left") if line["tag"] == tag]


def test_a_json_call_whose_client_left_is_read_to_its_end_and_charged_exactly(
    stack: Stack, account: Account
) -> None:
    tag = account.tenant.slug
    connection = send_raw(stack, account, ASK, script(latency_ms=600, tag=tag))
    wait_until(lambda: bool(account.holds()), 5)
    connection.close()
    account.wait_for_calls(1)
    (attempt,) = account.attempts()
    (charge,) = stack.bill(tag)
    assert attempt.basis == "exact"
    assert attempt.output_tokens == charge["usage"]["output_tokens"]
    assert not left_upstream(stack, tag)


def test_a_stream_whose_client_left_is_closed_upstream_and_charged_at_a_bound(
    stack: Stack, account: Account
) -> None:
    tag = account.tenant.slug
    ask = {**ASK, "stream": True, "max_tokens": 20_000}
    connection = send_raw(stack, account, ask, script(deltas=400, chunk_delay_ms=20, tag=tag))
    read_until(connection, b"content_block_delta")
    began = time.monotonic()
    connection.close()
    account.wait_for_calls(1)
    assert time.monotonic() - began < 3  # the whole stream takes 8 s
    (call,), (attempt,), (entry,) = account.calls(), account.attempts(), account.entries()
    assert (call.outcome, call.status, call.reason) == ("cut", 499, "client_left")
    assert (attempt.basis, entry.basis, attempt.usage_source) == ("bounded", "bounded", "bound")
    (charge,) = stack.bill(tag)
    assert attempt.input_tokens == charge["usage"]["input_tokens"]
    (left,) = left_upstream(stack, tag)
    assert left["writes_sent"] * 1 < attempt.output_tokens < 20_000
    assert 0 < entry.amount_nanos <= entry.held_nanos


def test_a_client_that_leaves_before_message_start_still_pays_for_the_known_input(
    stack: Stack, account: Account
) -> None:
    tag = account.tenant.slug
    ask = {**ASK, "stream": True, "max_tokens": 20_000}
    connection = send_raw(stack, account, ask, script(latency_ms=700, deltas=400, chunk_delay_ms=20, tag=tag))
    wait_until(lambda: bool(account.holds()), 5)
    connection.close()
    account.wait_for_calls(1)
    (attempt,) = account.attempts()
    assert attempt.basis == "bounded"
    assert attempt.input_tokens == stack.bill(tag)[0]["usage"]["input_tokens"]
    assert left_upstream(stack, tag)


def test_hidden_thinking_is_bounded_by_time(stack: Stack, account: Account) -> None:
    tag = account.tenant.slug
    ask = {**ASK, "stream": True, "max_tokens": 20_000, "thinking": {"type": "adaptive"}}
    headers = script(thinking=10_000, deltas=400, chunk_delay_ms=50, tag=tag)
    connection = send_raw(stack, account, ask, headers)
    read_until(connection, b"thinking")
    time.sleep(1)
    connection.close()
    account.wait_for_calls(1)
    (attempt,) = account.attempts()
    assert attempt.basis == "bounded"
    assert attempt.output_tokens >= 500


def test_leaving_while_the_stream_finishes_settles_once(stack: Stack, account: Account) -> None:
    for word in (b"message_delta", b"message_stop", b"0\r\n\r\n") * 5:
        connection = send_raw(stack, account, {**ASK, "stream": True}, script(deltas=3, chunk_delay_ms=1))
        read_until(connection, word)
        connection.close()
    account.wait_for_calls(15)
    assert [entry.kind for entry in account.entries()] == ["charge"] * 15
    assert account.period().held_nanos == 0


# --- upstream breaks --------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["reset_before_headers", "reset_before_body", {"close_after_bytes": 100}])
def test_a_json_reply_that_breaks_off_is_a_502_and_charged_in_full(
    stack: Stack, account: Account, fault: Any
) -> None:
    tag = account.tenant.slug
    response = post(stack, account, headers=script(fault=fault, tag=tag))
    assert_refused(response, 502, "api_error", "worst case was charged")
    (call,) = account.wait_for_calls(1)
    (entry,) = account.entries()
    assert (call.outcome, call.reason, entry.basis) == ("failed", "upstream_cut", "full_hold")
    assert entry.amount_nanos == entry.held_nanos > 0
    assert len(stack.bill(tag)) == 1


def test_a_reply_without_usage_or_with_garbage_is_charged_in_full(stack: Stack, account: Account) -> None:
    for fault in ("garbage_json", "no_usage"):
        assert post(stack, account, headers=script(fault=fault)).status_code == 200
    account.wait_for_calls(2)
    assert [entry.basis for entry in account.entries()] == ["full_hold", "full_hold"]
    assert {call.reason for call in account.calls()} == {"usage_unreadable"}


@pytest.mark.parametrize("tokens", [-5, "many", 2**60, 10**9, True, None])
def test_absurd_usage_never_reaches_the_ledger(stack: Stack, account: Account, tokens: Any) -> None:
    usage = {"input_tokens": 5, "output_tokens": tokens}
    assert post(stack, account, headers=script(usage=usage)).status_code == 200
    account.wait_for_calls(1)
    (entry,) = account.entries()
    assert (entry.basis, entry.amount_nanos) == ("full_hold", entry.held_nanos)


def test_an_error_event_in_a_stream_is_relayed_and_charged_at_a_bound(stack: Stack, account: Account) -> None:
    ask = {**ASK, "stream": True}
    response = post(stack, account, ask, headers=script(fault={"error_event_after": 3}, deltas=10))
    assert response.status_code == 200
    assert response.text.count("event: error") == 1
    (call,) = account.wait_for_calls(1)
    assert (call.outcome, call.reason, account.entries()[0].basis) == (
        "failed",
        "upstream_error_event",
        "bounded",
    )


def test_a_stream_cut_between_events_ends_with_an_error_event(stack: Stack, account: Account) -> None:
    whole = post(stack, account, {**ASK, "stream": True}, headers=script(deltas=10)).content
    boundary = whole.index(b"\n\n", len(whole) // 2) + 2
    cut = script(deltas=10, fault={"close_after_bytes": boundary})
    response = post(stack, account, {**ASK, "stream": True}, headers=cut)
    assert response.text.rsplit("event: ", 1)[1].startswith("error\n")
    last = json.loads(response.text.rsplit("data: ", 1)[1])
    assert last["error"]["type"] == "api_error"
    assert account.wait_for_calls(2)[1].reason == "upstream_cut"
    assert account.entries()[1].basis == "bounded"


def test_a_stream_cut_inside_an_event_is_cut_for_the_client_too(stack: Stack, account: Account) -> None:
    cut = script(deltas=10, fault={"close_after_bytes": 700})
    with pytest.raises(httpx2.RemoteProtocolError):
        post(stack, account, {**ASK, "stream": True}, headers=cut)
    account.wait_for_calls(1)
    assert account.entries()[0].basis in ("bounded", "full_hold")


def test_a_stream_that_ends_before_message_start_is_charged_in_full(stack: Stack, account: Account) -> None:
    with pytest.raises(httpx2.RemoteProtocolError):
        post(stack, account, {**ASK, "stream": True}, headers=script(fault={"close_after_bytes": 30}))
    account.wait_for_calls(1)
    assert account.entries()[0].basis == "full_hold"


@pytest.mark.parametrize("status", [502, 504, 524])
def test_a_server_error_that_the_api_did_not_write_is_relayed_and_charged_in_full(
    stack: Stack, account: Account, status: int
) -> None:
    page = b"<html>gateway time-out</html>"
    headers = script(raw_status=status, raw_body_b64=b64encode(page).decode(), raw_content_type="text/html")
    response = post(stack, account, headers=headers)
    assert (response.status_code, response.content) == (status, page)
    (call,) = account.wait_for_calls(1)
    (entry,) = account.entries()
    assert (call.outcome, call.reason, entry.basis) == ("failed", "upstream_error_unproven", "full_hold")
    assert entry.amount_nanos == entry.held_nanos > 0


@pytest.mark.parametrize(("status", "body"), [(429, b""), (529, b""), (500, ENVELOPE), (504, ENVELOPE)])
def test_an_error_that_proves_that_nothing_was_billed_costs_nothing(
    stack: Stack, account: Account, status: int, body: bytes
) -> None:
    headers = script(raw_status=status, raw_body_b64=b64encode(body).decode())
    response = post(stack, account, headers=headers)
    assert (response.status_code, response.content) == (status, body)
    (call,) = account.wait_for_calls(1)
    assert (call.outcome, call.reason, account.entries()[0].kind) == ("failed", "upstream_error", "void")


def test_a_redirect_is_not_followed(stack: Stack, account: Account) -> None:
    headers = script(raw_status=302, raw_body_b64="", headers={"location": "http://127.0.0.1:1/steal"})
    response = post(stack, account, headers=headers)
    assert_refused(response, 502, "api_error", "redirect")
    account.wait_for_calls(1)
    assert account.entries()[0].kind == "void"


def test_an_upstream_that_stalls_is_a_504_and_charged(account: Account) -> None:
    limits = {"EXCHEQUER_UPSTREAM_SECONDS_MAX": "1", "EXCHEQUER_STREAM_IDLE_SECONDS_MAX": "1"}
    with start_stack(env=limits) as stack:
        response = post(stack, account, headers=script(latency_ms=5000))
        assert_refused(response, 504, "timeout_error", "in time")
        stalled = script(deltas=10, fault={"stall_after_bytes": 900})
        try:
            text = post(stack, account, {**ASK, "stream": True}, headers=stalled).text
        except httpx2.RemoteProtocolError:
            text = "timeout_error"  # stalled inside an event
        assert "timeout_error" in text
        json_call, stream_call = account.wait_for_calls(2)
        assert (json_call.reason, stream_call.reason) == ("upstream_timeout", "upstream_timeout")
        assert [entry.basis for entry in account.entries()] == ["full_hold", "bounded"]
