"""What loading a file does to prices that are already there."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from governance.pricing.changes import Changes, find_changes
from governance.pricing.describe import describe
from governance.pricing.rates import ListRate
from tests.pricing.files import price_file

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=3)


def stated(**model: Any) -> list[ListRate]:
    return list(price_file({"id": "claude-a"} | model).rates)


def changes(loaded: list[ListRate], file: list[ListRate], now: datetime = NOW) -> Changes:
    return find_changes(loaded, [], file, [], now)


def after(loaded: list[ListRate], file: list[ListRate], now: datetime = NOW) -> list[ListRate]:
    """The rows as they are once the file is loaded."""
    found = changes(loaded, file, now)
    return [row for row in loaded if row not in found.rates_closed] + list(found.rates_added)


def timeline(rows: list[ListRate], meter: str, variant: str = "standard") -> list[tuple[Any, ...]]:
    """(USD per MTok in millionths, from, to) in time."""
    spans = [
        (row.nanos_per_mtok // 1000, row.effective_from, row.effective_to)
        for row in rows
        if (row.model_id, row.meter, row.variant) == ("claude-a", meter, variant)
    ]
    return sorted(spans, key=lambda span: span[1] or datetime.min.replace(tzinfo=UTC))


def test_the_same_file_again_changes_nothing() -> None:
    file = stated(price_history=[{"until": "2026-10-06", "cache_read": 0.2}])
    assert not changes(after([], file), file, LATER)


def test_a_changed_price_without_a_date_begins_now_and_the_past_stays() -> None:
    rows = after(stated(), stated(usd_per_mtok={"input": 2}))
    assert timeline(rows, "input") == [(1_000_000, None, NOW), (2_000_000, NOW, None)]
    assert timeline(rows, "input", "batch") == [(500_000, None, NOW), (1_000_000, NOW, None)]
    assert timeline(rows, "output") == [(5_000_000, None, None)]
    assert not changes(rows, stated(usd_per_mtok={"input": 2}), LATER)


def test_a_price_that_changes_on_a_date_changes_on_that_date() -> None:
    january = datetime(2027, 1, 1, tzinfo=UTC)
    file = stated(usd_per_mtok={"input": 2}, price_history=[{"until": "2026-12-31", "input": 1}])
    rows = after(stated(), file)
    assert timeline(rows, "input") == [(1_000_000, None, january), (2_000_000, january, None)]
    assert not changes(rows, file, LATER)
    assert not changes(rows, file, january + timedelta(days=9))


def test_a_date_in_the_past_corrects_from_that_date_on_and_not_before() -> None:
    november = datetime(2026, 11, 1, tzinfo=UTC)
    file = stated(usd_per_mtok={"input": 2}, price_history=[{"until": "2026-10-31", "input": 7}])
    rows = after(stated(), file)
    assert timeline(rows, "input") == [(1_000_000, None, november), (2_000_000, november, None)]


def test_a_known_date_does_not_let_a_later_change_reach_back_to_it() -> None:
    october = datetime(2026, 10, 7, tzinfo=UTC)
    history = [{"until": "2026-10-06", "input": 1}]
    loaded = after([], stated(usd_per_mtok={"input": 2}, price_history=history))
    rows = after(loaded, stated(usd_per_mtok={"input": 3}, price_history=history))
    assert timeline(rows, "input") == [
        (1_000_000, None, october),
        (2_000_000, october, NOW),
        (3_000_000, NOW, None),
    ]


def test_a_price_that_the_file_no_longer_has_ends_now() -> None:
    fast = {"input": 2, "output": 10}
    rows = after(stated(fast_mode_usd_per_mtok=fast), stated())
    assert timeline(rows, "output", "fast") == [(10_000_000, None, NOW)]


def test_a_model_that_the_file_does_not_mention_is_left_alone() -> None:
    assert not changes([*stated(), *price_file({"id": "claude-b"}).rates[1:]], stated())


def test_a_new_us_multiplier_is_a_change_of_price() -> None:
    found = changes(stated(), stated(inference_geo_us_multiplier=1.2))
    assert len(found.rates_added) == 20  # ten series, each before and after
    assert "in the US ×1.1 → ×1.2 from now on" in describe(found, NOW)[0]


def test_changed_facts_of_a_model_replace_its_old_ones() -> None:
    old, new = (
        price_file({"id": "claude-a"}).models,
        price_file({"id": "claude-a", "max_output": 9_000}).models,
    )
    found = find_changes([], old, [], new, NOW)
    assert (found.models_closed, found.models_added) == (old, new)
    assert describe(found, NOW) == ["~ claude-a: output_tokens_max 8000 → 9000"]
    assert not find_changes([], new, [], new, NOW)


def test_the_changes_read_as_sentences() -> None:
    fast = {"input": 2}
    loaded = stated(fast_mode_usd_per_mtok=fast)
    file = [
        *stated(usd_per_mtok={"output": 6.5}, price_history=[{"until": "2026-12-31", "output": 5}]),
        *price_file({"id": "claude-b"}).rates[1:],
    ]
    assert describe(changes(loaded, file), NOW) == [
        "+ claude-b batch: input $0.50/MTok, cache_write_5m $0.625/MTok, cache_write_1h $1.00/MTok, "
        "cache_read $0.05/MTok, output $2.50/MTok",
        "+ claude-b standard: input $1.00/MTok, cache_write_5m $1.25/MTok, cache_write_1h $2.00/MTok, "
        "cache_read $0.10/MTok, output $5.00/MTok",
        "~ claude-a batch output: $2.50/MTok → $3.25/MTok from 2027-01-01 00:00 UTC",
        "- claude-a fast input: $2.00/MTok ends, from now on",
        "~ claude-a standard output: $5.00/MTok → $6.50/MTok from 2027-01-01 00:00 UTC",
    ]


def test_a_correction_of_the_past_says_that_it_is_one() -> None:
    file = stated(usd_per_mtok={"input": 2}, price_history=[{"until": "2026-10-31", "input": 1}])
    (_, standard) = describe(changes(stated(), file), NOW)
    assert standard == (
        "~ claude-a standard input: $1.00/MTok → $2.00/MTok "
        "from 2026-11-01 00:00 UTC (corrects the past; charges made stay)"
    )


DAYS = st.integers(1, 28).map(lambda day: f"2026-11-{day:02}")
FILES = st.builds(
    lambda price, steps: stated(
        usd_per_mtok={"input": price},
        price_history=[{"until": day, "input": usd} for day, usd in sorted(steps.items())],
    ),
    st.integers(1, 4),
    st.dictionaries(DAYS, st.integers(1, 4), max_size=3),
)


def usd_at(rows: list[ListRate], at: datetime) -> list[int]:
    """The prices of claude-a's input that are in force then: one, or something is badly wrong."""
    return [
        usd
        for usd, since, until in timeline(rows, "input")
        if (since is None or since <= at) and (until is None or at < until)
    ]


@given(st.lists(FILES, min_size=1, max_size=4), st.data())
def test_whatever_is_loaded_there_is_one_price_at_a_time_and_the_file_holds_from_now_on(
    files: list[list[ListRate]], data: st.DataObject
) -> None:
    rows: list[ListRate] = []
    for index, file in enumerate(files):
        now = NOW - timedelta(days=10) + index * timedelta(days=2)
        rows = after(rows, file, now)
        assert not changes(rows, file, now + timedelta(hours=1))
        for day in range(32):
            at = datetime(2026, 11, 1, 12, tzinfo=UTC) + timedelta(days=day)
            assert len(usd_at(rows, at)) == 1
            if at >= now:
                assert usd_at(rows, at) == usd_at(file, at)


@given(FILES, st.integers(1, 9))
def test_a_change_without_a_date_never_alters_what_was_charged_before(file: list[ListRate], usd: int) -> None:
    loaded = after([], file)
    undated = stated(usd_per_mtok={"input": usd})
    rows = after(loaded, undated)
    for day in range(1, 20):
        at = datetime(2026, 11, day, tzinfo=UTC)
        assert usd_at(rows, at) == usd_at(loaded, at)
