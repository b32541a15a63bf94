"""Gateway workers forked from a process that has loaded everything, so that a kill costs little.

usage: python -m tests.faults.warm_workers FOLDER     orders on stdin, answers on stdout, one JSON a line

    {"start": SLOT, "arm": {"point": …, "action": …, "report": FILE} or null}   →   {"pid": …, "port": …}

A slot keeps its port for good: callers of a killed worker wait in the backlog for the next one. A forked
worker is governance.ops.gateway_worker as it stands, plus the fault point that it is armed with, if any.
At the end of stdin all workers are killed.
"""

import ctypes
import gc
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import governance.gateway.asgi  # noqa: F401  loads the application
from governance.ops import gateway_worker
from tests.faults import points

BACKLOG = 1024


def main() -> None:
    folder = Path(sys.argv[1])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    gc.freeze()
    slots: dict[int, socket.socket] = {}
    pids: list[int] = []
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        slot: int = order["start"]
        if slot not in slots:
            slots[slot] = socket.socket()
            slots[slot].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            slots[slot].bind(("127.0.0.1", 0))
            slots[slot].listen(BACKLOG)
        assert threading.active_count() == 1, "a fork would lose the other threads"
        pid = os.fork()
        if pid == 0:
            _be_worker(slots[slot], order.get("arm"), folder / f"worker-{slot}.log")
        pids.append(pid)
        print(json.dumps({"pid": pid, "port": slots[slot].getsockname()[1]}), flush=True)
    for pid in pids:
        if _is_child(pid):
            os.kill(pid, signal.SIGKILL)


def _is_child(pid: int) -> bool:
    """Still ours: a number alone may belong to anybody by now."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return f"\nPPid:\t{os.getpid()}\n" in status


def _be_worker(listener: socket.socket, arm: dict[str, Any] | None, log: Path) -> NoReturn:
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        quiet = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, quiet), (1, output), (2, output)):
            os.dup2(source, target)
        if arm:
            points.install(arm["point"], arm["action"], arm["report"])
        sys.argv[1:] = [str(os.dup(listener.fileno()))]
        gateway_worker.main()
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
