"""`make up` for tests: the real command, in a state folder of its own, on free ports."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from governance.ops.processes import PROJECT
from governance.settings import read_env_file

PORTS = range(12_000, 18_000)
"""Below those that the harness takes, and below the ephemeral ones."""
NOT_INHERITED = ("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL", "SECRET_KEY")


@dataclass
class Installed:
    """One state folder. Whatever a test does to its processes, `run("down")` and `kill_all` find them."""

    state_dir: Path
    port: int
    extra_env: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in NOT_INHERITED and not name.startswith(("EXCHEQUER_", "ANTHROPIC_"))
        }
        return inherited | {
            "EXCHEQUER_STATE_DIR": str(self.state_dir),
            "EXCHEQUER_PORT": str(self.port),
            **self.extra_env,
        }

    @property
    def demo(self) -> dict[str, str]:
        return read_env_file(self.state_dir / "demo.env")

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(PROJECT / "manage.py"), *arguments]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=180)

    def up(self) -> str:
        done = self.run("up", "--detach")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def pid(self, name: str) -> int:
        return int((self.state_dir / "run" / f"{name}.pid").read_text())

    def processes(self) -> list[psutil.Process]:
        """Every process that belongs to this installation, whoever its parent is by now."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                mine = process.environ().get("EXCHEQUER_STATE_DIR") == str(self.state_dir)
                if mine or str(self.state_dir) in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def kill_all(self) -> None:
        for process in self.processes():
            with suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)


def accepts(port: int) -> bool:
    """Does anybody accept a connection on this port?"""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_ready(port: int) -> bool:
    """Does /readyz answer 200?"""
    with socket.socket() as client:
        client.settimeout(5)
        if client.connect_ex(("127.0.0.1", port)):
            return False
        client.sendall(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        try:
            return client.recv(100).startswith(b"HTTP/1.1 200")
        except OSError:
            return False


def two_free_ports() -> int:
    """The first of two neighbours."""
    while True:
        port = random.choice(PORTS[::2])
        if not accepts(port) and not accepts(port + 1):
            return port


@contextmanager
def installed() -> Iterator[Installed]:
    """A state folder that nothing was started in yet; at the end nothing of it is left."""
    folder = Path(tempfile.mkdtemp(prefix="exq-up-"))
    folder.chmod(0o755)  # the servers run as another user when we are root
    installation = Installed(folder / "state", two_free_ports())
    try:
        yield installation
    finally:
        installation.kill_all()
        shutil.rmtree(folder, ignore_errors=True)
