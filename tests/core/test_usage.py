"""Reading usage as it was served: one test per trap of the Claude API."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.core.usage import COUNT_MAX, Pass, Usage, UsageUnreadable, served_passes, total_usage


def message(model: str = "claude-opus-5-5", **usage: Any) -> dict[str, Any]:
    return {"id": "msg_1", "model": model, "usage": {"input_tokens": 0, "output_tokens": 0, **usage}}


def split(five_minutes: int, one_hour: int) -> dict[str, int]:
    return {"ephemeral_5m_input_tokens": five_minutes, "ephemeral_1h_input_tokens": one_hour}


def test_a_plain_reply_is_one_pass() -> None:
    assert served_passes(message(input_tokens=10, output_tokens=20)) == (
        Pass("claude-opus-5-5", Usage(input_tokens=10, output_tokens=20)),
    )


def test_thinking_is_part_of_the_output_and_not_counted_again() -> None:
    (served,) = served_passes(message(output_tokens=500, output_tokens_details={"thinking_tokens": 400}))
    assert served.usage.output_tokens == 500


def test_cache_tokens_are_beside_the_input_tokens_not_inside() -> None:
    (served,) = served_passes(
        message(
            input_tokens=3,
            cache_creation_input_tokens=100,
            cache_creation=split(60, 40),
            cache_read_input_tokens=1000,
        )
    )
    assert served.usage == Usage(3, 60, 40, 1000, 0)
    assert served.usage.prompt_tokens == 1103


@pytest.mark.parametrize(
    ("total", "stated", "five_minutes", "one_hour"),
    [
        (100, split(60, 40), 60, 40),
        (150, split(60, 40), 110, 40),  # a server-tool loop wrote more: those are 5m writes
        (30, split(60, 40), 0, 30),  # never more 1h tokens than tokens
        (100, None, 100, 0),
        (None, split(60, 40), 60, 40),
    ],
)
def test_one_hour_writes_are_those_of_the_split_and_the_rest_are_five_minute_writes(
    total: int | None, stated: dict[str, int] | None, five_minutes: int, one_hour: int
) -> None:
    (served,) = served_passes(message(cache_creation_input_tokens=total, cache_creation=stated))
    assert served.usage == Usage(cache_creation_5m_tokens=five_minutes, cache_creation_1h_tokens=one_hour)


def test_price_dimensions_come_from_the_reply() -> None:
    (served,) = served_passes(message(speed="fast", service_tier="priority", inference_geo="us"))
    assert (served.speed, served.service_tier, served.inference_geo) == ("fast", "priority", "us")


def test_absent_price_dimensions_are_standard_and_nowhere_in_particular() -> None:
    (served,) = served_passes(message(speed=None, service_tier=None, inference_geo=None))
    assert (served.speed, served.service_tier, served.inference_geo) == ("standard", "standard", "")


def test_iterations_are_passes_of_their_own_at_their_own_models() -> None:
    passes = served_passes(
        message(
            input_tokens=5_000,
            output_tokens=300,
            inference_geo="us",
            iterations=[
                # Compaction is billed here only: the totals leave it out.
                {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3_500},
                {"type": "message", "input_tokens": 5_000, "output_tokens": 300},
                {
                    "type": "advisor_message",
                    "model": "claude-fable-5-2",
                    "input_tokens": 900,
                    "output_tokens": 80,
                },
            ],
        )
    )
    assert passes == (
        Pass("claude-opus-5-5", Usage(180_000, output_tokens=3_500), inference_geo="us"),
        Pass("claude-opus-5-5", Usage(5_000, output_tokens=300), inference_geo="us"),
        Pass("claude-fable-5-2", Usage(900, output_tokens=80), inference_geo="us"),
    )


def test_a_fallback_is_billed_at_each_model_that_ran() -> None:
    passes = served_passes(
        message(
            model="claude-opus-5-5",
            input_tokens=50,
            output_tokens=20,
            iterations=[
                {"type": "message", "model": "claude-fable-5-2", "input_tokens": 50, "output_tokens": 0},
                {
                    "type": "fallback_message",
                    "model": "claude-opus-5-5",
                    "input_tokens": 50,
                    "output_tokens": 20,
                },
            ],
        )
    )
    assert [(p.model, p.usage.output_tokens) for p in passes] == [
        ("claude-fable-5-2", 0),
        ("claude-opus-5-5", 20),
    ]


def test_web_searches_are_in_the_totals_only_and_are_charged_once() -> None:
    passes = served_passes(
        message(
            input_tokens=70,
            output_tokens=9,
            server_tool_use={"web_search_requests": 3, "web_fetch_requests": 5},
            iterations=[
                {"type": "message", "input_tokens": 30, "output_tokens": 4},
                {"type": "message", "input_tokens": 40, "output_tokens": 5},
            ],
        )
    )
    assert len(passes) == 3
    assert total_usage(passes) == Usage(70, output_tokens=9, web_search_requests=3)


def test_what_the_totals_show_beyond_the_iterations_is_priced_too() -> None:
    passes = served_passes(
        message(
            input_tokens=100,
            output_tokens=50,
            cache_creation_input_tokens=30,
            cache_creation=split(10, 20),
            iterations=[{"type": "message", "input_tokens": 60, "output_tokens": 50}],
        )
    )
    assert [p.usage for p in passes] == [Usage(60, output_tokens=50), Usage(40, 10, 20)]


def test_iterations_without_a_split_share_the_one_hour_writes_of_the_totals() -> None:
    passes = served_passes(
        message(
            cache_creation_input_tokens=100,
            cache_creation=split(40, 60),
            iterations=[
                {"type": "message", "input_tokens": 0, "output_tokens": 0, "cache_creation_input_tokens": 50},
                {"type": "message", "input_tokens": 0, "output_tokens": 0, "cache_creation_input_tokens": 50},
            ],
        )
    )
    assert total_usage(passes) == Usage(0, 40, 60)
    assert len(passes) == 2


@pytest.mark.parametrize("value", [-1, "12", 1.0, True, COUNT_MAX + 1, [], None])
@pytest.mark.parametrize("field", ["input_tokens", "output_tokens"])
def test_a_count_that_is_not_a_count_makes_usage_unreadable(field: str, value: object) -> None:
    with pytest.raises(UsageUnreadable, match=f"usage.{field} is"):
        served_passes(message(**{field: value}))


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        {"output_tokens": 1},
        {"input_tokens": 1},
        {"input_tokens": 1, "output_tokens": 1, "cache_read_input_tokens": "1"},
        {"input_tokens": 1, "output_tokens": 1, "cache_creation": 5},
        {"input_tokens": 1, "output_tokens": 1, "cache_creation": {"ephemeral_1h_input_tokens": -1}},
        {"input_tokens": 1, "output_tokens": 1, "server_tool_use": {"web_search_requests": 0.5}},
        {"input_tokens": 1, "output_tokens": 1, "speed": "ludicrous"},
        {"input_tokens": 1, "output_tokens": 1, "service_tier": {}},
        {"input_tokens": 1, "output_tokens": 1, "inference_geo": 7},
        {"input_tokens": 1, "output_tokens": 1, "iterations": "two"},
        {"input_tokens": 1, "output_tokens": 1, "iterations": [None]},
        {"input_tokens": 1, "output_tokens": 1, "iterations": [{"input_tokens": 1}]},
        {"input_tokens": 1, "output_tokens": 1, "iterations": [{"input_tokens": 1, "output_tokens": -1}]},
    ],
)  # fmt: skip
def test_malformed_usage_is_never_guessed_at(usage: object) -> None:
    with pytest.raises(UsageUnreadable):
        served_passes({"model": "claude-opus-5-5", "usage": usage})


@pytest.mark.parametrize("model", [None, "", 5])
def test_a_reply_that_does_not_name_its_model_is_unreadable(model: object) -> None:
    with pytest.raises(UsageUnreadable, match="does not name the model"):
        served_passes({"model": model, "usage": {"input_tokens": 1, "output_tokens": 1}})


def test_usage_is_never_negative() -> None:
    with pytest.raises(ValueError, match="negative"):
        Usage(input_tokens=-1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [
    "input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens",
    "cache_creation", "server_tool_use", "service_tier", "speed", "inference_geo", "iterations",
]  # fmt: skip


@given(st.dictionaries(st.sampled_from(FIELDS), JSON | st.integers(0, 5000)))
def test_any_usage_is_read_or_called_unreadable(usage: dict[str, Any]) -> None:
    try:
        passes = served_passes({"model": "claude-opus-5-5", "usage": usage})
    except UsageUnreadable:
        return
    assert min(total_usage(passes).units) >= 0
