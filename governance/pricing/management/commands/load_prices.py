"""manage.py load_prices [FILE] [--yes]"""

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from governance.audit.events import Actor
from governance.core.clock import utcnow
from governance.pricing.describe import describe
from governance.pricing.loads import PricesMoved, apply_load, plan_load
from governance.pricing.price_file import PriceFile, PriceFileError, read_price_file

DEFAULT_FILE = Path(__file__).resolve().parents[2] / "data" / "claude_prices.json"


class Command(BaseCommand):
    help = (
        "Load prices from a file. Shows what changes and asks before it applies. A price of the past is "
        "never overwritten; a changed price without a date of its own begins now. Running it again changes "
        "nothing."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "file",
            nargs="?",
            type=Path,
            default=DEFAULT_FILE,
            help="A price file; the bundled one unless told.",
        )
        parser.add_argument("--yes", action="store_true", help="Do not ask before applying.")

    def handle(self, *args: Any, file: Path, yes: bool, **options: Any) -> None:
        price_file = _read(file)
        now = utcnow()
        plan = plan_load(price_file, now)
        if not plan.changes:
            self.stdout.write(f"Nothing to change: the prices of {price_file.source} are loaded.")
            return
        self.stdout.write(f"{price_file.source}:")
        for line in describe(plan.changes, now):
            self.stdout.write(f"  {line}")
        if not yes and sys.stdin.isatty() and not _confirmed():
            self.stdout.write("Nothing was changed.")
            return
        try:
            actor = Actor("manage.py load_prices")
            version = apply_load(price_file, plan.base_version, utcnow(), actor)
        except PricesMoved as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"Loaded as price version {version.pk}." if version else "Nothing to change.")


def _read(file: Path) -> PriceFile:
    try:
        return read_price_file(file.name, file.read_bytes())
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}.") from None
    except PriceFileError as error:
        raise CommandError(str(error)) from None


def _confirmed() -> bool:
    return input("Apply these changes? [y/N] ").strip().lower() in {"y", "yes"}
