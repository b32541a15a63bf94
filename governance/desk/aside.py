"""Items whose period rows somebody else keeps locked, so that the rest of the desk's work goes on."""

import asyncio
import logging
from collections.abc import Callable, Collection

import psycopg

from governance.desk import statements
from governance.desk.link import Link
from governance.desk.queue import Taken, periods_of

log = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 0.5


class Aside:
    """What was put aside. `due` says that it is time to look again; `wake` is called when it becomes so."""

    def __init__(self, link: Link, wake: Callable[[], None]) -> None:
        self._link = link
        self._wake = wake
        self._locked: set[int] = set()
        self.items = Taken()
        self.due = False

    def blocks(self, period_ids: Collection[int]) -> bool:
        """Would a hold on these periods wait for somebody else's lock?"""
        return not self._locked.isdisjoint(period_ids)

    async def take(self, taken: Taken) -> Taken:
        """Keep the settlements and shrinks whose rows are locked, turn their holds away, return the rest."""
        locked = await self._still_locked(taken.periods())
        if not locked:
            return taken
        log.warning("Budget periods %s are locked by somebody else; the others go on.", sorted(locked))
        theirs, others = taken.split(lambda queued: not locked.isdisjoint(periods_of(queued)))
        theirs.turn_holds_away()
        self.items.settlements += theirs.settlements
        self.items.shrinks += theirs.shrinks
        self._locked |= locked
        self._look_later()
        return others

    async def give_back(self) -> Taken:
        """Let go of what can be written now."""
        self.due = False
        self._locked = await self._still_locked(self._locked)
        self.items, free = self.items.split(lambda queued: self.blocks(periods_of(queued)))
        if self._locked:
            self._look_later()
        return free

    def _look_later(self) -> None:
        asyncio.get_running_loop().call_later(LOOK_AGAIN_SECONDS, self._become_due)

    def _become_due(self) -> None:
        self.due = True
        self._wake()

    async def _still_locked(self, periods: set[int]) -> set[int]:
        if not periods:
            return set()
        while True:
            try:
                return periods - {
                    row[0] for row in await self._link.rows(statements.UNLOCKED, [list(periods)])
                }
            except psycopg.Error as error:
                await self._link.mend(error)
