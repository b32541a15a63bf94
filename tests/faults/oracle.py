"""What the desk should do, as plainly as it can be said: the model that the state machine compares it with.

`admit` is the Python twin of the SQL function that admits holds. Amounts are nano-dollars.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from governance.desk.items import Figures


@dataclass
class Row:
    """One budget period. `limit` has what was added to it; a raise counts on top until its moment."""

    id: int
    limit: int
    starts_at: datetime
    ends_at: datetime
    hard: bool = True
    now: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    budget: int = 0
    added: int = 0
    raised: int = 0
    raised_until: datetime | None = None
    spent: int = 0
    held: int = 0
    crossed: set[int] = field(default_factory=set)

    @property
    def raise_now(self) -> int:
        return self.raised if self.raised_until is not None and self.now < self.raised_until else 0

    @property
    def left(self) -> int:
        return self.limit + self.raise_now - self.spent - self.held

    @property
    def figures(self) -> Figures:
        return Figures(self.limit + self.raise_now, self.spent, self.held)

    def add(self, amount: int, base: int) -> None:
        """`base`: the budget's own limit."""
        self.added += amount
        self.limit = max(0, base + self.added)

    def spend(self, amount: int, percents: tuple[int, ...]) -> None:
        before = self.spent
        self.spent += amount
        for percent in percents:
            if before * 100 < self.limit * percent <= self.spent * 100:
                self.crossed.add(percent)


@dataclass
class OpenHold:
    """A hold that nobody resolved yet."""

    id: UUID
    amount: int
    legs: tuple[Row, ...]
    desk: int


def admit(legs: tuple[Row, ...], amount: int, now: datetime) -> tuple[Row | None, bool, Figures | None]:
    """All legs or none: (the row that refuses, whether because it is closed, figures of the tightest)."""
    refusing: Row | None = None
    for row in legs:
        if not row.starts_at <= now < row.ends_at:
            return row, True, row.figures
        if row.hard and amount > row.left and (refusing is None or row.left < refusing.left):
            refusing = row
    if refusing is not None:
        return refusing, False, refusing.figures
    for row in legs:
        row.held += amount
    hard = [row for row in legs if row.hard]
    return None, False, min(hard, key=lambda row: row.left).figures if hard else None


def carried(hold: OpenHold, cost: int) -> int:
    """What every leg is charged of a cost: the hold, and beyond it what the tightest hard leg can take."""
    room = [max(0, row.left) for row in hold.legs if row.hard]
    return cost if not room or cost <= hold.amount else min(cost, hold.amount + min(room))
