from typing import Any

from django.core.management.base import CommandError, CommandParser

from governance.ledger.audit import audit
from tenants.lookups import find_tenant
from tenants.management.base import PlatformCommand


class Command(PlatformCommand):
    help = (
        "Recompute every budget period from ledger entries and open holds, and print what differs. "
        "Exits with an error if anything does. Safe while calls go on."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", help="the tenant's slug or name; all tenants when left out")

    def work(self, **options: Any) -> str:
        checked, differences = audit(find_tenant(options["tenant"]).pk if options["tenant"] else None)
        for difference in differences:
            self.stderr.write(str(difference))
        if differences:
            raise CommandError(f"{len(differences)} of {checked} budget periods differ from the ledger.")
        return f"Clean: {checked} budget periods agree with their entries and open holds."
