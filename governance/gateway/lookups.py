"""Looking up kept answers: what is asked for while one MGET is on its way shares the next.

Nobody waits longer than SECONDS_MAX: who gets no value by then goes on without. After that Valkey is left
alone for a moment, so that an outage delays a few calls and not all of them.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from governance.valkey.link import SECONDS_MAX, Link

log = logging.getLogger(__name__)

AWAY_SECONDS = 0.5
STRIKES = 3
"""So many times in a row that nothing came in time are an outage; fewer are a busy machine."""
NO_ANSWER = b""
"""What is told where Valkey did not, or not in time; no value of ours is empty."""
LATE_SECONDS = 0.02
"""A timer that comes so much too late says that this process was busy; the answer may be there, unread."""


class _Batch:
    """Names that are asked for together, and who waits for each."""

    __slots__ = ("due", "over", "timer", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[str, list[asyncio.Future[bytes | None]]] = {}
        self.timer: asyncio.TimerHandle | None = None
        self.due = 0.0
        self.over = False

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
    """`count` is told of what went wrong: "late" or "away", once for each caller."""

    def __init__(self, link: Link, count: Callable[[str], None]) -> None:
        self._link = link
        self._count = count
        self._gathering: _Batch | None = None
        self._flying: _Batch | None = None
        self._away_until = 0.0
        self._strikes = 0
        self.troubled = False

    @property
    def away(self) -> bool:
        """Valkey is being left alone."""
        return self.troubled and asyncio.get_running_loop().time() < self._away_until

    def get(self, name: str) -> "asyncio.Future[bytes | None]":
        """The value of that name; None where there is none. Names that are asked for one right after the
        other are read at the same moment."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes | None] = loop.create_future()
        if self.away:
            self._count("away")
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
        return future

    async def in_time(self, replies: "Sequence[asyncio.Future[Any]]", until: float) -> None:
        """Until all are there, or it is too late by the event loop's time: then it is noted."""
        loop = asyncio.get_running_loop()
        while waiting := [reply for reply in replies if not reply.done()]:
            late_seconds = loop.time() - until
            if 0 <= late_seconds <= LATE_SECONDS:
                self._count("late")
                self._note("no answer in time")
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
        if failure is None:
            self.troubled, self._strikes = False, 0
            if not batch.over:
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

    def _note(self, text: str) -> None:
        if not self.troubled:
            log.warning("Valkey: %s. Calls go on without kept answers meanwhile.", text)
        self.troubled = True
        self._strikes += 1
        if self._strikes >= STRIKES:
            self._away_until = asyncio.get_running_loop().time() + AWAY_SECONDS

    def _give_up(self, batch: _Batch, why: str, text: str) -> None:
        self._note(text)
        for futures in batch.waiting.values():
            for _ in futures:
                self._count(why)
        batch.end(None)
        self._send()
