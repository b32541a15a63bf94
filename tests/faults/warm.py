"""The test's side of warm_workers.py."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from governance.ops.processes import PROJECT, start_time


@dataclass
class Worker:
    """One forked worker. Nothing is signalled unless it is still the process that was started."""

    pid: int
    port: int
    slot: int

    def __post_init__(self) -> None:
        self._started = start_time(self.pid)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def alive(self) -> bool:
        return self._started is not None and start_time(self.pid) == self._started

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    async def ready(self, session: aiohttp.ClientSession, seconds: float = 30) -> bool:
        """Until it serves; False when it died first."""
        async with asyncio.timeout(seconds):
            while self.alive:
                try:
                    async with session.get(
                        f"{self.url}/readyz",
                        timeout=aiohttp.ClientTimeout(2),
                        headers={"connection": "close"},
                    ) as reply:
                        if reply.status == 200:
                            return True
                except (aiohttp.ClientError, TimeoutError):
                    pass
                await asyncio.sleep(0.02)
        return False


class WarmWorkers:
    """Starts workers in a few milliseconds each."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self._process = process
        self.folder = folder

    def start(self, slot: int, arm: Mapping[str, Any] | None = None) -> Worker:
        """A new worker on that slot's port; the one before it should be dead."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"start": slot, "arm": arm}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Worker(answer["pid"], answer["port"], slot)

    def log(self, slot: int) -> str:
        path = self.folder / f"worker-{slot}.log"
        return path.read_text(errors="replace") if path.exists() else ""


@contextmanager
def warm_workers(folder: Path, env: Mapping[str, str]) -> Iterator[WarmWorkers]:
    """Workers of this environment; all are killed at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.warm_workers", str(folder)],
        cwd=PROJECT, env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    try:
        assert process.stdout.readline(), "the warm process did not load"
        yield WarmWorkers(process, folder)
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()
