"""The simulator's own bill: what a provider would invoice. Tests compare the ledger with it.

An append-only file of JSON lines. The rule: a request that is accepted is billed once, in full, BEFORE
the first byte of its reply is sent (and before any scripted latency), whatever happens afterwards: the
client leaves, a fault cuts the reply, the simulator is killed. Refused requests and scripted errors are not
billed. A line is durable (fdatasync) before the reply may begin; lines that gather while one sync runs share
the next.

Lines of kind `charge` are the bill. Lines of kind `left` say how much of a reply had been sent when the
client went away; they cost nothing and are not synced.
"""

import os
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec


class Bill:
    """Appends lines from one event loop; a thread of its own makes them durable."""

    def __init__(
        self,
        path: Path,
        loop: AbstractEventLoop,
        *,
        sync: Callable[[int], None] | None = os.fdatasync,
        on_failure: Callable[[OSError], None],
    ) -> None:
        """`sync=None` writes without waiting for the disk (benchmarks). `on_failure` is called in the loop
        when the file cannot be written: no reply may be sent from then on, so it should end the process."""
        self.path = path
        self._loop = loop
        self._sync = sync
        self._on_failure = on_failure
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self.lines = _repair(self._fd)
        self._waiting: list[tuple[bytes, Callable[[], None] | None]] = []
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._write_forever, name="bill", daemon=True)
        if sync is not None:
            self._thread.start()

    def append(self, line: dict[str, Any], then: Callable[[], None] | None = None) -> None:
        """Add a line; `then` is called in the loop once it is durable."""
        self.lines += 1
        text = msgspec.json.encode({"seq": self.lines, **line}) + b"\n"
        if self._sync is None:
            os.write(self._fd, text)
            if then is not None:
                then()
            return
        with self._wake:
            self._waiting.append((text, then))
            self._wake.notify()

    def close(self) -> None:
        """Write what waits, then close the file."""
        if self._sync is not None:
            with self._wake:
                self._closing = True
                self._wake.notify()
            self._thread.join()
        os.close(self._fd)

    def _write_forever(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closing:
                    self._wake.wait()
                batch, self._waiting = self._waiting, []
                if not batch:
                    return
            try:
                _write_all(self._fd, b"".join(text for text, _ in batch))
                done = [then for _, then in batch if then is not None]
                if done:
                    assert self._sync is not None
                    self._sync(self._fd)
            except OSError as error:
                self._loop.call_soon_threadsafe(self._on_failure, error)
                return
            if done:
                self._loop.call_soon_threadsafe(_call_all, done)


def read_bill(path: Path | str, since: int = 0, *, kind: str | None = "charge") -> list[dict[str, Any]]:
    """The lines with `seq` above `since`, oldest first; `kind=None` gives every kind. A torn last line, which
    no reply was ever sent for, is left out. ValueError for a damaged line elsewhere."""
    lines = Path(path).read_bytes().split(b"\n")[:-1]
    try:
        decoded = [msgspec.json.decode(line) for line in lines[since:]]
    except msgspec.DecodeError as error:
        raise ValueError(f"The bill {path} has a damaged line: {error}.") from None
    return [line for line in decoded if kind is None or line["kind"] == kind]


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _call_all(callbacks: list[Callable[[], None]]) -> None:
    for callback in callbacks:
        callback()


def _repair(fd: int) -> int:
    """Cut off a last line that a crash tore, and count the whole ones. `seq` goes on from there."""
    content = os.pread(fd, os.fstat(fd).st_size, 0)
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        os.ftruncate(fd, whole)
    return content.count(b"\n")
