"""The connections on which settings are loaded, and the watch over the versions of tenants.

A trigger bumps a tenant's version whenever one of its rows changes (tenants/versioning.py). Each process
compares twice a second, sooner on NOTIFY; what moved is the comparer's business (snapshot.py).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import psycopg

from tenants.versioning import NOTIFY_CHANNEL

log = logging.getLogger(__name__)

FRESH_SECONDS_MAX = 2.0
COMPARE_SECONDS = 0.5
COMPARE_PAUSE_SECONDS = 0.02
"""A bulk change notifies once a row; it is not worth a comparison each."""

LOAD_VERSIONS = "SELECT tenant_id, version FROM tenants_tenantversion WHERE tenant_id = ANY(%s)"

type Connection = psycopg.AsyncConnection[Any]
type Compare = Callable[[Connection], Awaitable[None]]


async def watch_versions(database_url: str, compare: Compare) -> None:
    """Compare for ever, on a connection of its own that also listens."""
    connection: Connection | None = None
    silent = False
    while True:
        try:
            if connection is None or connection.closed:
                connection = await connect(database_url, "exchequer versions")
                await connection.execute(f"LISTEN {NOTIFY_CHANNEL}")
            async with asyncio.timeout(FRESH_SECONDS_MAX):
                await compare(connection)
            if silent:
                log.warning("Settings are compared with the database again.")
                silent = False
            await asyncio.sleep(COMPARE_PAUSE_SECONDS)
            async for _ in connection.notifies(timeout=COMPARE_SECONDS, stop_after=1):
                pass
        except (psycopg.Error, TimeoutError) as error:
            if not silent:
                log.error("Cannot compare settings with the database: %s", str(error).strip() or "time-out")
                silent = True
            if connection is not None:
                with suppress(psycopg.Error):
                    await connection.close()
                connection = None
            await asyncio.sleep(COMPARE_SECONDS)


async def connect(database_url: str, name: str) -> Connection:
    return await psycopg.AsyncConnection.connect(
        database_url,
        autocommit=True,
        connect_timeout=2,
        application_name=name,
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=2,
        options="-c statement_timeout=2000 -c lock_timeout=2000",
    )


async def current_versions(connection: Connection, tenant_ids: list[int]) -> dict[int, int]:
    return dict(await fetch_all(connection, LOAD_VERSIONS, tenant_ids))


async def fetch_one(connection: Connection, sql: str, parameter: Any) -> tuple[Any, ...] | None:
    return await (await connection.execute(sql, [parameter])).fetchone()


async def fetch_all(connection: Connection, sql: str, parameter: Any) -> list[tuple[Any, ...]]:
    return await (await connection.execute(sql, [parameter])).fetchall()
