"""Django's migrate, as the owner role, and then the app role's rights."""

from typing import Any

import psycopg
from django.core.management.base import CommandParser
from django.core.management.commands.migrate import Command as MigrateCommand
from django.db import connections

from governance.ops.roles import grant_app_role


class Command(MigrateCommand):
    help = "Migrate the database as its owner role, then give the app role its rights."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.set_defaults(database="owner")

    def handle(self, *args: Any, **options: Any) -> None:
        super().handle(*args, **options)
        owner, app_role = connections[options["database"]], connections["default"].settings_dict["USER"]
        if options["plan"] or options["check_unapplied"] or app_role == owner.settings_dict["USER"]:
            return  # one role for both: the start-up check says so, where it matters
        owner.ensure_connection()
        assert isinstance(owner.connection, psycopg.Connection)
        grant_app_role(owner.connection, app_role)
