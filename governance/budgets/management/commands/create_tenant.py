"""Create a tenant together with its hard monthly budget."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from governance.budgets.limits import create_tenant_with_wall
from governance.core.money import format_usd, usd_to_nanos
from tenants.management.base import PlatformCommand


class Command(PlatformCommand):
    help = "Create a tenant. It always has a hard budget of its own, so the monthly limit is required."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="unique in this installation")
        parser.add_argument("--monthly-limit-usd", required=True, help="such as 500 or 12.50; a hard limit")
        parser.add_argument("--time-zone", default="UTC", help="IANA name; its days and months begin there")

    def work(self, **options: Any) -> str:
        try:
            limit_nanos = usd_to_nanos(options["monthly_limit_usd"])
            tenant = create_tenant_with_wall(
                options["name"],
                limit_nanos=limit_nanos,
                time_zone=options["time_zone"],
                actor=self.actor,
            )
        except ValueError as error:
            raise CommandError(str(error)) from None
        return (
            f"Created {tenant} ({tenant.slug}) with a hard budget of {format_usd(limit_nanos)} a month.\n"
            f"Next: manage.py issue_key --tenant {tenant.slug} --name NAME"
        )
