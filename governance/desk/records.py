"""Rows without money on their way to the desk: refusals, answers from the cache. They wait for company."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator

from governance.calls.records import CallRecord
from governance.desk.queue import Queued, pop

log = logging.getLogger(__name__)

PER_BATCH_MAX = 256
DELAY_SECONDS = 0.2
QUEUED_MAX = 20_000
"""During a long outage the oldest are forgotten; money never is."""


class Records:
    """They go with whatever else is written. `due`: they alone are reason for a batch, because it would be
    full, or the first of them has waited DELAY_SECONDS; `wake` is called then."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._queue: deque[Queued[CallRecord]] = deque()
        self.due = False
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Queued[CallRecord]]:
        return iter(self._queue)

    def put(self, call: CallRecord) -> asyncio.Future[bool]:
        """True once it is written; False when it was dropped."""
        queued: Queued[CallRecord] = Queued(call, asyncio.get_running_loop().create_future())
        if len(self._queue) >= QUEUED_MAX:
            if not self.dropped:
                log.error("More than %d refusals wait to be recorded; the oldest go.", QUEUED_MAX)
            self._queue.popleft().answer(False)
            self.dropped += 1
        self._queue.append(queued)
        if len(self._queue) in (1, PER_BATCH_MAX):
            self._gather()
        return queued.future

    def take(self) -> list[Queued[CallRecord]]:
        """The oldest, for a batch that is written now."""
        taken = pop(self._queue, PER_BATCH_MAX)
        self.due = False
        self._gather()
        return taken

    def _gather(self) -> None:
        if len(self._queue) >= PER_BATCH_MAX:
            self._fall_due()
        elif self._queue:
            asyncio.get_running_loop().call_later(DELAY_SECONDS, self._fall_due)

    def _fall_due(self) -> None:
        self.due = bool(self._queue)
        self._wake()
