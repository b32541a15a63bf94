"""Counters of one worker. The call path adds to plain dictionaries; Prometheus gets the differences.

With PROMETHEUS_MULTIPROC_DIR set to a folder (empty at the first start), prometheus-client keeps the figures
in files there, at most a second old, and any worker's /metrics answers for all of them. Without it a worker
answers for itself alone.
"""

import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

BOUND_USED_BOUNDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
LATENCY_BOUNDS_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 600)

GAUGES: tuple[tuple[str, Literal["livemostrecent", "livesum", "livemax"], str], ...] = (
    ("held_dollars", "livemostrecent", "Money held for open calls, over all workers."),
    ("open_holds", "livemostrecent", "Open holds, over all workers."),
    ("oldest_hold_seconds", "livemostrecent", "Age of the oldest open hold, over all workers."),
    ("desk_queue", "livesum", "Items that wait for the desk."),
    ("desk_unsettled", "livesum", "Settlements that are not durable yet."),
    ("desk_batch_size", "livemax", "Items in the desk's newest batch; the largest over workers."),
    ("call_records_dropped", "livesum", "Refusals that an outage was too long to remember."),
    ("desk_healthy", "livesum", "Workers whose desk can admit calls."),
    ("request_body_bytes", "livesum", "Request bodies in memory."),
)
"""Name, how the workers' values become one, and what it says."""


class Metrics:
    """What this worker counted since it started."""

    def __init__(self) -> None:
        self.calls: defaultdict[tuple[str, str], int] = defaultdict(int)
        """(outcome, reason) → calls, those of unknown callers too."""
        self._first_bytes_ms: list[int] = []
        self._bounds_used: list[float] = []
        self._sent: dict[tuple[str, str], int] = {}
        self._registry = CollectorRegistry()
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if folder:
            _forget_dead_workers(Path(folder))
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        registry = None if folder else self._registry
        self._calls = Counter(
            "exchequer_calls", "Calls by outcome and reason.", ["outcome", "reason"], registry=registry
        )
        self._upstream = Histogram(
            "exchequer_upstream_first_byte_seconds",
            "From sending a request to the first byte of its reply.",
            buckets=LATENCY_BOUNDS_SECONDS,
            registry=registry,
        )
        self._bound_used = Histogram(
            "exchequer_bound_used_ratio",
            "What a call cost, by its worst case. Above 1 the bound is broken.",
            buckets=BOUND_USED_BOUNDS,
            registry=registry,
        )
        self._gauges = {
            name: Gauge(f"exchequer_{name}", text, multiprocess_mode=mode, registry=registry)
            for name, mode, text in GAUGES
        }

    def upstream_began(self, milliseconds: int) -> None:
        self._first_bytes_ms.append(milliseconds)

    def bound_used(self, ratio: float) -> None:
        self._bounds_used.append(ratio)

    def publish(self, gauges: Mapping[str, float]) -> None:
        """Hand over what was counted since the last time, and the gauges' present values."""
        for labels, total in self.calls.items():
            if new := total - self._sent.get(labels, 0):
                self._calls.labels(*labels).inc(new)
                self._sent[labels] = total
        waited, self._first_bytes_ms = self._first_bytes_ms, []
        for milliseconds in waited:
            self._upstream.observe(milliseconds / 1000)
        used, self._bounds_used = self._bounds_used, []
        for ratio in used:
            self._bound_used.observe(ratio)
        for name, value in gauges.items():
            self._gauges[name].set(value)

    def exposition(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)


def _forget_dead_workers(folder: Path) -> None:
    """Remove the gauges of workers that are gone; their counters go on counting, as they should."""
    for file in folder.glob("gauge_live*.db"):
        pid = file.stem.rpartition("_")[2]
        if pid.isdigit() and not Path("/proc", pid).exists():
            file.unlink(missing_ok=True)
