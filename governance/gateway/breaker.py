"""The breaker's loop in a gateway process: which keys spend faster than they may? See limits/breaker.py."""

import asyncio
import logging
from typing import TYPE_CHECKING

from django.db import connections

from governance.core.clock import utcnow
from governance.core.ids import id_floor
from governance.limits.breaker import BURN_MINUTES, FIND_BURNING, Burning, pause_burning

if TYPE_CHECKING:
    from governance.gateway.snapshot import SnapshotStore

log = logging.getLogger(__name__)


class Breaker:
    """Looks every few seconds, and pauses what it finds in a thread: that is rare, and uses the ORM."""

    def __init__(self, store: "SnapshotStore", every_seconds: float) -> None:
        self._store = store
        self._every_seconds = every_seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="breaker")

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_seconds)
            try:
                await self.look()
            except Exception as error:  # whatever it is, the next look may succeed; ending would not
                log.warning("The breaker did not get through: %s", str(error).strip() or type(error).__name__)

    async def look(self) -> int:
        """Pause the keys that burn; how many that were. psycopg.Error or TimeoutError: nobody knows."""
        since = id_floor(int(utcnow().timestamp() * 1000) - BURN_MINUTES * 60_000)
        async with self._store.connection() as connection:
            rows = await (await connection.execute(FIND_BURNING, [since])).fetchall()
        return await asyncio.to_thread(_pause, [Burning(*row) for row in rows]) if rows else 0


def _pause(found: list[Burning]) -> int:
    try:
        return pause_burning(found)
    finally:
        connections.close_all()  # this thread's
