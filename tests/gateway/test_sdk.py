"""The official SDK against the gateway and the simulator: what it can do with Claude, it can do with us."""

import asyncio
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable
from typing import Any

import anthropic
import httpx2
import pytest

from governance.core.money import nanos_to_usd
from tests.gateway.asking import ASK, HELLO, script
from tests.harness import Account, Stack, make_tenant

WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def test_create_answers_and_is_charged_exactly(stack: Stack, account: Account) -> None:
    message = account.client(stack).messages.create(**ASK, extra_headers=script(tag=account.tenant.slug))
    assert message.content[0].type == "text"
    (call,) = account.wait_for_calls(1)
    (attempt,) = account.attempts()
    (entry,) = account.entries()
    (charge,) = stack.bill(account.tenant.slug)
    assert (call.outcome, call.status, call.reason, call.bound) == ("served", 200, "served", "bounded")
    assert (attempt.input_tokens, attempt.output_tokens) == (
        charge["usage"]["input_tokens"],
        charge["usage"]["output_tokens"],
    )
    assert attempt.upstream_request_id == charge["request_id"]
    assert (entry.id, entry.kind, entry.basis) == (attempt.id, "charge", "exact")
    # Sonnet 5.5 costs $2 and $10 per million tokens
    assert call.cost_nanos == attempt.input_tokens * 2_000 + attempt.output_tokens * 10_000
    assert account.period().spent_nanos == entry.amount_nanos == call.cost_nanos
    assert account.period().held_nanos == 0


def test_the_async_client_creates_and_streams_too(stack: Stack, account: Account) -> None:
    async def ask() -> tuple[str | None, str]:
        async with account.async_client(stack) as client:
            message = await client.messages.create(**ASK)
            async with client.messages.stream(**ASK, extra_headers=script(chunk_delay_ms=2)) as stream:
                return message.stop_reason, await stream.get_final_text()

    reason, text = asyncio.run(ask())
    assert (reason, bool(text)) == ("end_turn", True)
    account.wait_for_calls(2)


def test_a_stream_gives_every_event_and_is_charged_exactly(stack: Stack, account: Account) -> None:
    headers = script(tag=account.tenant.slug, deltas=20, unknown_events=True)
    with account.client(stack).messages.stream(**ASK, extra_headers=headers) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text
    assert text == message.content[0].text
    (call,) = account.wait_for_calls(1)
    (attempt,) = account.attempts()
    (charge,) = stack.bill(account.tenant.slug)
    assert call.stream
    assert (call.outcome, attempt.basis, attempt.usage_source) == ("served", "exact", "stream")
    assert attempt.output_tokens == message.usage.output_tokens == charge["usage"]["output_tokens"]
    assert account.period().spent_nanos == call.cost_nanos > 0


def test_tools_are_called(stack: Stack, account: Account) -> None:
    for streamed in (False, True):
        headers = script(tool_use={"name": "get_weather", "input": {"city": "Paris"}})
        ask = {**ASK, "tools": [WEATHER], "extra_headers": headers}
        client = account.client(stack)
        if streamed:
            with client.messages.stream(**ask) as stream:
                message = stream.get_final_message()
        else:
            message = client.messages.create(**ask)
        assert message.stop_reason == "tool_use"
        (used,) = [block for block in message.content if block.type == "tool_use"]
        assert used.input == {"city": "Paris"}
    account.wait_for_calls(2)


def test_thinking_passes_through(stack: Stack, account: Account) -> None:
    ask = {**ASK, "max_tokens": 4096, "thinking": {"type": "adaptive"}}
    message = account.client(stack).messages.create(**ask, extra_headers=script(thinking=100))
    assert message.content[0].type == "thinking"
    account.wait_for_calls(1)
    assert account.attempts()[0].output_tokens == message.usage.output_tokens >= 100


def test_an_overloaded_upstream_is_retried_by_the_sdk_and_only_the_answer_is_charged(
    stack: Stack, account: Account
) -> None:
    error = {"type": "overloaded_error", "times": 1, "retry_after": "0.01"}
    headers = script(id=account.tenant.slug, tag=account.tenant.slug, error=error)
    message = account.client(stack, max_retries=2).messages.create(**ASK, extra_headers=headers)
    assert message.content
    failed, served = account.wait_for_calls(2)
    assert (failed.outcome, failed.status, failed.reason, failed.cost_nanos) == (
        "failed",
        529,
        "upstream_error",
        0,
    )
    assert served.outcome == "served"
    assert [entry.kind for entry in account.entries()] == ["void", "charge"]
    assert account.entries()[0].reason == "upstream answered 529 before any output"
    assert account.period().spent_nanos == served.cost_nanos


def test_upstream_errors_come_with_their_own_envelope(stack: Stack, account: Account) -> None:
    error = {"type": "rate_limit_error", "message": "Too many.", "retry_after": "7", "should_retry": False}
    with pytest.raises(anthropic.RateLimitError) as caught:
        account.client(stack).messages.create(**ASK, extra_headers=script(error=error))
    assert caught.value.type == "rate_limit_error"
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.body["error"]["message"] == "Too many."
    assert caught.value.request_id.startswith("req_")
    account.wait_for_calls(1)


def test_count_tokens_is_free_and_recorded(stack: Stack) -> None:
    account = make_tenant("0")  # not even an empty budget stops it
    counted = account.client(stack).messages.count_tokens(model="claude-sonnet-5-5", messages=HELLO)
    assert counted.input_tokens > 0
    (call,) = account.wait_for_calls(1)
    assert (call.endpoint, call.outcome, call.cost_nanos) == ("/v1/messages/count_tokens", "served", 0)


def test_models_are_listed(stack: Stack, account: Account) -> None:
    client = account.client(stack)
    ids = [model.id for model in client.models.list(limit=1000)]
    assert "claude-sonnet-5-5" in ids
    assert client.models.retrieve("claude-sonnet-5-5").id == "claude-sonnet-5-5"


# --- bytes ------------------------------------------------------------------------------------------


def raw(
    account: Account, url: str, body: dict[str, Any], headers: Iterable[tuple[str, str]]
) -> httpx2.Response:
    """A plain request whose reply's body is not decoded."""
    with (
        httpx2.Client(headers={"accept-encoding": "gzip"}) as client,
        client.stream(
            "POST",
            f"{url}/v1/messages",
            json=body,
            headers=[("x-api-key", account.key), ("anthropic-version", "2023-06-01"), *headers],
        ) as response,
    ):
        response._content = b"".join(response.iter_raw())
        return response


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
def test_the_reply_has_the_very_bytes_that_upstream_sent(
    stack: Stack, account: Account, streamed: bool
) -> None:
    headers = script(tag=account.tenant.slug, unknown_events=streamed, extra_fields={"novel": ["ü", 1e3]})
    response = raw(account, stack.url, {**ASK, "stream": streamed}, headers.items())
    (charge,) = stack.bill(account.tenant.slug)
    assert hashlib.sha256(response.content).hexdigest() == charge["reply_sha256"]
    account.wait_for_calls(1)


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_reply_that_upstream_compressed_is_relayed_as_it_is_and_metered(
    stack: Stack, account: Account, encoding: str, streamed: bool
) -> None:
    headers = script(tag=account.tenant.slug, compress=encoding)
    response = raw(account, stack.url, {**ASK, "stream": streamed}, headers.items())
    assert response.headers["content-encoding"] == encoding
    plain = gzip.decompress(response.content) if encoding == "gzip" else zlib.decompress(response.content)
    assert b"message" in plain
    account.wait_for_calls(1)
    (attempt,) = account.attempts()
    (charge,) = stack.bill(account.tenant.slug)
    assert (attempt.basis, attempt.output_tokens) == ("exact", charge["usage"]["output_tokens"])


def test_the_request_reaches_upstream_byte_for_byte_with_our_credential(
    stack: Stack, account: Account
) -> None:
    body = (
        b'{ "model":"claude-sonnet-5-5",\n "max_tokens": 4000, "novel": {"a": [1.0, 2]}, "messages": '
        + json.dumps(HELLO).encode()
        + b"}"
    )
    reply = httpx2.post(
        f"{stack.url}/v1/messages?beta=true",
        content=body,
        headers=[
            ("authorization", f"Bearer {account.key}"),
            ("content-type", "application/json; charset=utf-8"),
            ("anthropic-version", "2023-06-01"),
            ("anthropic-beta", "one-2026-01-01,two-2026-02-02"),
            ("user-agent", "Mine/1.0"),
            ("x-stainless-lang", "python"),
            ("cookie", "secret=1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("exchequer-tags", "feature=search"),
            *script(echo=True).items(),
        ],
    ).json()
    echo = json.loads(reply["content"][0]["text"])
    sent = {name.lower(): value for name, value in echo["headers"].items()}
    assert echo["query"] == "beta=true"
    assert hashlib.sha256(body).hexdigest() in json.dumps(echo)
    assert sent["anthropic-beta"] == "one-2026-01-01,two-2026-02-02"
    assert sent["user-agent"] == "Mine/1.0"
    assert sent["x-stainless-lang"] == "python"
    assert sent["content-type"] == "application/json; charset=utf-8"
    assert not {"cookie", "authorization", "x-forwarded-for", "exchequer-tags"} & sent.keys()
    assert account.key not in json.dumps(echo)
    (call,) = account.wait_for_calls(1)
    assert (call.tags, call.bound) == ({"feature": "search"}, "assumed")


def test_quota_and_organisation_headers_are_ours_to_keep(stack: Stack, account: Account) -> None:
    headers = script(
        headers={
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-organization-id": "org",
            "set-cookie": "a=b",
            "x-new": "kept",
        }
    )
    reply = account.client(stack).messages.with_raw_response.create(**ASK, extra_headers=headers)
    seen = reply.headers
    assert not [name for name in seen if name.startswith("anthropic-ratelimit")]
    assert "anthropic-organization-id" not in seen
    assert "set-cookie" not in seen
    assert (seen["x-new"], seen["request-id"][:4]) == ("kept", "req_")
    (call,) = account.wait_for_calls(1)
    assert seen["exchequer-call-id"] == str(call.id)
    assert seen["exchequer-model"] == "claude-sonnet-5-5"
    assert seen["exchequer-cost-usd"] == nanos_to_usd(call.cost_nanos)
    assert (seen["exchequer-decision"], seen["exchequer-cache"]) == ("allowed", "off")
