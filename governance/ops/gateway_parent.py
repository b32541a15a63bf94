"""The parent of the gateway's workers: binds the port once, keeps N workers on it, drains them.

uvicorn's own parent is not used: with one worker there is none, and killed it leaves its workers
serving. Ours passes the bound socket down; a worker that ends is started again, and when the
parent dies, however it dies, the kernel sends every worker SIGTERM.
"""

import errno
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from governance.ops.gateway_worker import DRAIN_SECONDS, FLUSH_SECONDS_MAX
from governance.ops.processes import CannotRun, Command, PidFile, wait_until
from governance.ops.supervisor import Service, Supervisor

STOP_SECONDS_MAX = DRAIN_SECONDS + FLUSH_SECONDS_MAX + 5.0
ORPHANS_LET_GO_SECONDS_MAX = 3.0
_BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. CannotRun, as a sentence, when the port is taken or not ours to take."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotRun(_why_not(error, host, port)) from None
    return listener


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        other = 8000 if port in (9000, 9001) else 9000
        return (
            f"Port {port} is taken by another program. Stop it, or choose another port: "
            f"make up EXCHEQUER_PORT={other} (the console takes the port after it)."
        )
    return f"Cannot listen on {host}:{port}: {error.strerror}. Choose another port with EXCHEQUER_PORT."


def _bind_after_orphans(host: str, port: int, run: Path) -> socket.socket:
    """Bind, when an earlier parent was killed and its workers still drain.

    They let go of the port at once and may take their time with their calls. One that does not let
    go, because it is stopped or stuck, is killed: its calls are charged by the sweeper.
    """
    orphans = []
    for path in run.glob("gateway-worker-*.pid"):
        pid = PidFile(path).running()
        PidFile(path).remove()
        if pid is not None:
            orphans.append(PidFile(run / f"gateway-orphan-{pid}.pid"))
            orphans[-1].write(pid)
    if orphans and not wait_until(lambda: _is_free(host, port), ORPHANS_LET_GO_SECONDS_MAX):
        for orphan in orphans:
            orphan.signal(signal.SIGKILL)
        wait_until(lambda: _is_free(host, port), ORPHANS_LET_GO_SECONDS_MAX)
    return bind(host, port)


def _is_free(host: str, port: int) -> bool:
    try:
        bind(host, port).close()
    except CannotRun:
        return False
    return True


def _share_metrics(folder: Path) -> None:
    """Give the workers a folder for their counters, so that /metrics of any one answers for all."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o755)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)


def run_gateway(host: str, port: int, workers: int, state_dir: Path, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain. CannotRun when the port or the workers cannot be had."""
    run, logs = state_dir / "run", state_dir / "log"
    for folder in (run, logs):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    listener = _bind_after_orphans(host, port, run)
    supervisor = Supervisor(say)
    supervisor.take_signals()
    pid_file = PidFile(run / "gateway.pid")
    pid_file.write(os.getpid())
    _share_metrics(run / "metrics")
    argv = [sys.executable, "-m", "governance.ops.gateway_worker", str(listener.fileno())]
    try:
        for number in range(1, workers + 1):
            command = Command(argv, pass_fds=(listener.fileno(),))
            name = f"gateway worker {number}"
            worker_pid = PidFile(run / f"gateway-worker-{number}.pid")
            supervisor.start(
                Service(
                    name, command, logs / "gateway.log", stop_seconds=STOP_SECONDS_MAX, pid_file=worker_pid
                )
            )
        supervisor.run()
    finally:
        listener.close()  # with the workers' copies gone too, new callers are refused at once
        supervisor.stop([supervisor.services])
        pid_file.remove()


if __name__ == "__main__":  # for `make up`, which has made the start-up checks: a parent without Django
    host, port, workers, state_dir = sys.argv[1:]
    try:
        run_gateway(host, int(port), int(workers), Path(state_dir), say=print)
    except CannotRun as problem:
        sys.exit(str(problem))
