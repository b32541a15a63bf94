"""Is the ledger true? Recompute what every budget period should say, from entries and open holds alone."""

from dataclasses import dataclass

from django.db import connection

# One statement, hence one snapshot: the answer is exact while calls go on.
_RECOMPUTE = """
WITH charged AS (
    SELECT period_id, sum(amount_nanos) AS nanos FROM ledger_ledgerentry, unnest(period_ids) AS period_id
    WHERE kind <> 'transfer' GROUP BY period_id
),
adjusted AS (
    SELECT period_id, sum(amount_nanos) AS nanos FROM ledger_adjustment
    WHERE period_id IS NOT NULL GROUP BY period_id
),
held AS (
    SELECT period_id, sum(amount_nanos) AS nanos FROM ledger_hold, unnest(period_ids) AS period_id
    GROUP BY period_id
)
SELECT coalesce(p.id, charged.period_id, held.period_id), p.budget_id, p.tenant_id,
       p.spent_nanos, coalesce(charged.nanos, 0)::bigint, p.held_nanos, coalesce(held.nanos, 0)::bigint,
       p.added_nanos, coalesce(adjusted.nanos, 0)::bigint
FROM ledger_budgetperiod p
LEFT JOIN adjusted ON adjusted.period_id = p.id
FULL JOIN charged ON charged.period_id = p.id
FULL JOIN held ON held.period_id = coalesce(p.id, charged.period_id)
ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """A period row that does not say what the facts say. Amounts are nano-dollars; None: no such row."""

    period_id: int
    budget_id: int | None
    tenant_id: int | None
    spent_nanos: int | None
    charged_nanos: int
    held_nanos: int | None
    open_holds_nanos: int
    added_nanos: int | None
    adjustments_nanos: int

    def __str__(self) -> str:
        if self.spent_nanos is None:
            return f"period {self.period_id} does not exist, yet entries or holds name it"
        return (
            f"period {self.period_id} of budget {self.budget_id} says spent {self.spent_nanos} and held "
            f"{self.held_nanos}; its entries say {self.charged_nanos}, its open holds {self.open_holds_nanos}"
            f"; it has {self.added_nanos} added, its adjustments say {self.adjustments_nanos}"
        )


def audit(tenant_id: int | None = None) -> tuple[int, list[Difference]]:
    """How many periods were recomputed, and those that differ; of one tenant, or of all."""
    with connection.cursor() as cursor:
        cursor.execute(_RECOMPUTE)
        rows = [Difference(*row) for row in cursor.fetchall()]
    if tenant_id is not None:
        rows = [row for row in rows if row.tenant_id in (tenant_id, None)]
    return len(rows), [
        row
        for row in rows
        if (row.spent_nanos, row.held_nanos, row.added_nanos)
        != (row.charged_nanos, row.open_holds_nanos, row.adjustments_nanos)
    ]
