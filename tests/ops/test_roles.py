"""The app role serves; it cannot change a fact, and it owns nothing."""

import psycopg
import pytest
from psycopg import sql

from governance.core.append_only import FACT_TABLES

Connection = psycopg.Connection[tuple[object, ...]]


@pytest.mark.parametrize("table", FACT_TABLES)
def test_the_app_role_reads_and_adds_facts_but_has_no_right_to_change_them(
    app_connection: Connection, table: str
) -> None:
    rights = app_connection.execute(
        "SELECT array_agg(r) FROM unnest(ARRAY['SELECT','INSERT','UPDATE','DELETE','TRUNCATE']) r"
        " WHERE has_table_privilege(%s, r)",
        [table],
    ).fetchone()
    assert rights == (["SELECT", "INSERT"],)
    for change in ("DELETE FROM {}", "TRUNCATE {}"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app_connection.execute(sql.SQL(change).format(sql.Identifier(table)))


def test_the_app_role_owns_no_table_and_creates_none(app_connection: Connection) -> None:
    owned = app_connection.execute(
        "SELECT count(*) FROM pg_class WHERE pg_get_userbyid(relowner) = current_user"
    ).fetchone()
    assert owned == (0,)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app_connection.execute("CREATE TABLE mine (id int)")


def test_the_servers_of_a_test_keep_what_they_confirm(app_connection: Connection) -> None:
    shown = app_connection.execute(
        "SELECT array_agg(current_setting(name))"
        " FROM unnest(ARRAY['fsync', 'synchronous_commit', 'full_page_writes']) name"
    ).fetchone()
    assert shown == (["on", "on", "on"],)
