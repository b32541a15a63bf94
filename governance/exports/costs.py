"""The costs of one tenant and month as a FOCUS file that equals the ledger, or no file."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from decimal import Context, Decimal
from pathlib import Path

from django.db import connection

from governance.core.money import NANOS_PER_USD, format_usd
from governance.exports import facts
from governance.exports.csv_file import csv_file
from governance.exports.focus import COLUMNS, NUMBERS, Names, row_of
from governance.exports.items import Books, Day, order
from governance.exports.months import ExportRefused, Month, wait_until_settled
from governance.pricing.loading import read_models
from tenants.models import ApiKey, Team, Tenant
from tenants.scope import tenant_scope

_EXACT = Context(prec=100)

type Progress = Callable[[int, int | None], None]
"""Told how many entries are done, and of how many; None while they are being counted."""


@dataclass(slots=True)
class Exported:
    """What a file has. `nanos` is what its BilledCost adds up to, and the ledger too."""

    rows: int = 0
    entries: int = 0
    nanos: int = 0


def export_costs(
    tenant: Tenant,
    month: Month,
    path: Path,
    *,
    tags: Collection[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> Exported:
    """Write the file. Rows are told apart by these tags; by all of them where `tags` is None.

    Raises ExportRefused, also where the file would say anything else than the ledger, and OSError.
    """
    with tenant_scope(tenant.pk):
        wait_until_settled()
        ledger = facts.Count()
        for ledger in facts.count(tenant.pk, month):
            progress(ledger.entries, None)
        exported, billed = Exported(entries=ledger.entries, nanos=ledger.nanos), Decimal(0)
        names, books, done = _names(tenant), Books(tenant.pk), 0
        with csv_file(path, COLUMNS, NUMBERS) as write:
            for start in month.days():
                day = Day(books, tags)
                for page in facts.entries_of_day(tenant.pk, month, start, ledger.far.get(start, ())):
                    day.add(page)
                    done += len(page)
                    progress(done, ledger.entries)
                for item in sorted(day.sums, key=order):
                    row = row_of(item, day.sums[item], month=month, day=start, names=names)
                    write(row)
                    billed = _EXACT.add(billed, Decimal(row["BilledCost"]))
                exported.rows += len(day.sums)
            _compare(billed, ledger.nanos)
        return exported


def _compare(billed: Decimal, ledger_nanos: int) -> None:
    """The last word before the file gets its name: what was written, added up, is what the ledger says."""
    nanos = _EXACT.multiply(billed, Decimal(NANOS_PER_USD))
    if nanos != ledger_nanos:
        raise ExportRefused(
            f"The rows add up to ${billed} and the ledger to {format_usd(ledger_nanos)}, so no file was "
            "written. That is a fault of Exchequer; manage.py audit_ledger says whether the ledger is sound."
        )


def _names(tenant: Tenant) -> Names:
    teams = Team.objects.filter(tenant=tenant).values_list("pk", "slug", "name")
    keys = ApiKey.objects.filter(tenant=tenant).values_list("pk", "public_id", "name")
    return Names(
        tenant.slug,
        tenant.name,
        {pk: (slug, name) for pk, slug, name in teams},
        {pk: (public_id, name) for pk, public_id, name in keys},
        {facts.model_id: facts.family for facts in read_models(connection)},
    )
