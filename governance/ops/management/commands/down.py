"""Stop what `make up` started."""

import signal
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from governance.ops.embedded import POSTGRES_STOP_SECONDS_MAX
from governance.ops.gateway_parent import STOP_SECONDS_MAX
from governance.ops.installation import (
    AlreadyRunning,
    Installation,
    stop_leftovers,
    this_installation,
)
from governance.ops.processes import CannotRun, wait_until

UP_STOP_SECONDS_MAX = STOP_SECONDS_MAX + POSTGRES_STOP_SECONDS_MAX + 60.0


class Command(BaseCommand):
    help = "Stop everything that `up` started: calls in flight finish first. Leaves no process."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            installation = this_installation()
        except CannotRun as problem:
            raise CommandError(str(problem)) from None
        up = installation.pid_file("up")
        was_running = up.signal(signal.SIGTERM)
        if was_running and not wait_until(lambda: up.running() is None, UP_STOP_SECONDS_MAX):
            up.signal(signal.SIGKILL)
        try:
            with installation.only_one():
                swept = self._sweep(installation)
        except AlreadyRunning:
            raise CommandError("Exchequer is just starting here; try again in a moment.") from None
        self.stdout.write("Stopped." if was_running or swept else "Nothing was running.")

    def _sweep(self, installation: Installation) -> bool:
        said: list[str] = []
        stop_leftovers(installation, said.append)
        for line in said:
            self.stdout.write(line)
        return bool(said)
