"""The desk: the one writer of money in a process. Group commit without a timer.

Callers queue items; while one transaction runs, the next batch gathers. Read `_run`, then `_write`.

What can go wrong in a batch, and what is done:
    deadlock, lock timeout        → the whole batch again
    connection lost               → reconnect, fence the lease, ask it which batch was the last one
                                    committed; acknowledge or replay settlements. Holds are never
                                    replayed: their callers were told "unavailable", so a hold that
                                    turns out to be committed is voided.
    lease swept                   → a new lease, then the batch again
    an item that can't be written → halve the batch until that item fails alone
    anything else                 → the desk is broken: every waiter is told, on_fatal is called
"""

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors

from governance.calls.records import CallRecord
from governance.core.append_only import PARTITIONED_TABLES
from governance.desk import statements
from governance.desk.batch import Batch, Lease, RawConnection, Written, write
from governance.desk.connection import connect
from governance.desk.items import DeskUnavailable, Held, PlaceHold, Refused, Settlement, Shrink
from governance.desk.memo import void_of_unused_hold
from governance.desk.overrun import settle_overrun

log = logging.getLogger(__name__)

HOLDS_PER_BATCH_MAX = 512
OTHERS_PER_BATCH_MAX = 1024
RECORD_DELAY_SECONDS = 0.2
"""Facts without money wait this long for company; with money they go at once."""
RECORDS_QUEUED_MAX = 20_000
"""During a long outage the oldest refusals are forgotten; money never is."""
RECONNECT_SECONDS_MAX = 1.0
HOLD_TRIES_MAX = 3
"""After so many lock timeouts the holds of a batch are turned away; settlements go on trying."""

type _Answer = Held | Refused | bool

_TRY_AGAIN = (errors.DeadlockDetected, errors.LockNotAvailable, errors.SerializationFailure)
_UNSENDABLE = (
    psycopg.DataError,
    psycopg.IntegrityError,
    UnicodeError,
    struct.error,
    OverflowError,
    TypeError,
)
_LEASE_LOST, _PERIOD_MISSING = "EXQ01", "EXQ02"


@dataclass(slots=True, eq=False)
class _Queued[Item]:
    item: Item
    future: asyncio.Future[Any]


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
    ) -> None:
        self._database_url = database_url
        self._worker = worker
        self._on_fatal = on_fatal
        self._timeouts = (transaction_timeout_seconds, lock_timeout_seconds)
        self._holds: deque[_Queued[PlaceHold]] = deque()
        self._settlements: deque[_Queued[Settlement]] = deque()
        self._shrinks: deque[_Queued[Shrink]] = deque()
        self._records: deque[_Queued[CallRecord]] = deque()
        self._wake = asyncio.Event()
        self._heartbeat_due = False
        self._stopping = False
        self._connection: RawConnection | None = None
        self._lease: Lease | None = None
        self._task: asyncio.Task[None] | None = None
        self._in_flight = 0
        self.connected = False
        self.failed: BaseException | None = None
        self.newest_batch_size = 0
        self.records_dropped = 0

    # --- life ------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Connect, make partitions, take a lease. psycopg.OperationalError when the database is away."""
        await self._connect()
        assert self._connection is not None
        for table in PARTITIONED_TABLES:
            await self._connection.execute("SELECT exchequer_ensure_partitions(%s)", [table])
        self._lease = await self._take_lease()
        self._task = asyncio.create_task(self._run(), name="desk")

    async def stop(self, grace_seconds: float = 10.0) -> None:
        """Write everything that is queued, give the lease back. What cannot be written is swept later."""
        self._stopping = True
        self._wake.set()
        if self._task:
            done, _ = await asyncio.wait({self._task}, timeout=grace_seconds)
            if not done:
                self._task.cancel()
                await asyncio.wait({self._task})
        if self._connection and not self._connection.closed:
            if self._lease and self.connected:
                await psycopg.AsyncRawCursor(self._connection).execute(
                    statements.RETURN_LEASE, [self._lease.id]
                )
            await self._connection.close()

    @property
    def healthy(self) -> bool:
        """Connected, running and able to admit."""
        return self.connected and self.failed is None and not self._stopping

    @property
    def queue_depth(self) -> int:
        """Items that wait for their transaction to begin."""
        return len(self._holds) + len(self._settlements) + len(self._shrinks) + len(self._records)

    @property
    def unsettled(self) -> int:
        """Settlements that are not durable yet."""
        return len(self._settlements) + self._in_flight

    @property
    def lease_id(self) -> int | None:
        """The id of this desk's current lease."""
        return self._lease.id if self._lease else None

    # --- what callers put on the desk ------------------------------------------------------------
    async def place_hold(self, hold: PlaceHold) -> Held | Refused:
        """Hold money, or hear which budget refuses. DeskUnavailable at once when nothing can be written.

        A caller that is cancelled while it waits owes nothing: a hold committed after it left is voided.
        """
        if not self.healthy:
            raise DeskUnavailable("The ledger's database cannot be reached.")
        queued: _Queued[PlaceHold] = _Queued(hold, asyncio.get_running_loop().create_future())
        self._holds.append(queued)
        self._wake.set()
        try:
            answer: Held | Refused = await queued.future
        except asyncio.CancelledError:
            # The answer may have come in the very tick in which the caller left.
            if queued.future.done() and not queued.future.cancelled() and queued.future.exception() is None:
                self._void_unused(hold, queued.future.result())
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
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        if len(self._records) >= RECORDS_QUEUED_MAX:
            _resolve(self._records.popleft().future, False)
            self.records_dropped += 1
        if not self._records:
            loop.call_later(RECORD_DELAY_SECONDS, self._wake.set)
        self._records.append(_Queued(call, future))
        return future

    def heartbeat(self) -> None:
        """Write a batch soon even if it is empty: it renews the lease and proves that the desk works."""
        self._heartbeat_due = True
        self._wake.set()

    def _queue[Item](self, queue: deque[_Queued[Item]], item: Item) -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        queue.append(_Queued(item, future))
        self._wake.set()
        return future

    # --- the loop --------------------------------------------------------------------------------
    async def _run(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self.queue_depth or self._heartbeat_due:
                    await self._write(self._take())
                if self._stopping:
                    return
        except asyncio.CancelledError:
            self._tell_everyone(DeskUnavailable("This worker is stopping."))
            raise
        except BaseException as error:
            log.exception("The desk failed; this worker can no longer admit calls and exits.")
            self.failed = error
            self.connected = False
            self._tell_everyone(DeskUnavailable("The ledger's writer failed."))
            self._on_fatal(error)

    def _take(self) -> "_Taken":
        """The next batch: settlements first, so that they make room for holds."""
        self._heartbeat_due = False
        taken = _Taken(
            _pop(self._settlements, OTHERS_PER_BATCH_MAX),
            _pop(self._shrinks, OTHERS_PER_BATCH_MAX),
            _pop(self._records, OTHERS_PER_BATCH_MAX),
            [queued for queued in _pop(self._holds, HOLDS_PER_BATCH_MAX) if not queued.future.done()],
        )
        self._in_flight = len(taken.settlements)
        return taken

    async def _write(self, taken: "_Taken") -> None:
        """Write one batch, whatever it takes; every future in it is answered on return."""
        await self._write_overruns(taken)
        tries = 0
        while True:
            try:
                assert self._lease is not None
                written = await write(await self._live_connection(), self._lease, taken.batch())
            except _TRY_AGAIN:
                tries += 1
                if tries >= HOLD_TRIES_MAX:
                    taken.turn_holds_away()
                await asyncio.sleep(0.005 * tries)
            except _UNSENDABLE as error:
                return await self._bisect(taken, error)
            except psycopg.Error as error:
                if error.sqlstate == _PERIOD_MISSING:
                    return await self._bisect(taken, error)
                await self._mend(taken, error)
            else:
                return self._answer(taken, written)

    async def _mend(self, taken: "_Taken", error: psycopg.Error) -> None:
        """Make the next try possible: a new lease, or a new connection. Raises what neither can mend."""
        assert self._connection is not None
        if error.sqlstate == _LEASE_LOST:
            log.warning("The lease of this worker was swept; taking a new one.")
            self._lease = await self._take_lease()
        elif self._connection.closed or isinstance(error, psycopg.OperationalError):
            await self._recover(taken, error)
        else:
            raise error

    def _answer(self, taken: "_Taken", written: Written) -> None:
        self.newest_batch_size = len(taken.batch())
        self._in_flight = 0
        for queued_settlement in taken.settlements:
            won = queued_settlement.item.hold_id in written.resolved
            written.resolved.discard(queued_settlement.item.hold_id)
            _resolve(queued_settlement.future, won)
        for queued_shrink in taken.shrinks:
            _resolve(queued_shrink.future, queued_shrink.item.hold_id in written.shrunk)
        for queued_record in taken.records:
            _resolve(queued_record.future, True)
        for queued_hold, answer in zip(taken.holds, written.answers, strict=True):
            if not _resolve(queued_hold.future, answer):
                self._void_unused(queued_hold.item, answer)

    def _void_unused(self, hold: PlaceHold, answer: Held | Refused) -> None:
        if isinstance(answer, Held):
            self.settle(void_of_unused_hold(hold, "the caller left before the call was sent"))

    async def _write_overruns(self, taken: "_Taken") -> None:
        """A cost above its hold is rare and known beforehand: each is a transaction of its own."""
        for queued in [q for q in taken.settlements if q.item.cost_nanos > q.item.held_nanos]:
            taken.settlements.remove(queued)
            while not queued.future.done():
                try:
                    assert self._lease is not None
                    connection = await self._live_connection()
                    _resolve(queued.future, await settle_overrun(connection, self._lease, queued.item))
                except _TRY_AGAIN:
                    await asyncio.sleep(0.01)
                except psycopg.Error as error:
                    await self._mend(_Taken([queued], [], [], []), error)

    # --- trouble ---------------------------------------------------------------------------------
    async def _bisect(self, taken: "_Taken", error: BaseException) -> None:
        """Write the halves apart; an item that fails alone gets the error, and the others live."""
        if len(taken) == 1:
            queued = next(iter(taken))
            if not isinstance(queued.item, Settlement):
                if not queued.future.done():
                    queued.future.set_exception(error)
                return
            plainer = queued.item.without_texts()
            if plainer == queued.item:
                raise error
            log.error("A settlement could not be written and is written without its texts: %s", error)
            queued.item = plainer
            return await self._write(taken)
        for half in taken.halves():
            await self._write(half)

    async def _live_connection(self) -> RawConnection:
        while self._connection is None or self._connection.closed:
            await self._reconnect()
        return self._connection

    async def _connect(self) -> None:
        transaction_timeout_seconds, lock_timeout_seconds = self._timeouts
        self._connection = await connect(
            self._database_url,
            transaction_timeout_seconds=transaction_timeout_seconds,
            lock_timeout_seconds=lock_timeout_seconds,
            name=self._worker,
        )
        self.connected = True

    async def _reconnect(self) -> None:
        """Come back however long it takes. Meanwhile holds are refused as unavailable."""
        self.connected = False
        delay_seconds = 0.05
        while True:
            for queued in _pop(self._holds, len(self._holds)):
                _fail(queued.future)
            try:
                return await self._connect()
            except psycopg.OperationalError:
                await asyncio.sleep(delay_seconds)
                delay_seconds = min(delay_seconds * 2, RECONNECT_SECONDS_MAX)

    async def _recover(self, taken: "_Taken", error: psycopg.Error) -> None:
        """After a lost connection: was the batch committed? Leave in `taken` only what must be written."""
        log.warning("The desk lost its database: %s", str(error).strip())
        self.connected = False
        for queued in taken.holds:
            _fail(queued.future)
        if self._connection is not None:
            if not self._connection.closed:  # out of disk or memory: the same try again needs some time
                await asyncio.sleep(RECONNECT_SECONDS_MAX)
            await self._connection.close()
        while True:
            try:
                connection = await self._live_connection()
                assert self._lease is not None
                cursor = psycopg.AsyncRawCursor(connection)
                row = await (await cursor.execute(statements.FENCE_LEASE, [self._lease.id])).fetchone()
                if row is None:
                    # Swept meanwhile: the entries themselves say what was written.
                    committed, self._lease = None, await self._take_lease()
                else:
                    committed, self._lease.epoch = row[1] == self._lease.batch, row[0]
                await self._acknowledge(taken, connection, committed)
                return
            except psycopg.OperationalError:
                continue

    async def _acknowledge(self, taken: "_Taken", connection: RawConnection, committed: bool | None) -> None:
        """Answer what the lost transaction did commit, and void holds whose callers were turned away."""
        if committed is not False:
            ids = [queued.item.hold_id for queued in taken.settlements]
            entries = await _ids(connection, statements.ENTRIES_OF, ids)
            for settled in [q for q in taken.settlements if q.item.hold_id in entries]:
                taken.settlements.remove(settled)
                _resolve(settled.future, True)
            open_holds = await _ids(connection, statements.OPEN_HOLDS_OF, [q.item.id for q in taken.holds])
            for queued in taken.holds:
                if queued.item.id in open_holds:
                    self.settle(void_of_unused_hold(queued.item, "the ledger's answer was lost"))
        if committed:
            for shrink in taken.shrinks:
                _resolve(shrink.future, True)
            for record in taken.records:
                _resolve(record.future, True)
            taken.shrinks.clear()
            taken.records.clear()
        taken.holds.clear()  # their callers were told that the ledger is unavailable

    async def _take_lease(self) -> Lease:
        cursor = psycopg.AsyncRawCursor(await self._live_connection())
        row = await (await cursor.execute(statements.TAKE_LEASE, [self._worker])).fetchone()
        assert row is not None
        return Lease(row[0])

    def _tell_everyone(self, error: DeskUnavailable) -> None:
        queues: tuple[deque[Any], ...] = (self._holds, self._settlements, self._shrinks, self._records)
        for queue in queues:
            while queue:
                queued = queue.popleft()
                if not queued.future.done():
                    queued.future.set_exception(error)
                    queued.future.exception()  # read once: nobody may be left to read it


@dataclass(slots=True)
class _Taken:
    """The queued items of one batch, with the futures of those who wait."""

    settlements: list[_Queued[Settlement]]
    shrinks: list[_Queued[Shrink]]
    records: list[_Queued[CallRecord]]
    holds: list[_Queued[PlaceHold]]

    def batch(self) -> Batch:
        return Batch(
            [queued.item for queued in self.settlements],
            [queued.item for queued in self.shrinks],
            [queued.item for queued in self.records],
            [queued.item for queued in self.holds],
        )

    def __len__(self) -> int:
        return len(self.settlements) + len(self.shrinks) + len(self.records) + len(self.holds)

    def __iter__(self) -> Any:
        yield from (*self.settlements, *self.shrinks, *self.records, *self.holds)

    def turn_holds_away(self) -> None:
        for queued in self.holds:
            _fail(queued.future)
        self.holds.clear()

    def halves(self) -> "Iterable[_Taken]":
        """Two batches, in order: the first kinds first, so that a hold still follows its settlements."""
        every, middle = list(self), len(self) // 2
        for part in (every[:middle], every[middle:]):
            ids = {id(queued) for queued in part}
            yield _Taken(
                [q for q in self.settlements if id(q) in ids],
                [q for q in self.shrinks if id(q) in ids],
                [q for q in self.records if id(q) in ids],
                [q for q in self.holds if id(q) in ids],
            )


def _pop[Item](queue: deque[Item], count: int) -> list[Item]:
    return [queue.popleft() for _ in range(min(count, len(queue)))]


def _resolve(future: asyncio.Future[Any], answer: _Answer) -> bool:
    """Wake the waiter; False when nobody waits any more."""
    if future.done():
        return False
    future.set_result(answer)
    return True


def _fail(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(DeskUnavailable("The ledger's database cannot be reached."))


async def _ids(connection: RawConnection, sql: str, ids: list[Any]) -> set[Any]:
    cursor = await psycopg.AsyncRawCursor(connection).execute(sql, [ids])
    return {row[0] for row in await cursor.fetchall()}
