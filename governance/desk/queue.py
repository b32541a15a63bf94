"""What waits on the desk: items with the futures of those who wait for them, and the batch taken of them."""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import msgspec

from governance.calls.records import CallRecord
from governance.desk.batch import Batch, Gone
from governance.desk.items import DeskUnavailable, PlaceHold, Settlement, Shrink

UNREACHABLE = "The ledger's database cannot be reached."


class Queued[Item](msgspec.Struct, eq=False):
    """An item and whoever waits for its answer."""

    item: Item
    future: asyncio.Future[Any]

    def answer(self, value: Any) -> bool:
        """Wake the waiter; False when nobody waits any more."""
        if self.future.done():
            return False
        self.future.set_result(value)
        return True

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # read once: nobody may be left to read it


@dataclass(slots=True)
class Taken:
    """The items of one batch; `gone` come along if there is no trouble, and expire otherwise."""

    settlements: list[Queued[Settlement]] = field(default_factory=list)
    shrinks: list[Queued[Shrink]] = field(default_factory=list)
    records: list[Queued[CallRecord]] = field(default_factory=list)
    holds: list[Queued[PlaceHold]] = field(default_factory=list)
    gone: list[Gone] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.settlements) + len(self.shrinks) + len(self.records) + len(self.holds)

    def __iter__(self) -> Iterator[Queued[Any]]:
        return chain(self.settlements, self.shrinks, self.records, self.holds)

    def batch(self) -> Batch:
        return Batch(
            [queued.item for queued in self.settlements],
            [queued.item for queued in self.shrinks],
            [queued.item for queued in self.records],
            [queued.item for queued in self.holds],
            self.gone,
        )

    def halves(self) -> "tuple[Taken, Taken]":
        """Two batches, in order, so that a hold still comes after the settlements that make room for it."""
        first = {id(queued) for queued in list(self)[: len(self) // 2]}
        return self.split(lambda queued: id(queued) in first)

    def split(self, belongs: Any) -> "tuple[Taken, Taken]":
        """(those for which `belongs(queued)`, the others)."""
        ours, others = Taken(), Taken()
        for name in ("settlements", "shrinks", "records", "holds"):
            for queued in getattr(self, name):
                getattr(ours if belongs(queued) else others, name).append(queued)
        return ours, others

    def periods(self) -> set[int]:
        """The budget periods whose rows this batch locks."""
        return set(chain.from_iterable(map(periods_of, self)))

    def keep_to_lease(self, lease_id: int) -> None:
        """Turn away holds that follow one of another lease: a sweeper may have ended their calls."""
        late = [
            queued
            for queued in self.holds
            if queued.item.follows is not None and queued.item.follows.lease_id != lease_id
        ]
        for queued in late:
            queued.fail(DeskUnavailable("The hold before this one was taken for a dead worker's."))
            self.holds.remove(queued)

    def turn_holds_away(self) -> None:
        for queued in self.holds:
            queued.fail(DeskUnavailable(UNREACHABLE))
        self.holds.clear()


def periods_of(queued: Queued[Any]) -> tuple[int, ...]:
    """The budget periods that an item moves money in; none for a record."""
    return getattr(queued.item, "period_ids", ())


def pop[Item](queue: deque[Item], count: int) -> list[Item]:
    """Up to `count` items from the front."""
    return [queue.popleft() for _ in range(min(count, len(queue)))]
