"""Processes that other processes start, name and stop: start, prove identity, signal, wait.

A process id alone proves nothing: the kernel hands it out again. Whoever writes one down here
writes the process's start time beside it, and no signal is sent unless both still match.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class CannotRun(Exception):
    """A sentence that says what does not run here, why, and what to do."""


@dataclass(frozen=True)
class Account:
    """Who a process runs as."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Command:
    """What to run. It gets SIGTERM when the process that spawned it dies."""

    argv: Sequence[str]
    account: Account | None = None
    pass_fds: tuple[int, ...] = ()


def spawn(
    command: Command, *, log: Path, env: Mapping[str, str] | None = None, stdout: int | None = None
) -> "subprocess.Popen[bytes]":
    """Start a child in its own process group (a Ctrl-C in the terminal reaches the supervisor only).

    What it writes goes to `log`; its standard output to `stdout` where that is given. Call it from
    the main thread: the kernel ties the parent-death signal to the thread that forked.
    """
    account = command.account
    with open(log, "ab", opener=_private) as output:
        return subprocess.Popen(
            command.argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output if stdout is None else stdout,
            stderr=output,
            process_group=0,
            pass_fds=command.pass_fds,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            umask=0o077 if account else -1,
            cwd="/" if account else PROJECT,
            preexec_fn=_die_with_parent(),
        )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)  # what a server logs may quote what its callers sent


def _die_with_parent() -> Callable[[], None]:
    """For the child, between fork and exec, after it changed its user (which clears the setting)."""
    parent = os.getpid()

    def apply() -> None:
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
            if os.getppid() != parent:  # it died before the setting took hold: no signal will come
                os._exit(1)

    return apply


def start_time(pid: int) -> str | None:
    """When the process started, as the kernel writes it; None when it runs no more."""
    if sys.platform != "linux":
        shown = subprocess.run(["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True)
        return shown.stdout.strip() or None
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, started = fields[0], fields[19]
    return None if state in (b"Z", b"X") else started.decode()


def is_running(pid: int) -> bool:
    return start_time(pid) is not None


def command_line(pid: int) -> list[str]:
    """The words a process was started with; empty when it runs no more."""
    if sys.platform != "linux":
        return subprocess.run(
            ["/bin/ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True
        ).stdout.split()
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


@dataclass(frozen=True)
class PidFile:
    """`gateway.pid` holds the bare process id, for people and scripts; `gateway.started` proves it."""

    path: Path

    @property
    def _proof(self) -> Path:
        return self.path.with_suffix(".started")

    def write(self, pid: int) -> None:
        _replace(self._proof, f"{pid} {start_time(pid)}\n")
        _replace(self.path, f"{pid}\n")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._proof.unlink(missing_ok=True)

    def running(self) -> int | None:
        """The process id, if the very process that was written down still runs."""
        try:
            pid_text, started = self._proof.read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid_text) if start_time(int(pid_text)) == started else None

    def signal(self, signum: signal.Signals) -> bool:
        """Signal the process written down here; False when it is gone, whoever has its id by now."""
        pid = self.running()
        if pid is None:
            return False
        if not hasattr(os, "pidfd_open"):
            os.kill(pid, signum)
            return True
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            # The handle names one process for good, so what matters is that it is still ours now.
            if self.running() != pid:
                return False
            signal.pidfd_send_signal(handle, signum)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)


def _replace(path: Path, text: str) -> None:
    """Whoever reads it meanwhile reads the old text or the new one, never half of it."""
    new = path.with_suffix(f"{path.suffix}.new")
    new.write_text(text)
    new.rename(path)


def wait_until(condition: Callable[[], bool], seconds: float, every_seconds: float = 0.05) -> bool:
    """Poll until the condition holds; False when the time is over first."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(every_seconds)
    return True


def log_tail(log: Path) -> str:
    """The last dozen lines of a log file, for the sentence that says why a process did not start."""
    if not log.exists():
        return "(it wrote nothing)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-12:])
