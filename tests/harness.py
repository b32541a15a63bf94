"""A running gateway for tests: worker processes, the simulator behind them, against the test database.

    with start_stack(workers=2) as stack:
        stack.workers[0].url          each worker has a port of its own
        stack.workers[0].kill()       SIGKILL; also send_signal(SIGSTOP), restart()
        stack.bill()                  what the simulator billed, as a list of its lines

    tenant = make_tenant(limit_usd="10")      a tenant with a hard month budget and one key
    client = tenant.client(stack)             the official SDK, pointed at a worker

Tests that only need *a* gateway share one: the fixture `stack` (tests/gateway/conftest.py).
"""

import io
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
from django.core.management import call_command

from governance.budgets.limits import create_tenant_with_wall
from governance.calls.models import Attempt, Call
from governance.core.money import usd_to_nanos
from governance.ledger.models import BudgetPeriod, Hold, LedgerEntry
from governance.ops.processes import Command, spawn
from governance.simulator.bill import read_bill
from tenants.keys import IssuedKey, issue_key
from tenants.models import Tenant
from tenants.scope import platform_scope

READY_SECONDS_MAX = 30.0
LISTEN_PORTS = range(18_000, 32_000)
"""Below the ephemeral ports, which other connections take at random."""


@dataclass
class Process:
    """One subprocess on one port that stays bound, so that it can be started again at the same address."""

    name: str
    argv: Sequence[str]
    listener: socket.socket
    env: Mapping[str, str]
    log: Path
    popen: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    @property
    def pid(self) -> int:
        assert self.popen is not None
        return self.popen.pid

    def start(self) -> None:
        fd = self.listener.fileno()
        argv = [part.replace("{fd}", str(fd)) for part in self.argv]
        self.popen = spawn(Command(argv, pass_fds=(fd,)), log=self.log, env=self.env)

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL: no handler runs."""
        assert self.popen is not None
        self.popen.kill()
        self.popen.wait()

    def stop(self, seconds: float = 20.0) -> int:
        """SIGTERM, then the exit status; SIGKILL after `seconds`."""
        assert self.popen is not None
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.terminate()
            try:
                self.popen.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.popen.returncode

    def restart(self) -> None:
        self.start()
        self.wait_ready()

    def wait_ready(self, seconds: float = READY_SECONDS_MAX) -> None:
        """Until /readyz answers 200. AssertionError with the end of the log otherwise."""
        wait_until(
            lambda: self.get("/readyz")[0] == 200,
            seconds,
            lambda: f"{self.name} is not ready:\n{self.log_text()[-4000:]}",
            give_up=lambda: self.popen is None or self.popen.poll() is not None,
        )

    def get(self, path: str) -> tuple[int, str]:
        """(status, body) of a GET; (0, why) when nobody answers."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@dataclass
class Stack:
    """Gateway workers and the simulator that they call."""

    folder: Path
    workers: list[Process] = field(default_factory=list)
    simulator: Process | None = None

    @property
    def url(self) -> str:
        return self.workers[0].url

    @property
    def urls(self) -> list[str]:
        return [worker.url for worker in self.workers]

    def bill(self, tag: str | None = None) -> list[dict[str, Any]]:
        """The simulator's charges, oldest first; of one script's `tag` where given."""
        return [line for line in read_bill(self.folder / "bill.jsonl") if tag is None or line["tag"] == tag]


@contextmanager
def start_stack(
    workers: int = 1,
    env: Mapping[str, str] | None = None,
    *,
    simulator: bool = True,
    simulator_arguments: Sequence[str] = (),
) -> Iterator[Stack]:
    """Start the simulator and `workers` gateway workers, wait until all are ready, stop them at the end.

    `env` is added to the workers' environment; without the simulator it names an ANTHROPIC_BASE_URL.
    """
    call_command("load_prices", yes=True, stdout=io.StringIO())
    folder = Path(tempfile.mkdtemp(prefix="exq-stack-"))
    stack = Stack(folder)
    shared = {**os.environ, "ANTHROPIC_API_KEY": "sk-ant-simulated-upstream-key"}
    try:
        if simulator:
            argv = ["-m", "governance.simulator", "--fd", "{fd}", "--bill", str(folder / "bill.jsonl")]
            stack.simulator = _process("simulator", [*argv, *simulator_arguments], shared, folder)
            stack.simulator.start()
            shared["ANTHROPIC_BASE_URL"] = stack.simulator.url
        shared |= env or {}
        for number in range(workers):
            argv = ["-m", "governance.ops.gateway_worker", "{fd}"]
            stack.workers.append(_process(f"worker-{number}", argv, shared, folder))
            stack.workers[-1].start()
        for worker in stack.workers:
            worker.wait_ready()
        yield stack
    finally:
        for process in [*stack.workers, stack.simulator]:
            if process is not None and process.popen is not None:
                process.stop()
                process.listener.close()
        shutil.rmtree(folder, ignore_errors=True)


def _process(name: str, arguments: Sequence[str], env: Mapping[str, str], folder: Path) -> Process:
    return Process(name, [sys.executable, *arguments], free_listener(), env, folder / f"{name}.log")


def free_listener() -> socket.socket:
    """A bound socket on a free port, below the ephemeral ones."""
    while True:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", random.choice(LISTEN_PORTS)))
        except OSError:
            listener.close()
        else:
            return listener


def wait_until(
    is_so: Callable[[], bool],
    seconds: float,
    message: Callable[[], str] | str = "It did not happen in time.",
    give_up: Callable[[], bool] = lambda: False,
) -> float:
    """Wait until `is_so()`; the seconds it took. AssertionError with the message after `seconds`."""
    began = time.monotonic()
    while not is_so():
        if time.monotonic() - began > seconds or give_up():
            raise AssertionError(message if isinstance(message, str) else message())
        time.sleep(0.02)
    return time.monotonic() - began


# --- Tenants and what the ledger says about them ----------------------------------------------------


@dataclass
class Account:
    """A tenant of one test, its first key, and what its rows say. Each test makes its own."""

    tenant: Tenant
    issued: IssuedKey

    @property
    def key(self) -> str:
        return self.issued.text

    def client(self, stack: Stack, worker: int = 0, **options: Any) -> anthropic.Anthropic:
        """The SDK's synchronous client; it does not retry unless told."""
        return anthropic.Anthropic(
            api_key=self.key, base_url=stack.urls[worker], **{"max_retries": 0, **options}
        )

    def async_client(self, stack: Stack, worker: int = 0, **options: Any) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(
            api_key=self.key, base_url=stack.urls[worker], **{"max_retries": 0, **options}
        )

    def calls(self) -> list[Call]:
        """This tenant's call rows, oldest first."""
        return self._rows(Call)

    def attempts(self) -> list[Attempt]:
        return self._rows(Attempt)

    def entries(self) -> list[LedgerEntry]:
        return self._rows(LedgerEntry)

    def holds(self) -> list[Hold]:
        return self._rows(Hold)

    def period(self) -> BudgetPeriod:
        """The one row of the tenant's first budget, its wall."""
        (row,) = [row for row in self._rows(BudgetPeriod) if row.budget_id == self.budget_id]
        return row

    @property
    def budget_id(self) -> int:
        from governance.budgets.models import Budget

        with platform_scope():
            return Budget.objects.filter(tenant=self.tenant, scope="tenant").earliest("pk").pk

    def wait_for_calls(self, count: int, seconds: float = 5.0) -> list[Call]:
        """Until so many calls are recorded and nothing is held; then the calls."""
        wait_until(
            lambda: len(self.calls()) >= count and not self.holds(),
            seconds,
            lambda: f"{len(self.calls())} of {count} calls recorded, {len(self.holds())} holds open.",
        )
        return self.calls()

    def _rows(self, model: Any) -> list[Any]:
        with platform_scope():
            return list(model.objects.filter(tenant_id=self.tenant.pk).order_by("pk"))


def make_tenant(limit_usd: str = "100", *, period: str = "month", **key_options: Any) -> Account:
    """A new tenant with one hard budget of its own and one key; `key_options` go to issue_key."""
    slug = f"t-{secrets.token_hex(6)}"
    with platform_scope():
        tenant = create_tenant_with_wall(slug, limit_nanos=usd_to_nanos(limit_usd), period=period)
        return Account(tenant, issue_key(tenant, "test", **key_options))
