"""Faults that are more than a death at one point (README.md has the table), for JSON and streams at once."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import psycopg
import pytest

from governance.budgets.limits import set_budget
from governance.core.money import usd_to_nanos
from governance.pricing.contracts import agree_rate
from tenants.scope import platform_scope
from tests.chaos_proxy import ChaosProxy, in_thread
from tests.faults.cases import LEASE, SCRIPT, Case, gather_evidence, open_holds, tagged_call
from tests.faults.warm import WarmWorkers, Worker, warm_workers
from tests.harness import Stack, wait_until
from tests.promise.load import Reply

MODES = ("json", "stream")
SLOW = {**SCRIPT, "latency_ms": 800}
RELEASE_SECONDS_MAX = 30.0


@pytest.fixture(scope="module")
def proxy() -> Iterator[ChaosProxy]:
    """Between the workers of `warm` and PostgreSQL."""
    with in_thread(ChaosProxy(os.environ["DATABASE_URL"])) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def warm(stack: Stack, proxy: ChaosProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmWorkers]:
    assert stack.simulator
    env = {
        **os.environ, **LEASE, "DATABASE_URL": proxy.url,
        "ANTHROPIC_API_KEY": "sk-ant-simulated", "ANTHROPIC_BASE_URL": stack.simulator.url,
    }  # fmt: skip
    with warm_workers(tmp_path_factory.mktemp("catalogue"), env) as warm:
        yield warm


class Run:
    """One test's tenant, workers and calls, every other one a stream."""

    def __init__(self, name: str, warm: WarmWorkers, owner: psycopg.Connection[Any]) -> None:
        self.case = Case(name, "kill", "json and stream")
        self.warm, self.owner = warm, owner
        self.workers: dict[int, Worker] = {}
        self.names: list[str] = []

    @property
    def tenant_ids(self) -> list[int]:
        return [self.case.account.tenant.pk]

    async def start(self, *slots: int) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
            for slot in slots:
                self.workers[slot] = self.warm.start(slot)
            for slot in slots:
                assert await self.workers[slot].ready(session), self.warm.log(slot)[-3000:]

    async def call(self, slot: int, script: dict[str, Any] = SCRIPT) -> Reply:
        name, mode = f"{self.case.account.tenant.slug}-{len(self.names)}", MODES[len(self.names) % 2]
        self.names.append(name)
        async with aiohttp.ClientSession() as session:
            return await tagged_call(
                session, self.workers[slot].url, self.case.account.key, mode, name, script
            )

    async def until_held(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(open_holds(self.owner, self.tenant_ids)) < count:
                await asyncio.sleep(0.02)

    async def until_free(self) -> None:
        async with asyncio.timeout(RELEASE_SECONDS_MAX):
            while open_holds(self.owner, self.tenant_ids):
                await asyncio.sleep(0.02)

    def judge(self, stack: Stack) -> list[str]:
        """Nothing is wrong; the kinds and bases of what was charged, sorted."""
        wait_until(lambda: not open_holds(self.owner, self.tenant_ids), RELEASE_SECONDS_MAX)
        gather_evidence([self.case], self.owner, stack, self.names)
        assert self.case.breaches() == []
        assert self.case.evidence
        return sorted(entry.basis or entry.kind for entry in self.case.evidence.entries)


@pytest.fixture
def run(request: pytest.FixtureRequest, warm: WarmWorkers, owner: psycopg.Connection[Any]) -> Iterator[Run]:
    made = Run(request.node.name, warm, owner)
    yield made
    for worker in made.workers.values():
        worker.signal(signal.SIGCONT)
        worker.kill()


def test_all_workers_killed_at_once_lose_no_call(run: Run, stack: Stack) -> None:
    """Catalogue fault 9."""

    async def scenario() -> None:
        await run.start(1, 2)
        calls = [asyncio.create_task(run.call(1 + i % 2, SLOW)) for i in range(8)]
        await run.until_held(8)
        for worker in run.workers.values():
            worker.kill()
        await asyncio.gather(*calls)
        await run.start(3)
        await run.until_free()

    asyncio.run(scenario())
    assert run.judge(stack) == ["full_hold"] * 8


def test_a_worker_stopped_past_its_lease_settles_nothing_twice(run: Run, stack: Stack) -> None:
    """Catalogue fault 10: its call was swept; its own settlement comes late and gives back the rest."""

    async def scenario() -> None:
        await run.start(1, 2)
        calls = [asyncio.create_task(run.call(1, SLOW)) for _ in MODES]
        await run.until_held(2)
        run.workers[1].signal(signal.SIGSTOP)
        await run.until_free()
        run.workers[1].signal(signal.SIGCONT)
        assert [(await call).status for call in calls] == [200, 200]
        await asyncio.sleep(0.5)
        assert (await run.call(1)).status == 200

    asyncio.run(scenario())
    assert run.judge(stack) == ["credit", "credit", "exact", "full_hold", "full_hold"]


def test_a_database_that_takes_two_seconds_an_answer_is_a_503_or_slow_and_never_wrong(
    run: Run, stack: Stack, proxy: ChaosProxy
) -> None:
    """Catalogue fault 16."""

    async def scenario() -> list[int]:
        await run.start(1)
        assert (await run.call(1)).status == 200
        await run.until_free()
        proxy.to_client.latency_seconds = 2.0
        began = time.monotonic()
        try:
            replies = await asyncio.gather(*(run.call(1) for _ in range(6)))
        finally:
            proxy.to_client.latency_seconds = 0  # of the connections that are open, too
        assert time.monotonic() - began < 20
        return [reply.status for reply in replies]

    assert set(asyncio.run(scenario())) <= {200, 503}
    assert set(run.judge(stack)) <= {"exact", "void"}


def test_a_budget_row_that_somebody_locks_turns_calls_away_in_time_and_frees_itself(
    run: Run, stack: Stack
) -> None:
    """Catalogue fault 16: the call in flight settles once the row is free."""

    async def scenario() -> None:
        await run.start(1)
        in_flight = [asyncio.create_task(run.call(1, SLOW)) for _ in MODES]
        await run.until_held(2)
        with psycopg.connect(os.environ["DATABASE_URL"]) as other:
            other.execute(
                "SELECT 1 FROM ledger_budgetperiod WHERE tenant_id = %s FOR UPDATE", [run.tenant_ids[0]]
            )
            began = time.monotonic()
            turned_away = await asyncio.gather(*(run.call(1) for _ in MODES))
            assert [reply.status for reply in turned_away] == [503, 503]
            assert time.monotonic() - began < 10
            assert [(await call).status for call in in_flight] == [200, 200]
        await run.until_free()
        await asyncio.sleep(1)  # the desk looks again every half second
        assert (await run.call(1)).status == 200

    asyncio.run(scenario())
    assert run.judge(stack) == ["exact"] * 3


def test_a_deadlock_that_somebody_else_causes_is_retried_unseen(run: Run, stack: Stack) -> None:
    """Catalogue fault 18: an operator's transaction takes the rows in the wrong order."""
    with platform_scope():
        set_budget(run.case.account.tenant, scope="tenant", period="day", limit_nanos=usd_to_nanos("50"))

    async def scenario() -> int:
        await run.start(1)
        assert (await run.call(1)).status == 200
        await run.until_free()
        [(low,), (high,)] = run.owner.execute(
            "SELECT id FROM ledger_budgetperiod WHERE tenant_id = %s ORDER BY id", [run.tenant_ids[0]]
        ).fetchall()
        lock = "SELECT 1 FROM ledger_budgetperiod WHERE id = %s FOR UPDATE"
        before = _deadlocks(run.owner)
        for _ in MODES:
            async with await psycopg.AsyncConnection.connect(os.environ["DATABASE_URL"]) as other:
                await other.execute(lock, [high])
                call = asyncio.create_task(run.call(1))
                await asyncio.sleep(0.4)  # it has the low row, and waits for the high one
                await other.execute(lock, [low])  # whoever began to wait first gives way: the worker
                await other.rollback()
                assert (await call).status == 200
            await run.until_free()
        return _deadlocks(run.owner) - before

    assert asyncio.run(scenario()) == 2, "no deadlock came about: the test proves nothing"
    assert run.judge(stack) == ["exact"] * 3


@pytest.mark.parametrize(
    ("change", "after"),
    [("price", 200), ("lower", 429), ("raise", 200)],
    ids=["price doubled", "limit lowered", "limit raised"],
)
def test_what_changes_between_hold_and_settlement_changes_nothing_for_that_call(
    run: Run, stack: Stack, change: str, after: int
) -> None:
    """Catalogue faults 40 and 41: the pinned price; a settlement into a budget that admits nothing more."""
    tenant = run.case.account.tenant
    changes: dict[str, Callable[[], Any]] = {
        "price": lambda: agree_rate(
            tenant, usd_to_nanos("10"), model_id="claude-haiku-4-5-20251001", meter="output"
        ),
        "lower": lambda: set_budget(tenant, scope="tenant", period="month", limit_nanos=1),
        "raise": lambda: set_budget(tenant, scope="tenant", period="month", limit_nanos=usd_to_nanos("900")),
    }

    def apply() -> None:
        with platform_scope():
            changes[change]()

    async def scenario() -> None:
        await run.start(1)
        calls = [asyncio.create_task(run.call(1, SLOW)) for _ in MODES]
        await run.until_held(2)
        await asyncio.to_thread(apply)
        assert [(await call).status for call in calls] == [200, 200]
        await run.until_free()

    asyncio.run(scenario())
    assert run.judge(stack) == ["exact", "exact"]  # at the list price of Haiku 4.5, says I7

    async def next_call() -> int:
        await asyncio.sleep(1.2)
        return (await run.call(1)).status

    assert asyncio.run(next_call()) == after


def _deadlocks(connection: psycopg.Connection[Any]) -> int:
    connection.execute("SELECT pg_stat_force_next_flush()")
    [(count,)] = connection.execute(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    ).fetchall()
    return int(count)
