"""Periods tile time: each instant is in exactly one, in every zone."""

import random
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from governance.core.periods import PERIOD_KINDS, period_at

ZONES = sorted(zoneinfo.available_timezones() - {"localtime"})
DAY, INSTANT = timedelta(days=1), timedelta(microseconds=1)


def _days_with_another_offset(zone: str, first: datetime, last: datetime) -> Iterator[datetime]:
    """The instants, a day apart, after which clocks change within a day."""
    rules = zoneinfo.ZoneInfo(zone)
    offset = first.astimezone(rules).utcoffset()
    while first < last:
        following = (first + DAY).astimezone(rules).utcoffset()
        if following != offset:
            yield first
        first, offset = first + DAY, following


def _assert_tiles(zone: str, kind: str, instant: datetime, last: datetime, week_starts_on: int = 0) -> None:
    """Each period ends where the next begins, and begins and ends inside itself."""
    period = period_at(instant, kind, zone, week_starts_on)
    while period.starts_at < last:
        assert instant in period, (zone, kind, instant)
        for inside in (period.starts_at, period.ends_at - INSTANT):
            assert period_at(inside, kind, zone, week_starts_on) == period, (zone, kind, inside)
        instant = period.ends_at
        period = period_at(instant, kind, zone, week_starts_on)
        assert period.starts_at == instant, (zone, kind, instant)


def test_days_meet_without_gap_or_overlap_around_each_change_of_clocks_in_every_zone() -> None:
    """Ten years. Where no clock changes a day is 24 hours long: those days are sampled."""
    dice = random.Random("days")
    for zone in ZONES:
        first, last = datetime(2024, 1, 1, tzinfo=UTC), datetime(2034, 1, 1, tzinfo=UTC)
        for change in _days_with_another_offset(zone, first, last):
            _assert_tiles(zone, "day", change - DAY, change + 2 * DAY)
        for _ in range(5):
            some_day = first + dice.randrange(3650) * DAY
            _assert_tiles(zone, "day", some_day, some_day + 2 * DAY)


@pytest.mark.parametrize("kind", [kind for kind in PERIOD_KINDS if kind not in ("day", "total")])
def test_longer_periods_meet_without_gap_or_overlap_in_every_zone(kind: str) -> None:
    """Their ends are ends of days. Weeks are sampled; of the others ten years are tried."""
    dice = random.Random(kind)
    for zone in ZONES:
        first = datetime(2024, 1, 1, tzinfo=UTC)
        if kind == "week":
            first += dice.randrange(500) * 7 * DAY
            _assert_tiles(zone, kind, first, first + 50 * DAY, dice.randrange(7))
        else:
            _assert_tiles(zone, kind, first, first + 3653 * DAY)


@pytest.mark.soak
@pytest.mark.parametrize("kind", PERIOD_KINDS)
def test_all_periods_of_seventy_years_meet_in_every_zone(kind: str) -> None:
    for zone in ZONES:
        if kind != "total":
            first, last = datetime(1968, 1, 1, tzinfo=UTC), datetime(2038, 1, 1, tzinfo=UTC)
            for week_starts_on in range(7) if kind == "week" else (0,):
                _assert_tiles(zone, kind, first, last, week_starts_on)


@pytest.mark.parametrize(
    ("zone", "change"),
    [
        ("America/St_Johns", datetime(2009, 11, 1, 2, 31, tzinfo=UTC)),  # 00:01 became 23:01 of yesterday
        ("America/Toronto", datetime(1919, 3, 31, 4, 30, tzinfo=UTC)),  # 23:30 became 00:30 of tomorrow
        ("Pacific/Apia", datetime(2011, 12, 30, 10, tzinfo=UTC)),  # a whole day was left out
        ("America/Sao_Paulo", datetime(2018, 11, 4, 3, tzinfo=UTC)),  # midnight never came
        ("Africa/Cairo", datetime(2026, 10, 29, 21, tzinfo=UTC)),  # midnight became 23:00
    ],
)
def test_a_day_has_one_beginning_where_clocks_change_over_midnight(zone: str, change: datetime) -> None:
    seconds = [change + timedelta(seconds=second) for second in range(-9_000, 9_000, 50)]
    days = [period_at(instant, "day", zone) for instant in seconds]
    assert all(instant in day for instant, day in zip(seconds, days, strict=True))
    assert len(set(days)) <= 3
    assert all(before == after or before.ends_at == after.starts_at for before, after in pairwise(days))


def test_a_total_period_has_no_end() -> None:
    period = period_at(datetime(2026, 11, 21, tzinfo=UTC), "total", "Asia/Tokyo")
    assert (period.starts_at.year, period.ends_at.year) == (2000, 9999)


def test_a_day_has_23_or_25_hours_when_clocks_change() -> None:
    spring = period_at(datetime(2026, 3, 29, 12, tzinfo=UTC), "day", "Europe/Berlin")
    autumn = period_at(datetime(2026, 10, 25, 12, tzinfo=UTC), "day", "Europe/Berlin")
    assert spring.ends_at - spring.starts_at == timedelta(hours=23)
    assert autumn.ends_at - autumn.starts_at == timedelta(hours=25)


def test_a_naive_instant_has_no_period() -> None:
    with pytest.raises(ValueError, match="aware"):
        period_at(datetime(2026, 1, 1), "day", "UTC")


def test_a_week_may_start_on_another_day() -> None:
    sunday_week = period_at(datetime(2026, 11, 21, tzinfo=UTC), "week", "UTC", week_starts_on=6)
    assert sunday_week.starts_at == datetime(2026, 11, 15, tzinfo=UTC)


def test_quarters_and_years_begin_at_local_midnight() -> None:
    instant = datetime(2026, 11, 21, tzinfo=UTC)
    quarter = period_at(instant, "quarter", "Asia/Kolkata")
    assert quarter.starts_at == datetime(2026, 9, 30, 18, 30, tzinfo=UTC)
    assert quarter.ends_at == period_at(instant, "year", "Asia/Kolkata").ends_at
