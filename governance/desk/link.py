"""A desk's link to the database: one connection, one lease, and how both are mended."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg

from governance.core.append_only import PARTITIONED_TABLES
from governance.desk import statements, wire
from governance.desk.batch import Lease, RawConnection
from governance.desk.connection import connect

log = logging.getLogger(__name__)

RECONNECT_SECONDS_MAX = 1.0


class Link:
    """`lease` is this worker's; `live()` is a connection that works, however long that takes."""

    def __init__(
        self,
        database_url: str,
        worker: str,
        *,
        transaction_timeout_seconds: float,
        lock_timeout_seconds: float,
        while_away: Callable[[], None],
    ) -> None:
        """`while_away` is called before each try to reconnect."""
        self._database_url = database_url
        self._worker = worker
        self._timeouts = (transaction_timeout_seconds, lock_timeout_seconds)
        self._while_away = while_away
        self._connection: RawConnection | None = None
        self.lease = Lease(0)
        self.connected = False

    async def open(self) -> None:
        """Connect, make partitions, take a lease. psycopg.Error when that cannot be."""
        await self._connect()
        connection = await self.live()
        for table in PARTITIONED_TABLES:
            await connection.execute("SELECT exchequer_ensure_partitions(%s)", [table])
        await self._take_lease()

    async def close(self) -> None:
        """Give the lease back; holds that are still open become the sweeper's."""
        if self._connection and not self._connection.closed:
            with suppress(psycopg.Error):  # a lease that cannot be given back goes stale and is swept
                cursor = psycopg.AsyncRawCursor(self._connection)
                await cursor.execute(statements.RETURN_LEASE, [self.lease.id])
            await self._connection.close()

    async def live(self) -> RawConnection:
        delay_seconds = 0.05
        while self._connection is None or self._connection.closed:
            self.connected = False
            self._while_away()
            try:
                await self._connect()
            except psycopg.Error:
                await asyncio.sleep(delay_seconds)
                delay_seconds = min(delay_seconds * 2, RECONNECT_SECONDS_MAX)
        return self._connection

    async def rows(self, sql: str, parameters: list[Any]) -> list[tuple[Any, ...]]:
        """Run one statement of statements.py. psycopg.Error as it comes."""
        cursor = await psycopg.AsyncRawCursor(await self.live()).execute(sql, parameters)
        return await cursor.fetchall() if cursor.description else []

    async def renew_lease(self) -> None:
        """After the lease was swept: a new one, whatever it takes."""
        log.warning("The lease of this worker was swept; taking a new one.")
        while True:
            try:
                return await self._take_lease()
            except psycopg.Error as error:
                await self._drop(error)

    async def mend(self, error: psycopg.Error) -> bool | None:
        """After trouble that no lock explains: reconnect, and find out what became of the last batch.

        True: it was committed. False: it was not and never will be. None: the lease was swept
        meanwhile, so only the facts themselves can tell; a new lease is taken.
        """
        await self._drop(error)
        while True:
            try:
                found = await self.rows(statements.FENCE_LEASE, [self.lease.id])
                if not found:
                    await self._take_lease()
                    return None
                self.lease.epoch, batch = found[0]
                return bool(batch == self.lease.batch)
            except psycopg.Error as again:
                await self._drop(again)

    async def _drop(self, error: psycopg.Error) -> None:
        log.warning("The desk lost its database: %s", str(error).strip())
        self.connected = False
        if self._connection is not None:
            if not self._connection.closed:  # read-only, out of disk or memory: that takes time to pass
                self._while_away()
                await asyncio.sleep(RECONNECT_SECONDS_MAX)
            await self._connection.close()

    async def _connect(self) -> None:
        transaction_timeout_seconds, lock_timeout_seconds = self._timeouts
        self._connection = await connect(
            self._database_url,
            transaction_timeout_seconds=transaction_timeout_seconds,
            lock_timeout_seconds=lock_timeout_seconds,
            name=self._worker,
        )
        await wire.prepare(self._connection.pgconn)
        self.connected = True

    async def _take_lease(self) -> None:
        [(lease_id,)] = await self.rows(statements.TAKE_LEASE, [self._worker])
        self.lease = Lease(lease_id)
