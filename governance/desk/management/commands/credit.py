"""manage.py credit --call CALL_ID [--usd 1.25] --reason TEXT"""

from typing import Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser

from governance.core.money import format_usd, usd_to_nanos
from governance.desk.corrections import CreditRefused, credit_call
from tenants.management.base import PlatformCommand


class Command(PlatformCommand):
    help = (
        "Give back what a call was charged, or a part of it: a credit in the ledger, and so much more left "
        "in its budgets. Never more than was charged."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--call", required=True, help="the call's id (exchequer-call-id)")
        parser.add_argument("--usd", help="how many dollars; all that is left when left out")
        parser.add_argument("--reason", required=True, help="why; it stands in the ledger")

    def work(self, **options: Any) -> str:
        try:
            call_id = UUID(options["call"])
            amount_nanos = usd_to_nanos(options["usd"]) if options["usd"] else None
            given = credit_call(
                call_id, amount_nanos=amount_nanos, reason=options["reason"], actor=self.actor
            )
        except (ValueError, CreditRefused) as error:
            raise CommandError(str(error)) from None
        return f"Gave back {format_usd(-sum(entry.amount_nanos for entry in given))}."
