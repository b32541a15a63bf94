"""A worker's share of every limit, kept in memory while Valkey is away: the limit over the live workers.

The same buckets as in Valkey (meter.py). A share is never less than one call at a time and one of burst, so
that a small limit over many workers is not none at all; its rate is exact all the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from governance.limits.terms import Check

WINDOW_SECONDS = 60.0
FORGET_ABOVE = 10_000
"""So many counters are kept before those that are full again are dropped."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a call's checks: `left` and `full_seconds` (until the bucket is full) for each.

    `refused` is the number of the check with the longest `wait_seconds`; None when all was taken. `worker` is
    who counted it in Valkey; None for this process's own share.
    """

    refused: int | None
    left: tuple[int, ...]
    full_seconds: tuple[float, ...]
    wait_seconds: float
    worker: str | None

    @staticmethod
    def of_reply(reply: Sequence[int], worker: str) -> "Answer":
        """A reply of the script TAKE."""
        refused = reply[0] - 1 if reply[0] else None
        wait_seconds = 0.0 if refused is None else reply[3 * refused + 3] / 1e6
        full = tuple(micros / 1e6 for micros in reply[2::3])
        return Answer(refused, tuple(reply[1::3]), full, wait_seconds, worker)


class Share:
    """The counters of one process. `workers`: how many share the limits."""

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self._full_at: dict[str, float] = {}
        self._busy: dict[str, int] = {}

    def take(self, checks: Sequence[Check]) -> Answer:
        """Take all of them, or none."""
        now = monotonic()
        after: list[float] = []
        left: list[int] = []
        full: list[float] = []
        refused, longest = None, 0.0
        for number, check in enumerate(checks):
            if check.kind == "rate":
                seconds_each = WINDOW_SECONDS * self.workers / check.limit
                before = max(self._full_at.get(check.key, 0.0), now)
                wanted = before + check.amount * seconds_each
                wait = wanted - now - max(WINDOW_SECONDS, seconds_each)
                spare = WINDOW_SECONDS - ((before if wait > 0 else wanted) - now)
                after.append(wanted)
                left.append(max(0, int(spare / seconds_each)))
                full.append((before if wait > 0 else wanted) - now)
            else:
                busy = self._busy.get(check.key, 0) + check.amount
                most = max(1, check.limit // self.workers)
                wait = 1.0 if busy > most else 0.0
                after.append(busy)
                left.append(max(0, most - busy))
                full.append(0.0)
            if wait > longest:
                refused, longest = number, wait
        if refused is None:
            self._keep(checks, after, now)
        return Answer(refused, tuple(left), tuple(full), longest, None)

    def give(self, checks: Sequence[Check]) -> None:
        """Correct what `take` took: `amount` as in meter.GIVE."""
        now = monotonic()
        for check in checks:
            if check.kind == "rate":
                before = max(self._full_at.get(check.key, 0.0), now)
                self._full_at[check.key] = before + check.amount * WINDOW_SECONDS * self.workers / check.limit
            elif (busy := self._busy.get(check.key, 0) - check.amount) > 0:
                self._busy[check.key] = busy
            else:
                self._busy.pop(check.key, None)

    def _keep(self, checks: Sequence[Check], after: Sequence[float], now: float) -> None:
        for check, value in zip(checks, after, strict=True):
            if check.kind == "rate":
                self._full_at[check.key] = value
            else:
                self._busy[check.key] = int(value)
        if len(self._full_at) > FORGET_ABOVE:
            self._full_at = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
