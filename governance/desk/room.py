"""Who waits for room: holds that do not fit now and would once calls in flight have ended.

Whoever waits holds nothing. Their order is that of their first try, by the database's clock, over all
processes: desk_admit_3 keeps it with front tickets on each period row that is too full, one a process.
Here is only who of this process tries again, and when:

- with each batch that locks the row that refused them: the first two of its line, before any newcomer;
- every TICK_SECONDS: the same, because other processes settle too, and a ticket must be renewed;
- when those in front got in: twice as many of the next, at once;
- when their time is up: once more, for a last answer.
"""

import asyncio
from bisect import insort
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any

from governance.desk.batch import Gone
from governance.desk.items import DeskUnavailable, Held, PlaceHold, Refused
from governance.desk.queue import Queued

TICK_SECONDS = 0.05
"""A quarter of a front ticket's life: a busy process may miss three."""
AT_ONCE_MAX = 256


class RoomFull(Exception):
    """So many wait already, of this tenant or in this process, that this one may not, or no longer."""


class Waiter(Queued[PlaceHold], eq=False):
    """A hold that waits, in the line of the row that refused it, until `until` of the monotonic clock."""

    room: "WaitingRoom"
    refused: Refused
    until: float

    @property
    def order(self) -> int:
        return self.item.waiting_since

    def answer(self, value: Any) -> bool:
        """What the desk said this time: the end of waiting, or not yet."""
        if self.future.done():
            return False
        if isinstance(value, Refused) and value.fits_later(self.item.amount_nanos):
            self.room.stay(self, value)
            if monotonic() < self.until:
                return True
        else:
            self.room.done(self)
        self.future.set_result(value)
        return True


class WaitingRoom:
    """The lines of one process, by the period row that refused. `wake` is called when somebody should try."""

    def __init__(self, wake: Callable[[], None], *, waiters_max: int, waiters_of_tenant_max: int) -> None:
        self._wake = wake
        self._waiters_max, self._waiters_of_tenant_max = waiters_max, waiters_of_tenant_max
        self._lines: dict[int, list[Waiter]] = {}
        self._of_tenant: dict[int, set[Waiter]] = {}
        self._count = 0
        self._due: dict[int, int] = {}  # period → how many of its line try again in the next batch
        self._trying: dict[int, int] = {}  # the same for the batch that is being written
        self._late: set[Waiter] = set()
        self._gone: list[Gone] = []
        self._ticking = False

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Waiter]:
        for line in list(self._lines.values()):
            yield from list(line)

    @property
    def due(self) -> bool:
        """Whether somebody should try, or a ticket be given back, without any other reason for a batch."""
        return bool(self._due or self._gone or self._late)

    def length(self, period_id: int) -> int:
        """How many of this process wait in front of that row."""
        return len(self._lines.get(period_id, ()))

    # --- in and out --------------------------------------------------------------------------------
    def enter(self, hold: PlaceHold, refused: Refused, seconds: float) -> Waiter:
        """The hold in its line, to be answered within about `seconds`. RoomFull where too many wait."""
        mine = self._of_tenant.get(hold.tenant_id, ())
        if len(mine) >= self._waiters_of_tenant_max:
            raise RoomFull
        if self._count >= self._waiters_max:
            self._make_way(len(mine))
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        waiter = Waiter(hold, future, self, refused, monotonic() + seconds)
        self._count += 1
        self._of_tenant.setdefault(hold.tenant_id, set()).add(waiter)
        self._put(waiter)
        self._tick_later()
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Out of its line, answered or not. Unless it got in, its tickets are given back."""
        self._take_out(waiter)
        self._late.discard(waiter)
        self._uncount(waiter)
        if not _got_in(waiter):
            self._gone += [(period_id, waiter.order) for period_id in waiter.item.period_ids]
            self._go_on(waiter.refused.period_id)
            self._wake()

    def _make_way(self, mine: int) -> None:
        """Every place is taken: the tenant with the most loses its newest, to one who has `mine` and would
        still have fewer. RoomFull where there is no such tenant."""
        most = max(self._of_tenant.values(), key=len, default=set[Waiter]())
        if len(most) <= mine + 1:
            raise RoomFull
        newest = max(most, key=lambda waiter: waiter.order)
        self._uncount(newest)
        newest.fail(RoomFull())

    def _uncount(self, waiter: Waiter) -> None:
        tenant_id = waiter.item.tenant_id
        others = self._of_tenant.get(tenant_id, set())
        if waiter in others:  # else it made way
            others.remove(waiter)
            self._count -= 1
            if not others:
                del self._of_tenant[tenant_id]

    def turn_away(self, error: DeskUnavailable) -> None:
        """Nothing can be written: nobody waits for that."""
        for waiter in self:
            waiter.fail(error)

    # --- who tries again ---------------------------------------------------------------------------
    def take(self, locked: Iterable[int]) -> tuple[list[Waiter], list[Gone]]:
        """For a batch that locks these rows: who tries again, oldest first, and who has left."""
        for period_id in locked:
            if period_id in self._lines:
                self._due.setdefault(period_id, 2)
        picked, self._late = self._late, set()
        self._trying = {}
        while self._due and len(picked) < AT_ONCE_MAX:
            period_id, count = self._due.popitem()
            self._trying[period_id] = count
            picked.update(self._lines.get(period_id, ())[:count])
        gone, self._gone = self._gone, []
        waiting = (waiter for waiter in picked if not waiter.future.done())
        return sorted(waiting, key=lambda waiter: waiter.order), gone

    def stay(self, waiter: Waiter, refused: Refused) -> None:
        """It did not fit again, perhaps because of another row than before."""
        before = waiter.refused.period_id
        self._due.pop(refused.period_id, None)  # nobody behind it comes before it
        self._trying.pop(refused.period_id, None)
        if before != refused.period_id:
            self._take_out(waiter)
            waiter.refused = refused
            self._put(waiter)
        else:
            waiter.refused = refused

    def done(self, waiter: Waiter) -> None:
        """It got in, or never will: those behind it may fit too."""
        self._take_out(waiter)
        self._go_on(waiter.refused.period_id)

    def _go_on(self, period_id: int) -> None:
        """At least two, so that the next has its ticket before the batch that lets the first in is over."""
        if period_id in self._lines:
            count = min(2 * self._trying.get(period_id, 1), AT_ONCE_MAX)
            self._due[period_id] = max(count, self._due.get(period_id, 0))

    def _put(self, waiter: Waiter) -> None:
        insort(self._lines.setdefault(waiter.refused.period_id, []), waiter, key=lambda one: one.order)

    def _take_out(self, waiter: Waiter) -> None:
        period_id = waiter.refused.period_id
        line = self._lines.get(period_id, [])
        if waiter in line:
            line.remove(waiter)
            if not line:
                del self._lines[period_id]
                self._due.pop(period_id, None)

    def _tick_later(self) -> None:
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        if not self._lines:
            return
        now = monotonic()
        for period_id in self._lines:
            self._due.setdefault(period_id, 2)
        self._late.update(waiter for waiter in self if waiter.until <= now)
        self._wake()
        self._tick_later()


def _got_in(waiter: Waiter) -> bool:
    future = waiter.future
    return (
        future.done()
        and not future.cancelled()
        and future.exception() is None
        and isinstance(future.result(), Held)
    )
