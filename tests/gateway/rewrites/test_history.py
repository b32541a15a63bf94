"""The history window: where it cuts, what it never parts, and what a cut that stays is worth."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from governance.core.usage import Pass, Usage
from governance.gateway.request import read_request
from governance.gateway.rewrites import history
from governance.pricing.book import PriceBook
from governance.routing.document import History
from governance.simulator.caching import PromptCache
from tests.gateway.rewrites.bodies import (
    accepted,
    apply,
    body,
    chat,
    claude_code,
    conversations,
    encoded,
    untouched_but,
)
from tests.pricing.conftest import TODAY

TERMS = History()


def sent(raw: bytes, book: PriceBook, terms: History = TERMS, summary: str | None = None) -> list[Any]:
    messages: list[Any] = json.loads(apply(raw, book, history=terms, summary=summary).request.body)[
        "messages"
    ]
    return messages


def test_a_conversation_is_cut_at_the_same_place_for_a_block_of_turns(book: PriceBook) -> None:
    starts = {n: sent(chat(n), book)[0]["content"].split(":")[0] for n in range(1, 43, 2)}
    assert {starts[n] for n in range(1, 21, 2)} == {"Message 0"}
    assert {starts[n] for n in range(21, 31, 2)} == {"Message 10"}
    assert {starts[n] for n in range(31, 41, 2)} == {"Message 20"}
    assert starts[41] == "Message 30"


def test_the_cut_is_named_and_counted_and_nothing_else_is_touched(book: PriceBook) -> None:
    before = read_request(chat(23, system="Be kind.", tools=[{"name": "t", "input_schema": {}}]))
    result = apply(before, book, history=TERMS)
    assert result.header == "history(-10)"
    assert result.removed_bytes == len(before.body) - len(result.request.body)
    assert untouched_but(before, result.request, "messages")
    assert before.body.endswith(result.request.body[-1_000:])


@given(
    messages=conversations(most=60, signed=False),
    above=st.integers(4, 24),
    keep=st.integers(2, 20),
)
def test_no_cut_parts_a_tool_result_from_its_call(
    book: PriceBook, messages: list[dict[str, Any]], above: int, keep: int
) -> None:
    terms = History(above_messages=max(above, keep + 1), keep_messages=keep)
    tools = [{"name": "look", "input_schema": {"type": "object"}}]
    before = read_request(body(messages=messages, tools=tools))
    result = apply(before, book, history=terms)
    decoded, _, _ = accepted(result.request)
    left = decoded["messages"]
    if result.request is before:
        return
    assert left[0]["role"] == "user"
    assert not any(block["type"] == "tool_result" for block in blocks(left[0]))
    assert sum(message["role"] != "system" for message in left) >= keep
    cut = len(messages) - len(left) + sum(m["role"] == "system" for m in messages[: messages.index(left[0])])
    standing = [message for message in messages[:cut] if message["role"] == "system"]
    assert left[1:] == [*standing, *messages[messages.index(left[0]) + 1 :]] or messages.count(left[0]) > 1
    assert apply(result.request, book, history=terms).request is result.request


@given(messages=conversations(most=50, signed=False), data=st.data())
def test_a_longer_conversation_is_never_cut_earlier(
    book: PriceBook, messages: list[dict[str, Any]], data: st.DataObject
) -> None:
    """Else what was in the prompt cache would come back after it had gone."""
    ends = [i for i, message in enumerate(messages) if message["role"] == "user"]
    cuts = []
    for end in ends:
        cut = history.cut_of(read_request(body(messages=messages[: end + 1])).fields, TERMS)
        cuts.append(cut.first if isinstance(cut, history.Cut) else 0)
    assert cuts == sorted(cuts)


def blocks(message: dict[str, Any]) -> list[Any]:
    return message["content"] if isinstance(message["content"], list) else []


def test_signed_thinking_stops_every_cut_and_the_reply_says_so(book: PriceBook) -> None:
    request = read_request(claude_code(turns=30))
    result = apply(request, book, history=TERMS)
    assert result.request is request
    assert "signed thinking" in result.reasons[0]


def test_a_run_of_tool_calls_without_a_word_of_the_user_is_not_cut(book: PriceBook) -> None:
    request = read_request(claude_code(thinking=False, turns=30, model="claude-opus-4-8"))
    result = apply(request, book, history=TERMS)
    assert result.request is request
    assert "call of a tool" in result.reasons[0]


def test_a_system_message_that_goes_still_stands_after_the_first_message(book: PriceBook) -> None:
    messages = json.loads(chat(23))["messages"]
    told = {"role": "system", "content": "From now on in French."}
    messages.insert(3, told)
    left = sent(body(messages=messages), book)
    assert [message["role"] for message in left[:3]] == ["user", "system", "assistant"]
    assert left[1] == told
    assert left[0]["content"].startswith("Message 10:")


def test_a_summary_stands_in_the_first_message_and_not_in_the_system_prompt(book: PriceBook) -> None:
    before = read_request(chat(25, system="Be kind."))
    text = history.text_to_summarise(before.fields, TERMS)
    assert text is not None
    assert text.startswith("user: Message 0:")
    assert "assistant: Message 9:" in text
    assert "Message 10:" not in text
    after = apply(before, book, history=TERMS, summary="They spoke of ducks.").request
    first = json.loads(after.body)["messages"][0]["content"]
    assert first.startswith(f"{history.SUMMARY_HEADING}\nThey spoke of ducks.\n\nMessage 10:")
    assert untouched_but(before, after, "messages")
    assert history.text_to_summarise(read_request(chat(27)).fields, TERMS) == text
    assert history.text_to_summarise(read_request(chat(19)).fields, TERMS) is None


def test_a_cut_that_should_be_summarised_and_is_not_says_so(book: PriceBook) -> None:
    terms = History(summarise=True)
    assert "not summarised" in apply(chat(25), book, history=terms).reasons[0]
    assert apply(chat(25), book, summary="They spoke of ducks.", history=terms).reasons == ()
    assert apply(chat(19), book, history=terms).reasons == ()


def test_a_summary_goes_before_the_blocks_of_the_first_message(book: PriceBook) -> None:
    messages = json.loads(chat(21))["messages"]
    messages[10]["content"] = [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]
    first = sent(body(messages=messages), book, summary="Ducks.")[0]["content"]
    assert [block["text"] for block in first] == [f"{history.SUMMARY_HEADING}\nDucks.", "Hi"]


# --- what it is worth ---------------------------------------------------------------------------
def cost_of_turns(book: PriceBook, turns: int, cut: Callable[[bytes], bytes]) -> int:
    """Nano-dollars of the prompts of a conversation, by the simulator's prompt cache: the system prompt is
    marked, and the end of each request."""
    cache, cost = PromptCache(), 0
    system = [{"type": "text", "text": "Rules. " * 600, "cache_control": {"type": "ephemeral"}}]
    for turn in range(turns):
        raw = cut(chat(2 * turn + 1, 150, system=system, cache_control={"type": "ephemeral"}))
        _, model, segments = accepted(read_request(raw))
        split = cache.account({"all": [1]}, segments, model.cache_prefix_tokens_min, 30.0 * turn, 30.0 * turn)
        usage = Usage(split.uncached, split.write_5m, split.write_1h, split.read)
        cost += book.rate([Pass(model.id, usage)], TODAY).cost_nanos
    return cost


def sliding(raw: bytes) -> bytes:
    """What many clients do: the last eleven messages, whichever they are."""
    fields = json.loads(raw)
    return encoded(fields | {"messages": fields["messages"][-11:]})


def test_cutting_in_blocks_keeps_the_prompt_cache_and_a_sliding_window_destroys_it(book: PriceBook) -> None:
    """20 turns: not cut $0.149, in blocks $0.165, sliding $0.335."""
    whole = cost_of_turns(book, 20, lambda raw: raw)
    slid = cost_of_turns(book, 20, sliding)
    cut = cost_of_turns(book, 20, in_blocks(book))
    assert slid > 2 * whole
    assert slid > 1.9 * cut
    assert cut < 1.15 * whole


def test_a_long_conversation_costs_less_cut_in_blocks_than_whole(book: PriceBook) -> None:
    """60 turns: whole $0.794, in blocks $0.545."""
    whole = cost_of_turns(book, 60, lambda raw: raw)
    cut = cost_of_turns(book, 60, in_blocks(book))
    assert cut < 0.75 * whole


def in_blocks(book: PriceBook) -> Callable[[bytes], bytes]:
    return lambda raw: apply(raw, book, history=TERMS).request.body
