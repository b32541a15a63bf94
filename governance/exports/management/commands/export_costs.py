"""manage.py export_costs --tenant acme --month 2026-10 [--to FILE] [--until-now] [--tag NAME | --no-tags]"""

from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from governance.core.money import format_usd
from governance.exports.costs import export_costs
from governance.exports.months import ExportRefused, read_month
from governance.pricing.tables import PriceBookIncomplete
from tenants.lookups import find_tenant
from tenants.management.base import PlatformCommand


class Command(PlatformCommand):
    help = (
        "Write what a tenant's calls of a month cost as a FOCUS 1.2 CSV file, by day, team, key, model and "
        "meter. It equals the ledger to the nano-dollar, or is not written. See docs/exports.md."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", required=True, help="the tenant's slug or name")
        parser.add_argument("--month", required=True, help="a month in UTC, such as 2026-10")
        parser.add_argument("--to", help="the file; <tenant>-<month>-costs.csv here when left out")
        parser.add_argument(
            "--until-now", action="store_true", help="of the month that runs, what there is so far"
        )
        tags = parser.add_mutually_exclusive_group()
        tags.add_argument(
            "--tag", action="append", metavar="NAME", help="tell rows apart by this tag only; may be repeated"
        )
        tags.add_argument("--no-tags", action="store_true", help="tell rows apart by no tag")

    def work(self, **options: Any) -> str:
        tenant = find_tenant(options["tenant"])
        tags = [] if options["no_tags"] else options["tag"]
        try:
            month = read_month(options["month"], until_now=options["until_now"])
            path = Path(options["to"] or f"{tenant.slug}-{month.name}-costs.csv")
            with _bar() as bar:
                task = bar.add_task("Counting", total=None)

                def show(done: int, total: int | None) -> None:
                    bar.update(
                        task,
                        completed=done,
                        total=total,
                        description="Counting" if total is None else "Writing",
                    )

                exported = export_costs(tenant, month, path, tags=tags, progress=show)
        except (ExportRefused, PriceBookIncomplete) as error:
            raise CommandError(str(error)) from None
        except OSError as error:
            raise CommandError(f"{path} cannot be written: {error.strerror or error}.") from None
        until = "" if month.is_over else f" until {month.cut:%Y-%m-%d %H:%M:%S} UTC"
        if not exported.entries:
            return f"{tenant.name} has no charges in {month.name}{until}; {path} has the header only."
        return (
            f"{path}: {exported.rows:,} rows of {exported.entries:,} ledger entries of {month.name}{until}, "
            f"{format_usd(exported.nanos)} in all, as the ledger says."
        )


def _bar() -> Progress:
    """To stderr, and only for a person: nothing where it goes to a file."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description} entries"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
