"""From the entries of a day to the items of its file: what is alike added up, exactly.

An item that has unit prices costs its units × its price, to the last fraction of a nano-dollar. A charge is
rounded up to whole nano-dollars once, so what is left of it is an item of its own, and so is every other part
of the ledger that is no priced usage: whatever comes in goes out, under a name.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from django.db import connection

from governance.core.ids import id_time_ms
from governance.desk.rerating import passes_of
from governance.exports.facts import Entry
from governance.exports.months import ExportRefused
from governance.ledger.kinds import Basis
from governance.pricing.book import Line, PriceBook
from governance.pricing.loading import load_book, load_contract_rates
from governance.pricing.tables import COST_DENOMINATOR

ITEMS_PER_DAY_MAX = 100_000
"""About 100 MB. More means that a tag has a value of its own for almost every call."""

Kind = Literal["usage", "rounding", "whole_hold", "operator_share", "unexplained", "credit", "correction"]
"""usage: priced by meter. rounding: to whole nano-dollars, less than one a call. whole_hold: nobody can tell
what was used, and the hold was charged. operator_share: what usage cost above the hold and no budget could
carry, below zero. unexplained: what today's prices do not tell. credit, correction: as in the ledger."""


class Item(NamedTuple):
    """What the calls have in common that are added up; see `focus` for the columns it becomes."""

    kind: Kind
    team_id: int | None
    key_id: int | None
    tags: str
    """A JSON object."""
    basis: str | None
    model: str | None
    priced: Line | None
    """For usage: the meter and its prices, with no units."""
    reason: str | None = None
    corrected_month: datetime | None = None


def order(item: Item) -> tuple[str, ...]:
    """Where an item stands in its day; no two are alike, so a file's order is always the same."""
    return tuple("" if part is None else str(part) for part in item)


@dataclass(slots=True)
class Sum:
    """Of one item. `amount` is nano-dollars × COST_DENOMINATOR."""

    units: int = 0
    amount: int = 0
    list_amount: int = 0
    requests: int = 0


class Books:
    """The price books that a tenant's attempts were charged with, each compiled once."""

    def __init__(self, tenant_id: int) -> None:
        self._terms = load_contract_rates(connection, tenant_id)
        self._books: dict[int, PriceBook] = {}

    def of(self, version: int) -> PriceBook:
        if version not in self._books:
            self._books[version] = load_book(connection, version).with_contract(self._terms)
        return self._books[version]


class Day:
    """The items of one day. `keep` says which tags an item is told apart by."""

    def __init__(self, books: Books, keep: Callable[[str], bool]) -> None:
        self._books = books
        self._keep = keep
        self.sums: dict[Item, Sum] = {}

    def add(self, entries: Iterable[Entry]) -> None:
        """ExportRefused where the day has more items than fit in memory."""
        for entry in entries:
            seen: set[Item] = set()
            for item, units, amount, list_amount in self._parts(entry):
                found = self.sums.get(item)
                if found is None:
                    found = self.sums[item] = Sum()
                found.units += units
                found.amount += amount
                found.list_amount += list_amount
                if item not in seen:  # an attempt of several passes is one request
                    seen.add(item)
                    found.requests += 1
        if len(self.sums) > ITEMS_PER_DAY_MAX:
            raise ExportRefused(
                f"One day has more than {ITEMS_PER_DAY_MAX:,} different rows, because some tag has too many "
                "values. Name the tags to tell rows apart by, such as --tag feature, or none: --no-tags."
            )

    def _parts(self, entry: Entry) -> Iterator[tuple[Item, int, int, int]]:
        """(item, units, amount, list amount) of what makes up an entry; the amounts add up to its own."""
        attempt = entry.attempt
        model = None if attempt is None else attempt.served_model or attempt.requested_model
        tags = {name: value for name, value in entry.tags.items() if self._keep(name)} if entry.tags else {}
        text = json.dumps(tags, sort_keys=True, ensure_ascii=False, separators=(",", ":")) if tags else "{}"
        whose = (entry.team_id, entry.key_id, text, entry.basis)

        def other(kind: Kind, amount: int) -> tuple[Item, int, int, int]:
            return Item(kind, *whose, model, None), 0, amount, amount

        amount = entry.amount_nanos * COST_DENOMINATOR
        if entry.kind != "charge":
            kind: Kind = "credit" if entry.kind == "credit" else "correction"
            item = Item(kind, *whose, model, None, entry.reason, entry.corrected_month)
            yield item, 0, amount, amount
            return
        if entry.basis == Basis.FULL_HOLD:
            yield other("whole_hold", amount)
            return
        explained = 0
        for line in () if attempt is None else self._lines(attempt):
            cost = line.units * line.rate
            explained += cost
            priced = line._replace(units=0)
            yield Item("usage", *whose, line.model, priced), line.units, cost, line.units * line.list_rate
        cost = amount if attempt is None else attempt.cost_nanos * COST_DENOMINATOR
        if cost != amount:
            yield other("operator_share", amount - cost)
        left = cost - explained
        if left:
            yield other("rounding" if 0 < left < COST_DENOMINATOR else "unexplained", left)

    def _lines(self, attempt: Any) -> list[Line]:
        at = datetime.fromtimestamp(id_time_ms(attempt.call_id) / 1000, UTC)
        return self._books.of(attempt.price_version).lines(passes_of(attempt), at)
