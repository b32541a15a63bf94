"""A coding agent's body of 200 KB through every rewrite: no 400, no lost thinking, attribution first."""

import json
from typing import Any

import msgspec
import pytest

from governance.gateway.request import read_request
from governance.gateway.rewrites.prompt_cache import Caller
from governance.gateway.rewrites.prompt_cache_memory import Memory
from governance.gateway.rewrites.rewriting import About, Rewritten, marked, rewritten
from governance.pricing.book import PriceBook
from governance.routing.document import History, JsonOutput, PromptCache
from governance.routing.route import Route, SystemPrompt
from tests.gateway.rewrites.bodies import ATTRIBUTION, accepted, claude_code, raw_fields, thinking_of
from tests.pricing.conftest import TODAY

SCHEMA = {"type": "object"}
EACH: dict[str, dict[str, Any]] = {
    "model": {"model": "claude-sonnet-5-5"},
    "history": {"history": History()},
    "append": {"system": SystemPrompt("Say it in verse.", replaces=False)},
    "replace": {"system": SystemPrompt("You are a duck.", replaces=True)},
    "concise": {"concise": "Be brief."},
    "json": {"json_output": JsonOutput(SCHEMA)},
    "cap": {"max_tokens_cap": 8_000},
    "set": {"max_tokens_set": 32_000},
    "stops": {"stop_sequences": ("STOP",)},
    "prompt cache": {"prompt_cache": PromptCache()},
}
EVERYTHING: dict[str, Any] = {name: term for terms in EACH.values() for name, term in terms.items()}
KEEPS_NO_THINKING: dict[str, Any] = {"thinking": False, "model": "claude-opus-4-8"}


def sent(book: PriceBook, raw: bytes, route: dict[str, Any]) -> Rewritten:
    """Rewritten, and where the route wants it marked, as the third of three such calls."""
    terms = Route(**route)
    result = rewritten(read_request(raw), terms, About(book=book, at=TODAY))
    if terms.prompt_cache is None:
        return result
    memory = Memory()
    for second in range(3):
        caller = Caller(memory, b"t", "s", float(second))
        last = marked(result.request, terms.prompt_cache, book, TODAY, caller)
    return msgspec.structs.replace(
        result,
        request=last.request,
        names=(*result.names, *last.names),
        reasons=(*result.reasons, *last.reasons),
    )


@pytest.mark.parametrize("route", [*EACH.values(), EVERYTHING], ids=[*EACH, "everything"])
@pytest.mark.parametrize("turns", [0, 1, 40])
@pytest.mark.parametrize("agent", [{}, KEEPS_NO_THINKING], ids=["thinks", "keeps no thinking"])
def test_claude_code_is_never_answered_400_and_keeps_its_thinking(
    book: PriceBook, route: dict[str, Any], turns: int, agent: dict[str, Any]
) -> None:
    raw = claude_code(turns=turns, **agent)
    before, result = read_request(raw), sent(book, raw, route)
    decoded, _, segments = accepted(result.request)
    assert thinking_of(result.request) == thinking_of(before)
    assert decoded["system"][0] == {"type": "text", "text": ATTRIBUTION}
    assert sum(segment.ttl is not None for segment in segments) <= 4
    again = sent(book, result.request.body, route)
    assert again.request.body == result.request.body


def test_in_a_conversation_with_thinking_only_the_frame_changes(book: PriceBook) -> None:
    raw = claude_code()
    result = sent(book, raw, EVERYTHING)
    assert result.names == ("json-output", "max-tokens", "stop-sequences")
    assert [reason.split(":")[0] for reason in result.reasons] == [
        "model",
        "history",
        "system",
        "concise",
        "prompt-cache",
    ]
    was, now = raw_fields(raw), raw_fields(result.request.body)
    assert {name for name in now if now[name] != was.get(name)} == {
        "output_config",
        "max_tokens",
        "stop_sequences",
    }


def test_everything_is_done_where_nothing_is_bound(book: PriceBook) -> None:
    raw = claude_code(turns=2, kilobytes=4, **KEEPS_NO_THINKING)
    talk = [
        {"role": "assistant" if i % 2 else "user", "content": f"Message {i}. " + "words " * 40}
        for i in range(23)
    ]
    fields = json.loads(raw) | {"messages": talk}
    for block in fields["system"]:
        block.pop("cache_control", None)
    result = sent(book, json.dumps(fields).encode(), EVERYTHING | {"model": "claude-sonnet-5"})
    assert result.header == (
        "model, history(-10), system, concise, json-output, max-tokens, stop-sequences, prompt-cache(1)"
    )
    assert result.reasons == ()
    accepted(result.request)
