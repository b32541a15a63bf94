"""The audit recomputes the truth from facts, and finds what was tampered with."""

from io import StringIO
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command

from governance.core.append_only import FACT_TABLES
from governance.ledger.audit import audit
from tests.desk.conftest import Purse


@pytest.fixture
def purse(owner_connection: psycopg.Connection[Any]) -> Purse:
    purse = Purse(owner_connection)
    purse.tenant_id += 500_000
    return purse


def test_a_period_that_says_more_than_its_entries_is_found(purse: Purse) -> None:
    period = purse.period(limit=100)
    assert audit(purse.tenant_id) == (1, [])
    purse.connection.execute("UPDATE ledger_budgetperiod SET spent_nanos = 7 WHERE id = %s", [period])
    [difference] = audit(purse.tenant_id)[1]
    assert (difference.spent_nanos, difference.charged_nanos) == (7, 0)
    with pytest.raises(CommandError, match="differ from the ledger"):
        call_command("audit_ledger", stdout=StringIO(), stderr=StringIO())
    purse.connection.execute("UPDATE ledger_budgetperiod SET spent_nanos = 0 WHERE id = %s", [period])


@pytest.mark.parametrize("table", FACT_TABLES)
@pytest.mark.parametrize("change", ["UPDATE {} SET id = id", "DELETE FROM {}", "TRUNCATE {}"])
def test_the_app_role_cannot_change_a_fact(
    app_connection: psycopg.Connection[Any], table: str, change: str
) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app_connection.execute(change.format(table))


@pytest.mark.parametrize("table", FACT_TABLES)
def test_not_even_the_owner_truncates_facts(owner_connection: psycopg.Connection[Any], table: str) -> None:
    with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
        owner_connection.execute(f"TRUNCATE {table} CASCADE")


def test_not_even_the_owner_changes_an_entry(purse: Purse) -> None:
    purse.connection.execute(
        "INSERT INTO ledger_ledgerentry (id, kind, basis, tenant_id, call_id, period_ids, amount_nanos,"
        " held_nanos, list_nanos, price_version, reason, at, xact)"
        " VALUES (gen_random_uuid(), 'charge', 'exact', %s, gen_random_uuid(), '{}', 5, 5, 5, 1, '',"
        " now(), 1)",
        [purse.tenant_id],
    )
    for change in ("UPDATE ledger_ledgerentry SET amount_nanos = 1", "DELETE FROM ledger_ledgerentry"):
        with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
            purse.connection.execute(f"{change} WHERE tenant_id = {purse.tenant_id}")


def test_partitions_reach_thirteen_months_ahead_and_the_default_is_empty(
    app_connection: psycopg.Connection[Any],
) -> None:
    made = app_connection.execute(
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'ledger_ledgerentry'::regclass"
    ).fetchone()
    assert made == (1 + 1 + 1 + 13,)  # the default, last month, this month, 13 ahead
    assert app_connection.execute("SELECT exchequer_ensure_partitions('calls_call')").fetchone() == (0,)
    with pytest.raises(psycopg.errors.RaiseException, match="not a partitioned fact table"):
        app_connection.execute("SELECT exchequer_ensure_partitions('auth_user')")
