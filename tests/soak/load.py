"""Callers that never rest: JSON and streams, over all workers and keys, until they are told to stop."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.faults.cases import tagged_call

CALLERS = 48
DELTAS = 3


@dataclass
class Load:
    """Runs in a thread of its own, so that whoever kills servers may block."""

    urls: Sequence[str]
    keys: Sequence[str]
    seed: int
    calls_max: int
    statuses: Counter[int] = field(default_factory=Counter)
    """HTTP status → replies; 0: the connection broke or nobody answered in time."""
    in_flight: Counter[int] = field(default_factory=Counter)
    """Worker → its calls that are out."""
    sent: int = 0
    _stop: bool = False

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def done(self) -> bool:
        return self._stop or not self._thread.is_alive()

    def stop(self) -> None:
        """Send nothing more, and wait for what is out."""
        self._stop = True
        self._thread.join(60)
        assert not self._thread.is_alive(), "a caller hangs"

    async def _run(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(self._caller(session) for _ in range(CALLERS)))

    async def _caller(self, session: aiohttp.ClientSession) -> None:
        while not self._stop and (not self.calls_max or self.sent < self.calls_max):
            self.sent += 1
            name, pick = f"c{self.sent}", self._random
            worker = pick.randrange(len(self.urls))
            mode = pick.choice(("json", "stream"))
            script = _script(pick)
            self.in_flight[worker] += 1
            reply = await tagged_call(session, self.urls[worker], pick.choice(self.keys), mode, name, script)
            self.in_flight[worker] -= 1
            self.statuses[reply.status] += 1
            if reply.status in (0, 503):
                await asyncio.sleep(0.05)


def _script(pick: random.Random) -> dict[str, Any]:
    """Most calls are served; one in twenty is refused upstream, which is not billed."""
    if pick.random() < 0.05:
        return {"error": {"type": "overloaded_error"}}
    usage = {"input_tokens": pick.randrange(50), "output_tokens": pick.randrange(1, 12)}
    return {
        "usage": usage,
        "latency_ms": pick.randrange(60),
        "deltas": DELTAS,
        "chunk_delay_ms": pick.randrange(20),
    }
