"""The gateway: one parent, WORKERS workers, one port."""

import os
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections

from governance.ops.checks import refuse_bad_start
from governance.ops.gateway_parent import run_gateway
from governance.ops.processes import CannotRun


class Command(BaseCommand):
    help = "Serve the Claude API to your tenants. SIGTERM drains: calls in flight finish first."
    requires_system_checks = ()  # refuse_bad_start makes those that matter

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=os.environ.get("EXCHEQUER_HOST", "127.0.0.1"))
        parser.add_argument("--port", type=int, default=int(os.environ.get("EXCHEQUER_PORT") or 8000))
        parser.add_argument("--workers", type=int, default=int(os.environ.get("WORKERS") or 1))

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            refuse_bad_start()
            connections.close_all()
            run_gateway(
                options["host"], options["port"], options["workers"], settings.STATE_DIR, self.stdout.write
            )
        except CannotRun as problem:
            raise CommandError(str(problem)) from None
