"""Start everything on this machine. See governance/ops/up.py."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console

from governance.ops import card
from governance.ops.env_files import read_env_file
from governance.ops.installation import AlreadyRunning, Installation, this_installation
from governance.ops.processes import CannotRun
from governance.ops.up import MANAGE, up


class Command(BaseCommand):
    help = "Start everything on this machine: servers, gateway, console, Celery. Ctrl-C stops it."
    requires_system_checks = ()  # `prepare` makes those that matter, once the database runs

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--detach", action="store_true", help="return once everything is ready")
        parser.add_argument("--background", action="store_true", help="show no secrets: the output is a log")

    def handle(self, *args: Any, detach: bool, background: bool, **options: Any) -> None:
        console = Console(highlight=False)
        installation = this_installation()
        try:
            if detach:
                _start_in_background(installation, console)
                _show(console, installation)
            else:
                ready = (
                    (lambda: console.print("Ready."))
                    if background
                    else (lambda: _show(console, installation))
                )
                up(installation, lambda line: console.print(f"[dim]{line}[/dim]", soft_wrap=True), ready)
        except AlreadyRunning:
            console.print("Exchequer already runs here. `make down` stops it.")
            if not background and installation.ready_file.exists():
                _show(console, installation)
        except CannotRun as problem:
            raise CommandError(str(problem)) from None


def _show(console: Console, installation: Installation) -> None:
    real = any(installation.environ.get(name) for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"))
    card.show(console, read_env_file(installation.demo_env), simulated=not real)


def _start_in_background(installation: Installation, console: Console) -> None:
    """Returns once the other `up` is ready. CannotRun, in its words, when it ends before."""
    installation.make_folders()
    log = installation.log("up")
    seen_bytes = log.stat().st_size if log.exists() else 0
    with open(log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
        child = subprocess.Popen(
            [*MANAGE, "up", "--background"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        with console.status("Starting"):
            while child.poll() is None and not _is_ready(installation, child.pid):
                time.sleep(0.1)
    except KeyboardInterrupt:
        child.send_signal(signal.SIGTERM)
        child.wait()
        sys.exit(130)
    if child.returncode:
        said = log.read_bytes()[seen_bytes:].decode(errors="replace")
        raise CannotRun(said.rpartition("CommandError: ")[2].strip())


def _is_ready(installation: Installation, pid: int) -> bool:
    return installation.ready_file.exists() and installation.ready_file.read_text().strip() == str(pid)
