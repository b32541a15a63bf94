"""What a run left behind: the ledger's rows, the journal of their versions, and the provider's bill."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import namedtuple_row

HAIKU_NANOS_PER_TOKEN = {"input": 1000, "write_5m": 1250, "write_1h": 2000, "read": 100, "output": 5000}
"""Claude Haiku 4.5, written here once more: the checker must not share the price book's mistakes."""


def price_nanos(usage: dict[str, Any]) -> int:
    """What the provider bills for this usage of Haiku 4.5, which has no other prices than these."""
    split = usage.get("cache_creation") or {}
    write_1h = split.get("ephemeral_1h_input_tokens", 0)
    write_5m = (usage.get("cache_creation_input_tokens") or 0) - write_1h
    each = HAIKU_NANOS_PER_TOKEN
    return (
        (usage.get("input_tokens") or 0) * each["input"]
        + write_5m * each["write_5m"]
        + write_1h * each["write_1h"]
        + (usage.get("cache_read_input_tokens") or 0) * each["read"]
        + (usage.get("output_tokens") or 0) * each["output"]
    )


GUARDED_TABLES = [
    "ledger_ledgerentry",
    "ledger_adjustment",
    "ledger_thresholdcrossing",
    "calls_call",
    "calls_attempt",
]


@dataclass
class Step:
    """One transaction's work on one period row, as committed."""

    xact: int
    period_id: int
    at: datetime
    before: tuple[int, int, int]
    """(spent, held, limit) before it."""
    after: tuple[int, int, int]
    hard: bool


@dataclass
class Evidence:
    """Rows as named tuples, of some tenants. A call is known by its tag `call`, the bill's `script_id`."""

    periods: list[Any] = field(default_factory=list)
    entries: list[Any] = field(default_factory=list)
    open_holds: list[Any] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)
    attempts: list[Any] = field(default_factory=list)
    crossings: list[Any] = field(default_factory=list)
    adjustments: list[Any] = field(default_factory=list)
    journal: list[Any] = field(default_factory=list)
    unguarded_tables: list[str] = field(default_factory=list)
    bill: list[dict[str, Any]] = field(default_factory=list)
    asked_at: datetime | None = None

    def steps(self) -> Iterable[Step]:
        """What each commit did to each period row, oldest first within a row."""
        last: dict[int, tuple[int, int, int]] = {}
        open_step: dict[int, Step] = {}
        for row in self.journal:
            if row.period_id is None:
                continue
            now = (row.spent, row.held, row.limit_nanos)
            step = open_step.get(row.period_id)
            if step is not None and step.xact == row.xact:
                step.after, step.hard = now, row.hard
            else:
                if step is not None:
                    yield step
                before = last.get(row.period_id, (0, 0, row.limit_nanos))
                open_step[row.period_id] = Step(row.xact, row.period_id, row.at, before, now, row.hard)
            last[row.period_id] = now
        yield from open_step.values()

    def hold_moves(self) -> dict[UUID, list[Any]]:
        """hold id → its journal rows: placed (before is None), changed, deleted (after is None)."""
        moves: dict[UUID, list[Any]] = defaultdict(list)
        for row in self.journal:
            if row.hold_id is not None:
                moves[row.hold_id].append(row)
        return moves


def collect(
    connection: psycopg.Connection[Any], tenant_ids: Sequence[int], bill: Iterable[dict[str, Any]] = ()
) -> Evidence:
    """Everything about these tenants in one snapshot; `bill` holds their lines, and no others."""
    tenants = [list(tenant_ids)]

    def rows(sql: str, parameters: Any = tenants) -> list[Any]:
        with connection.cursor(row_factory=namedtuple_row) as cursor:
            return cursor.execute(sql, parameters).fetchall()

    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        [(asked_at,)] = connection.execute("SELECT exchequer_now()").fetchall()
        return Evidence(
            periods=rows("SELECT * FROM ledger_budgetperiod WHERE tenant_id = ANY(%s)"),
            entries=rows(
                "SELECT id, kind, basis, call_id, period_ids, amount_nanos, held_nanos, corrects_id, xact"
                " FROM ledger_ledgerentry WHERE tenant_id = ANY(%s)"
            ),
            open_holds=rows("SELECT * FROM ledger_hold WHERE tenant_id = ANY(%s)"),
            calls=rows(
                "SELECT id, tenant_id, tags->>'call' AS tag, outcome, status, reason, attempts, held_nanos,"
                " cost_nanos, list_nanos FROM calls_call WHERE tenant_id = ANY(%s)"
            ),
            attempts=rows(
                "SELECT id, call_id, number, upstream_request_id, held_nanos, cost_nanos, list_nanos"
                " FROM calls_attempt WHERE tenant_id = ANY(%s)"
            ),
            crossings=rows("SELECT * FROM ledger_thresholdcrossing WHERE tenant_id = ANY(%s)"),
            adjustments=rows("SELECT * FROM ledger_adjustment WHERE tenant_id = ANY(%s)"),
            journal=rows("SELECT * FROM test_journal WHERE tenant_id = ANY(%s) ORDER BY seq"),
            unguarded_tables=[
                row.name
                for row in rows(
                    "SELECT name FROM unnest(%s::text[]) AS name WHERE NOT EXISTS (SELECT 1 FROM pg_trigger"
                    " WHERE tgrelid = name::regclass AND tgname = 'append_only_rows' AND tgenabled <> 'D')",
                    [GUARDED_TABLES],
                )
            ],
            bill=list(bill),
            asked_at=asked_at,
        )
