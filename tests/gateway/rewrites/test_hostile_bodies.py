"""Bodies that nobody should send: a rewrite is made or left out, and never fails a call."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from governance.gateway.request import RequestRefused, read_request
from governance.gateway.rewrites.prompt_cache import Caller
from governance.gateway.rewrites.prompt_cache_memory import Memory
from governance.gateway.rewrites.rewriting import About, marked, rewritten
from governance.pricing.book import PriceBook
from governance.routing.document import PromptCache
from governance.routing.route import Route
from tests.gateway.rewrites.bodies import body, untouched_but
from tests.gateway.rewrites.test_claude_code import EVERYTHING
from tests.pricing.conftest import TODAY

_LEAF = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 10**12), st.sampled_from(["", "x", "é", "5m", "1h"])
)
_THINKS = ("thinking", "redacted_thinking", "enabled", "adaptive")
_TYPES = st.sampled_from(["text", "tool_use", "tool_result", "image", "any", *_THINKS])
_OF_BLOCKS = ("type", "text", "signature", "id", "tool_use_id", "content", "source", "cache_control", "data")
_OF_TERMS = ("name", "effort", "format", "budget_tokens", "strict", "defer_loading", "edits", "ttl")
_NAMES = st.sampled_from([*_OF_BLOCKS, *_OF_TERMS])
_ANY = st.recursive(
    st.one_of(_LEAF, _TYPES),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_NAMES, inner, max_size=4)),
    max_leaves=8,
)
_OBJECT = st.dictionaries(_NAMES, st.one_of(_ANY, _TYPES), max_size=5)
_MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system", "tool", ""]),
        "content": st.one_of(st.just("Hi"), st.lists(_OBJECT, max_size=4)),
    },
    optional={"cache_control": _ANY, "clear_at": _ANY},
)
_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "messages": st.lists(_MESSAGE, max_size=30),
    "system": st.one_of(st.none(), st.just(""), st.just("Be kind."), st.lists(_OBJECT, max_size=3)),
    "tools": st.one_of(st.none(), st.lists(_OBJECT, max_size=3)),
    "thinking": st.one_of(st.none(), _OBJECT),
    "output_config": st.one_of(st.none(), _OBJECT),
    "tool_choice": st.one_of(st.none(), _OBJECT),
    "context_management": st.one_of(st.none(), _OBJECT),
    "cache_control": st.one_of(st.none(), _OBJECT),
    "stop_sequences": st.one_of(st.none(), st.lists(st.sampled_from(["", "A", " "]), max_size=3)),
    "speed": st.sampled_from([None, "fast", "slow"]),
    "thread": _ANY,
    "temperature": _ANY,
}


@settings(max_examples=60)
@given(
    fields=st.fixed_dictionaries({}, optional=_FIELDS),
    model=st.sampled_from(["claude-opus-5", "claude-haiku-4-5", "claude-opus-5-5", "claude-nobody-1"]),
    max_tokens=st.integers(0, 200_000),
    target=st.sampled_from(["claude-haiku-5-5", "claude-haiku-4-5", "claude-opus-9"]),
)
def test_no_body_that_is_accepted_makes_a_rewrite_fail(
    book: PriceBook, fields: dict[str, Any], model: str, max_tokens: int, target: str
) -> None:
    given_fields = {"messages": [], **fields, "model": model, "max_tokens": max_tokens}
    try:
        request = read_request(json.dumps(given_fields).encode())
    except RequestRefused:
        return
    memory = Memory()
    route = Route(**EVERYTHING | {"model": target})
    for second in range(3):
        result = rewritten(request, route, About(book=book, at=TODAY, summary="Ducks."))
        caller = Caller(memory, b"t", "line", float(second))
        last = marked(result.request, PromptCache(), book, TODAY, caller)
    assert untouched_but(
        request,
        last.request,
        *("model", "messages", "system", "tools", "thinking", "output_config", "cache_control"),
        *("max_tokens", "stop_sequences", "temperature", "speed"),
    )
    assert read_request(last.request.body) == last.request


def test_a_body_without_messages_is_left_to_upstream(book: PriceBook) -> None:
    request = read_request(body(messages=[]))
    caller = Caller(Memory(), b"t", "line", 1.0)
    assert marked(request, PromptCache(), book, TODAY, caller).request is request
