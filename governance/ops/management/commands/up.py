"""Start everything on this machine. See governance/ops/up.py."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console

from governance.core.clock import utcnow
from governance.ops import card
from governance.ops.env_files import read_env_file
from governance.ops.installation import AlreadyRunning, Installation, this_installation
from governance.ops.processes import CannotRun
from governance.ops.up import up

_READY = b"ready"
_ALREADY = "Exchequer already runs here. `make down` stops it."


class Command(BaseCommand):
    help = "Start everything on this machine: servers, gateway, console, Celery. Ctrl-C stops it."
    requires_system_checks = ()  # `prepare` makes those that matter, once the database runs

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--detach", action="store_true", help="return once everything is ready")

    def handle(self, *args: Any, detach: bool, **options: Any) -> None:
        console = Console(highlight=False)
        try:
            installation = this_installation()
            installation.make_folders()
            if detach:
                _start_in_background(installation, console)
                _show(console, installation)
            else:
                up(installation, _sayer(console), lambda: _show(console, installation))
        except AlreadyRunning:
            console.print(_ALREADY)
            if installation.ready_file.exists():
                _show(console, installation)
        except CannotRun as problem:
            raise CommandError(str(problem)) from None


def _sayer(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(f"[dim]{utcnow():%H:%M:%S} {line}[/dim]", soft_wrap=True)


def _show(console: Console, installation: Installation) -> None:
    real = any(installation.environ.get(name) for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"))
    card.show(console, read_env_file(installation.demo_env), simulated=not real)


def _start_in_background(installation: Installation, console: Console) -> None:
    """Go on in a child of its own session; returns once that is ready, raises what it could not do."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_the_background(installation, writing)
    os.close(writing)
    try:
        with console.status("Starting"), open(reading, "rb") as answer:
            said = answer.read()  # until it closes its end: ready, or a sentence why not
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        sys.exit(130)
    if said == _ALREADY.encode():
        raise AlreadyRunning
    if said != _READY:
        raise CannotRun(said.decode() or f"It ended without a word; see {installation.log('up')}.")


def _be_the_background(installation: Installation, writing: int) -> NoReturn:
    """What the child does. Its output is a log: it shows no secret there."""
    status = 1
    try:
        os.setsid()
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), sys.stdin.fileno())
        with open(
            installation.log("up"), "ab", opener=lambda path, flags: os.open(path, flags, 0o600)
        ) as log:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(log.fileno(), stream.fileno())
        up(installation, _sayer(Console(highlight=False)), lambda: _tell(writing, _READY))
        status = 0
    except AlreadyRunning:
        _tell(writing, _ALREADY.encode())
    except CannotRun as problem:
        _tell(writing, str(problem).encode())
    finally:
        os._exit(status)


def _tell(writing: int, words: bytes) -> None:
    with open(writing, "wb") as pipe:
        pipe.write(words)
