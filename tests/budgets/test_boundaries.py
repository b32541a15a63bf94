"""Calls across the ends of periods: each is charged to the period in which the database admitted it.

The database's clock is replaced, in a database of this test's own, by one that jumps while calls are being
admitted: days, nights, daylight saving and new years pass under load.
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from governance.budgets.periods import PeriodRow, PeriodRows
from governance.budgets.terms import BudgetTerms, Leg
from governance.core.ids import uuid7
from governance.desk.desk import Desk
from governance.desk.items import Held, PlaceHold
from tests.conftest import TEMPLATE, _create_database
from tests.desk.conftest import a_memo

AT_ONCE = 250
FIRST = datetime(2026, 3, 27, 20, tzinfo=UTC)
BUDGETS = [
    # period, time zone, first day of the week, each
    ("day", "Europe/Berlin", 0, False),
    ("day", "Asia/Kathmandu", 0, True),
    ("day", "America/Santiago", 0, False),
    ("week", "Australia/Lord_Howe", 6, False),
    ("month", "UTC", 0, False),
    ("quarter", "Asia/Tokyo", 0, False),
    ("year", "America/New_York", 0, True),
    ("total", "UTC", 0, False),
]
MISFILED = """
SELECT count(*) FROM ledger_hold h, unnest(h.period_ids) AS leg JOIN ledger_budgetperiod p ON p.id = leg
WHERE NOT (p.starts_at <= h.placed_at AND h.placed_at < p.ends_at)
"""


@pytest.fixture
def database() -> Iterator[tuple[psycopg.Connection[Any], str]]:
    """A database whose clock is a row of a table: a connection of its owner, and the app's address."""
    name = f"boundaries_{uuid7().hex[-12:]}"
    _create_database(name, template=TEMPLATE)
    owner, app = (
        urlsplit(os.environ[name_of])._replace(path=f"/{name}").geturl()
        for name_of in ("DATABASE_OWNER_URL", "DATABASE_URL")
    )
    with closing(psycopg.connect(owner, autocommit=True)) as connection:
        connection.execute("CREATE TABLE test_clock (at timestamptz)")
        connection.execute("GRANT SELECT ON test_clock TO PUBLIC")
        connection.execute("INSERT INTO test_clock VALUES (%s)", [FIRST])
        connection.execute(
            "CREATE OR REPLACE FUNCTION exchequer_now() RETURNS timestamptz LANGUAGE sql VOLATILE "
            "AS $$ SELECT at FROM test_clock $$"
        )
        yield connection, app


def make_budgets(connection: psycopg.Connection[Any]) -> list[BudgetTerms]:
    def insert(sql: str, *values: object) -> int:
        row = connection.execute(sql + " RETURNING id", values).fetchone()
        assert row is not None
        return int(row[0])

    tenant_id = insert(
        "INSERT INTO tenants_tenant (name, slug, time_zone, status, status_reason, created_at) "
        "VALUES ('Clocks', 'clocks', 'UTC', 'active', '', now())"
    )
    found = []
    for number, (period, zone, week_starts_on, each) in enumerate(BUDGETS):
        budget_id = insert(
            "INSERT INTO budgets_budget (tenant_id, name, scope, scope_ref, each, models_only, period, "
            "week_starts_on, time_zone, limit_nanos, enforcement, alert_percents, created_at) "
            "VALUES (%s, 'b', 'tag', %s, %s, '{}', %s, %s, %s, 1000000000, 'hard', '{}', now())",
            tenant_id, str(number), each, period, week_starts_on, zone,
        )  # fmt: skip
        terms = (
            budget_id,
            tenant_id,
            "b",
            "tag",
            str(number),
            period,
            zone,
            week_starts_on,
            10**9,
            True,
            each,
        )
        found.append(BudgetTerms(*terms))
    return found


class Gateway:
    """What gateway/admission.py does about period rows, with a process clock that is wrong by a little."""

    def __init__(self, desk: Desk, connection: psycopg.AsyncConnection[Any]) -> None:
        self.desk, self.connection = desk, connection
        self.rows, self.lock = PeriodRows(), asyncio.Lock()
        self.closed = 0

    async def call(self, legs: Sequence[Leg], guess: datetime) -> None:
        while True:
            rows = self.rows.known(legs, guess) or await self._ensure(legs, guess)
            periods = tuple(row.id for row in rows)
            order = PlaceHold(uuid7(), legs[0].budget.tenant_id, periods, 1, 1, a_memo())
            answer = await self.desk.place_hold(order)
            if isinstance(answer, Held):
                return
            assert answer.closed, answer
            self.closed += 1
            self.rows.forget(rows[periods.index(answer.period_id)])

    async def _ensure(self, legs: Sequence[Leg], guess: datetime) -> tuple[PeriodRow, ...]:
        async with self.lock:
            return self.rows.known(legs, guess) or await self.rows.ensure(self.connection, legs)


async def cross_boundaries(
    database: tuple[psycopg.Connection[Any], str], start_desk: Callable[..., Awaitable[Desk]], calls: int
) -> Gateway:
    """Place that many holds while the clock jumps by minutes to days, over two years in all."""
    owner, app = database
    budgets = make_budgets(owner)
    dice = random.Random(calls)
    clock = FIRST
    desk = await start_desk(app)
    async with await psycopg.AsyncConnection.connect(app, autocommit=True) as connection:
        gateway = Gateway(desk, connection)

        async def one() -> None:
            legs = [Leg(b, dice.choice(["", "ann", "ben"]) if b.each else "") for b in budgets]
            skew = timedelta(seconds=dice.uniform(-2, 2))
            await gateway.call(dice.sample(legs, 4), clock + skew)

        for _ in range(calls // AT_ONCE):
            under_way = [asyncio.create_task(one()) for _ in range(AT_ONCE)]
            await asyncio.sleep(0.002)
            clock += timedelta(minutes=dice.choice([7, 90, 60 * 11, 60 * 24, 60 * 24 * 9]))
            owner.execute("UPDATE test_clock SET at = %s", [clock])
            await asyncio.gather(*under_way)
    return gateway


def count(connection: psycopg.Connection[Any], sql: str) -> int:
    row = connection.execute(sql).fetchone()
    assert row is not None
    return int(row[0])


async def _none_is_misfiled(
    database: tuple[psycopg.Connection[Any], str], start_desk: Callable[..., Awaitable[Desk]], calls: int
) -> None:
    owner, _ = database
    gateway = await cross_boundaries(database, start_desk, calls)
    assert count(owner, "SELECT count(*) FROM ledger_hold") == calls
    assert count(owner, MISFILED) == 0
    assert gateway.closed > 0  # the desk did turn rows of ended periods away
    # Periods of one subject meet or leave whole periods out; none overlap.
    overlapping = (
        "SELECT count(*) FROM ledger_budgetperiod a JOIN ledger_budgetperiod b "
        "ON a.budget_id = b.budget_id AND a.subject = b.subject AND a.id <> b.id "
        "AND a.starts_at < b.ends_at AND b.starts_at < a.ends_at"
    )
    assert count(owner, overlapping) == 0
    differing = (
        "SELECT count(*) FROM ledger_budgetperiod p WHERE held_nanos <> "
        "(SELECT count(*) FROM ledger_hold WHERE period_ids @> ARRAY[p.id])"
    )
    assert count(owner, differing) == 0 if calls < 10_000 else True
    owner.execute(  # the detector would see a hold that is in the wrong period
        "UPDATE ledger_hold SET placed_at = placed_at + interval '20 years' WHERE id = "
        "(SELECT h.id FROM ledger_hold h, unnest(h.period_ids) AS leg JOIN ledger_budgetperiod p "
        "ON p.id = leg WHERE p.ends_at < '9000-01-01' LIMIT 1)"
    )
    assert count(owner, MISFILED) > 0


async def test_calls_across_the_ends_of_periods_are_filed_by_the_databases_clock(
    database: tuple[psycopg.Connection[Any], str], start_desk: Callable[..., Awaitable[Desk]]
) -> None:
    """cases E1 to E4: nothing is reset, no process keeps figures of its own, all clocks are aware."""
    await _none_is_misfiled(database, start_desk, 10_000)


@pytest.mark.soak
async def test_a_hundred_thousand_calls_across_the_ends_of_periods_are_none_misfiled(
    database: tuple[psycopg.Connection[Any], str], start_desk: Callable[..., Awaitable[Desk]]
) -> None:
    await _none_is_misfiled(database, start_desk, 100_000)
