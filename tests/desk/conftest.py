"""A tenant's money without a gateway: period rows by hand, a real desk, settlements in one line."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.conf import settings

from governance.calls.records import AttemptRecord, CallRecord
from governance.core.ids import uuid7
from governance.desk.desk import Desk
from governance.desk.items import PlaceHold, Settlement
from governance.desk.memo import make_memo
from governance.ledger.kinds import Basis

_tenant_ids = itertools.count(1_000_000)
_PAST, _FUTURE = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


class Purse:
    """One tenant's budget periods, made by hand. Limits and amounts are nano-dollars."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self.tenant_id = next(_tenant_ids)
        self._budget_ids = itertools.count(self.tenant_id * 100)

    def period(
        self,
        limit: int,
        *,
        hard: bool = True,
        starts_at: datetime = _PAST,
        ends_at: datetime = _FUTURE,
        budget_id: int | None = None,
    ) -> int:
        row = self.connection.execute(
            "INSERT INTO ledger_budgetperiod (tenant_id, budget_id, subject, starts_at, ends_at, limit_nanos,"
            " ceiling_nanos, spent_nanos, held_nanos, alert_percents)"
            " VALUES (%s, %s, '', %s, %s, %s, %s, 0, 0, '{50,100}') RETURNING id",
            [
                self.tenant_id,
                budget_id or next(self._budget_ids),
                starts_at,
                ends_at,
                limit,
                limit if hard else None,
            ],
        ).fetchone()
        assert row is not None
        return int(row[0])

    def hold(self, amount: int, *period_ids: int, tag: str = "x") -> PlaceHold:
        return PlaceHold(uuid7(), self.tenant_id, period_ids, amount, 1, a_memo(tag))

    def charge(
        self, hold: PlaceHold, cost: int, *, text: str = "model", held: int | None = None
    ) -> Settlement:
        return charge_of(hold, cost, text=text, held=held)

    def records(self, hold: PlaceHold, cost: int, text: str = "model") -> tuple[AttemptRecord, CallRecord]:
        return records_of(hold, cost, text)

    def row(self, period_id: int) -> tuple[int, int]:
        """(spent, held) as committed."""
        row = self.connection.execute(
            "SELECT spent_nanos, held_nanos FROM ledger_budgetperiod WHERE id = %s", [period_id]
        ).fetchone()
        assert row is not None
        return row[0], row[1]

    def entries(self) -> list[tuple[str, int]]:
        return self.connection.execute(
            "SELECT kind, amount_nanos FROM ledger_ledgerentry WHERE tenant_id = %s ORDER BY at",
            [self.tenant_id],
        ).fetchall()

    def count(self, table: str) -> int:
        row = self.connection.execute(
            f"SELECT count(*) FROM {table} WHERE tenant_id = %s", [self.tenant_id]
        ).fetchone()
        assert row is not None
        return int(row[0])

    def open_holds(self) -> set[UUID]:
        return {
            row[0]
            for row in self.connection.execute(
                "SELECT id FROM ledger_hold WHERE tenant_id = %s", [self.tenant_id]
            )
        }


def charge_of(hold: PlaceHold, cost: int, *, text: str = "model", held: int | None = None) -> Settlement:
    attempt, call = records_of(hold, cost, text)
    return Settlement.charge(
        hold_id=hold.id,
        basis=Basis.EXACT,
        held_nanos=hold.amount_nanos if held is None else held,
        period_ids=hold.period_ids,
        attempt=attempt,
        call=call,
    )


def records_of(hold: PlaceHold, cost: int, text: str = "model") -> tuple[AttemptRecord, CallRecord]:
    call = CallRecord(
        id=uuid7(), tenant_id=hold.tenant_id, key_id=7, endpoint="messages", outcome="served",
        status=200, reason="served", requested_model=text, cost_nanos=cost, list_nanos=cost, attempts=1,
        held_nanos=hold.amount_nanos,
    )  # fmt: skip
    attempt = AttemptRecord(
        id=hold.id, call_id=call.id, tenant_id=hold.tenant_id, key_id=7, held_nanos=hold.amount_nanos,
        cost_nanos=cost, list_nanos=cost, price_version=1, requested_model=text,
    )  # fmt: skip
    return attempt, call


def a_memo(tag: str = "x") -> str:
    return make_memo(
        call_id=uuid7(), key_id=7, team_id=None, endpoint="messages", requested_model="claude-haiku-5-5",
        stream=False, tags={"t": tag}, end_user=None, session=None, credential_id=None,
        bound="bounded", list_nanos=5,
    )  # fmt: skip


@dataclass
class Fatal:
    """What a desk reported as fatal."""

    errors: list[BaseException]


@pytest.fixture
def fatal() -> Fatal:
    return Fatal([])


@pytest.fixture
def purse(owner_connection: psycopg.Connection[Any]) -> Purse:
    return Purse(owner_connection)


@pytest.fixture
async def start_desk(fatal: Fatal) -> AsyncIterator[Callable[..., Awaitable[Desk]]]:
    started: list[Desk] = []

    async def start(url: str | None = None, worker: str = "test", **options: float) -> Desk:
        desk = Desk(url or settings.DATABASE_URL, worker, on_fatal=fatal.errors.append, **options)
        await desk.start()
        started.append(desk)
        return desk

    yield start
    for desk in started:
        await desk.stop(5)


@pytest.fixture
async def desk(start_desk: Callable[..., Awaitable[Desk]]) -> Desk:
    return await start_desk()
