"""Time as this process sees it.

Periods, leases and expiry are decided by the database's clock (`exchequer_now()` in SQL), never by
this one: processes on several machines disagree by more than a budget can bear. This clock is for
log lines, durations and the effective date of a price.
"""

from datetime import UTC, datetime


def utcnow() -> datetime:
    """The current instant, aware, in UTC."""
    return datetime.now(UTC)


# The database's clock as one function, so that the test database (and only that) can replace it.
DATABASE_CLOCK_SQL = """
CREATE OR REPLACE FUNCTION exchequer_now() RETURNS timestamptz
LANGUAGE sql VOLATILE AS $$ SELECT clock_timestamp() $$;
"""
