"""Counters of one worker. The call path adds to plain dictionaries; Prometheus gets the differences.

With PROMETHEUS_MULTIPROC_DIR set to a folder (empty at the first start), prometheus-client keeps the figures
in files there, at most a second old, and any worker's /metrics answers for all of them. Without it a worker
answers for itself alone.
"""

import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
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
    ("hold_waiters", "livesum", "Calls that wait for room in a budget."),
    ("upstream_quota_waiters", "livesum", "Calls that wait for their turn at upstream's rate limit."),
    ("desk_batch_size", "livemax", "Items in the desk's newest batch; the largest over workers."),
    ("call_records_dropped", "livesum", "Refusals that an outage was too long to remember."),
    ("desk_healthy", "livesum", "Workers whose desk can admit calls."),
    ("call_limits_alone", "livesum", "Workers that keep call limits alone, as Valkey does not answer."),
    ("request_body_bytes", "livesum", "Request bodies in memory."),
)
"""Name, how the workers' values become one, and what it says."""


class Distribution:
    """A histogram whose values are counted here and published together: Prometheus' own `observe` would cost
    a call more than its budgets do."""

    def __init__(
        self, name: str, text: str, bounds: Sequence[float], registry: CollectorRegistry | None
    ) -> None:
        self._histogram = Histogram(name, text, buckets=bounds, registry=registry)
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def publish(self) -> None:
        """Hand over what was added since the last time, as `observe` would have done value by value."""
        counts, self._counts = self._counts, [0] * len(self._counts)
        total, self._sum = self._sum, 0.0
        for bucket, count in zip(self._histogram._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
        self._histogram._sum.inc(total)


class Metrics:
    """What this worker counted since it started."""

    def __init__(self) -> None:
        self.calls: defaultdict[tuple[str, str], int] = defaultdict(int)
        """(outcome, reason) → calls, those of unknown callers too."""
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
        self._cache = Counter(
            "exchequer_response_cache",
            "Calls that a policy has answers kept for, by what became of that.",
            ["result"],
            registry=registry,
        )
        self._cache_sent: dict[str, int] = {}
        self._upstream = Distribution(
            "exchequer_upstream_first_byte_seconds",
            "From sending a request to the first byte of its reply.",
            LATENCY_BOUNDS_SECONDS,
            registry,
        )
        self._bound_used = Distribution(
            "exchequer_bound_used_ratio",
            "What a call cost, by its worst case. Above 1 the bound is broken.",
            BOUND_USED_BOUNDS,
            registry,
        )
        self._waits = Distribution(
            "exchequer_hold_wait_seconds",
            "How long calls waited for room in a budget, those that waited at all.",
            LATENCY_BOUNDS_SECONDS,
            registry,
        )
        self._gauges = {
            name: Gauge(f"exchequer_{name}", text, multiprocess_mode=mode, registry=registry)
            for name, mode, text in GAUGES
        }

    def upstream_began(self, milliseconds: int) -> None:
        self._upstream.add(milliseconds / 1000)

    def bound_used(self, ratio: float) -> None:
        self._bound_used.add(ratio)

    def waited(self, seconds: float) -> None:
        """A call waited for room, in vain or not."""
        self._waits.add(seconds)

    def publish(self, gauges: Mapping[str, float], cache: Mapping[str, int]) -> None:
        """Hand over what was counted since the last time, and the gauges' present values. `cache`: what
        became of look-ups in the response cache, since the start."""
        for labels, total in self.calls.items():
            if new := total - self._sent.get(labels, 0):
                self._calls.labels(*labels).inc(new)
                self._sent[labels] = total
        for result, total in cache.items():
            if new := total - self._cache_sent.get(result, 0):
                self._cache.labels(result).inc(new)
                self._cache_sent[result] = total
        self._upstream.publish()
        self._bound_used.publish()
        self._waits.publish()
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
