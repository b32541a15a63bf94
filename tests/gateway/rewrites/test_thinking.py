"""`thinking: off`: none, where the request says nothing of it and the model can do without."""

from typing import Any

import pytest

from governance.gateway.request import read_request
from governance.pricing.book import PriceBook
from governance.routing.route import SystemPrompt
from tests.gateway.rewrites.bodies import accepted, apply, body, chat, claude_code, untouched_but

TOOLS = [{"name": "look", "input_schema": {"type": "object"}}]


@pytest.mark.parametrize(
    ("model", "mode"),
    [
        ("claude-haiku-5-5", "disabled"),
        ("claude-opus-5", "disabled"),
        ("claude-sonnet-5-5", "between_tools"),
    ],
)
def test_a_model_that_thinks_unasked_is_told_not_to(book: PriceBook, model: str, mode: str) -> None:
    request = read_request(body(model=model))
    done = apply(request, book, thinking_off=True)
    assert (done.names, done.reasons) == (("thinking-off",), ())
    assert accepted(done.request)[0]["thinking"] == {"type": mode}
    assert untouched_but(request, done.request, "thinking")


def test_a_model_that_does_not_think_unasked_is_left_alone(book: PriceBook) -> None:
    request = read_request(body(model="claude-haiku-4-5"))
    done = apply(request, book, thinking_off=True)
    assert (done.request is request, done.reasons) == (True, ())


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"model": "claude-opus-5-5"}, "always thinks"),
        ({"model": "claude-haiku-5-5", "thinking": {"type": "adaptive"}}, "says itself"),
        ({"model": "claude-sonnet-5-5", "tools": TOOLS}, "between its uses of tools"),
        ({"model": "claude-haiku-5-5", "output_config": {"effort": "max"}}, "at effort max"),
        ({"model": "claude-someday-9"}, "is not known"),
    ],
)
def test_where_it_would_think_all_the_same_or_the_client_says_how_it_is_not_done(
    book: PriceBook, fields: dict[str, Any], why: str
) -> None:
    done = apply(body(**fields), book, thinking_off=True)
    assert done.names == ()
    assert why in done.reasons[0]


def test_a_conversation_that_holds_thinking_goes_on_as_it_began(book: PriceBook) -> None:
    request = read_request(claude_code(model="claude-haiku-5-5", thinking=True))
    without = request.fields.thinking is None
    done = apply(request, book, thinking_off=True)
    assert done.request is request
    assert ("goes on as it began" if without else "says itself") in done.reasons[0]


@pytest.mark.parametrize("model", ["claude-haiku-5-5", "claude-sonnet-5-5"])
def test_without_thinking_the_system_prompt_may_change_in_the_first_turn_too(
    book: PriceBook, model: str
) -> None:
    prompt = SystemPrompt("Be brief.", replaces=True)
    bound = apply(chat(1, model=model), book, system=prompt)
    assert "thinks unasked" in bound.reasons[0]
    done = apply(chat(1, model=model), book, system=prompt, thinking_off=True)
    assert done.names == ("thinking-off", "system")
    assert accepted(done.request)[0]["system"] == "Be brief."


def test_it_is_the_model_that_the_call_is_sent_to_that_need_not_think(book: PriceBook) -> None:
    done = apply(body(model="claude-opus-5-5"), book, model="claude-haiku-5-5", thinking_off=True)
    assert done.names == ("model", "thinking-off")
    assert accepted(done.request)[0]["thinking"] == {"type": "disabled"}
