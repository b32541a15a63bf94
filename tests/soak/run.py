"""Kill workers and crash PostgreSQL under load, then ask the checker what the ledger lost."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from governance.simulator.bill import read_bill
from governance.simulator.launch import running_simulator
from tests.faults import journal
from tests.faults.checker import check
from tests.faults.evidence import Evidence, collect
from tests.faults.warm import WarmWorkers, Worker, warm_workers
from tests.promise.cluster import PROJECT, Cluster, cluster
from tests.soak.load import CALLERS, Load

HEARTBEAT_SECONDS, STALE_SECONDS = "0.3", "1.5"
"""A worker sweeps only once it has lived that long itself, and here none lives for many seconds."""
LOAD = (
    f"{CALLERS} callers, half streams, 4 budgets a call; lease heartbeat {HEARTBEAT_SECONDS} s, stale after "
    f"{STALE_SECONDS} s (as shipped: 5 s and 30 s); fsync on"
)
STUCK_SECONDS = 60.0
LIMITS_USD = ("1000", "1000", "2", "0.05")
"""Two tenants with room, one whose budget runs out on the way, one that is near its limit all the time."""
WORKER_REST_SECONDS = 0.5
BETWEEN_KILLS_PER_SECOND = 5
"""A worker lives at least so long: one that dies before it serves proves nothing."""


@dataclass(frozen=True)
class Plan:
    """How long and how hard. Zero: no such end."""

    kills: int
    crashes: int
    calls_max: int
    seconds_max: float
    seed: int
    workers: int = 4


@dataclass
class Report:
    """What was done and what was found. Times are seconds."""

    plan: dict[str, Any]
    seconds: float = 0.0
    kills: int = 0
    kills_with_calls_in_flight: int = 0
    crashes: int = 0
    calls: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    billed: int = 0
    holds: int = 0
    swept: int = 0
    lost: int = 0
    doubled: int = 0
    stuck: int = 0
    overspent_nanos: int = 0
    breaches: list[str] = field(default_factory=list)
    release_seconds: dict[str, float] = field(default_factory=dict)
    """From a worker's death to the moment its holds were free: p50, p99, p100."""
    load: str = ""

    @property
    def sound(self) -> bool:
        return not self.breaches and not self.stuck


def soak(plan: Plan, folder: Path, progress: Callable[[Report], None] = lambda report: None) -> Report:
    """Run the plan to its end on servers of its own. Call it in the main thread (see Cluster.start)."""
    bill = folder / "bill.jsonl"
    with cluster() as database, running_simulator(bill=bill) as simulator:
        with psycopg.connect(database.env["DATABASE_OWNER_URL"], autocommit=True) as owner:
            journal.install(owner)
        env = {
            **os.environ, **database.env,
            "EXCHEQUER_LEASE_HEARTBEAT_SECONDS": HEARTBEAT_SECONDS,
            "EXCHEQUER_LEASE_STALE_SECONDS": STALE_SECONDS,
            "ANTHROPIC_API_KEY": "sk-ant-simulated", "ANTHROPIC_BASE_URL": simulator.url,
            "EXCHEQUER_LOG_LEVEL": "ERROR",
        }  # fmt: skip
        keys = _make_tenants(env)
        with warm_workers(folder, env) as warm:
            chaos = _Chaos(plan, database, warm, keys, progress)
            chaos.run()
        report = chaos.report
        with psycopg.connect(database.env["DATABASE_OWNER_URL"], autocommit=True) as owner:
            ids = [row[0] for row in owner.execute("SELECT id FROM tenants_tenant").fetchall()]
            workers = dict(owner.execute("SELECT id, worker FROM desk_workerlease").fetchall())
            evidence = collect(owner, ids, read_bill(bill))
        _judge(report, evidence, chaos.deaths, workers)
        return report


def _make_tenants(env: dict[str, str]) -> list[str]:
    command = [sys.executable, "-m", "tests.soak.tenants", *LIMITS_USD]
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=True)
    keys: list[str] = json.loads(done.stdout)
    return keys


class _Chaos:
    """The main thread's part: what is killed, and when."""

    def __init__(
        self,
        plan: Plan,
        database: Cluster,
        warm: WarmWorkers,
        keys: list[str],
        progress: Callable[[Report], None],
    ) -> None:
        self._plan, self._database, self._warm, self._progress = plan, database, warm, progress
        self._random = random.Random(plan.seed)
        self._workers: list[Worker] = [warm.start(slot) for slot in range(plan.workers)]
        self._born = [time.monotonic()] * plan.workers
        self._load = Load([worker.url for worker in self._workers], keys, plan.seed, plan.calls_max)
        self.report = Report(asdict(plan), load=LOAD)
        self.deaths: list[tuple[datetime, int]] = []
        """(when, process id) of each killed worker."""

    def run(self) -> None:
        began = time.monotonic()
        crash_at = self._crash_times()
        self._load.start()
        time.sleep(1.0)
        while not self._over(time.monotonic() - began):
            if crash_at and self.report.kills >= crash_at[0]:
                crash_at.pop(0)
                self._crash()
            else:
                self._kill()
            self.report.calls = self._load.sent
            self._progress(self.report)
        self._load.stop()
        for slot, worker in enumerate(self._workers):
            if not worker.alive:
                self._workers[slot] = self._warm.start(slot)
        self.report.seconds = round(time.monotonic() - began, 1)
        self.report.calls, self.report.statuses = self._load.sent, dict(self._load.statuses)
        ends_at = time.monotonic() + STUCK_SECONDS
        while self._held() and time.monotonic() < ends_at:
            time.sleep(0.1)
        self.report.stuck = self._held()

    def _crash_times(self) -> list[int]:
        """Before which kills PostgreSQL crashes: spread over the run, at random within each part."""
        plan = self._plan
        part = plan.kills / plan.crashes if plan.crashes else 0
        return [int(part * i + self._random.random() * part) for i in range(plan.crashes)]

    def _over(self, seconds: float) -> bool:
        plan = self._plan
        killed_all = bool(plan.kills) and self.report.kills >= plan.kills
        return killed_all or self._load.done or bool(plan.seconds_max and seconds >= plan.seconds_max)

    def _kill(self) -> None:
        """A random worker, at a random moment, and another in its place."""
        slot = self._random.randrange(len(self._workers))
        age = time.monotonic() - self._born[slot]
        time.sleep(max(0.0, WORKER_REST_SECONDS - age) + self._random.expovariate(BETWEEN_KILLS_PER_SECOND))
        worker = self._workers[slot]
        self.report.kills_with_calls_in_flight += self._load.in_flight[slot] > 0
        worker.kill()
        self.deaths.append((datetime.now(UTC), worker.pid))
        self._workers[slot] = self._warm.start(slot)
        self._born[slot] = time.monotonic()
        self.report.kills += 1

    def _crash(self) -> None:
        """kill -9 of PostgreSQL, a moment without it, and a start."""
        self._database.crash()
        time.sleep(self._random.random())
        self._database.start()
        self.report.crashes += 1
        # A worker that was born meanwhile found no database and ended, as it should.
        for slot, worker in enumerate(self._workers):
            if not worker.alive:
                self._workers[slot], self._born[slot] = self._warm.start(slot), time.monotonic()

    def _held(self) -> int:
        return int(self._database.query("SELECT count(*) FROM ledger_hold")[0][0])


def _judge(
    report: Report, evidence: Evidence, deaths: list[tuple[datetime, int]], workers: dict[int, str]
) -> None:
    """What the evidence says, in figures."""
    breaches = check(evidence)
    report.breaches = [str(breach) for breach in breaches]
    report.billed = len(evidence.bill)
    report.holds = len(evidence.hold_moves())
    report.swept = sum(call.outcome == "swept" for call in evidence.calls)
    report.lost = sum("is lost" in breach.what or "was billed" in breach.what for breach in breaches)
    report.doubled = sum(breach.rule == "I3" or "times" in breach.what for breach in breaches)
    report.overspent_nanos = max(
        (max(0, sum(step.after[:2]) - step.after[2]) for step in evidence.steps() if step.hard), default=0
    )
    seconds = sorted(_release_seconds(evidence, deaths, workers))
    if seconds:
        report.release_seconds = {
            f"p{percent}": round(seconds[max(0, len(seconds) * percent // 100 - 1)], 2)
            for percent in (50, 99, 100)
        }


def _release_seconds(
    evidence: Evidence, deaths: list[tuple[datetime, int]], workers: dict[int, str]
) -> list[float]:
    """For each hold that was open when its worker was killed: how long until it was resolved."""
    of_pid: dict[int, list[datetime]] = {}
    for at, pid in deaths:
        of_pid.setdefault(pid, []).append(at)
    waits: list[timedelta] = []
    for rows in evidence.hold_moves().values():
        pid = int(workers.get(rows[0].lease_id, ":0").rpartition(":")[2])
        for died_at in of_pid.get(pid, ()):
            if rows[0].at <= died_at < rows[-1].at and rows[-1].after is None:
                waits.append(rows[-1].at - died_at)
    return [wait.total_seconds() for wait in waits]
