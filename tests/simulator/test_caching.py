"""Prompt-cache accounting, as Anthropic documents it."""

from typing import Any

import anthropic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.simulator.caching import LOOKBACK_POSITIONS, PromptCache
from governance.simulator.prompt import Segment
from tests.simulator.asking import MODEL, scripted

CACHED = {"type": "ephemeral"}
CACHED_1H = {"type": "ephemeral", "ttl": "1h"}
LONG = "A paragraph that is long enough to be cached. " * 60  # 897 tokens; the minimum of Haiku 5.5 is 512


def ask(
    client: anthropic.Anthropic, *, script: dict[str, Any] | None = None, **changes: Any
) -> anthropic.types.Usage:
    request = {
        "model": MODEL,
        "max_tokens": 20,
        "system": [{"type": "text", "text": LONG, "cache_control": CACHED}],
        "messages": [{"role": "user", "content": "Hello"}],
        **changes,
    }
    return client.messages.create(**request, **scripted(**(script or {}))).usage


def split(usage: anthropic.types.Usage) -> tuple[int, int, int, int]:
    """(uncached, read, written for 5 minutes, written for 1 hour)"""
    written = usage.cache_creation
    assert written is not None
    assert usage.cache_creation_input_tokens == (
        written.ephemeral_5m_input_tokens + written.ephemeral_1h_input_tokens
    )
    return (
        usage.input_tokens,
        usage.cache_read_input_tokens or 0,
        written.ephemeral_5m_input_tokens,
        written.ephemeral_1h_input_tokens,
    )


def test_a_prefix_is_written_once_and_then_read(client: anthropic.Anthropic) -> None:
    assert split(ask(client)) == (5, 0, 897, 0)
    assert split(ask(client)) == (5, 897, 0, 0)
    other_question = [{"role": "user", "content": "Something else"}]
    assert split(ask(client, messages=other_question))[1] == 897


def test_a_stream_reports_the_split_at_its_start_and_totals_at_its_end(client: anthropic.Anthropic) -> None:
    system = [{"type": "text", "text": LONG, "cache_control": CACHED_1H}]
    question = [{"role": "user", "content": "Hello"}]
    events = list(
        client.messages.create(model=MODEL, max_tokens=20, system=system, messages=question, stream=True)
    )
    started = events[0].message.usage
    assert started.cache_creation.ephemeral_1h_input_tokens == 897
    ended = next(event for event in events if event.type == "message_delta").usage
    assert ended.cache_creation_input_tokens == 897
    assert "cache_creation" not in ended.model_fields_set


def test_a_prefix_below_the_minimum_is_silently_not_cached(client: anthropic.Anthropic) -> None:
    short = [{"type": "text", "text": LONG[:1500], "cache_control": CACHED}]
    for _ in range(2):
        assert split(ask(client, system=short))[1:] == (0, 0, 0)
    assert split(ask(client, model="claude-haiku-4-5"))[1:] == (0, 0, 0)  # its minimum is 4,096


def test_five_minutes_and_one_hour_are_written_apart(client: anthropic.Anthropic) -> None:
    system = [{"type": "text", "text": LONG, "cache_control": CACHED_1H}]
    messages = [{"role": "user", "content": [{"type": "text", "text": LONG, "cache_control": CACHED}]}]
    assert split(ask(client, system=system, messages=messages)) == (0, 0, 900, 897)


def test_an_entry_expires_and_a_read_refreshes_it(client: anthropic.Anthropic) -> None:
    ask(client)
    assert split(ask(client, script={"cache_clock_offset_s": 250}))[1] == 897  # refreshed until 550
    assert split(ask(client, script={"cache_clock_offset_s": 540}))[1] == 897  # refreshed until 840
    assert split(ask(client, script={"cache_clock_offset_s": 841})) == (5, 0, 897, 0)


def test_one_hour_lasts_an_hour(client: anthropic.Anthropic) -> None:
    system = [{"type": "text", "text": LONG, "cache_control": CACHED_1H}]
    ask(client, system=system)
    assert split(ask(client, system=system, script={"cache_clock_offset_s": 3590}))[1] == 897
    assert split(ask(client, system=system, script={"cache_clock_offset_s": 3590 + 3601}))[1] == 0


def test_credentials_and_models_do_not_share_a_cache(client: anthropic.Anthropic) -> None:
    ask(client)
    assert split(ask(client, model="claude-fable-5"))[1] == 0
    with client.with_options(api_key="another-key") as other:
        assert split(ask(other))[1] == 0


def test_what_changes_one_level_leaves_the_levels_before_it(client: anthropic.Anthropic) -> None:
    tool = {"name": "t", "description": LONG, "input_schema": {"type": "object"}, "cache_control": CACHED}
    question = [{"role": "user", "content": [{"type": "text", "text": LONG, "cache_control": CACHED}]}]
    everything = sum(split(ask(client, tools=[tool], messages=question)))
    assert split(ask(client, tools=[tool], messages=question))[1] == everything

    choice = {"type": "none"}
    tools_and_system = everything - 900
    assert split(ask(client, tools=[tool], messages=question, tool_choice=choice))[1] == tools_and_system
    new_system = [{"type": "text", "text": "New. " + LONG, "cache_control": CACHED}]
    assert split(ask(client, tools=[tool], system=new_system, messages=question))[1] == tools_and_system - 897
    new_tool = {**tool, "name": "u"}
    assert split(ask(client, tools=[new_tool], messages=question))[1] == 0


def test_automatic_caching_marks_the_last_block(client: anthropic.Anthropic) -> None:
    first = [{"role": "user", "content": LONG}]
    assert split(ask(client, system="Be brief.", messages=first, cache_control=CACHED)) == (0, 0, 903, 0)
    longer = [*first, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And then?"}]
    uncached, read, written, _ = split(ask(client, system="Be brief.", messages=longer, cache_control=CACHED))
    assert (uncached, read, written) == (0, 903, 11)


@pytest.mark.parametrize(
    ("blocks", "sentence"),
    [
        ([CACHED] * 5, "A maximum of 4 blocks with cache_control may be provided. Found 5"),
        ([CACHED, CACHED_1H], "must not come after a ttl='5m'"),
        ([{"type": "ephemeral", "ttl": "2h"}], "Input should be '5m' or '1h'"),
        ([{"type": "forever"}], "Input should be 'ephemeral'"),
    ],
)
def test_breakpoints_that_the_api_refuses_are_refused(
    client: anthropic.Anthropic, blocks: list[dict[str, str]], sentence: str
) -> None:
    system = [{"type": "text", "text": "x", "cache_control": control} for control in blocks]
    with pytest.raises(anthropic.BadRequestError, match=sentence):
        ask(client, system=system)


def _segments(count: int, breakpoint_at: int) -> list[Segment]:
    blocks = [Segment("messages", "user", {"type": "text", "text": str(i)}, 100) for i in range(count)]
    blocks[breakpoint_at].ttl = "5m"
    return blocks


def test_a_breakpoint_looks_back_over_twenty_positions() -> None:
    for distance, found in ((LOOKBACK_POSITIONS - 1, True), (LOOKBACK_POSITIONS, False)):
        cache = PromptCache()
        cache.account({"all": 0}, _segments(50, 10), 0, now=0.0, readable_at=0.0)
        later = cache.account({"all": 0}, _segments(50, 10 + distance), 0, now=1.0, readable_at=1.0)
        assert (later.read > 0) is found


def test_an_entry_can_be_read_only_once_its_reply_has_begun() -> None:
    cache = PromptCache()
    cache.account({"all": 0}, _segments(3, 2), 0, now=0.0, readable_at=2.0)
    assert cache.account({"all": 0}, _segments(3, 2), 0, now=1.0, readable_at=3.0).read == 0
    assert cache.account({"all": 0}, _segments(3, 2), 0, now=3.5, readable_at=3.5).read == 300


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 2), min_size=1, max_size=8),
            st.lists(st.booleans(), min_size=8, max_size=8),
        ),
        max_size=8,
    )
)
def test_the_four_parts_of_a_prompt_always_add_up(requests: list[tuple[list[int], list[bool]]]) -> None:
    cache = PromptCache()
    for now, (texts, breakpoints) in enumerate(requests):
        segments = [
            Segment(
                "messages", "user", {"type": "text", "text": str(text)}, 100 + text, "5m" if marked else None
            )
            for text, marked in zip(texts, breakpoints, strict=False)
        ]
        parts = cache.account({"all": 0}, segments, 150, float(now), float(now))
        assert min(parts.uncached, parts.read, parts.write_5m, parts.write_1h) >= 0
        total = sum(segment.tokens for segment in segments)
        assert parts.uncached + parts.read + parts.write_5m + parts.write_1h == total
