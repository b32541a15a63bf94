"""The SQL of a batch, built once from the columns of calls/records.py.

Placeholders are $1…$n (psycopg's raw cursors); each is one packed array (desk/arrays.py).
"""

from governance.calls.records import AttemptRecord, CallRecord, ColumnType, column_types

OPEN_BATCH = "SELECT desk_open_batch($1, $2, $3, $4)"
ADMIT = "SELECT * FROM desk_admit_3($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
# Where some hold of a batch has a claim; the first ten are ADMIT's.
ADMIT_CLAIMED = (
    "SELECT * FROM desk_admit_claimed($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)"
)
# The front tickets of those who wait no more; whoever is next need not wait until they expire.
LEAVE = """
UPDATE ledger_budgetperiod p SET fronts = nullif(p.fronts - $3::bigint::text, '{}')
FROM unnest($1::bigint[], $2::bigint[]) AS gone(period_id, since)
WHERE p.id = gone.period_id AND (p.fronts->$3::bigint::text->>0)::bigint = gone.since
"""

# What a settlement says about money, beside its attempt and call.
SETTLEMENT_COLUMNS: dict[str, ColumnType] = {
    "hold_id": "uuid",
    "kind": "text",
    "basis": "text",
    "cost_nanos": "bigint",
    "list_nanos": "bigint",
    "reason": "text",
}
CALL_COLUMNS = column_types(CallRecord)
ATTEMPT_COLUMNS = column_types(AttemptRecord)

_POSTGRES_ARRAY: dict[ColumnType, str] = {
    "uuid": "uuid[]",
    "bigint": "bigint[]",
    "text": "text[]",
    "boolean": "boolean[]",
    "bytea": "bytea[]",
    "jsonb": "text[]",
}
_XACT = "pg_current_xact_id()::text::bigint"


def _unnest(columns: dict[str, ColumnType], alias: str) -> str:
    """`unnest($1::uuid[], …) AS alias(id, …)`."""
    arrays = ", ".join(f"${i}::{_POSTGRES_ARRAY[kind]}" for i, kind in enumerate(columns.values(), start=1))
    return f"unnest({arrays}) AS {alias}({', '.join(columns)})"


def _insert(table: str, columns: dict[str, ColumnType], source: str, prefix: str) -> str:
    """INSERT of those columns, read under `prefix`, plus the transaction's own `at` and `xact`."""
    values = ", ".join(
        f"{prefix}{name}{'::jsonb' if kind == 'jsonb' else ''}" for name, kind in columns.items()
    )
    return (
        f"INSERT INTO {table} ({', '.join(columns)}, at, xact) "
        f"SELECT {values}, exchequer_now(), {_XACT} FROM {source}"
    )


# One settlement is one row of one unnest: what it says about money, its attempt, and its call (all
# NULL when the call goes on). Aligned columns need no join, so no plan can go wrong with size.
SETTLE_COLUMNS: dict[str, ColumnType] = {
    **SETTLEMENT_COLUMNS,
    **{f"a_{name}": kind for name, kind in ATTEMPT_COLUMNS.items()},
    **{f"c_{name}": kind for name, kind in CALL_COLUMNS.items()},
}

# DELETE … RETURNING is the once-only guard: who deletes the hold writes the facts, nobody else does. A
# cost above the hold as it stands is left out: settled here it would raise what is spent without asking.
SETTLE = f"""
WITH done AS (
    DELETE FROM ledger_hold h USING {_unnest(SETTLE_COLUMNS, "item")}
    WHERE h.id = item.hold_id AND item.cost_nanos <= h.amount_nanos
    RETURNING h.tenant_id, h.period_ids, h.amount_nanos, h.price_version, item.*
),
leg AS (
    SELECT period_id, sum(cost_nanos)::bigint AS cost, sum(amount_nanos)::bigint AS amount
    FROM done, unnest(period_ids) AS period_id GROUP BY period_id
),
moved AS (
    UPDATE ledger_budgetperiod p SET
        spent_nanos = p.spent_nanos + leg.cost,
        held_nanos = p.held_nanos - leg.amount,
        ceiling_nanos = CASE WHEN p.ceiling_nanos IS NULL THEN NULL ELSE
            greatest(p.limit_nanos, p.spent_nanos + leg.cost + p.held_nanos - leg.amount) END
    FROM leg WHERE p.id = leg.period_id
    RETURNING p.id, p.budget_id, p.tenant_id, p.limit_nanos, p.spent_nanos,
              p.spent_nanos - leg.cost AS before, p.alert_percents
),
crossed AS (
    INSERT INTO ledger_thresholdcrossing
        (period_id, budget_id, tenant_id, percent, spent_nanos, limit_nanos, at)
    SELECT m.id, m.budget_id, m.tenant_id, percent, m.spent_nanos, m.limit_nanos, exchequer_now()
    FROM moved m, unnest(m.alert_percents) AS percent
    WHERE m.before::numeric * 100 < m.limit_nanos::numeric * percent
      AND m.spent_nanos::numeric * 100 >= m.limit_nanos::numeric * percent
    ON CONFLICT (period_id, percent) DO NOTHING
),
entry AS (
    INSERT INTO ledger_ledgerentry (id, kind, basis, tenant_id, key_id, call_id, period_ids, amount_nanos,
        held_nanos, list_nanos, price_version, reason, at, xact)
    SELECT hold_id, kind, basis, tenant_id, a_key_id, a_call_id, period_ids, cost_nanos, amount_nanos,
        list_nanos, price_version, reason, exchequer_now(), {_XACT}
    FROM done
),
attempt AS ({_insert("calls_attempt", ATTEMPT_COLUMNS, "done", "a_")}),
call AS (
    {_insert("calls_call", CALL_COLUMNS, "done WHERE c_id IS NOT NULL", "c_")} ON CONFLICT (id) DO NOTHING
)
SELECT hold_id FROM done
"""

# After SETTLE, for voided holds: their clients may try again under the same Idempotency-Key. Whoever resolved
# the hold decides: one that was charged meanwhile keeps its claim.
RELEASE = """
DELETE FROM desk_idempotencyclaim k
USING unnest($1::uuid[], $2::boolean[]) AS item(hold_id, though_charged), ledger_ledgerentry e
WHERE k.hold_id = item.hold_id AND e.id = k.hold_id AND (e.kind = 'void' OR item.though_charged)
"""

# The same for a void that comes after a sweeper's charge: that was a bound, and nothing was billed after all.
RELEASE_LATE = """
DELETE FROM desk_idempotencyclaim k USING ledger_ledgerentry e
WHERE k.hold_id = $1 AND e.id = k.hold_id AND e.kind = 'charge' AND e.basis <> 'exact'
"""

# The claim belongs to the call: when its attempt has ended and the call goes on, it is the next hold's.
MOVE_CLAIM = """
UPDATE desk_idempotencyclaim k SET hold_id = item.next_id
FROM unnest($1::uuid[], $2::uuid[]) AS item(hold_id, next_id) WHERE k.hold_id = item.hold_id
"""

# Calls that took no hold: refusals and cache hits. A batch whose answer was lost may be written again.
RECORD = (
    _insert("calls_call", CALL_COLUMNS, _unnest(CALL_COLUMNS, "c"), "c.") + " ON CONFLICT (id) DO NOTHING"
)

# Only under our own lease: once it was swept, the sweeper may be charging the hold as it read it.
SHRINK = """
WITH shrunk AS (
    UPDATE ledger_hold h SET amount_nanos = item.amount
    FROM unnest($1::uuid[], $2::bigint[]) AS item(hold_id, amount)
    WHERE h.id = item.hold_id AND item.amount < h.amount_nanos AND h.lease_id = $3
    RETURNING NEW.id, NEW.period_ids, OLD.amount_nanos - NEW.amount_nanos AS freed
),
leg AS (
    SELECT period_id, sum(freed)::bigint AS freed
    FROM shrunk, unnest(period_ids) AS period_id GROUP BY period_id
),
moved AS (
    UPDATE ledger_budgetperiod p SET
        held_nanos = p.held_nanos - leg.freed,
        ceiling_nanos = CASE WHEN p.ceiling_nanos IS NULL THEN NULL ELSE
            greatest(p.limit_nanos, p.spent_nanos + p.held_nanos - leg.freed) END
    FROM leg WHERE p.id = leg.period_id
)
SELECT id FROM shrunk
"""

# --- A charge above its hold (overrun.py) ---------------------------------------------------------
# What the tightest hard leg can carry beyond the hold, read after the rows were locked.
ROOM_ABOVE_HOLD = """
SELECT h.amount_nanos,
    (SELECT greatest(0, coalesce(
        min(p.limit_nanos + CASE WHEN p.raised_until > exchequer_now() THEN p.raised_nanos ELSE 0 END
            - p.spent_nanos - p.held_nanos),
        9223372036854775807))
     FROM ledger_budgetperiod p WHERE p.id = ANY(h.period_ids) AND p.ceiling_nanos IS NOT NULL)
FROM ledger_hold h WHERE h.id = $1 FOR UPDATE OF h
"""
# The CHECK on the ceiling is the last word: a hold that grows past a limit fails.
GROW = """
WITH grown AS (UPDATE ledger_hold SET amount_nanos = amount_nanos + $2 WHERE id = $1 RETURNING period_ids)
UPDATE ledger_budgetperiod p SET
    held_nanos = p.held_nanos + $2,
    ceiling_nanos = CASE WHEN p.ceiling_nanos IS NOT NULL THEN
        greatest(p.ceiling_nanos, p.limit_nanos + p.raised_nanos) END
FROM grown WHERE p.id = ANY(grown.period_ids)
"""
# A settlement whose hold somebody else charged at a bound: what it cost is known after all. The rows are
# locked already; a second credit of the same settlement finds nothing left to give.
LATE_CREDIT = """
WITH account AS (
    SELECT e.id, e.price_version, e.amount_nanos + coalesce((
        SELECT sum(c.amount_nanos) FROM ledger_ledgerentry c
        WHERE c.corrects_id = e.id AND c.kind IN ('credit', 'correction')), 0)::bigint AS left_nanos
    FROM ledger_ledgerentry e WHERE e.id = $1 AND e.kind = 'charge' AND e.basis <> 'exact'
)
SELECT left_nanos - $3, ledger_correct(id, $2, 'credit', $3 - left_nanos, 0, price_version, $4)
FROM account WHERE left_nanos > $3
"""
# The same where it cost more: the excess over what the books say it cost.
LATE_OVERRUN = f"""
WITH account AS (
    SELECT e.*, $3 - e.amount_nanos - coalesce((
        SELECT sum(c.amount_nanos) FROM ledger_ledgerentry c
        WHERE c.corrects_id = e.id AND c.kind IN ('correction', 'overrun')), 0)::bigint AS excess_nanos
    FROM ledger_ledgerentry e WHERE e.id = $1 AND e.kind = 'charge' AND e.basis <> 'exact'
)
INSERT INTO ledger_ledgerentry (id, kind, tenant_id, key_id, call_id, period_ids, amount_nanos, held_nanos,
    list_nanos, price_version, corrects_id, reason, at, xact)
SELECT $2, 'overrun', tenant_id, key_id, call_id, '{{}}', excess_nanos, 0, 0, price_version, id, $4,
    exchequer_now(), {_XACT}
FROM account WHERE excess_nanos > 0
RETURNING amount_nanos
"""
RECORD_OVERRUN = f"""
INSERT INTO ledger_ledgerentry (id, kind, tenant_id, key_id, call_id, period_ids, amount_nanos, held_nanos,
    list_nanos, price_version, corrects_id, reason, at, xact)
VALUES ($1, 'overrun', $2, $3, $4, '{{}}', $5, 0, 0, $6, $7, $8, exchequer_now(), {_XACT})
"""

# --- Leases and recovery ------------------------------------------------------------------------
TAKE_LEASE = """
INSERT INTO desk_workerlease (worker, epoch, batch, started_at, heartbeat_at)
VALUES ($1, 0, 0, exchequer_now(), exchequer_now()) RETURNING id
"""
# Waits for a batch of the lost connection that still runs, and shuts out one that has yet to begin.
FENCE_LEASE = (
    "UPDATE desk_workerlease SET epoch = epoch + 1 WHERE id = $1 AND swept_at IS NULL RETURNING epoch, batch"
)
RETURN_LEASE = """
WITH open AS (SELECT 1 FROM ledger_hold WHERE lease_id = $1 LIMIT 1),
left_over AS (
    UPDATE desk_workerlease SET swept_at = exchequer_now() WHERE id = $1 AND EXISTS (SELECT 1 FROM open)
)
DELETE FROM desk_workerlease WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM open)
"""
# Rows that nobody keeps locked; takes no lock beyond the statement.
UNLOCKED = "SELECT id FROM ledger_budgetperiod WHERE id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED"
OPEN_HOLDS_OF = "SELECT id FROM ledger_hold WHERE id = ANY($1)"
ENTRIES_OF = "SELECT id FROM ledger_ledgerentry WHERE id = ANY($1)"
