"""Charging again what was charged at a price that turned out wrong, or at none.

Each attempt whose usage is known is rated once more, with the newest prices and its tenant's contract, at the
moment when its request came; the difference to what the ledger says becomes a correction. An attempt that is
right already gets nothing, so a second run changes nothing.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from django.db import connection, transaction
from django.db.models import QuerySet

from governance.calls.models import Attempt
from governance.core.ids import id_floor, id_time_ms
from governance.core.usage import Pass, Usage
from governance.desk.corrections import locked, settle_difference
from governance.ledger.kinds import EntryKind
from governance.ledger.models import LedgerEntry
from governance.pricing.book import PriceBook
from governance.pricing.loading import load_book, load_contract_rates

READ_AT_ONCE = 500
_RATED_BASES = ("exact", "bounded")


@dataclass
class Rerating:
    """What a run did, or would do. Nano-dollars; below zero: given back."""

    looked_at: int = 0
    changed: int = 0
    difference_nanos: int = 0
    by_model: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def count_attempts(since: datetime, tenant_id: int | None = None) -> int:
    """How many attempts `rerate` will look at."""
    return int(_rows(since, tenant_id).count())


def rerate(
    since: datetime, *, tenant_id: int | None = None, dry_run: bool = False, result: Rerating | None = None
) -> Iterator[Rerating]:
    """Rate every attempt since then again, oldest first; yields the running result after each some hundred.

    Run in a scope that sees the tenants. Each correction is a transaction of its own: a run that is
    interrupted is simply run again.
    """
    result = result or Rerating()
    list_book = load_book(connection)
    books: dict[int, PriceBook] = {}
    rows, last = _rows(since, tenant_id), None
    while True:
        page = list((rows.filter(pk__gt=last) if last else rows).order_by("pk")[:READ_AT_ONCE])
        if not page:
            return
        for attempt in page:
            if attempt.tenant_id not in books:
                terms = load_contract_rates(connection, attempt.tenant_id)
                books[attempt.tenant_id] = list_book.with_contract(terms)
            _rerate_one(attempt, books[attempt.tenant_id], dry_run, result)
        last = page[-1].pk
        yield result


def passes_of(attempt: Attempt) -> tuple[Pass, ...]:
    """The passes as they were served, from the attempt's row."""
    if attempt.passes:
        return tuple(
            Pass(row["model"], Usage(*row["units"]), row["speed"], row["service_tier"], row["inference_geo"])
            for row in attempt.passes
        )
    usage = Usage(
        attempt.input_tokens or 0,
        attempt.cache_creation_5m_tokens or 0,
        attempt.cache_creation_1h_tokens or 0,
        attempt.cache_read_input_tokens or 0,
        attempt.output_tokens or 0,
        attempt.web_search_requests or 0,
    )
    return (
        Pass(
            attempt.served_model or "",
            usage,
            attempt.speed or "standard",  # type: ignore[arg-type]  # as core.usage read it
            attempt.service_tier or "standard",  # type: ignore[arg-type]
            attempt.inference_geo or "",
        ),
    )


def _rerate_one(attempt: Attempt, book: PriceBook, dry_run: bool, result: Rerating) -> None:
    result.looked_at += 1
    at = datetime.fromtimestamp(id_time_ms(attempt.call_id) / 1000, UTC)
    cost = book.rate(passes_of(attempt), at)
    with transaction.atomic():
        charge = LedgerEntry.objects.filter(pk=attempt.pk, kind=EntryKind.CHARGE).first()
        if charge is None:
            return
        account = locked(charge)
        difference = cost.cost_nanos - account.cost_nanos
        if difference and not dry_run:
            difference = settle_difference(
                account,
                cost_nanos=cost.cost_nanos,
                list_nanos=cost.list_nanos,
                prices=book.version,
                why=f"rated again with price version {book.version}",
            )
    if difference:
        result.changed += 1
        result.difference_nanos += difference
        result.by_model[attempt.served_model or "?"] += difference


def _rows(since: datetime, tenant_id: int | None) -> QuerySet[Attempt]:
    floor = id_floor(int(since.timestamp() * 1000))
    rows = Attempt.objects.filter(
        pk__gte=floor, basis__in=_RATED_BASES, served_model__isnull=False, output_tokens__isnull=False
    )
    return rows if tenant_id is None else rows.filter(tenant_id=tenant_id)
