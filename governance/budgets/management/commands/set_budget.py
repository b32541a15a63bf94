from typing import Any

from django.core.management.base import CommandError, CommandParser

from governance.budgets.limits import set_budget
from governance.budgets.models import Enforcement, PeriodKind, Scope, WeekDay
from governance.budgets.subjects import TIERS
from governance.core.money import format_usd, usd_to_nanos
from tenants.lookups import find_key, find_team, find_tenant
from tenants.management.base import PlatformCommand
from tenants.models import Tenant

_DAYS = [name.lower() for name in WeekDay.names]


def _row_id(tenant: Tenant, scope: str, ref: str) -> str:
    """What a person types for a team or a key → the id of its row."""
    if scope == Scope.TEAM and ref:
        return str(find_team(tenant, ref).pk)
    return str(find_key(ref).pk) if scope == Scope.KEY and ref else ref


class Command(PlatformCommand):
    help = "Set a budget: create it, or change the limit of the one with that scope, period and models."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", required=True, help="the tenant's slug or name")
        parser.add_argument("--scope", required=True, choices=Scope.values)
        parser.add_argument(
            "--ref",
            default="",
            help="the team's slug, the key's public id, the end user, name=value of a tag, or the session",
        )
        parser.add_argument(
            "--each",
            action="store_true",
            help="every team, key, end user, session or value of the tag (--ref its name) has this limit for "
            "itself",
        )
        parser.add_argument("--subjects-max", type=int, help="with --each: so many get a pot in one period")
        parser.add_argument(
            "--model",
            action="append",
            default=[],
            help=f"count only this model, or a tier ({', '.join(TIERS)}); may be repeated",
        )
        parser.add_argument("--period", required=True, choices=PeriodKind.values)
        parser.add_argument(
            "--week-start", choices=_DAYS, help="the day that weeks begin on; Monday if not said"
        )
        parser.add_argument("--time-zone", help="IANA name; the tenant's if not said")
        parser.add_argument("--limit-usd", required=True, help="like 25 or 12.50")
        parser.add_argument("--enforcement", choices=Enforcement.values, default=Enforcement.HARD)
        parser.add_argument("--name", help="what the budget is called in refusals")

    def work(self, **options: Any) -> str:
        tenant = find_tenant(options["tenant"])
        try:
            budget = set_budget(
                tenant,
                scope=options["scope"],
                ref=_row_id(tenant, options["scope"], options["ref"]),
                each=options["each"],
                subjects_max=options["subjects_max"],
                models_only=options["model"],
                period=options["period"],
                week_starts_on=_DAYS.index(options["week_start"]) if options["week_start"] else None,
                time_zone=options["time_zone"],
                limit_nanos=usd_to_nanos(options["limit_usd"]),
                enforcement=options["enforcement"],
                name=options["name"],
                actor=self.actor,
            )
        except ValueError as error:
            raise CommandError(str(error)) from error
        per = "in total" if budget.period == PeriodKind.TOTAL else f"a {budget.period}"
        return f"{budget.name}: {format_usd(budget.limit_nanos)} {per}, {budget.enforcement}."
