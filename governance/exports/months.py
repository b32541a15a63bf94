"""Which month, and up to which instant: decided by the database's clock, in UTC, as FOCUS has it.

An entry belongs to the day and the month of its `at`, the moment when it was written. So a month is complete
once it is over and every transaction has ended that ran then, and from there on it never changes: what
corrects it later is an entry of a later month.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection

DAY = timedelta(days=1)
SETTLED_SECONDS_MAX = 20.0

# A number of our own is above that of every transaction that has written anything yet.
_HORIZON = "SELECT pg_current_xact_id()::text::bigint"
_OLDEST = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"


class ExportRefused(ValueError):
    """No file can be made so; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Month:
    """[starts_at, ends_at), of which entries before `cut` are exported: `ends_at` once it is over."""

    starts_at: datetime
    ends_at: datetime
    cut: datetime

    @property
    def is_over(self) -> bool:
        return self.cut == self.ends_at

    @property
    def name(self) -> str:
        return f"{self.starts_at:%Y-%m}"

    def days(self) -> Iterator[datetime]:
        """The first instant of each day before the cut."""
        day = self.starts_at
        while day < self.cut:
            yield day
            day += DAY


def month_of(instant: datetime) -> datetime:
    """The first instant of the month."""
    return instant.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def read_month(text: str, *, until_now: bool) -> Month:
    """“2026-10” → that month. ExportRefused for what is none, lies ahead, or runs without `until_now`."""
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", text) or text < "2000":
        raise ExportRefused(f"“{text}” is no month; write it like 2026-10.")
    starts_at = datetime(int(text[:4]), int(text[5:]), 1, tzinfo=UTC)
    now: datetime = _one("SELECT exchequer_now()")
    if now < starts_at:
        raise ExportRefused(f"{text} has not begun yet.")
    ends_at = month_of(starts_at + 31 * DAY)
    if now < ends_at and not until_now:
        raise ExportRefused(
            f"{text} is not over, so its file would change; for what there is so far add --until-now."
        )
    return Month(starts_at, ends_at, min(now, ends_at))


def wait_until_settled() -> None:
    """Until whatever was being written when this began is committed or gone: then every entry before a cut in
    the past can be seen, without a long snapshot. ExportRefused when that takes too long."""
    horizon: int = _one(_HORIZON)
    began = time.monotonic()
    while _one(_OLDEST) < horizon:
        if time.monotonic() - began > SETTLED_SECONDS_MAX:
            raise ExportRefused(
                "A transaction on this PostgreSQL server began before the export and is still writing, so "
                "the month may not be complete. Try again when it has ended; pg_stat_activity shows it."
            )
        time.sleep(0.05)


def _one(sql: str) -> Any:
    """One value, of the type that the query has."""
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]
