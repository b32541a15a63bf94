"""The system prompt and the concise instruction: where the text goes, and when it stays away."""

from typing import Any

import pytest
from hypothesis import given, settings

from governance.gateway.request import read_request
from governance.pricing.book import PriceBook
from governance.routing.route import SystemPrompt
from tests.gateway.rewrites.bodies import (
    ATTRIBUTION,
    SIGNATURE,
    accepted,
    apply,
    bodies,
    body,
    chat,
    claude_code,
    untouched_but,
)

APPEND = SystemPrompt("Name 3 points.", replaces=False)
REPLACE = SystemPrompt("You answer questions about ducks.", replaces=True)
CONCISE = "Answer in at most three sentences."
CACHED = {"type": "ephemeral", "ttl": "1h"}
THOUGHT = {"type": "thinking", "thinking": "", "signature": SIGNATURE}


def system_of(raw: bytes, book: PriceBook, **route: Any) -> Any:
    result = apply(raw, book, **route)
    return accepted(result.request)[0].get("system")


def test_text_goes_after_the_clients_whatever_form_that_has(book: PriceBook) -> None:
    assert system_of(body(), book, concise=CONCISE) == CONCISE
    assert system_of(body(system="Be kind."), book, concise=CONCISE) == f"Be kind.\n\n{CONCISE}"
    blocks = [{"type": "text", "text": "Be kind.", "cache_control": CACHED}]
    appended = system_of(body(system=blocks), book, concise=CONCISE, system=APPEND)
    texts = [{"type": "text", "text": APPEND.text}, {"type": "text", "text": CONCISE}]
    assert appended == [*blocks, *texts]


def test_what_the_client_marked_for_the_prompt_cache_is_still_read_from_it(book: PriceBook) -> None:
    blocks = [{"type": "text", "text": "Rules. " * 900, "cache_control": CACHED}]
    before = read_request(body(system=blocks))
    after = apply(before, book, concise=CONCISE).request
    (_, _, was), (_, _, now) = accepted(before), accepted(after)
    assert now[0].block == was[0].block
    assert now[0].ttl == "1h"


def test_a_replaced_prompt_takes_over_the_clients_cache_breakpoint(book: PriceBook) -> None:
    assert system_of(body(system="Be kind."), book, system=REPLACE) == REPLACE.text
    assert system_of(body(), book, system=REPLACE) == REPLACE.text
    blocks = [{"type": "text", "text": "a", "cache_control": CACHED}, {"type": "text", "text": "b"}]
    assert system_of(body(system=blocks), book, system=REPLACE) == [
        {"type": "text", "text": REPLACE.text, "cache_control": CACHED}
    ]


def test_claude_codes_attribution_stays_first_and_whole(book: PriceBook) -> None:
    raw = claude_code(thinking=False, turns=2, model="claude-opus-4-8")
    first = {"type": "text", "text": ATTRIBUTION}
    replaced = system_of(raw, book, system=REPLACE)
    assert [block["text"] for block in replaced] == [ATTRIBUTION, REPLACE.text]
    assert replaced[0] == first
    appended = system_of(raw, book, system=APPEND, concise=CONCISE)
    assert appended[0] == first
    assert len(appended) == 5
    one_text = read_request(body(system=f"{ATTRIBUTION}\nYou are Claude Code."))
    result = apply(one_text, book, system=REPLACE)
    assert result.request is one_text
    assert "attribution" in result.reasons[0]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (claude_code(turns=2), "holds signed thinking"),
        (claude_code(turns=0), "signs its thinking"),
        (chat(1, model="claude-opus-5-5"), "thinks unasked"),
        (chat(1, model="claude-haiku-5-5"), "thinks unasked"),
        (chat(3, model="claude-haiku-5-5", thinking={"type": "adaptive"}), "signs its thinking"),
        (chat(1, model="claude-someday-9"), "thinks unasked"),
        (
            body(messages=[{"role": "assistant", "content": [THOUGHT]}, {"role": "user", "content": "2"}]),
            "holds signed thinking",
        ),
    ],
)
def test_nothing_is_said_where_signed_thinking_depends_on_what_was_said(
    book: PriceBook, raw: bytes, reason: str
) -> None:
    """A turn whose thinking was signed over our text would be refused once our rule says something else."""
    request = read_request(raw)
    result = apply(request, book, concise=CONCISE, system=APPEND)
    assert result.request is request
    assert [each.split(":")[0] for each in result.reasons] == ["system", "concise"]
    assert reason in result.reasons[0]


@pytest.mark.parametrize(
    "raw",
    [
        chat(1, model="claude-haiku-4-5"),
        chat(1, model="claude-haiku-5-5", thinking={"type": "disabled"}),
        chat(3, model="claude-opus-5-5"),  # this client keeps no thinking
        chat(1, model="claude-opus-4-8", thinking={"type": "adaptive"}),
    ],
)
def test_it_is_said_where_no_thinking_comes_back(book: PriceBook, raw: bytes) -> None:
    assert apply(raw, book, concise=CONCISE).names == ("concise",)


def test_the_model_that_answers_decides_and_not_the_one_that_was_asked(book: PriceBook) -> None:
    raw = chat(1, model="claude-opus-5-5")
    assert apply(raw, book, model="claude-haiku-4-5", concise=CONCISE).names == ("model", "concise")
    raw = chat(1, model="claude-haiku-4-5")
    assert apply(raw, book, model="claude-haiku-5-5", concise=CONCISE).names == ("model", "concise")
    raw = chat(1, model="claude-haiku-5-5")
    assert apply(raw, book, model="claude-opus-5-5", concise=CONCISE).names == ("model",)


@settings(max_examples=50)
@given(raw=bodies(signed=False))
def test_any_body_is_accepted_with_a_longer_system_prompt(book: PriceBook, raw: bytes) -> None:
    before = read_request(raw)
    for route in ({"concise": CONCISE, "system": APPEND}, {"system": REPLACE}, {"concise": CONCISE}):
        after = apply(before, book, **route).request
        accepted(after)
        assert untouched_but(before, after, "system")
        if len(route) == 1:
            assert apply(after, book, **route).request is after
