"""A desk's own PostgreSQL connection, with every time limit that a hot row needs.

Only `transaction_timeout` fires in the middle of a pipeline; the others guard the rest. A worker that
is stopped while it holds row locks is cut off by it, and the others go on.
"""

import psycopg

from governance.desk.arrays import register_arrays
from governance.desk.batch import RawConnection


async def connect(
    database_url: str, *, transaction_timeout_seconds: float, lock_timeout_seconds: float, name: str
) -> RawConnection:
    """A connection in autocommit mode. psycopg.OperationalError when the database is away."""
    connection = await psycopg.AsyncConnection.connect(
        database_url,
        autocommit=True,
        prepare_threshold=0,
        connect_timeout=5,
        application_name=f"exchequer desk {name}",
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
        options=(
            f"-c transaction_timeout={int(transaction_timeout_seconds * 1000)}"
            f" -c lock_timeout={int(lock_timeout_seconds * 1000)}"
            f" -c idle_in_transaction_session_timeout={int(transaction_timeout_seconds * 1000)}"
            " -c synchronous_commit=on -c jit=off -c plan_cache_mode=force_generic_plan"
        ),
    )
    register_arrays(connection)
    return connection
