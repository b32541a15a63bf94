from typing import Any

from django.core.management.base import CommandError, CommandParser

from governance.budgets.limits import set_budget
from governance.budgets.models import Enforcement, PeriodKind, Scope
from governance.core.money import format_usd, usd_to_nanos
from tenants.lookups import find_key, find_team, find_tenant
from tenants.management.base import PlatformCommand
from tenants.models import Tenant


def _row_id(tenant: Tenant, scope: str, ref: str) -> str:
    """What a person types for a team or a key → the id of its row."""
    if scope == Scope.TEAM:
        return str(find_team(tenant, ref).pk)
    return str(find_key(ref).pk) if scope == Scope.KEY else ref


class Command(PlatformCommand):
    help = "Set a budget: create it, or change the limit of the one with that scope and period."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", required=True, help="the tenant's slug or name")
        parser.add_argument("--scope", required=True, choices=[Scope.TENANT, Scope.TEAM, Scope.KEY])
        parser.add_argument("--ref", default="", help="the team's slug or the key's public id")
        parser.add_argument("--period", required=True, choices=PeriodKind.values)
        parser.add_argument("--limit-usd", required=True, help="like 25 or 12.50")
        parser.add_argument("--enforcement", choices=Enforcement.values, default=Enforcement.HARD)

    def work(self, **options: Any) -> str:
        tenant = find_tenant(options["tenant"])
        try:
            budget = set_budget(
                tenant,
                scope=options["scope"],
                ref=_row_id(tenant, options["scope"], options["ref"]),
                period=options["period"],
                limit_nanos=usd_to_nanos(options["limit_usd"]),
                enforcement=options["enforcement"],
                actor=self.actor,
            )
        except ValueError as error:
            raise CommandError(str(error)) from error
        return f"{budget.name}: {format_usd(budget.limit_nanos)} a {budget.period}, {budget.enforcement}."
