"""Looking up what is kept in Valkey, for all who do: what is asked for while one MGET is on its way shares
the next.

Nobody waits longer than SECONDS_MAX: who gets no value by then goes on without. From then on nobody waits at
all, until Valkey has answered a probe in time: an outage delays one call in a process, and not all of them.
And where each answer comes in time, but late, a call waits no longer than that for all of them (Patience).
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import partial
from time import monotonic
from typing import Any

from governance.valkey.link import SECONDS_MAX, Link

log = logging.getLogger(__name__)

PROBE_SECONDS = 0.1
"""Between the answer to one probe, which came late or not at all, and the next."""
PROBE_SECONDS_MAX = SECONDS_MAX / 2
"""Else one that answers now just in time and now just too late would be away and back all the time."""
NO_ANSWER = b""
"""What is told where Valkey did not, or not in time; no value of ours is empty."""
LATE_SECONDS = 0.02
"""A timer that comes so much too late says that this process was busy; the answer may be there, unread."""


class Patience:
    """How long one call still waits for Valkey, whatever it looks up."""

    __slots__ = ("_began", "_waiting", "seconds_left")

    def __init__(self) -> None:
        self.seconds_left = SECONDS_MAX
        self._waiting = 0
        self._began = 0.0

    def begins(self) -> None:
        """It waits for one more answer."""
        if not self._waiting:
            self._began = monotonic()
        self._waiting += 1

    def ends(self, _: object = None) -> None:
        """And for one less; what it waits for at the same time counts once."""
        self._waiting -= 1
        if not self._waiting:
            self.seconds_left = max(0.0, self.seconds_left - (monotonic() - self._began))


_patience: ContextVar[Patience | None] = ContextVar("patience", default=None)


def begin_call() -> None:
    """What is looked up from now on in this task is one call's."""
    _patience.set(Patience())


def seconds_left() -> float:
    """How long the task's call still waits for Valkey; all the time for what is nobody's call."""
    patience = _patience.get()
    return SECONDS_MAX if patience is None else patience.seconds_left


class _Batch:
    """Names that are asked for together, and who waits for each."""

    __slots__ = ("counted", "due", "over", "timer", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[str, list[asyncio.Future[bytes | None]]] = {}
        self.timer: asyncio.TimerHandle | None = None
        self.due = 0.0
        self.over = False
        self.counted = 0

    def end(self, values: list[Any] | None) -> None:
        """Everybody gets a value; NO_ANSWER without any."""
        self.over = True
        if self.timer is not None:
            self.timer.cancel()
        for position, futures in enumerate(self.waiting.values()):
            value = values[position] if values is not None else NO_ANSWER
            for future in futures:
                if not future.done():
                    future.set_result(value)


class Lookups:
    """`count` is told of what went wrong: "late" or "away", once for each look-up that is counted."""

    def __init__(self, link: Link, count: Callable[[str], None]) -> None:
        self._link = link
        self._count = count
        self._gathering: _Batch | None = None
        self._flying: _Batch | None = None
        self._next_probe: asyncio.TimerHandle | None = None
        self._stopped = False
        self.away = False
        """Valkey did not answer in time, and no probe since: it is not asked."""

    def get(self, name: str, *, counted: bool = True) -> "asyncio.Future[bytes | None]":
        """The value of that name; None where there is none. Names that are asked for one right after the
        other are read at the same moment."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes | None] = loop.create_future()
        patience = _patience.get()
        if self.away or (patience is not None and not patience.seconds_left):
            if counted:
                self._count("away" if self.away else "late")
            future.set_result(NO_ANSWER)
            return future
        batch = self._gathering
        if batch is None:
            batch = self._gathering = _Batch()
            batch.due = loop.time() + SECONDS_MAX
            batch.timer = loop.call_at(batch.due, self._late, batch)
            if self._flying is None:
                loop.call_soon(self._send)
        batch.waiting.setdefault(name, []).append(future)
        batch.counted += counted
        if patience is not None:
            patience.begins()
            future.add_done_callback(patience.ends)
            if patience.seconds_left < SECONDS_MAX:  # else the batch is late no later
                due = loop.time() + patience.seconds_left
                timer = loop.call_at(due, self._out_of_patience, batch, future, counted, due)
                future.add_done_callback(lambda _: timer.cancel())
        return future

    def _out_of_patience(
        self, batch: _Batch, future: "asyncio.Future[bytes | None]", counted: bool, due: float
    ) -> None:
        loop = asyncio.get_running_loop()
        if future.done():
            return
        if loop.time() - due > LATE_SECONDS:
            due = loop.time() + LATE_SECONDS / 2
            loop.call_at(due, self._out_of_patience, batch, future, counted, due)
            return
        if counted:
            batch.counted -= 1
            self._count("late")
        future.set_result(NO_ANSWER)

    async def in_time(self, replies: "Sequence[asyncio.Future[Any]]", until: float) -> None:
        """Until all are there, or it is too late by the event loop's time: then it is noted."""
        patience = _patience.get()
        if patience is not None:
            patience.begins()
        try:
            await self._in_time(replies, until)
        finally:
            if patience is not None:
                patience.ends()

    async def _in_time(self, replies: "Sequence[asyncio.Future[Any]]", until: float) -> None:
        loop = asyncio.get_running_loop()
        while waiting := [reply for reply in replies if not reply.done()]:
            late_seconds = loop.time() - until
            if 0 <= late_seconds <= LATE_SECONDS:
                self._count("late")  # the next look-up will find out whether it answers at all
                return
            if late_seconds > LATE_SECONDS:
                until = loop.time() + LATE_SECONDS / 2
            await asyncio.wait(waiting, timeout=until - loop.time())

    def _send(self) -> None:
        batch = self._gathering
        if batch is None or self._flying is not None:
            return
        self._gathering, self._flying = None, batch
        self._link.ask("MGET", *batch.waiting).add_done_callback(partial(self._arrived, batch))

    def _arrived(self, batch: _Batch, reply: "asyncio.Future[Any]") -> None:
        if self._flying is batch:
            self._flying = None
        failure = reply.exception()
        if failure is not None and not batch.over:
            self._give_up(batch, "away", str(failure))
            return
        if failure is None and not batch.over:
            batch.end(reply.result())
        self._send()

    def _late(self, batch: _Batch) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - batch.due > LATE_SECONDS:
            batch.due = loop.time() + LATE_SECONDS / 2
            batch.timer = loop.call_at(batch.due, self._late, batch)
            return
        if self._flying is batch:
            self._flying = None
        if self._gathering is batch:
            self._gathering = None
        self._give_up(batch, "late", "no answer in time")

    def _give_up(self, batch: _Batch, why: str, text: str) -> None:
        self._end(batch, why)
        self._leave_alone(text)

    def _end(self, batch: _Batch, why: str) -> None:
        for _ in range(batch.counted):
            self._count(why)
        batch.end(None)

    # --- an outage --------------------------------------------------------------------------------
    def _leave_alone(self, text: str) -> None:
        """Who asks from now on gets no answer at once, and so does who has not been asked for yet."""
        if self.away:
            return
        log.warning("Valkey: %s. Calls go on without what is kept there meanwhile.", text)
        self.away = True
        waiting, self._gathering = self._gathering, None
        if waiting is not None:
            self._end(waiting, "away")
        self._probe()

    def _probe(self) -> None:
        asked_at = asyncio.get_running_loop().time()
        self._link.ask("PING").add_done_callback(partial(self._probed, asked_at))

    def _probed(self, asked_at: float, reply: "asyncio.Future[Any]") -> None:
        loop = asyncio.get_running_loop()
        if reply.exception() is None and loop.time() - asked_at <= PROBE_SECONDS_MAX:
            self.away = False
        elif not self._stopped:
            self._next_probe = loop.call_later(PROBE_SECONDS, self._probe)

    def stop(self) -> None:
        self._stopped = True
        if self._next_probe is not None:
            self._next_probe.cancel()
