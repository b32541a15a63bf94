"""What the app role may do. The owner role migrates; the app role serves, and cannot change a fact.

Run after every migrate, by the owner. Running it again changes nothing.
"""

import psycopg
from psycopg import sql

from governance.core.append_only import FACT_TABLES

# Partitions are left out: the parent's rights decide, and a direct look at a partition has no use.
_TABLES = """
    SELECT c.relname FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace
      AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
    ORDER BY c.relname
"""


def grant_app_role(connection: "psycopg.Connection[tuple[str, ...]]", app_role: str) -> None:
    """Give `app_role` its rights in the connection's database, in one transaction.

    `connection`: of the role that owns the tables. Read and write on every table, but only SELECT
    and INSERT on the facts; no TRUNCATE anywhere, no CREATE. Functions need no grant: PUBLIC may call them.
    """
    role = sql.Identifier(app_role)
    with connection.transaction():
        tables = [name for (name,) in connection.execute(_TABLES)]
        facts = [name for name in tables if name in FACT_TABLES]
        others = [name for name in tables if name not in FACT_TABLES]
        run = [
            "GRANT USAGE ON SCHEMA public TO {role}",
            "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {role}",
            *(["GRANT SELECT, INSERT, UPDATE, DELETE ON {others} TO {role}"] if others else []),
            # A table that became append-only later loses what an earlier run gave.
            *(["REVOKE ALL ON {facts} FROM {role}"] if facts else []),
            *(["GRANT SELECT, INSERT ON {facts} TO {role}"] if facts else []),
        ]
        for statement in run:
            connection.execute(
                sql.SQL(statement).format(role=role, facts=_names(facts), others=_names(others))
            )


def _names(tables: list[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier("public", name) for name in tables)
