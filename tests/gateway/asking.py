"""Plain HTTP requests to the gateway, and what its refusals must look like."""

import json
from typing import Any

import httpx2

from tests.harness import Account, Stack

MODEL = "claude-sonnet-5-5"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
ASK: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "messages": HELLO}


def script(**fields: Any) -> dict[str, str]:
    """The header that tells the simulator how to answer."""
    return {"anthropic-simulator": json.dumps(fields)}


def post(
    stack: Stack,
    account: Account | None,
    content: Any = None,
    *,
    worker: int = 0,
    path: str = "/v1/messages",
    method: str = "POST",
    headers: dict[str, str] | None = None,
    seconds: float = 20,
) -> httpx2.Response:
    """One request; `content` is bytes, an iterator of bytes, or what is sent as JSON."""
    sent = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
    if account is not None:
        sent["x-api-key"] = account.key
    if content is None or isinstance(content, dict | list):
        content = json.dumps(content or ASK).encode()
    return httpx2.request(
        method, stack.urls[worker] + path, content=content, headers=sent | (headers or {}), timeout=seconds
    )


def assert_refused(response: httpx2.Response, status: int, error_type: str, *words: str) -> dict[str, Any]:
    """Anthropic's envelope, the right status and type, one helpful sentence, nothing of our insides."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert body["error"]["type"] == error_type
    sentence = body["error"]["message"]
    assert 20 <= len(sentence) <= 600
    assert sentence[0].isupper() or "`" in sentence or ":" in sentence
    for word in words:
        assert word in sentence, sentence
    assert not any(inside in response.text for inside in ("Traceback", "governance", "psycopg", "Error("))
    assert body["request_id"] == response.headers["request-id"] == response.headers["exchequer-call-id"]
    return body
