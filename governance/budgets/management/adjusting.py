"""What the commands that move a limit share."""

from abc import abstractmethod
from typing import Any

from django.core.management.base import CommandError, CommandParser

from governance.budgets.lookups import find_budget, subject_of
from governance.budgets.models import Budget
from governance.core.money import usd_to_nanos
from tenants.lookups import find_tenant
from tenants.management.base import PlatformCommand


class AdjustingCommand(PlatformCommand):
    """A command about one open budget. Whatever the adjustment refuses ends it with its sentence."""

    budget_option = "budget"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--tenant", required=True, help="the tenant's slug or name")
        name = self.budget_option
        parser.add_argument(f"--{name}", required=True, dest="budget", help="the budget's name or id")
        subject = "subject" if name == "budget" else f"{name}-subject"
        parser.add_argument(
            f"--{subject}",
            dest="subject",
            default="",
            help="of a budget on each: whose pot (the end user, session, tag's value, team's slug, key's id)",
        )
        parser.add_argument("--reason", required=True, help="kept in the history of the budget")

    def add_amount(self, parser: CommandParser) -> None:
        parser.add_argument("--usd", required=True, help="like 25 or 12.50")

    def work(self, **options: Any) -> str:
        try:
            if "usd" in options:
                options["amount_nanos"] = usd_to_nanos(options["usd"])
            tenant = find_tenant(options["tenant"])
            budget = find_budget(tenant, options["budget"])
            return self.adjust(budget, subject_of(budget, options["subject"]), options)
        except ValueError as error:
            raise CommandError(str(error)) from None

    @abstractmethod
    def adjust(self, budget: Budget, subject: str, options: dict[str, Any]) -> str:
        """Do it, and say what was done. ValueError with a sentence where it is refused."""
