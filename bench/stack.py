"""What is measured, running: PostgreSQL and Valkey of its own, simulator, pass-through, gateway."""

import base64
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from governance.ops.embedded import APP_ROLE, OWNER_ROLE, EmbeddedServers, embedded_servers
from governance.ops.embedded_files import servers_home

PROJECT = Path(__file__).resolve().parent.parent
READY_SECONDS_MAX = 30.0
PORT_FIRST = 18_400  # below the ephemeral ports, which other connections take at random
DELTAS = 20
CHUNK_DELAY_MS = 2
KEEP_ANSWERS = "rules: [{name: keep answers, then: {cache: {ttl_seconds: 3600}}}]"


@dataclass(frozen=True, slots=True)
class Server:
    name: str
    pid: int
    port: int


@dataclass(frozen=True, slots=True)
class Stack:
    """`key` has budgets that last; `poor_key` belongs to a tenant whose budget is spent; the policy of
    `cached_key` has every answer kept. `streams_gateway` only holds streams open: what they leave behind
    would count as memory of the worker that is under load. `bill`: the simulator's, unless it is plain."""

    simulator: Server
    passthrough: Server
    gateway: Server
    streams_gateway: Server
    postgres_pid: int
    key: str
    poor_key: str
    cached_key: str
    bill: Path


@contextmanager
def running_stack(*, script: dict[str, Any] | None = None, plain: bool = True) -> Iterator[Stack]:
    """Start everything, with data of its own that is deleted at the end; touches nothing else.

    `script`: how the simulator answers unless told otherwise; a `plain` one counts no tokens and is fast.
    """
    folder = Path(tempfile.mkdtemp(prefix="exq-bench-"))
    folder.chmod(0o755)  # the database servers run as another user when we are root
    servers = embedded_servers(folder, programs=servers_home(PROJECT / ".local") / "programs")
    running = servers.start()
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, arguments: list[str], ready: str = "/readyz") -> Server:
        return _start(name, arguments, folder, started, ready)

    try:
        _use(servers, folder)
        keys = _make_tenants()
        bill = folder / "bill.jsonl"
        how = ["--plain"] if plain else ["--bill", str(bill), "--no-fsync"]
        script_text = json.dumps(script or {"deltas": DELTAS, "chunk_delay_ms": CHUNK_DELAY_MS})
        simulator = start(
            "simulator",
            ["-m", "governance.simulator", *how, "--script", script_text, "--fd", "{fd}"],
            "/v1/models",
        )
        upstream = f"http://127.0.0.1:{simulator.port}"
        os.environ["ANTHROPIC_BASE_URL"] = upstream
        passthrough = start("passthrough", ["-m", "bench.passthrough", "{fd}", upstream])
        worker = ["-m", "governance.ops.gateway_worker", "{fd}"]
        gateway, streams_gateway = start("gateway", worker), start("gateway of open streams", worker)
        yield Stack(simulator, passthrough, gateway, streams_gateway, running.postgres.pid, *keys, bill)
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(timeout=60)
        running.stop()
        servers.delete()
        shutil.rmtree(folder, ignore_errors=True)


def _use(servers: EmbeddedServers, folder: Path) -> None:
    """Point this process and its children at the new servers, whatever the environment said before."""
    for name in [name for name in os.environ if name.startswith(("EXCHEQUER_", "ANTHROPIC_"))]:
        del os.environ[name]
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "governance.settings",
        "EXCHEQUER_STATE_DIR": str(folder),
        "SECRET_KEY": secrets.token_urlsafe(48),
        "EXCHEQUER_KEY_PEPPERS": _secret("p1"),
        "EXCHEQUER_ENCRYPTION_KEYS": _secret("k1"),
        "DATABASE_OWNER_URL": servers.database_url(OWNER_ROLE),
        "DATABASE_URL": servers.database_url(APP_ROLE),
        "REDIS_URL": servers.redis_url(),
        "ANTHROPIC_API_KEY": "sk-ant-simulated-upstream-key",
    }
    for command in (["migrate", "--verbosity=0"], ["load_prices", "--yes"]):
        subprocess.run(
            [sys.executable, str(PROJECT / "manage.py"), *command], check=True, stdout=subprocess.DEVNULL
        )


def _secret(identifier: str) -> str:
    return f"{identifier}:{base64.b64encode(secrets.token_bytes(32)).decode()}"


def _make_tenants() -> tuple[str, str, str]:
    """Three keys: of a tenant with two budgets that last, of one that can pay for nothing, and of one like
    the first whose answers are kept."""
    import django

    django.setup()
    from governance.budgets.limits import set_budget
    from governance.core.money import usd_to_nanos
    from governance.routing.policies import create_policy, publish, save_draft
    from tenants.keys import issue_key
    from tenants.models import Tenant
    from tenants.scope import platform_scope

    keys = []
    with platform_scope():
        for name, limit_usd in (
            ("bench", "1000000"),
            ("bench-poor", "0.000001"),
            ("bench-cached", "1000000"),
        ):
            tenant = Tenant.objects.create(name=name, slug=name)
            set_budget(tenant, scope="tenant", period="month", limit_nanos=usd_to_nanos(limit_usd))
            issued = issue_key(tenant, "bench")
            set_budget(
                tenant, scope="key", ref=str(issued.key.pk), period="day", limit_nanos=usd_to_nanos(limit_usd)
            )
            keys.append(issued.text)
        policy = create_policy(tenant, scope="tenant", ref="", name="keep answers")
        publish(save_draft(policy, KEEP_ANSWERS))
    return keys[0], keys[1], keys[2]


def _start(
    name: str, arguments: list[str], folder: Path, started: list["subprocess.Popen[bytes]"], ready: str
) -> Server:
    listener = _listener()
    port = listener.getsockname()[1]
    fd = listener.fileno()
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *(part.replace("{fd}", str(fd)) for part in arguments)],
            pass_fds=(fd,),
            stdout=output,
            stderr=output,
            cwd=PROJECT,
        )
    listener.close()
    started.append(process)
    _wait(lambda: process.poll() is not None or _answers(port, ready))
    if process.poll() is not None or not _answers(port, ready):
        sys.exit(f"The {name} did not start:\n{log.read_text()[-3000:]}")
    return Server(name, process.pid, port)


def _listener() -> socket.socket:
    for port in range(PORT_FIRST, 32_000):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            listener.close()
            continue
        listener.listen(2048)
        return listener
    sys.exit(f"No free port between {PORT_FIRST} and 32000.")


def _answers(port: int, path: str) -> bool:
    headers = {"x-api-key": "x", "anthropic-version": "2023-06-01"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def _wait(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < end and not is_so():
        time.sleep(0.05)
