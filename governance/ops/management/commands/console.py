"""The console: stock Django in a process of its own."""

import os
from typing import Any

import uvicorn
from django.core.management.base import BaseCommand, CommandError, CommandParser

from governance.ops.checks import refuse_bad_start
from governance.ops.processes import CannotRun


class Command(BaseCommand):
    help = "Serve the console, apart from the gateway so that pages never share its processes."
    requires_system_checks = ()  # refuse_bad_start makes those that matter

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=os.environ.get("EXCHEQUER_HOST", "127.0.0.1"))
        parser.add_argument("--port", type=int, default=8001)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            refuse_bad_start()
        except CannotRun as problem:
            raise CommandError(str(problem)) from None
        uvicorn.run(
            "governance.asgi:application",
            host=options["host"],
            port=options["port"],
            lifespan="off",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
