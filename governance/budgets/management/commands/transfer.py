"""Move what is neither spent nor held from one budget's current period to another's."""

from typing import Any

from django.core.management.base import CommandParser

from governance.budgets.adjustments import transfer
from governance.budgets.lookups import find_budget, subject_of
from governance.budgets.management.adjusting import AdjustingCommand
from governance.budgets.models import Budget
from governance.core.money import format_usd


class Command(AdjustingCommand):
    help = "Move money from one budget to another of the same tenant, within their current periods."
    budget_option = "from"

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--to", required=True, help="the name or id of the budget that gets it")
        parser.add_argument("--to-subject", default="", help="of a budget on each: whose pot")
        self.add_amount(parser)

    def adjust(self, budget: Budget, subject: str, options: dict[str, Any]) -> str:
        target = find_budget(budget.tenant, options["to"])
        _, got = transfer(
            budget,
            target,
            amount_nanos=options["amount_nanos"],
            reason=options["reason"],
            source_subject=subject,
            target_subject=subject_of(target, options["to_subject"]),
            actor=self.actor,
        )
        return f"{format_usd(got.amount_nanos)} moved from {budget.name} to {target.name}."
