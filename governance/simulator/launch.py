"""Start a simulator in a process of its own, for tests and benchmarks."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from governance.simulator.bill import read_bill

STOP_SECONDS_MAX = 10
PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class RunningSimulator:
    """`url` is what a client takes as its base URL."""

    process: subprocess.Popen[str]
    url: str
    bill_path: Path | None

    def charges(self, tag: str | None = None) -> list[dict[str, Any]]:
        """The bill so far; with `tag`, only the requests whose script had it."""
        return self.lines("charge", tag)

    def lines(self, kind: str, tag: str | None = None) -> list[dict[str, Any]]:
        assert self.bill_path is not None, "This simulator keeps no bill."
        return [line for line in read_bill(self.bill_path, kind=kind) if tag is None or line["tag"] == tag]


@contextmanager
def running_simulator(*arguments: str, bill: Path | None = None) -> Iterator[RunningSimulator]:
    """A simulator on a free port, stopped at the end of the block. RuntimeError if it does not start."""
    command = [sys.executable, "-m", "governance.simulator", "--port", "0", *arguments]
    if bill is not None:
        command += ["--bill", str(bill)]
    process = subprocess.Popen(  # noqa: S603 (our own module, arguments from tests)
        command, cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        first_line = process.stdout.readline()  # empty when the process has ended
        if " at http" not in first_line:
            raise RuntimeError(f"The simulator did not start: {' '.join(command)}")
        yield RunningSimulator(process, first_line.split()[-1], bill)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
