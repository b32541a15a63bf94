"""Raise a budget's limit for a while; or end a raise before its time."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.core.management.base import CommandError, CommandParser

from governance.budgets.adjustments import end_raise, raise_limit
from governance.budgets.management.adjusting import AdjustingCommand
from governance.budgets.models import Budget
from governance.core.money import format_usd, usd_to_nanos


class Command(AdjustingCommand):
    help = "Allow more on a budget until a moment, at which the raise ends by itself. --end ends it now."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--by-usd", help="how much more, like 25 or 12.50")
        parser.add_argument("--until", help="like 2026-12-24T18:00, in the budget's time zone")
        parser.add_argument("--end", action="store_true", help="end the raise that is running")

    def adjust(self, budget: Budget, subject: str, options: dict[str, Any]) -> str:
        given = {"reason": options["reason"], "subject": subject, "actor": self.actor}
        if options["end"]:
            if options["by_usd"] or options["until"]:
                raise CommandError("--end ends the raise that is running; leave --by-usd and --until out.")
            end_raise(budget, **given)
            return f"{budget.name}: the raise has ended."
        if not options["by_usd"] or not options["until"]:
            raise CommandError("Say by how much and until when: --by-usd 25 --until 2026-12-24T18:00.")
        try:
            until = datetime.fromisoformat(options["until"])
        except ValueError:
            raise CommandError("Write the end like 2026-12-24T18:00.") from None
        if until.tzinfo is None:
            until = until.replace(tzinfo=ZoneInfo(budget.time_zone))
        fact = raise_limit(budget, amount_nanos=usd_to_nanos(options["by_usd"]), until=until, **given)
        assert fact.until is not None
        return f"{budget.name}: {format_usd(fact.amount_nanos)} more until {fact.until:%Y-%m-%d %H:%M %Z}."
