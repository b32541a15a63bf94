"""Whatever is sent: Anthropic's envelope, the right status, one sentence that helps, and a trace of it.

Where the tenant is known the refusal is a row; where it is not, it is counted.
"""

import gzip
import json
import socket
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway.asking import ASK, HELLO, assert_refused, post
from tests.harness import Account, Stack, make_tenant, wait_until

MEGABYTE = 1024 * 1024


def counted(stack: Stack, reason: str) -> float:
    """How many refusals of that reason the worker has counted."""
    for line in stack.workers[0].get("/metrics")[1].splitlines():
        if line.startswith("exchequer_calls_total") and f'reason="{reason}"' in line:
            return float(line.rsplit(" ", 1)[1])
    return 0


def assert_recorded(account: Account, status: int, reason: str) -> None:
    (call,) = account.wait_for_calls(1)
    assert (call.outcome, call.status, call.reason, call.cost_nanos) == ("refused", status, reason, 0)
    assert not account.entries()


# --- who is asking ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "reason", "word"),
    [
        ({}, "no_key", "x-api-key"),
        ({"x-api-key": "sk-ant-api03-nonsense"}, "junk_key", "not an Exchequer key"),
        ({"authorization": "Bearer \x00junk".replace("\x00", "'; DROP TABLE")}, "junk_key", "checksum"),
        ({"x-api-key": "one", "authorization": "Bearer two"}, "two_keys", "Two different"),
    ],
)
def test_a_caller_without_a_key_of_ours_is_refused_and_counted(
    stack: Stack, headers: dict[str, str], reason: str, word: str
) -> None:
    before = counted(stack, reason)
    response = post(stack, None, headers=headers)
    assert_refused(response, 401, "authentication_error", word)
    assert response.headers["x-should-retry"] == "false"
    wait_until(lambda: counted(stack, reason) == before + 1, 5)


def test_the_same_key_in_both_headers_is_one_key(stack: Stack, account: Account) -> None:
    both = {"x-api-key": account.key, "authorization": f"Bearer {account.key}"}
    assert post(stack, account, headers=both).status_code == 200
    account.wait_for_calls(1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("exchequer-latency-class", "urgent"), ("exchequer-dry-run", "1"), ("exchequer-route", "opus")],
)
def test_a_header_of_ours_that_says_something_else_is_refused_by_name(
    stack: Stack, account: Account, name: str, value: str
) -> None:
    response = post(stack, account, headers={name: value})
    assert_refused(response, 400, "invalid_request_error", name, value)


# --- what is asked ----------------------------------------------------------------------------------

HELLO_TEXT = json.dumps(HELLO)


def nested(levels: int) -> bytes:
    """A body with that many containers inside each other, in a field that we do not know."""
    inside = levels - 1
    return b'{"model":"claude-sonnet-5-5","max_tokens":9,"messages":%b,"x":%b}' % (
        HELLO_TEXT.encode(),
        b"[" * inside + b"]" * inside,
    )


BAD_BODIES: dict[str, tuple[Any, str]] = {
    "malformed JSON": (b'{"model": "claude-sonnet-5-5", ', "not valid JSON"),
    "no JSON at all": (b"hello", "not valid JSON"),
    "empty": (b"", "not valid JSON"),
    "a list": (b"[]", "must be a JSON object"),
    "a key twice": (f'{{"model":"a","max_tokens":1,"max_tokens":9,"messages":{HELLO_TEXT}}}', "max_tokens"),
    "a key twice, once escaped": (
        f'{{"model":"a","max_tokens":1,"max\\u005ftokens":9,"messages":{HELLO_TEXT}}}',
        "max_tokens",
    ),
    "model twice": (f'{{"model":"a","model":"b","max_tokens":1,"messages":{HELLO_TEXT}}}', "model"),
    "max_tokens missing": ({"model": "a", "messages": HELLO}, "max_tokens: Field required"),
    "model missing": ({"max_tokens": 1, "messages": HELLO}, "model: Field required"),
    "max_tokens a text": ({**ASK, "max_tokens": "64"}, "max_tokens"),
    "max_tokens a float": ({**ASK, "max_tokens": 64.5}, "max_tokens"),
    "max_tokens negative": ({**ASK, "max_tokens": -1}, "max_tokens"),
    "max_tokens huge": ({**ASK, "max_tokens": 2**70}, "max_tokens"),
    "messages a text": ({**ASK, "messages": "hello"}, "messages"),
    "stream a text": ({**ASK, "stream": "yes"}, "stream"),
    "NUL": (json.dumps({**ASK, "system": "a\x00b"}), "NUL"),
    "raw NUL": (b'{"model":"a\x00","max_tokens":1,"messages":[]}', "valid JSON"),
    "not UTF-8": (b'{"model":"a","max_tokens":1,"messages":[{"role":"user","content":"\xff"}]}', "utf-8"),
    "a byte order mark": (b"\xef\xbb\xbf" + json.dumps(ASK).encode(), "JSON"),
    "nested too deep": (nested(65), "64 levels"),
    "nested absurdly": (nested(100_000), "64 levels"),
    "max_uses too high": (
        {**ASK, "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 10**15}]},
        "max_uses",
    ),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_body_that_cannot_be_served_is_a_400_with_a_sentence(
    stack: Stack, account: Account, name: str
) -> None:
    body, word = BAD_BODIES[name]
    response = post(stack, account, body.encode() if isinstance(body, str) else body)
    assert_refused(response, 400, "invalid_request_error", word)
    reason = "worst_case_too_large" if name == "max_uses too high" else "invalid_body"
    assert_recorded(account, 400, reason)
    assert not stack.bill(account.tenant.slug)


def test_nesting_of_64_is_allowed(stack: Stack, account: Account) -> None:
    assert post(stack, account, nested(64)).status_code == 200
    account.wait_for_calls(1)


def test_a_body_over_32_megabytes_is_a_413(stack: Stack, account: Account) -> None:
    response = post(stack, account, b" " * (32 * MEGABYTE + 1))
    assert_refused(response, 413, "request_too_large", "33,554,432 bytes")
    assert_recorded(account, 413, "body_too_large")


def test_a_body_of_unknown_length_is_cut_off_at_32_megabytes(stack: Stack, account: Account) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(34):
            yield b" " * MEGABYTE

    response = post(stack, account, chunks())
    assert_refused(response, 413, "request_too_large", "33,554,432 bytes")
    assert_recorded(account, 413, "body_too_large")


def test_another_content_type_is_a_415(stack: Stack, account: Account) -> None:
    response = post(stack, account, headers={"content-type": "text/plain"})
    assert_refused(response, 415, "invalid_request_error", "application/json")
    assert_recorded(account, 415, "content_type")


def test_another_method_is_a_405(stack: Stack, account: Account) -> None:
    response = post(stack, account, method="PUT")
    assert_refused(response, 405, "invalid_request_error", "PUT", "POST")
    assert "POST" in response.headers["allow"]
    assert_recorded(account, 405, "wrong_method")


def test_another_path_is_a_404_and_counted(stack: Stack, account: Account) -> None:
    before = counted(stack, "no_such_path")
    assert_refused(post(stack, account, path="/v1/complete"), 404, "not_found_error", "/v1/messages")
    assert_refused(post(stack, None, path="/admin/"), 404, "not_found_error", "/admin/")
    wait_until(lambda: counted(stack, "no_such_path") == before + 2, 5)


# --- compressed bodies --------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_body_is_opened(stack: Stack, account: Account, encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    response = post(stack, account, pack(json.dumps(ASK).encode()), headers={"content-encoding": encoding})
    assert response.status_code == 200, response.text
    account.wait_for_calls(1)


@pytest.mark.parametrize("size", [4 * MEGABYTE, 200 * MEGABYTE])
def test_a_compressed_bomb_is_a_413(stack: Stack, account: Account, size: int) -> None:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(squeeze.compress(b" " * MEGABYTE) for _ in range(size // MEGABYTE)) + squeeze.flush()
    response = post(stack, account, bomb, headers={"content-encoding": "gzip"})
    assert_refused(response, 413, "request_too_large", "decompresses")
    assert_recorded(account, 413, "body_too_large_decoded")


def test_an_unknown_content_encoding_is_a_415(stack: Stack, account: Account) -> None:
    response = post(stack, account, b"\x28\xb5\x2f\xfd", headers={"content-encoding": "zstd"})
    assert_refused(response, 415, "invalid_request_error", "zstd", "gzip")
    assert_recorded(account, 415, "body_encoding")


@pytest.mark.parametrize(
    "body", [b"not gzip", gzip.compress(json.dumps(ASK).encode())[:-12]], ids=["no gzip", "cut short"]
)
def test_a_broken_compressed_body_is_a_400(stack: Stack, account: Account, body: bytes) -> None:
    response = post(stack, account, body, headers={"content-encoding": "gzip"})
    assert_refused(response, 400, "invalid_request_error", "gzip")
    assert_recorded(account, 400, "body_encoding")


# --- a key's own rules ----------------------------------------------------------------------------------


def test_a_model_that_the_key_may_not_use_is_a_403(stack: Stack) -> None:
    account = make_tenant(allowed_models=["claude-haiku-5-5"])
    response = post(stack, account)
    assert_refused(response, 403, "permission_error", "claude-sonnet-5-5", "claude-haiku-5-5")
    assert_recorded(account, 403, "model_not_allowed")


def test_a_required_tag_must_be_sent(stack: Stack) -> None:
    account = make_tenant(required_tags=["feature"], default_tags={"team": "web"})
    assert_refused(post(stack, account), 400, "invalid_request_error", "feature", "exchequer-tags")
    assert_recorded(account, 400, "required_tag_missing")
    assert post(stack, account, headers={"exchequer-tags": "feature=search"}).status_code == 200
    assert account.wait_for_calls(2)[1].tags == {"feature": "search", "team": "web"}


@pytest.mark.parametrize("tags", ["feature", "a=" + "x" * 300, ",".join(f"t{n}=1" for n in range(21)), "=x"])
def test_tags_that_cannot_be_read_are_a_400(stack: Stack, account: Account, tags: str) -> None:
    response = post(stack, account, headers={"exchequer-tags": tags})
    assert_refused(response, 400, "invalid_request_error", "exchequer-tags")
    assert_recorded(account, 400, "bad_tags")


def test_a_request_without_a_bound_is_refused_unless_the_key_allows_it(stack: Stack) -> None:
    ask = {**ASK, "tools": [{"type": "web_search_20250305", "name": "web_search"}]}
    strict, lax = make_tenant(), make_tenant("1000", unbounded_allowed=True)
    assert_refused(post(stack, strict, ask), 403, "permission_error", "web_search", "max_uses")
    assert_recorded(strict, 403, "unbounded")
    assert post(stack, lax, ask).status_code == 200
    (call,) = lax.wait_for_calls(1)
    assert call.bound == "unbounded"


def test_a_cap_on_output_lowers_max_tokens_and_says_so(stack: Stack) -> None:
    account = make_tenant(max_output_tokens=50)
    ask = {**ASK, "max_tokens": 128_000, "system": 'say "max_tokens": 128000'}
    response = post(stack, account, ask, headers={"anthropic-simulator": json.dumps({"echo": True})})
    assert response.status_code == 200, response.text
    assert response.headers["exchequer-decision"] == "allowed; max_tokens=50"
    assert response.json()["usage"]["output_tokens"] <= 50
    (call,) = account.wait_for_calls(1)
    assert call.decision == {"max_tokens": 50}
    small = post(stack, account, {**ASK, "max_tokens": 40})
    assert small.headers["exchequer-decision"] == "allowed"
    account.wait_for_calls(2)


def test_a_cap_on_output_never_goes_below_a_thinking_budget(stack: Stack) -> None:
    account = make_tenant(max_output_tokens=2000)
    ask = {**ASK, "max_tokens": 16_000, "thinking": {"type": "enabled", "budget_tokens": 2000}}
    assert_refused(post(stack, account, ask), 400, "invalid_request_error", "2,000", "thinking")
    assert_recorded(account, 400, "thinking_above_cap")


# --- slow and rude --------------------------------------------------------------------------------------


def test_a_client_that_leaves_before_its_body_is_whole_costs_nothing(stack: Stack, account: Account) -> None:
    before = counted(stack, "client_left")
    host, port = stack.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {account.key}\r\n"
        connection.sendall((head + "content-type: application/json\r\ncontent-length: 500\r\n\r\n{").encode())
    wait_until(lambda: counted(stack, "client_left") == before + 1, 5)
    assert not account.holds()
