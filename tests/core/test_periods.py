"""Periods tile time: each instant is in exactly one, in every zone."""

import random
import zoneinfo
from datetime import UTC, datetime, timedelta

import pytest

from governance.core.periods import PERIOD_KINDS, period_at

_FIRST, _LAST = datetime(2024, 1, 1, tzinfo=UTC), datetime(2034, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("kind", PERIOD_KINDS)
def test_neighbouring_periods_meet_without_gap_or_overlap_in_every_zone(kind: str) -> None:
    dice = random.Random(kind)
    zones = sorted(zoneinfo.available_timezones() - {"localtime"})
    for zone in zones if kind != "day" else dice.sample(zones, 120):
        instant = _FIRST
        while instant < _LAST and kind != "total":
            period = period_at(instant, kind, zone)
            assert instant in period
            following = period_at(period.ends_at, kind, zone)
            assert following.starts_at == period.ends_at, (zone, kind, instant)
            middle = period.starts_at + (period.ends_at - period.starts_at) * dice.random()
            assert period_at(middle, kind, zone) == period
            instant = period.ends_at + timedelta(days=dice.choice([0, 30, 180]) if kind == "day" else 0)
            if kind == "week":
                instant += timedelta(weeks=dice.randrange(8))


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
