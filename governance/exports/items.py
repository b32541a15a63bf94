"""From the entries of a day to the items of its file: what is alike added up, exactly.

An item that has unit prices costs its units × its price, to the last fraction of a nano-dollar. A charge is
rounded up to whole nano-dollars once, so what is left of it is an item of its own, and so is every other part
of the ledger that is no priced usage: whatever comes in goes out, under a name.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

from django.db import connection

from governance.core.ids import id_time_ms
from governance.desk.rerating import passes_of
from governance.exports.facts import Entry
from governance.exports.months import ExportRefused
from governance.ledger.kinds import Basis
from governance.pricing.book import PriceBook, UnitPrice
from governance.pricing.loading import load_book, load_contract_rates
from governance.pricing.tables import COST_DENOMINATOR

ITEMS_PER_DAY_MAX = 100_000
"""About 100 MB. More means that a tag has a value of its own for almost every call."""

_TEXTS_KEPT = 10_000

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
    """A JSON object, as text."""
    basis: str | None
    model: str | None
    priced: UnitPrice | None
    """For usage: the meter and its prices."""
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
    """The items of one day. `tags` are those that they are told apart by; None: all."""

    def __init__(self, books: Books, tags: Collection[str] | None) -> None:
        self._books = books
        self._tags = str if tags is None else lru_cache(_TEXTS_KEPT)(partial(_only, frozenset(tags)))
        self.sums: dict[Item, Sum] = {}

    def add(self, entries: Iterable[Entry]) -> None:
        """ExportRefused where the day has more items than fit in memory."""
        for entry in entries:
            # An attempt of several passes is one request, also in an item that several of them are part of.
            seen: set[Item] | None = set() if entry.attempt and entry.attempt.passes else None
            for item, units, amount, list_amount in self._parts(entry):
                found = self.sums.get(item)
                if found is None:
                    found = self.sums[item] = Sum()
                found.units += units
                found.amount += amount
                found.list_amount += list_amount
                if seen is None:
                    found.requests += 1
                elif item not in seen:
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
        whose = (entry.team_id, entry.key_id, self._tags(entry.tags), entry.basis)

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
        for price, units in () if attempt is None else self._lines(attempt):
            cost = units * price.rate
            explained += cost
            yield Item("usage", *whose, price.model, price), units, cost, units * price.list_rate
        cost = amount if attempt is None else attempt.cost_nanos * COST_DENOMINATOR
        if cost != amount:
            yield other("operator_share", amount - cost)
        left = cost - explained
        if left:
            yield other("rounding" if 0 < left < COST_DENOMINATOR else "unexplained", left)

    def _lines(self, attempt: Any) -> list[tuple[UnitPrice, int]]:
        at = datetime.fromtimestamp(id_time_ms(attempt.call_id) / 1000, UTC)
        return self._books.of(attempt.price_version).lines(passes_of(attempt), at)


def _only(tags: frozenset[str], text: str) -> str:
    """The JSON text with these tags only, spelled as PostgreSQL does."""
    return json.dumps({k: v for k, v in json.loads(text).items() if k in tags}, ensure_ascii=False)
