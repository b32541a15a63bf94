"""Add to the limit of a budget's current period."""

from typing import Any

from django.core.management.base import CommandParser

from governance.budgets.adjustments import top_up
from governance.budgets.management.adjusting import AdjustingCommand
from governance.budgets.models import Budget
from governance.core.money import format_usd


class Command(AdjustingCommand):
    help = "Add to the limit of a budget's current period: prepaid money on a total one, more of this month."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        self.add_amount(parser)

    def adjust(self, budget: Budget, subject: str, options: dict[str, Any]) -> str:
        fact = top_up(
            budget,
            amount_nanos=options["amount_nanos"],
            reason=options["reason"],
            subject=subject,
            actor=self.actor,
        )
        return f"{budget.name}: {format_usd(fact.amount_nanos)} more in its current period."
