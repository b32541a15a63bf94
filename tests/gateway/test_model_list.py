"""A key's list of models holds for every model that a request names."""

from typing import Any

import pytest

from tests.gateway.asking import ASK, assert_refused, post
from tests.harness import Account, Stack, make_tenant

SONNET, HAIKU, OPUS = "claude-sonnet-5-5", "claude-haiku-5-5", "claude-opus-5-5"
ADVISOR = {"type": "advisor_20260301", "name": "advisor"}


def inline(definition: Any) -> dict[str, Any]:
    """A block that defines a tool in the middle of a conversation."""
    return {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": definition}}


@pytest.fixture(scope="module")
def narrow() -> Account:
    return make_tenant("1000", allowed_models=[SONNET, HAIKU], unbounded_allowed=True)


@pytest.mark.parametrize(
    "named",
    [
        {"model": OPUS},
        {"fallbacks": [{"model": OPUS}]},
        {"fallbacks": [{"model": HAIKU}, {"model": OPUS}]},
        {"fallbacks": "default"},
        {"fallbacks": {"model": OPUS}},
        {"tools": [{**ADVISOR, "model": OPUS}]},
        {"tools": [{**ADVISOR, "model": None}]},
        {"tools": [ADVISOR]},
        {"messages": [*ASK["messages"], {"role": "system", "content": [inline({**ADVISOR, "model": OPUS})]}]},
        {"messages": [*ASK["messages"], {"role": "system", "content": [inline([ADVISOR])]}]},
    ],
)
def test_a_model_outside_the_list_is_refused_wherever_it_is_named(
    stack: Stack, narrow: Account, named: dict[str, Any]
) -> None:
    assert_refused(post(stack, narrow, ASK | named), 403, "permission_error", "may not use", SONNET)


@pytest.mark.parametrize(
    "named",
    [{}, {"fallbacks": None}, {"fallbacks": [{"model": HAIKU}]}, {"tools": [{**ADVISOR, "model": HAIKU}]}],
)
def test_models_of_the_list_may_be_named_anywhere(
    stack: Stack, narrow: Account, named: dict[str, Any]
) -> None:
    assert post(stack, narrow, ASK | named).status_code == 200


def test_the_list_holds_for_counting_tokens_too(stack: Stack, narrow: Account) -> None:
    def count(content: Any) -> Any:
        return post(stack, narrow, content, path="/v1/messages/count_tokens")

    ask = {"model": SONNET, "messages": ASK["messages"]}
    assert count(ask).status_code == 200
    assert_refused(count(ask | {"model": OPUS}), 403, "permission_error", "may not use")
    twice = f'{{"model": "{SONNET}", "model": "{OPUS}", "messages": []}}'.encode()
    for body in (twice, b"[]", b"{", b"[" * 100_000):
        assert_refused(count(body), 400, "invalid_request_error", "names its model once")
