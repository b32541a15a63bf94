"""Everything the database needs before a process serves: tables, rights, months ahead, prices."""

import json
import os
import sys
from dataclasses import asdict
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from governance.core.append_only import PARTITIONED_TABLES
from governance.ops.checks import refuse_bad_start
from governance.ops.demo import ensure_demo
from governance.ops.processes import CannotRun


class Command(BaseCommand):
    help = (
        "Migrate, make the partitions of the coming months, load the bundled prices. With --demo also make "
        "the demo tenant, and print its key and the admin's password as JSON."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--demo", action="store_true")

    def handle(self, *args: Any, demo: bool, **options: Any) -> None:
        call_command("migrate", verbosity=0, stdout=sys.stderr)
        try:
            refuse_bad_start()
        except CannotRun as problem:
            raise CommandError(str(problem)) from None
        with connection.cursor() as cursor:
            for table in PARTITIONED_TABLES:
                cursor.execute("SELECT exchequer_ensure_partitions(%s)", [table])
        call_command("load_prices", yes=True, stdout=sys.stderr)
        if demo:
            known = os.environ.get("EXCHEQUER_API_KEY", ""), os.environ.get("EXCHEQUER_ADMIN_PASSWORD", "")
            self.stdout.write(json.dumps(asdict(ensure_demo(*known))))
