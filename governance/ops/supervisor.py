"""Keeps children running: starts them, starts them again with back-off, stops them in order.

`make up` supervises the servers and our processes with it, the gateway its workers. It is one
thread that polls, because the kernel ties the parent-death signal to the thread that forked.
"""

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from governance.ops.processes import CannotRun, Command, PidFile, log_tail, spawn

POLL_SECONDS = 0.1
STEADY_SECONDS = 20.0
"""A child that lived this long was well; when it ends, the back-off begins anew."""
BACKOFF_SECONDS_FIRST, BACKOFF_SECONDS_MAX = 0.2, 30.0
NEVER_STEADY_STARTS_MAX = 3
"""A child that was never well and ended by itself so often will not get well: the operator must mend it."""


class Stopping(Exception):
    """Somebody asked us to stop (SIGTERM, SIGINT): leave what you do, everything is stopped in order."""


@dataclass
class Service:
    """One child to keep running. `stop_seconds`: how long it may take to end before SIGKILL."""

    name: str
    command: Command
    log: Path
    env: Mapping[str, str] | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 15.0
    pid_file: PidFile | None = None
    before_start: Callable[[], None] | None = None

    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    started_at: float = field(default=0.0, init=False)
    start_again_at: float = field(default=0.0, init=False)
    short_lives: int = field(default=0, init=False)
    was_steady: bool = field(default=False, init=False)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        if self.before_start is not None:
            self.before_start()
        self.process = spawn(self.command, log=self.log, env=self.env)
        self.started_at = time.monotonic()
        if self.pid_file is not None:
            self.pid_file.write(self.process.pid)

    def send_stop(self) -> None:
        if self.running:
            assert self.process is not None
            self.process.send_signal(self.stop_signal)

    def wait_stopped(self, deadline: float) -> None:
        """Until it ended; at the deadline (of the monotonic clock) it is killed."""
        if self.process is not None:
            try:
                self.process.wait(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.pid_file is not None:
            self.pid_file.remove()


class Supervisor:
    """`say` gets a line for people whenever something happens to a child."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.services: list[Service] = []
        self.stop_asked = False
        self.gives_up = True
        """Until everything runs. From then on a child that ends is started again for as long as we live."""

    def take_signals(self) -> None:
        """SIGTERM, SIGINT and SIGHUP (a closed terminal) ask us to stop."""
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, self._ask_to_stop)

    def _ask_to_stop(self, *_: object) -> None:
        self.stop_asked = True

    def start(self, service: Service) -> None:
        self.services.append(service)
        service.start()

    def tick(self) -> None:
        """Look once after every child. Raises Stopping, or CannotRun for one that never gets well."""
        if self.stop_asked:
            raise Stopping
        now = time.monotonic()
        for service in self.services:
            if service.running:
                service.was_steady = service.was_steady or now - service.started_at >= STEADY_SECONDS
            elif service.process is not None:
                self._plan_restart(service, now)
            elif now >= service.start_again_at:
                service.start()

    def _plan_restart(self, service: Service, now: float) -> None:
        assert service.process is not None
        lived_seconds, killed = now - service.started_at, service.process.returncode < 0
        service.short_lives = 0 if lived_seconds >= STEADY_SECONDS else service.short_lives + 1
        hopeless = service.short_lives >= NEVER_STEADY_STARTS_MAX and not service.was_steady
        if self.gives_up and hopeless and not killed:
            raise CannotRun(
                f"{service.name} ended {service.short_lives} times right after its start. "
                f"The end of {service.log}:\n{log_tail(service.log)}"
            )
        pause = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_FIRST * 2**service.short_lives)
        self.say(f"{service.name} ended ({_ending(service.process)}); starting it again in {pause:.1f} s")
        service.process, service.start_again_at = None, now + pause

    def wait(self, condition: Callable[[], bool], seconds_max: float) -> bool:
        """Look after the children until the condition holds; False when the time is over first."""
        deadline = time.monotonic() + seconds_max
        while not condition():
            if time.monotonic() >= deadline:
                return False
            self.tick()
            time.sleep(POLL_SECONDS)
        return True

    def run(self) -> None:
        """Look after the children until somebody asks us to stop."""
        try:
            while True:
                self.tick()
                time.sleep(POLL_SECONDS)
        except Stopping:
            return

    def stop(self, groups: Sequence[Sequence[Service]] | None = None) -> None:
        """Stop everything: group after group, those of one group together; the last started first."""
        for group in groups or [[service] for service in reversed(self.services)]:
            for service in group:
                service.send_stop()
            asked_at = time.monotonic()
            for service in group:
                service.wait_stopped(asked_at + service.stop_seconds)


def _ending(process: "subprocess.Popen[bytes]") -> str:
    code = process.returncode
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
