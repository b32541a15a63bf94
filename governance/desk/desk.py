"""The desk: the one writer of money in a process. Group commit without a timer.

Callers queue items; while one transaction runs, the next batch gathers. Read `_run`, then `_write`.

What can go wrong in a batch, and what is done:
    deadlock                      → the whole batch again
    a row that somebody locks     → its items are put aside and its holds turned away; the rest goes on
    lease swept                   → a new lease, then the batch again
    an item that can't be written → halve the batch until that item fails alone
    a cost above its hold         → left out by the batch, then settled alone (overrun.py)
    anything else from PostgreSQL → reconnect, and ask the lease whether the batch was committed:
                                    acknowledge or replay settlements. Holds are never replayed: their
                                    callers were told "unavailable", so one that turns out to be
                                    committed is voided.
    anything else at all          → the desk is broken: every waiter is told, on_fatal is called
"""

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import psycopg
from msgspec.structs import replace
from psycopg import errors

from governance.calls.records import CallRecord
from governance.desk import statements
from governance.desk.aside import Aside
from governance.desk.batch import Answer, Written, write
from governance.desk.items import DeskUnavailable, Held, PlaceHold, Refused, Settlement, Shrink
from governance.desk.link import Link
from governance.desk.memo import void_of_unused_hold
from governance.desk.overrun import settle_overrun
from governance.desk.queue import UNREACHABLE, Queued, Taken, pop
from governance.desk.records import Records
from governance.desk.room import Waiter, WaitingRoom

log = logging.getLogger(__name__)

HOLDS_PER_BATCH_MAX = 512
OTHERS_PER_BATCH_MAX = 1024
HOLD_TRIES_MAX = 3
"""After so many lock timeouts the holds of a batch are turned away; settlements go on trying."""

_TRY_AGAIN = (errors.DeadlockDetected, errors.SerializationFailure)
_UNSENDABLE = (
    psycopg.DataError,
    psycopg.IntegrityError,
    UnicodeError,
    struct.error,
    OverflowError,
    TypeError,
)
_LEASE_LOST, _PERIOD_MISSING = "EXQ01", "EXQ02"


class Desk:
    """Holds, shrinks, settlements and records go in; durable answers come out."""

    def __init__(
        self,
        database_url: str,
        worker: str,
        *,
        on_fatal: Callable[[BaseException], None],
        transaction_timeout_seconds: float = 5.0,
        lock_timeout_seconds: float = 2.0,
        waiters_max: int = 4000,
        waiters_of_tenant_max: int = 1000,
    ) -> None:
        self._link = Link(
            database_url,
            worker,
            transaction_timeout_seconds=transaction_timeout_seconds,
            lock_timeout_seconds=lock_timeout_seconds,
            while_away=self._turn_away,
        )
        self._on_fatal = on_fatal
        self._wake = asyncio.Event()
        self._holds: deque[Queued[PlaceHold]] = deque()
        self._settlements: deque[Queued[Settlement]] = deque()
        self._shrinks: deque[Queued[Shrink]] = deque()
        self._records = Records(self._wake.set)
        self._writing = Taken()
        self._aside = Aside(self._link, self._wake.set)
        self._room = WaitingRoom(
            self._wake.set, waiters_max=waiters_max, waiters_of_tenant_max=waiters_of_tenant_max
        )
        self._heartbeat_due = False
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self.failed: BaseException | None = None
        self.newest_batch_size = 0

    # --- life ------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Connect, make partitions, take a lease. psycopg.OperationalError when the database is away."""
        await self._link.open()
        self._task = asyncio.create_task(self._run(), name="desk")

    async def stop(self, grace_seconds: float = 10.0) -> None:
        """Write everything that is queued, give the lease back. What cannot be written is swept later."""
        self._stopping = True
        self._room.turn_away(DeskUnavailable("This worker is stopping."))
        self._wake.set()
        if self._task:
            done, _ = await asyncio.wait({self._task}, timeout=grace_seconds)
            if not done:
                self._task.cancel()
                await asyncio.wait({self._task})
        await self._link.close()

    @property
    def connected(self) -> bool:
        return self._link.connected

    @property
    def healthy(self) -> bool:
        """Connected, running and able to admit."""
        return self._link.connected and self.failed is None and not self._stopping

    @property
    def queue_depth(self) -> int:
        """Items that wait for their transaction to begin."""
        return len(self._holds) + len(self._settlements) + len(self._shrinks) + len(self._records)

    @property
    def records_dropped(self) -> int:
        return self._records.dropped

    @property
    def unsettled(self) -> int:
        """Settlements that are not durable yet."""
        return len(self._settlements) + len(self._writing.settlements) + len(self._aside.items.settlements)

    @property
    def waiters(self) -> int:
        """Holds that wait for room."""
        return len(self._room)

    def waiters_before(self, period_id: int) -> int:
        """Holds of this process that wait for room on that row."""
        return self._room.length(period_id)

    @property
    def lease_id(self) -> int:
        """The id of this desk's current lease; 0 before the first."""
        return self._link.lease.id

    # --- what callers put on the desk ------------------------------------------------------------
    async def place_hold(self, hold: PlaceHold) -> Answer:
        """Hold money, or hear which budget or claim refuses. DeskUnavailable at once when nothing can be
        written.

        A caller that is cancelled while it waits owes nothing: a hold committed after it left is voided.
        """
        if not self.healthy:
            raise DeskUnavailable(UNREACHABLE)
        if self._aside.blocks(hold.period_ids):
            raise DeskUnavailable("A budget of this call is locked by somebody else.")
        queued: Queued[PlaceHold] = Queued(hold, asyncio.get_running_loop().create_future())
        self._holds.append(queued)
        self._wake.set()
        return await self._answer_to(queued)

    async def wait_for_room(self, hold: PlaceHold, refused: Refused, seconds: float) -> Answer:
        """Wait until a hold that was refused fits, until it never will, or for about so long.

        `hold` was placed with `waiting_since` at 0 or more, and `refused.fits_later` says that it may fit.
        RoomFull where too many wait already; DeskUnavailable, and a caller that is cancelled, as above.
        """
        if not self.healthy:
            raise DeskUnavailable(UNREACHABLE)
        waiter = self._room.enter(replace(hold, waiting_since=refused.since), refused, seconds)
        try:
            return await self._answer_to(waiter)
        finally:
            self._room.leave(waiter)

    async def _answer_to(self, queued: Queued[PlaceHold]) -> Answer:
        try:
            answer: Answer = await queued.future
        except asyncio.CancelledError:
            # The answer may have come in the very tick in which the caller left.
            if queued.future.done() and not queued.future.cancelled() and queued.future.exception() is None:
                self._void_unused(queued, queued.future.result())
            raise
        return answer

    def settle(self, settlement: Settlement) -> asyncio.Future[bool]:
        """Resolve a hold. Kept until durable, through any outage; True when this settlement resolved it."""
        return self._queue(self._settlements, settlement)

    def shrink(self, shrink: Shrink) -> asyncio.Future[bool]:
        """Give back what a hold no longer needs."""
        return self._queue(self._shrinks, shrink)

    def record(self, call: CallRecord) -> asyncio.Future[bool]:
        """Write a call that took no hold, within a second."""
        return self._records.put(call)

    def heartbeat(self) -> None:
        """Write a batch soon even if it is empty: it renews the lease and proves that the desk works."""
        self._heartbeat_due = True
        self._wake.set()

    def _queue[Item](self, queue: deque[Queued[Item]], item: Item) -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        queue.append(Queued(item, future))
        self._wake.set()
        return future

    # --- the loop --------------------------------------------------------------------------------
    async def _run(self) -> None:
        try:
            while not (self._stopping and not self.queue_depth and not self._aside.items):
                await self._wake.wait()
                self._wake.clear()
                while self._is_anything_due:
                    if self._aside.due:  # also when batch follows batch
                        free = await self._aside.give_back()
                        self._settlements.extendleft(reversed(free.settlements))
                        self._shrinks.extendleft(reversed(free.shrinks))
                    await self._write(self._take())
                    self._writing = Taken()
        except asyncio.CancelledError:
            self._tell_everyone(DeskUnavailable("This worker is stopping."))
            raise
        except BaseException as error:
            log.exception("The desk failed; this worker can no longer admit calls and exits.")
            self.failed = error
            self._tell_everyone(DeskUnavailable("The ledger's writer failed."))
            self._on_fatal(error)

    @property
    def _is_anything_due(self) -> bool:
        """Records go with whatever else is written; they alone are no reason to, until they are due."""
        if self._holds or self._settlements or self._shrinks:
            return True
        if self._heartbeat_due or self._room.due or self._aside.due:
            return True
        return self._records.due or (self._stopping and bool(self._records))

    def _take(self) -> Taken:
        """The next batch: settlements first, so that they make room for holds."""
        self._heartbeat_due = False
        self._writing = Taken(
            pop(self._settlements, OTHERS_PER_BATCH_MAX),
            pop(self._shrinks, OTHERS_PER_BATCH_MAX),
            self._records.take(),
            [queued for queued in pop(self._holds, HOLDS_PER_BATCH_MAX) if not queued.future.done()],
        )
        if self._room or self._room.due:
            self._call_waiters(self._writing)
        return self._writing

    def _call_waiters(self, taken: Taken) -> None:
        """Those who wait for rows that this batch locks try again in it, before its newcomers."""
        waiters, taken.gone = self._room.take(taken.periods())
        taken.holds[:0] = waiters

    async def _write(self, taken: Taken) -> None:
        """Write one batch, whatever it takes. On return each of its items is answered or put aside."""
        tries = 0
        while True:
            try:
                connection, lease = await self._link.live(), self._link.lease
                taken.keep_to_lease(lease.id)
                written = await write(connection, lease, taken.batch())
            except _TRY_AGAIN:
                tries += 1
                await asyncio.sleep(0.005 * tries)
            except errors.LockNotAvailable:
                tries += 1
                if tries >= HOLD_TRIES_MAX:
                    taken.turn_holds_away()
                taken = await self._aside.take(taken)
            except _UNSENDABLE as error:
                return await self._bisect(taken, error)
            except psycopg.Error as error:
                if error.sqlstate == _PERIOD_MISSING:
                    return await self._bisect(taken, error)
                if error.sqlstate == _LEASE_LOST:
                    await self._link.renew_lease()
                else:
                    await self._recover(taken, error)
            else:
                return await self._answer(taken, written)
            taken.gone.clear()
            if not taken:
                return

    async def _answer(self, taken: Taken, written: Written) -> None:
        self.newest_batch_size = len(taken)
        left_out = []
        for settlement in taken.settlements:
            if settlement.item.hold_id in written.resolved:
                written.resolved.remove(settlement.item.hold_id)
                settlement.answer(True)
            else:
                left_out.append(settlement)
        for shrink in taken.shrinks:
            shrink.answer(shrink.item.hold_id in written.shrunk)
        for record in taken.records:
            record.answer(True)
        for hold, answer in zip(taken.holds, written.answers, strict=True):
            if not hold.answer(answer):
                self._void_unused(hold, answer)
        for settlement in left_out:
            await self._settle_alone(settlement)

    def _void_unused(self, queued: Queued[PlaceHold], answer: Answer) -> None:
        """Whoever waited for room tells by itself what became of its call: it may place another hold. So does
        who has made an attempt already: that one ends the call."""
        if isinstance(answer, Held):
            why = "the caller left before the call was sent"
            call_ends = queued.item.follows is None and not isinstance(queued, Waiter)
            self.settle(void_of_unused_hold(queued.item, why, call_ends=call_ends))

    async def _settle_alone(self, queued: Queued[Settlement]) -> None:
        """What the batch left out: its hold is resolved already, or smaller than what the call cost."""
        while not queued.future.done():
            try:
                queued.answer(await settle_overrun(await self._link.live(), self._link.lease, queued.item))
            except _TRY_AGAIN:
                await asyncio.sleep(0.01)
            except errors.LockNotAvailable:
                if not await self._aside.take(Taken([queued])):
                    return
            except _UNSENDABLE as error:
                queued.item = _plainer(queued.item, error)
            except psycopg.Error as error:
                if error.sqlstate == _LEASE_LOST:
                    await self._link.renew_lease()
                else:
                    await self._recover(Taken([queued]), error)

    # --- trouble ---------------------------------------------------------------------------------
    async def _bisect(self, taken: Taken, error: BaseException) -> None:
        """Write the halves apart; an item that fails alone gets the error, and the others live."""
        if len(taken) > 1:
            for half in taken.halves():
                await self._write(half)
            return
        queued = next(iter(taken))
        if isinstance(queued.item, Settlement):
            queued.item = _plainer(queued.item, error)
            await self._write(taken)
        elif not queued.future.done():
            queued.future.set_exception(error)

    async def _recover(self, taken: Taken, error: psycopg.Error) -> None:
        """After lost contact: was the batch committed? Leave in `taken` only what must be written again."""
        for hold in taken.holds:
            hold.fail(DeskUnavailable(UNREACHABLE))
        committed = await self._link.mend(error)
        while True:
            try:
                return await self._acknowledge(taken, committed)
            except psycopg.Error as again:
                await self._link.mend(again)  # nothing was written meanwhile: `committed` stands

    async def _acknowledge(self, taken: Taken, committed: bool | None) -> None:
        """Answer what the lost transaction did commit, and void holds whose callers were turned away."""
        if committed is not False:
            entries = await self._ids(statements.ENTRIES_OF, [q.item.hold_id for q in taken.settlements])
            open_holds = await self._ids(statements.OPEN_HOLDS_OF, [q.item.id for q in taken.holds])
            for settlement in taken.settlements:
                if settlement.item.hold_id in entries:
                    settlement.answer(True)
            taken.settlements[:] = [q for q in taken.settlements if q.item.hold_id not in entries]
            for hold in taken.holds:
                if hold.item.id in open_holds:
                    why, call_ends = "the ledger's answer was lost", hold.item.follows is None
                    self.settle(void_of_unused_hold(hold.item, why, call_ends=call_ends))
        taken.holds.clear()  # their callers were told that the ledger is unavailable
        if committed:
            for shrink in taken.shrinks:
                shrink.answer(True)
            for record in taken.records:
                record.answer(True)
            taken.shrinks.clear()
            taken.records.clear()

    async def _ids(self, sql: str, ids: list[Any]) -> set[Any]:
        return {row[0] for row in await self._link.rows(sql, [ids])} if ids else set()

    def _turn_away(self) -> None:
        for hold in pop(self._holds, len(self._holds)):
            hold.fail(DeskUnavailable(UNREACHABLE))
        self._room.turn_away(DeskUnavailable(UNREACHABLE))

    def _tell_everyone(self, error: DeskUnavailable) -> None:
        for queue in (
            self._holds,
            self._settlements,
            self._shrinks,
            self._records,
            self._writing,
            self._aside.items,
        ):
            waiting: Any = queue
            for queued in waiting:
                queued.fail(error)


def _plainer(settlement: Settlement, error: BaseException) -> Settlement:
    """The settlement without texts that the database may have refused. Raises what that cannot mend."""
    plainer = settlement.without_texts()
    if plainer == settlement:
        raise error
    log.error("A settlement could not be written and is written without its texts: %s", error)
    return plainer
