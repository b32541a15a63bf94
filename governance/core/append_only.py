"""Facts are written once. Two walls say so, and each is tested alone.

1. The app role has no UPDATE, DELETE or TRUNCATE on the tables named here (governance/ops/roles.py).
2. A trigger on each of them raises for everybody else, the owner included.

A mistake is corrected by one more row that names the wrong one.
"""

from django.db import migrations

FACT_TABLES: tuple[str, ...] = (
    "audit_auditevent",
    "ledger_ledgerentry",
    "ledger_adjustment",
    "ledger_thresholdcrossing",
    "calls_call",
    "calls_attempt",
    "pricing_pricebookversion",
    "routing_policyversion",
)

PARTITIONED_TABLES: tuple[str, ...] = ("ledger_ledgerentry", "calls_call", "calls_attempt")
"""Facts that grow with traffic: partitioned by month of their UUIDv7 id (core/partitions.py)."""

_CREATE_GUARD = """
CREATE OR REPLACE FUNCTION exchequer_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on %: facts are append-only; write a correcting row instead', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;
"""


def guard_sql(table: str) -> str:
    """The statements that make `table` append-only; running them again changes nothing."""
    if table not in FACT_TABLES:
        raise ValueError(f"{table} is not in FACT_TABLES: add it, so that the app role loses its rights too.")
    return f"""{_CREATE_GUARD}
CREATE OR REPLACE TRIGGER append_only_rows BEFORE UPDATE OR DELETE ON {table}
    FOR EACH ROW EXECUTE FUNCTION exchequer_refuse_change();
CREATE OR REPLACE TRIGGER append_only_table BEFORE TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION exchequer_refuse_change();
"""


def guard_operations(table: str) -> list[migrations.RunSQL]:
    """Migration operations that make `table` append-only."""
    undo = (
        f"DROP TRIGGER IF EXISTS append_only_rows ON {table}; "
        f"DROP TRIGGER IF EXISTS append_only_table ON {table};"
    )
    return [migrations.RunSQL(guard_sql(table), undo)]
