"""Reading usage off a stream."""

from typing import Any

import pytest

from governance.core.usage import Pass, Usage, UsageTap, UsageUnreadable


def start(**usage: Any) -> dict[str, Any]:
    return {"type": "message_start", "message": {"model": "claude-opus-5-5", "usage": usage}}


def delta(stop_reason: str | None = None, **usage: Any) -> dict[str, Any]:
    event: dict[str, Any] = {"type": "message_delta", "delta": {"stop_reason": stop_reason}}
    return event | ({"usage": usage} if usage else {})


def tap(*events: dict[str, Any]) -> UsageTap:
    fed = UsageTap()
    for event in events:
        (fed.on_message_start if event["type"] == "message_start" else fed.on_message_delta)(event)
    return fed


def test_output_counts_are_cumulative_the_last_one_stands() -> None:
    fed = tap(
        start(input_tokens=25, output_tokens=1),
        delta(output_tokens=15),
        delta("end_turn", output_tokens=40),
    )
    assert fed.finished
    assert fed.passes() == (Pass("claude-opus-5-5", Usage(25, output_tokens=40)),)


def test_totals_of_a_delta_supersede_those_of_the_start() -> None:
    fed = tap(
        start(input_tokens=25, cache_read_input_tokens=100, output_tokens=1),
        delta("end_turn", input_tokens=400, cache_read_input_tokens=900, output_tokens=40),
    )
    assert fed.passes()[0].usage == Usage(400, cache_read_input_tokens=900, output_tokens=40)


def test_a_null_in_a_delta_leaves_the_total_as_it_was() -> None:
    fed = tap(start(input_tokens=25, output_tokens=1), delta("end_turn", input_tokens=None, output_tokens=9))
    assert fed.passes()[0].usage == Usage(25, output_tokens=9)


def test_the_ttl_split_of_the_start_holds_and_later_writes_are_five_minute_ones() -> None:
    fed = tap(
        start(
            input_tokens=1,
            output_tokens=1,
            cache_creation_input_tokens=100,
            cache_creation={"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 100},
        ),
        delta("end_turn", cache_creation_input_tokens=130, output_tokens=9),
    )
    assert fed.passes()[0].usage == Usage(1, 30, 100, 0, 9)


def test_speed_tier_and_geo_of_the_start_hold_to_the_end() -> None:
    fed = tap(
        start(input_tokens=1, output_tokens=1, speed="fast", service_tier="standard", inference_geo="us"),
        delta("end_turn", output_tokens=2),
    )
    assert (fed.passes()[0].speed, fed.passes()[0].inference_geo) == ("fast", "us")


def test_iterations_of_the_last_delta_are_the_passes() -> None:
    fed = tap(
        start(input_tokens=5, output_tokens=1),
        delta(
            "end_turn",
            output_tokens=7,
            iterations=[
                {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3_000},
                {"type": "message", "input_tokens": 5, "output_tokens": 7},
            ],
        ),
    )
    assert [p.usage for p in fed.passes()] == [
        Usage(180_000, output_tokens=3_000),
        Usage(5, output_tokens=7),
    ]


def test_a_stream_without_its_last_totals_is_not_finished() -> None:
    assert not UsageTap().finished
    assert not tap(start(input_tokens=5, output_tokens=1)).finished
    assert not tap(start(input_tokens=5, output_tokens=1), delta(output_tokens=3)).finished
    assert not tap(start(input_tokens=5, output_tokens=1), delta("end_turn")).finished
    assert tap(start(input_tokens=5, output_tokens=1), delta("end_turn"), delta(output_tokens=3)).finished


def test_the_input_is_exact_once_the_message_has_started() -> None:
    fed = UsageTap()
    assert not fed.started
    assert fed.exact_input is None
    fed.on_message_start(start(input_tokens=5, cache_read_input_tokens=7, output_tokens=1))
    assert fed.started
    assert fed.exact_input == Usage(5, cache_read_input_tokens=7)


def test_a_stream_that_never_started_has_no_usage() -> None:
    with pytest.raises(UsageUnreadable, match="before its message_start"):
        UsageTap().passes()


@pytest.mark.parametrize("broken", [{}, {"message": None}, {"message": {"model": "m", "usage": "x"}}])
def test_a_broken_start_does_not_stop_the_relay_but_is_unreadable(broken: dict[str, Any]) -> None:
    fed = UsageTap()
    fed.on_message_start(broken)
    fed.on_message_delta({"delta": None, "usage": []})
    assert fed.exact_input is None
    with pytest.raises(UsageUnreadable):
        fed.passes()
