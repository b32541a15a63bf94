"""Every committed version of the money rows, kept by triggers that exist in test databases only.

Without it the rows show what is true now. With it the checker (checker.py) can ask what was true after each
single commit: a transaction that is rolled back takes its journal with it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

INSTALL = """
CREATE TABLE test_journal (
    seq bigserial PRIMARY KEY, xact bigint NOT NULL, at timestamptz NOT NULL, tenant_id bigint NOT NULL,
    period_id bigint, spent bigint, held bigint, limit_nanos bigint, hard boolean,
    hold_id uuid, lease_id bigint, period_ids bigint[], before bigint, after bigint
);
CREATE FUNCTION test_journal_period() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO test_journal (xact, at, tenant_id, period_id, spent, held, limit_nanos, hard)
    VALUES (pg_current_xact_id()::text::bigint, exchequer_now(), NEW.tenant_id, NEW.id,
            NEW.spent_nanos, NEW.held_nanos,
            NEW.limit_nanos + CASE WHEN NEW.raised_until > exchequer_now() THEN NEW.raised_nanos ELSE 0 END,
            NEW.ceiling_nanos IS NOT NULL);
    RETURN NULL;
END $$;
CREATE FUNCTION test_journal_hold() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO test_journal (xact, at, tenant_id, hold_id, lease_id, period_ids, before, after)
    VALUES (pg_current_xact_id()::text::bigint, exchequer_now(), coalesce(NEW.tenant_id, OLD.tenant_id),
            coalesce(NEW.id, OLD.id), coalesce(NEW.lease_id, OLD.lease_id),
            coalesce(NEW.period_ids, OLD.period_ids), OLD.amount_nanos, NEW.amount_nanos);
    RETURN NULL;
END $$;
CREATE TRIGGER test_journal_new AFTER INSERT ON ledger_budgetperiod
    FOR EACH ROW EXECUTE FUNCTION test_journal_period();
CREATE TRIGGER test_journal_moved AFTER UPDATE ON ledger_budgetperiod FOR EACH ROW
    WHEN ((OLD.spent_nanos, OLD.held_nanos, OLD.limit_nanos, OLD.ceiling_nanos)
          IS DISTINCT FROM (NEW.spent_nanos, NEW.held_nanos, NEW.limit_nanos, NEW.ceiling_nanos))
    EXECUTE FUNCTION test_journal_period();
CREATE TRIGGER test_journal AFTER INSERT OR UPDATE OF amount_nanos OR DELETE ON ledger_hold
    FOR EACH ROW EXECUTE FUNCTION test_journal_hold();
"""
REMOVE = """
DROP FUNCTION IF EXISTS test_journal_period() CASCADE;
DROP FUNCTION IF EXISTS test_journal_hold() CASCADE;
DROP TABLE IF EXISTS test_journal;
"""


def install(owner: psycopg.Connection[Any]) -> None:
    """Begin the journal. `owner`: an autocommit connection of the role that owns the tables."""
    owner.execute(INSTALL)


@contextmanager
def journal(owner: psycopg.Connection[Any]) -> Iterator[None]:
    """A journal for the block, so that other tests of this database do not pay for it."""
    owner.execute(REMOVE)
    install(owner)
    try:
        yield
    finally:
        owner.execute(REMOVE)
