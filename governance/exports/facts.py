"""Reading one tenant's month: the ledger's own sum, and its entries day by day with what they were for.

Every statement is a short transaction with a time limit; nobody who settles a call ever waits for an export.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from django.db import connection, transaction

from governance.core.ids import id_floor
from governance.exports.months import DAY, Month, month_of
from governance.ledger.kinds import EntryKind
from governance.ledger.models import LedgerEntry

if TYPE_CHECKING:
    from django.db.backends.utils import CursorWrapper
    from django.db.models import QuerySet

ENTRIES_AT_ONCE = 2_000
ENTRIES_COUNTED_AT_ONCE = 50_000
STATEMENT_SECONDS_MAX = 30
NEAR = timedelta(hours=1)
"""An entry's id is as old as its hold. Those written on a day are looked for among the ids of that day and
so much around it; the rest are noted one by one when the month is counted."""

_MONEY = (EntryKind.CHARGE, EntryKind.CREDIT, EntryKind.CORRECTION)
# The tenant's money, as ledger_sum has it: an overrun is the operator's, a transfer moves a limit.
_COUNT = """
WITH page AS MATERIALIZED (
    SELECT id, at, amount_nanos,
           at >= %(starts_at)s AND at < %(cut)s AND kind NOT IN ('overrun', 'transfer') AS in_month,
           date_trunc('day', at, 'UTC') AS day
    FROM ledger_ledgerentry WHERE tenant_id = %(tenant)s AND id > %(after)s ORDER BY id LIMIT %(limit)s
),
ours AS (
    SELECT *, id < exchequer_id_floor(day - %(near)s::interval)
              OR id >= exchequer_id_floor(day + interval '1 day' + %(near)s::interval) AS far
    FROM page WHERE in_month
)
SELECT (SELECT id FROM page ORDER BY id DESC LIMIT 1), count(*), coalesce(sum(amount_nanos), 0)::bigint,
       coalesce(array_agg(id) FILTER (WHERE far), '{}'), coalesce(array_agg(day) FILTER (WHERE far), '{}')
FROM ours
"""
_ENTRY = ("id", "kind", "basis", "key_id", "call_id", "corrects_id", "amount_nanos", "reason")
# Thousands of ids: an array is one parameter, and PostgreSQL leaves out the months that have none of them.
_ATTEMPTS = """
SELECT id, call_id, served_model, requested_model, speed, service_tier, inference_geo, input_tokens,
       cache_creation_5m_tokens, cache_creation_1h_tokens, cache_read_input_tokens, output_tokens,
       web_search_requests, passes::text, cost_nanos, price_version
FROM calls_attempt WHERE tenant_id = %(tenant)s AND id = ANY(%(ids)s)
"""
_CHARGES = "SELECT id, at FROM ledger_ledgerentry WHERE tenant_id = %(tenant)s AND id = ANY(%(ids)s)"
_CALLS = "SELECT id, team_id, tags::text FROM calls_call WHERE tenant_id = %(tenant)s AND id = ANY(%(ids)s)"
# A call that goes on has no row yet, but a hold, whose memo says the same. The one comes in the transaction
# in which the other goes, and this is one statement: it finds either.
_CALLS_UNDER_WAY = """
SELECT id, team_id, tags::text FROM calls_call WHERE tenant_id = %(tenant)s AND id = ANY(%(ids)s)
UNION ALL
SELECT (memo ->> 'call')::uuid, (memo ->> 'team')::bigint, (memo -> 'tags')::text
FROM ledger_hold WHERE tenant_id = %(tenant)s AND memo ->> 'call' = ANY(%(ids)s::uuid[]::text[])
"""


class AttemptRow(NamedTuple):
    """The columns of calls.models.Attempt that tell what was used and what it cost."""

    id: UUID
    call_id: UUID
    served_model: str | None
    requested_model: str | None
    speed: str | None
    service_tier: str | None
    inference_geo: str | None
    input_tokens: int | None
    cache_creation_5m_tokens: int | None
    cache_creation_1h_tokens: int | None
    cache_read_input_tokens: int | None
    output_tokens: int | None
    web_search_requests: int | None
    passes: list[dict[str, Any]] | None
    cost_nanos: int
    price_version: int


class Entry(NamedTuple):
    """One entry of the tenant's ledger, with the attempt that it charges or corrects."""

    kind: str
    basis: str | None
    key_id: int | None
    amount_nanos: int
    reason: str
    corrected_month: datetime | None
    """The month whose charge it corrects; None for a charge."""
    team_id: int | None
    tags: str
    """A JSON object, as PostgreSQL writes it."""
    attempt: AttemptRow | None


@dataclass(slots=True)
class Count:
    """What the ledger says of the month, and the ids that lie far from their day."""

    entries: int = 0
    nanos: int = 0
    far: dict[datetime, list[UUID]] = field(default_factory=lambda: defaultdict(list))


def count(tenant_id: int, month: Month) -> Iterator[Count]:
    """Add up the tenant's whole ledger, whatever an entry's id; yields the one running result."""
    result, after = Count(), UUID(int=0)
    while True:
        with _short_transaction() as cursor:
            cursor.execute(
                _COUNT,
                {
                    "tenant": tenant_id,
                    "starts_at": month.starts_at,
                    "cut": month.cut,
                    "near": f"{NEAR.total_seconds()} seconds",
                    "after": after,
                    "limit": ENTRIES_COUNTED_AT_ONCE,
                },
            )
            last, entries, nanos, ids, days = cursor.fetchone()
        if last is None:
            return
        result.entries += entries
        result.nanos += nanos
        for entry_id, day in zip(ids, days, strict=True):
            result.far[day].append(entry_id)
        after = last
        yield result


def entries_of_day(tenant_id: int, month: Month, day: datetime, far: Sequence[UUID]) -> Iterator[list[Entry]]:
    """The day's charges, credits and corrections, a page at a time. Run in a scope that sees the tenant."""
    of_day = LedgerEntry.objects.filter(
        tenant_id=tenant_id, at__gte=day, at__lt=min(day + DAY, month.cut), kind__in=_MONEY
    ).order_by("pk")
    for start in range(0, len(far), ENTRIES_AT_ONCE):
        yield _page(tenant_id, of_day.filter(pk__in=far[start : start + ENTRIES_AT_ONCE]))[1]
    near = of_day.filter(pk__gte=_floor(day - NEAR), pk__lt=_floor(day + DAY + NEAR))
    last, page = _page(tenant_id, near)
    while last is not None:
        yield page
        last, page = _page(tenant_id, near.filter(pk__gt=last))


def _page(tenant_id: int, rows: "QuerySet[LedgerEntry]") -> tuple[UUID | None, list[Entry]]:
    """The first rows with what they were for, and the last one's id; (None, []) where there are none."""
    with _short_transaction() as cursor:
        entries = list(rows.values_list(*_ENTRY, named=True)[:ENTRIES_AT_ONCE])
        if not entries:
            return None, []

        def found(sql: str, ids: Collection[UUID]) -> dict[UUID, tuple[Any, ...]]:
            if not ids:
                return {}
            cursor.execute(sql, {"tenant": tenant_id, "ids": list(ids)})
            return {row[0]: row for row in cursor.fetchall()}

        attempts = found(_ATTEMPTS, [entry.corrects_id or entry.id for entry in entries])
        charges = found(_CHARGES, {entry.corrects_id for entry in entries} - {None})
        call_ids = {entry.call_id for entry in entries}
        calls = found(_CALLS, call_ids)
        calls |= found(_CALLS_UNDER_WAY, call_ids - calls.keys())
    page = []
    for entry in entries:
        _, team_id, tags = calls.get(entry.call_id, (None, None, "{}"))
        attempt, charge = attempts.get(entry.corrects_id or entry.id), charges.get(entry.corrects_id)
        page.append(
            Entry(
                entry.kind,
                entry.basis,
                entry.key_id,
                entry.amount_nanos,
                entry.reason,
                None if charge is None else month_of(charge[1]),
                team_id,
                tags,
                None if attempt is None else _attempt(attempt),
            )
        )
    return entries[-1].id, page


def _attempt(columns: tuple[Any, ...]) -> AttemptRow:
    row = AttemptRow._make(columns)
    return row if row.passes is None else row._replace(passes=json.loads(columns[13]))


def _floor(instant: datetime) -> UUID:
    return id_floor(int(instant.timestamp() * 1000))


@contextmanager
def _short_transaction() -> "Iterator[CursorWrapper]":
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS_MAX}s'")
        yield cursor
