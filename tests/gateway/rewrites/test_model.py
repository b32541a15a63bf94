"""Another model in the client's bytes: what changes with it, and when it is not done."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.gateway.request import read_request
from governance.gateway.rewrites.rewriting import About, rewritten
from governance.pricing.book import PriceBook
from governance.routing.route import Route
from tests.gateway.rewrites.bodies import (
    SIGNATURE,
    accepted,
    apply,
    bodies,
    body,
    chat,
    claude_code,
    raw_fields,
    thinking_of,
    untouched_but,
)
from tests.pricing.conftest import TODAY

TARGETS = (
    "claude-haiku-5-5",
    "claude-haiku-4-5-20251001",
    "claude-sonnet-5-5",
    "claude-sonnet-4-6",
    "claude-opus-5-5",
    "claude-opus-5",
    "claude-fable-5-2",
)
CHANGED = ("model", "thinking", "output_config", "temperature", "max_tokens")
THOUGHT = {"type": "thinking", "thinking": "", "signature": SIGNATURE}
TOOL = {"name": "a", "input_schema": {}}


def test_without_a_rule_the_request_is_the_very_same_object(book: PriceBook) -> None:
    request = read_request(claude_code())
    result = apply(request, book)
    assert result.request is request
    assert (result.names, result.reasons, result.header) == ((), (), "")


def test_a_swap_changes_the_models_name_and_no_other_byte_of_any_field(book: PriceBook) -> None:
    raw = b'{ "metadata" : {"user_id": "a" },\n "model" : "claude-opus-5", "max_tokens": 9, "x":[1, 2 ],' + (
        b'"messages" : [ {"role":"user","content":"H\\u00e9"} ] }'
    )
    result = apply(raw, book, model="claude-haiku-5-5")
    assert result.request.model == "claude-haiku-5-5"
    assert (result.names, result.header) == (("model",), "model")
    assert untouched_but(read_request(raw), result.request, "model")
    assert list(raw_fields(result.request.body)) == ["metadata", "model", "max_tokens", "x", "messages"]


@given(raw=bodies(), target=st.sampled_from(TARGETS))
def test_a_swapped_body_is_one_that_the_target_takes(book: PriceBook, raw: bytes, target: str) -> None:
    before = read_request(raw)
    result = apply(before, book, model=target)
    if result.request is before:
        return
    assert result.names == ("model",)
    decoded, model, _ = accepted(result.request)
    assert decoded["model"] == target
    assert untouched_but(before, result.request, *CHANGED)
    assert decoded["max_tokens"] <= min(before.max_tokens, model.output_tokens_max)
    assert not thinking_of(result.request)
    assert apply(result.request, book, model=target).request is result.request


@pytest.mark.parametrize(
    ("fields", "target", "reason"),
    [
        (
            {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]},
            "claude-haiku-5-5",
            "prefilled",
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "any"}},
            "claude-sonnet-5-5",
            "cannot be made to use a tool",
        ),
        (
            {"messages": [{"role": "user", "content": "x" * 700_000}]},
            "claude-haiku-4-5",
            "has room for 200,000",
        ),
        (
            {"messages": [{"role": "assistant", "content": [THOUGHT]}, {"role": "user", "content": "2"}]},
            "claude-haiku-5-5",
            "only the model that wrote it can read",
        ),
        (
            {"tools": [{"type": "computer_20251124", "name": "computer"}]},
            "claude-haiku-5-5",
            "computer_20251124",
        ),
        ({"tools": [TOOL | {"strict": True}], "max_tokens": 100_000}, "claude-haiku-4-5", "at most 64,000"),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, "claude-haiku-5-5", "compaction"),
        ({}, "claude-opus-9", "claude-opus-9"),
    ],
)
def test_a_swap_that_is_not_safe_is_not_made_and_says_why(
    book: PriceBook, fields: dict[str, object], target: str, reason: str
) -> None:
    request = read_request(body(**fields))
    result = apply(request, book, model=target)
    assert result.request is request
    assert len(result.reasons) == 1
    assert result.reasons[0].startswith("model: ")
    assert reason in result.reasons[0]


@pytest.mark.parametrize(
    "fields", [{"model": "claude-haiku-5-5", "thinking": {"type": "disabled"}}, {"model": "claude-haiku-4-5"}]
)
def test_an_answer_of_a_few_tokens_does_not_go_to_a_model_that_would_think_them_away(
    book: PriceBook, fields: dict[str, object]
) -> None:
    request = read_request(body(**fields, max_tokens=16))
    result = apply(request, book, model="claude-opus-5-5")
    assert result.request is request
    assert "always thinks" in result.reasons[0]
    assert "16 max_tokens" in result.reasons[0]


@pytest.mark.parametrize(
    ("fields", "target", "expected"),
    [
        (
            {"thinking": {"type": "enabled", "budget_tokens": 4_096}, "max_tokens": 9_000},
            "claude-opus-5-5",
            {"thinking": {"type": "adaptive"}},
        ),
        ({"thinking": {"type": "disabled"}, "max_tokens": 2_000}, "claude-opus-5-5", {"thinking": None}),
        ({"model": "claude-haiku-4-5"}, "claude-haiku-5-5", {"thinking": {"type": "disabled"}}),
        ({"thinking": {"type": "disabled"}}, "claude-sonnet-5-5", {"thinking": {"type": "between_tools"}}),
        (
            {"thinking": {"type": "adaptive", "display": "omitted"}, "max_tokens": 6_000},
            "claude-haiku-4-5",
            {"thinking": {"type": "enabled", "budget_tokens": 3_000, "display": "omitted"}},
        ),
        ({"output_config": {"effort": "max", "x": 1}}, "claude-haiku-4-5", {"output_config": {"x": 1}}),
        ({"output_config": {"effort": "max"}}, "claude-haiku-4-5", {"output_config": None}),
        ({"output_config": {"effort": "xhigh"}}, "claude-sonnet-4-6", {"output_config": {"effort": "high"}}),
        (
            {"model": "claude-sonnet-4-6", "temperature": 0.2, "top_k": 5},
            "claude-haiku-5-5",
            {"temperature": None, "top_k": None},
        ),
        ({"max_tokens": 128_000}, "claude-haiku-4-5", {"max_tokens": 64_000}),
    ],
)
def test_what_the_target_does_not_take_is_changed_to_what_it_takes(
    book: PriceBook, fields: dict[str, object], target: str, expected: dict[str, object]
) -> None:
    decoded, _, _ = accepted(apply(body(**fields), book, model=target).request)
    assert {name: decoded.get(name) for name in expected} == expected


def test_a_name_for_the_same_model_is_no_swap(book: PriceBook) -> None:
    request = read_request(body(model="claude-haiku-4-5"))
    assert apply(request, book, model="claude-haiku-4-5-20251001").request is request


def test_claude_code_keeps_its_thinking_and_stays_on_its_model(book: PriceBook) -> None:
    request = read_request(claude_code())
    result = apply(request, book, model="claude-sonnet-5-5")
    assert result.request is request
    assert "only the model that wrote it" in result.reasons[0]


def test_a_conversation_that_was_routed_stays_where_its_thinking_was_written(book: PriceBook) -> None:
    """Its client names the model that it asked for on every turn; the thinking is that of the one it got."""
    before = read_request(claude_code(turns=3))
    about = About(book=book, at=TODAY, conversation_model="claude-sonnet-5-5")
    result = rewritten(before, Route(model="claude-sonnet-5-5"), about)
    assert result.names == ("model",)
    assert thinking_of(result.request) == thinking_of(before)
    assert untouched_but(before, result.request, "model")
    other = rewritten(before, Route(model="claude-haiku-5-5"), about)
    assert other.request is before


def test_claude_codes_first_call_goes_to_another_model_whole(book: PriceBook) -> None:
    before = read_request(claude_code(turns=0))
    result = apply(before, book, model="claude-sonnet-5-5")
    accepted(result.request)
    assert result.names == ("model",)
    assert untouched_but(before, result.request, "model")


def test_an_image_is_not_counted_by_its_bytes(book: PriceBook) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "A" * 900_000}
    raw = body(messages=[{"role": "user", "content": [{"type": "image", "source": source}]}])
    assert apply(raw, book, model="claude-haiku-4-5").names == ("model",)


def test_a_name_spelled_with_escapes_is_swapped_too(book: PriceBook) -> None:
    raw = chat(1).replace(b'"model":"claude-opus-5"', b'"mod\\u0065l":"claude-opus-\\u0035"')
    result = apply(raw, book, model="claude-haiku-5-5")
    assert json.loads(result.request.body)["model"] == "claude-haiku-5-5"
