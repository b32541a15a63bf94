from typing import Any

from django.core.management.base import BaseCommand, CommandError

from governance.ledger.audit import audit


class Command(BaseCommand):
    help = (
        "Recompute every budget period from ledger entries and open holds, and print what differs. "
        "Exits with an error if anything does. Safe while calls go on."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        checked, differences = audit()
        for difference in differences:
            self.stderr.write(str(difference))
        if differences:
            raise CommandError(f"{len(differences)} of {checked} budget periods differ from the ledger.")
        self.stdout.write(f"Clean: {checked} budget periods agree with their entries and open holds.")
