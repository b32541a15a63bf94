"""One installation on one machine: its folders, its ports, its process ids; and sweeping up after it."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from governance.ops.embedded import POSTGRES_STOPS
from governance.ops.gateway_parent import STOP_SECONDS_MAX
from governance.ops.processes import CannotRun, PidFile, wait_until


class AlreadyRunning(Exception):
    """Another `make up` looks after this state folder."""


@dataclass(frozen=True)
class Installation:
    """What `make up` runs and where. `environ`: what the operator set, and nothing that we wrote."""

    state_dir: Path
    host: str
    port: int
    workers: int
    environ: Mapping[str, str]

    @property
    def console_port(self) -> int:
        return self.port + 1

    @property
    def url_host(self) -> str:
        return "127.0.0.1" if self.host == "0.0.0.0" else self.host  # noqa: S104  nothing is bound here

    @property
    def demo_env(self) -> Path:
        return self.state_dir / "demo.env"

    @property
    def secrets_env(self) -> Path:
        return self.state_dir / "secrets.env"

    @property
    def run(self) -> Path:
        return self.state_dir / "run"

    @property
    def ready_file(self) -> Path:
        """Holds the process id of the `up` that is ready, from then until it stops."""
        return self.run / "ready"

    def pid_file(self, name: str) -> PidFile:
        return PidFile(self.run / f"{name}.pid")

    def log(self, name: str) -> Path:
        return self.state_dir / "log" / f"{name}.log"

    def make_folders(self) -> None:
        for folder in (self.state_dir, self.run, self.state_dir / "log"):
            if not folder.exists():
                folder.mkdir(parents=True)
                folder.chmod(0o755)  # whatever the umask: the servers' user walks through; secrets have 0600

    @contextmanager
    def only_one(self) -> Iterator[None]:
        """Hold this installation. AlreadyRunning while another process does; the kernel frees it at death."""
        self.make_folders()
        with (self.run / "up.lock").open("w") as lock:
            try:
                flock(lock, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                raise AlreadyRunning from None
            yield


def this_installation() -> Installation:
    """From EXCHEQUER_STATE_DIR, EXCHEQUER_HOST, EXCHEQUER_PORT and WORKERS. CannotRun where one is unfit."""
    from django.conf import settings

    return Installation(
        state_dir=settings.STATE_DIR.resolve(),
        host=os.environ.get("EXCHEQUER_HOST", "127.0.0.1"),
        port=_number("EXCHEQUER_PORT", 8000, 65534),  # the console takes the next one
        workers=_number("WORKERS", 1, 256),
        environ=dict(os.environ),
    )


def _number(name: str, default: int, largest: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or not 1 <= int(text) <= largest:
        raise CannotRun(f"{name}={text} is not a number from 1 to {largest}.")
    return int(text)


def stop_leftovers(installation: Installation, say: Callable[[str], None]) -> None:
    """Stop what a killed `up` left behind: the gateway first, PostgreSQL last. Call it inside only_one()."""
    names = sorted(path.stem for path in installation.run.glob("*.pid"))
    gateway = [name for name in names if name.startswith("gateway")]
    servers = [name for name in ("valkey", "postgres") if name in names]
    others = [name for name in names if name not in (*gateway, *servers)]
    drain = ((signal.SIGTERM, STOP_SECONDS_MAX), (signal.SIGKILL, 5.0))
    groups: list[list[str]] = [gateway, others]
    groups += [[name] for name in servers]
    for group in groups:
        files = [installation.pid_file(name) for name in group]
        left = [file.path.stem for file in files if file.running() is not None]
        if left:
            say(f"Stopping what is left of an earlier run: {', '.join(left)}")
        _stop(files, POSTGRES_STOPS if "postgres" in group else drain)
    installation.ready_file.unlink(missing_ok=True)


def _stop(files: Sequence[PidFile], stops: Sequence[tuple[signal.Signals, float]]) -> None:
    """Each signal in turn, until all have ended."""
    for signum, seconds in stops:
        left = [file for file in files if file.signal(signum)]
        if wait_until(lambda left=left: all(file.running() is None for file in left), seconds):  # type: ignore[misc]
            break
    for file in files:
        file.remove()
