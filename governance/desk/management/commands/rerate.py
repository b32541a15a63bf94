"""manage.py rerate --since 2026-11-01 [--tenant acme] [--dry-run]"""

from datetime import UTC, datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser

from governance.audit import events
from governance.core.clock import utcnow
from governance.core.money import format_usd
from governance.desk.rerating import Rerating, count_attempts, rerate
from governance.pricing.models import PriceBookVersion
from tenants.lookups import find_tenant
from tenants.management.base import PlatformCommand

BAR_WIDTH = 30


class Command(PlatformCommand):
    help = (
        "After prices were corrected, or a model got a price: rate again every attempt whose usage is known, "
        "and write a correction where the ledger says something else. Running it again changes nothing."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--since", required=True, help="a date, or a moment in ISO 8601; UTC unless told")
        parser.add_argument("--tenant", help="the tenant's slug or name; all tenants when left out")
        parser.add_argument(
            "--dry-run", action="store_true", help="say what would change, and change nothing"
        )

    def work(self, **options: Any) -> str:
        since = _moment(options["since"])
        tenant = find_tenant(options["tenant"]) if options["tenant"] else None
        tenant_id = tenant.pk if tenant else None
        total, result = count_attempts(since, tenant_id), Rerating()
        try:
            for _ in rerate(since, tenant_id=tenant_id, dry_run=options["dry_run"], result=result):
                self._show(result.looked_at, total)
        finally:
            if result.changed and not options["dry_run"]:
                version = PriceBookVersion.objects.order_by("-pk").first()
                assert version is not None  # something was rated with it
                facts = {"since": since.isoformat(), "changed": result.changed}
                facts["difference_nanos"] = result.difference_nanos
                events.record(self.actor, tenant_id, "prices.rerate", version, after=facts)
        return _report(result, options["dry_run"])

    def _show(self, done: int, total: int) -> None:
        """One line that is written over, for a person; nothing where the output goes to a file."""
        if self.stderr.isatty():
            filled = BAR_WIDTH * min(done, total) // max(total, 1)
            bar = "█" * filled + "░" * (BAR_WIDTH - filled)
            self.stderr.write(f"\r{bar} {done:,} of {total:,} attempts", ending="\n" if done >= total else "")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"“{text}” is no date; write it as {utcnow():%Y-%m-%d}.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _report(result: Rerating, dry_run: bool) -> str:
    would = "would be " if dry_run else ""
    lines = [
        f"{result.looked_at:,} attempts were rated again; {result.changed:,} {would}corrected, by "
        f"{_signed(result.difference_nanos)} in all."
    ]
    lines += [f"  {model:32} {_signed(nanos)}" for model, nanos in sorted(result.by_model.items())]
    return "\n".join(lines)


def _signed(nanos: int) -> str:
    return f"{'-' if nanos < 0 else '+'}{format_usd(abs(nanos))}"
