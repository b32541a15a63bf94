"""Budget periods: half-open windows [starts_at, ends_at) in an IANA time zone that tile time.

A period is part of a budget row's key, so nothing is ever reset: a new period is a new row. A day
is a calendar day of its zone, hence 23 or 25 hours long twice a year.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

PERIOD_KINDS = ("day", "week", "month", "quarter", "year", "total")

TOTAL_STARTS_AT = datetime(2000, 1, 1, tzinfo=UTC)
TOTAL_ENDS_AT = datetime(9999, 1, 1, tzinfo=UTC)
"""A total budget has one period that no call of ours falls outside of."""


@dataclass(frozen=True, slots=True)
class Period:
    """A window of time, both ends in UTC; `ends_at` belongs to the next one."""

    starts_at: datetime
    ends_at: datetime

    def __contains__(self, instant: datetime) -> bool:
        return self.starts_at <= instant < self.ends_at


def period_at(instant: datetime, kind: str, time_zone: str, week_starts_on: int = 0) -> Period:
    """The period of that kind that contains `instant` (aware). Monday is week day 0.

    ValueError for a naive instant or an unknown kind; ZoneInfoNotFoundError for an unknown zone.
    """
    if instant.tzinfo is None:
        raise ValueError("A period needs an aware instant; this one has no time zone.")
    if kind == "total":
        return Period(TOTAL_STARTS_AT, TOTAL_ENDS_AT)
    zone = ZoneInfo(time_zone)
    first_day, next_first_day = _days_of(instant.astimezone(zone).date(), kind, week_starts_on)
    period = Period(_begin(first_day, zone), _begin(next_first_day, zone))
    if instant < period.ends_at:
        return period
    # Clocks were set back over midnight: the date is yesterday's once more, its day is over.
    _, day_after = _days_of(next_first_day, kind, week_starts_on)
    return Period(period.ends_at, _begin(day_after, zone))


def _days_of(day: date, kind: str, week_starts_on: int) -> tuple[date, date]:
    """The first day of the period around `day`, and the first day of the one after it."""
    if kind == "day":
        return day, day + timedelta(days=1)
    if kind == "week":
        first = day - timedelta(days=(day.weekday() - week_starts_on) % 7)
        return first, first + timedelta(days=7)
    months = {"month": 1, "quarter": 3, "year": 12}.get(kind)
    if months is None:
        raise ValueError(f"“{kind}” is not a period; use one of {', '.join(PERIOD_KINDS)}.")
    index = (day.year * 12 + day.month - 1) // months * months
    return date(index // 12, index % 12 + 1, 1), date((index + months) // 12, (index + months) % 12 + 1, 1)


def _begin(day: date, zone: ZoneInfo) -> datetime:
    """The first instant, in UTC, at which that day (or, where the day was left out, a later one) is the
    zone's date. Where midnight happens twice it is the first of the two."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    begin = midnight.astimezone(UTC)
    if begin.astimezone(zone).replace(tzinfo=None) == midnight.replace(tzinfo=None):
        return begin
    # Clocks jumped over midnight, at some second between what it is by the clock after and before.
    low, high = midnight.replace(fold=1).astimezone(UTC), begin
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) // timedelta(seconds=2) * timedelta(seconds=1)
        if middle.astimezone(zone).date() >= day:
            high = middle
        else:
            low = middle
    return high
