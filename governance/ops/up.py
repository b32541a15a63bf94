"""`make up`: the whole of Exchequer on one machine, supervised until Ctrl-C.

Order of start: PostgreSQL and Valkey; the database (migrate, months ahead, prices, demo tenant); the
simulator; then gateway, console and Celery together. Order of stop: the gateway drains first,
PostgreSQL goes last. When this process is killed the kernel tells every child, so that nothing is
left serving; the next start sweeps up what still drains.
"""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence

from governance.ops.embedded import (
    POSTGRES_START_SECONDS_MAX,
    POSTGRES_STOP_SECONDS_MAX,
    VALKEY_START_SECONDS_MAX,
    embedded_servers,
)
from governance.ops.embedded_files import OWNER_ROLE, is_embedded
from governance.ops.env_files import SECRET_NAMES, new_secrets, read_env_file, write_env_file
from governance.ops.gateway_parent import STOP_SECONDS_MAX, bind
from governance.ops.installation import Installation, stop_leftovers
from governance.ops.processes import PROJECT, CannotRun, Command, log_tail, spawn
from governance.ops.supervisor import Service, Stopping, Supervisor

READY_SECONDS_MAX = 90.0
PREPARE_SECONDS_MAX = 600.0
ADDRESSES = ("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL")
MANAGE = [sys.executable, str(PROJECT / "manage.py")]
Say = Callable[[str], None]


def up(installation: Installation, say: Say, on_ready: Callable[[], None]) -> None:
    """Start everything, call `on_ready`, return when somebody asked to stop and everything is stopped.

    CannotRun, as a sentence, when it cannot be; AlreadyRunning when it already is.
    """
    with installation.only_one():
        stop_leftovers(installation, say)
        for port in (installation.port, installation.console_port):
            bind(installation.host, port).close()  # say so now, not after a minute, when it is taken
        installation.pid_file("up").write(os.getpid())
        supervisor = Supervisor(say)
        supervisor.take_signals()
        try:
            env = _environment(installation)
            env |= _start_servers(installation, supervisor, env)
            _prepare(installation, supervisor, env)
            env |= _start_simulator(installation, supervisor, env)
            _start_processes(installation, supervisor, env)
            _wait_until_ready(installation, supervisor)
            supervisor.gives_up = False
            installation.ready_file.write_text(f"{os.getpid()}\n")
            on_ready()
            supervisor.run()
        except Stopping:
            pass
        finally:
            say("Stopping; calls in flight finish first.")
            installation.ready_file.unlink(missing_ok=True)
            supervisor.stop(_stop_order(supervisor.services))
            installation.pid_file("up").remove()


def _environment(installation: Installation) -> dict[str, str]:
    """What every child gets: the operator's environment, and the secrets."""
    file = installation.secrets_env
    environ = {
        name: value
        for name, value in installation.environ.items()
        # Whoever sourced demo.env did not bring servers of their own.
        if not (name in ADDRESSES and is_embedded(value, installation.state_dir))
    }
    if ("DATABASE_URL" in environ) != ("DATABASE_OWNER_URL" in environ):
        raise CannotRun(
            "DATABASE_URL and DATABASE_OWNER_URL belong together: the first names a role that serves and "
            "cannot change facts, the second the role that owns the tables. Set both, or neither."
        )
    stored = read_env_file(file)
    missing = [name for name in SECRET_NAMES if not environ.get(name) and name not in stored]
    if missing and "DATABASE_URL" in environ:
        raise CannotRun(
            f"With a database of your own, {', '.join(missing)} must be given too, in the environment or in "
            f"{file}: what is stored there can be read with the same secrets only. "
            "`python manage.py new_secrets` prints fresh ones."
        )
    if missing and (installation.state_dir / "servers" / "postgres").exists():
        raise CannotRun(
            f"{', '.join(missing)} should be in {file}: the data in {installation.state_dir} works with what "
            "was there only. Bring the file back; or, to start with empty data, delete that folder."
        )
    if missing:
        fresh = new_secrets()
        stored |= {name: fresh[name] for name in missing}
        write_env_file(file, stored, "Written once by make up. Losing it loses every key and credential.")
    return environ | {
        "EXCHEQUER_STATE_DIR": str(installation.state_dir),
        "PYTHONUNBUFFERED": "1",
        **{name: value for name, value in stored.items() if not environ.get(name)},
    }


def _start_servers(
    installation: Installation, supervisor: Supervisor, env: Mapping[str, str]
) -> dict[str, str]:
    """Start the embedded servers that the operator did not replace → the addresses."""
    addresses: dict[str, str] = {}
    if "DATABASE_URL" in env and "REDIS_URL" in env:
        return addresses
    servers = embedded_servers(installation.state_dir)
    if "DATABASE_URL" not in env:
        postgres = Service(
            "postgres",
            servers.postgres_command(),
            servers.postgres_log,
            stop_signal=signal.SIGINT,
            stop_seconds=POSTGRES_STOP_SECONDS_MAX,
            before_start=servers.clear_stale_postgres,
        )
        _start(installation, supervisor, postgres, servers.postgres_answers, POSTGRES_START_SECONDS_MAX)
        addresses["DATABASE_URL"] = servers.database_url()
        addresses["DATABASE_OWNER_URL"] = servers.database_url(OWNER_ROLE)
    if "REDIS_URL" not in env:
        valkey = Service("valkey", servers.valkey_command(), servers.valkey_log)
        _start(installation, supervisor, valkey, servers.valkey_answers, VALKEY_START_SECONDS_MAX)
        addresses["REDIS_URL"] = servers.redis_url()
    return addresses


def _start(
    installation: Installation,
    supervisor: Supervisor,
    service: Service,
    answers: Callable[[], bool],
    seconds_max: float,
) -> None:
    service.pid_file = installation.pid_file(service.name)
    supervisor.start(service)
    if not supervisor.wait(answers, seconds_max):
        raise CannotRun(f"{service.name} does not answer. The end of {service.log}:\n{log_tail(service.log)}")


def _prepare(installation: Installation, supervisor: Supervisor, env: Mapping[str, str]) -> None:
    """Migrate, and write demo.env with the addresses, the demo key and the admin's password."""
    known = read_env_file(installation.demo_env)
    kept = {name: known.get(name, "") for name in ("EXCHEQUER_API_KEY", "EXCHEQUER_ADMIN_PASSWORD")}
    log = installation.log("prepare")
    child = spawn(
        Command([*MANAGE, "prepare", "--demo"]), log=log, env={**env, **kept}, stdout=subprocess.PIPE
    )
    try:
        if not supervisor.wait(lambda: child.poll() is not None, PREPARE_SECONDS_MAX) or child.returncode:
            raise CannotRun(f"The database could not be prepared. The end of {log}:\n{log_tail(log)}")
        assert child.stdout is not None
        demo = json.load(child.stdout)
    finally:
        child.kill()
        child.wait()
    values = {
        "EXCHEQUER_URL": f"http://{installation.url_host}:{installation.port}",
        "EXCHEQUER_CONSOLE_URL": f"http://{installation.url_host}:{installation.console_port}",
        "EXCHEQUER_API_KEY": demo["api_key"],
        "EXCHEQUER_ADMIN_USER": demo["admin_user"],
        "EXCHEQUER_ADMIN_PASSWORD": demo["admin_password"],
        **{name: env[name] for name in ADDRESSES},
    }
    write_env_file(installation.demo_env, values, "Written by make up, at each start.")


def _start_simulator(
    installation: Installation, supervisor: Supervisor, env: Mapping[str, str]
) -> dict[str, str]:
    """Stand in for the Claude API where no key for the real one is set → what to call instead."""
    if env.get("ANTHROPIC_API_KEY") or env.get("ANTHROPIC_BASE_URL"):
        return {}
    listener = bind("127.0.0.1", 0)  # kept open here, so that a simulator started again has the same address
    host, port = listener.getsockname()
    bill = installation.state_dir / "simulator-bill.jsonl"
    argv = [sys.executable, "-m", "governance.simulator", "--fd", str(listener.fileno()), "--bill", str(bill)]
    command = Command(argv, pass_fds=(listener.detach(),))
    log, pid_file = installation.log("simulator"), installation.pid_file("simulator")
    supervisor.start(Service("simulator", command, log, env=env, pid_file=pid_file))
    return {"ANTHROPIC_BASE_URL": f"http://{host}:{port}", "ANTHROPIC_API_KEY": "simulated-upstream-key"}


def _start_processes(installation: Installation, supervisor: Supervisor, env: Mapping[str, str]) -> None:
    address = ["--host", installation.host]
    celery = [sys.executable, "-m", "celery", "--app", "governance"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO"]
    schedule = str(installation.run / "celerybeat-schedule")
    gateway = [installation.host, str(installation.port), str(installation.workers)]
    commands = {
        "gateway": [
            sys.executable,
            "-m",
            "governance.ops.gateway_parent",
            *gateway,
            str(installation.state_dir),
        ],
        "console": [*MANAGE, "console", *address, "--port", str(installation.console_port)],
        "celery-worker": [*celery, "worker", "--pool", "threads", "--concurrency", "4", *quiet],
        "celery-beat": [*celery, "beat", "--schedule", schedule, "--pidfile", "", "--loglevel", "INFO"],
    }
    for name, argv in commands.items():
        service = Service(name, Command(argv), installation.log(name), env=env)
        if name == "gateway":
            service.stop_seconds = STOP_SECONDS_MAX + 5.0  # it writes gateway.pid itself
        else:
            service.pid_file = installation.pid_file(name)
        supervisor.start(service)


def _wait_until_ready(installation: Installation, supervisor: Supervisor) -> None:
    pages = {
        "gateway": f"http://{installation.url_host}:{installation.port}/readyz",
        "console": f"http://{installation.url_host}:{installation.console_port}/admin/login/",
    }
    for name, page in pages.items():
        if not supervisor.wait(lambda page=page: _answers(page), READY_SECONDS_MAX):  # type: ignore[misc]
            log = installation.log(name)
            raise CannotRun(f"The {name} does not get ready. The end of {log}:\n{log_tail(log)}")


def _answers(page: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever http_proxy says
    try:
        with opener.open(page, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:  # refused, reset, or another status than 200
        return False


def _stop_order(services: Sequence[Service]) -> list[list[Service]]:
    order = {"gateway": 0, "valkey": 2, "postgres": 3}
    return [[s for s in services if order.get(s.name, 1) == place] for place in range(4)]
