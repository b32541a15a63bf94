"""kill -9 and crashes: every call that reached upstream is in the ledger, for no less than it was billed."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest

from governance.core.money import NANOS_PER_USD
from tests.harness import Stack, start_stack, wait_until
from tests.promise.cluster import Cluster, cluster, make_tenant
from tests.promise.load import Reply, a_call, call

LEASE = {"EXCHEQUER_LEASE_HEARTBEAT_SECONDS": "0.5", "EXCHEQUER_LEASE_STALE_SECONDS": "3"}
IN_FLIGHT = 50
# Haiku 4.5 lists output at $5 per MTok; 400 of the 1,000 tokens that each call may use.
BILLED_NANOS = 400 * 5 * NANOS_PER_USD // 1_000_000
SCRIPT = {
    "usage": {"input_tokens": 0, "output_tokens": 400},
    "latency_ms": 800,
    "chunk_delay_ms": 100,
    "deltas": 8,
}


@pytest.fixture(scope="module")
def database() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


def many_calls(
    stack: Stack, key: str, tag: str, meanwhile: Callable[[], Awaitable[None]], *, settle_seconds: float = 0.6
) -> list[Reply]:
    """IN_FLIGHT calls at once, half of them streams, over all workers; `meanwhile` runs once they are out."""

    async def run() -> list[Reply]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            calls = [
                asyncio.create_task(
                    call(
                        session,
                        stack.urls[i % len(stack.urls)],
                        key,
                        a_call(stream=i % 2 == 0),
                        {**SCRIPT, "tag": tag},
                    )
                )
                for i in range(IN_FLIGHT)
            ]
            await asyncio.sleep(settle_seconds)
            await meanwhile()
            await asyncio.wait(calls, timeout=15)
            return [one.result() if one.done() else Reply(0, b"", {}) for one in calls]

    return asyncio.run(run())


def check_ledger(database: Cluster, slug: str, billed: list[dict[str, Any]]) -> None:
    """The ledger has a charge for each billed call, and says nothing that its entries do not."""
    charges = database.query(
        "SELECT e.amount_nanos FROM ledger_ledgerentry e JOIN tenants_tenant t ON t.id = e.tenant_id"
        " WHERE t.slug = %s AND e.kind = 'charge'",
        slug,
    )
    assert len(charges) >= len(billed)
    assert all(amount >= BILLED_NANOS for (amount,) in charges)
    database.manage("audit_ledger")


def test_a_killed_worker_loses_no_call_that_reached_upstream(database: Cluster) -> None:
    slug, key = make_tenant(database)
    with start_stack(workers=2, env={**database.env, **LEASE}) as stack:
        replies = many_calls(stack, key, slug, _later(stack.workers[0].kill))
        broken = sum(reply.status == 0 or b"message_stop" not in reply.body for reply in replies)
        assert broken >= IN_FLIGHT // 4, "the killed worker had nothing in flight"
        database.wait_until_nothing_is_held(60)
        billed = stack.bill(slug)
        assert len(billed) == IN_FLIGHT
        check_ledger(database, slug, billed)


def test_a_killed_gateway_loses_no_call_that_reached_upstream(database: Cluster, tmp_path: Path) -> None:
    """The parent of both workers dies; nothing serves any more; the next start settles what is left."""
    slug, key = make_tenant(database)
    with start_stack(workers=1, env={**database.env, **LEASE}) as stack:
        assert stack.simulator
        port = stack.workers[0].listener.getsockname()[1] + 1
        env = {
            **os.environ, **database.env, **LEASE,
            "ANTHROPIC_API_KEY": "sk-ant-simulated", "ANTHROPIC_BASE_URL": stack.simulator.url,
            "EXCHEQUER_STATE_DIR": str(tmp_path),
        }  # fmt: skip
        stack.workers[0].stop()
        command = [sys.executable, "manage.py", "gateway", "--port", str(port), "--workers", "2"]
        parent = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        gateway = Stack(stack.folder, [_At(f"http://127.0.0.1:{port}")], stack.simulator)  # type: ignore[list-item]
        wait_until(lambda: _answers(port), 30, "the gateway did not start")
        many_calls(gateway, key, slug, _later(parent.kill))  # its workers may finish what they have begun
        wait_until(lambda: not _answers(port), 10, "a worker outlived its parent and still serves")
        stack.workers[0].restart()
        database.wait_until_nothing_is_held(60)
        billed = stack.bill(slug)
        assert len(billed) == IN_FLIGHT
        check_ledger(database, slug, billed)


def test_a_database_outage_longer_than_the_lease_sweeps_no_live_call(database: Cluster) -> None:
    slug, key = make_tenant(database)
    with start_stack(workers=2, env={**database.env, **LEASE}) as stack:
        during: list[Reply] = []

        async def outage() -> None:
            database.crash()
            await asyncio.sleep(1)
            during.extend(await _two_calls(stack, key))
            await asyncio.sleep(4)  # longer than the lease
            database.start()

        script = {**SCRIPT, "latency_ms": 8000}
        with _scripted(script):
            replies = many_calls(stack, key, slug, outage)
        assert [reply.status for reply in during] == [503, 503]
        assert all(reply.status == 200 for reply in replies)
        database.wait_until_nothing_is_held(30)
        bases = database.query(
            "SELECT DISTINCT e.basis FROM ledger_ledgerentry e JOIN tenants_tenant t ON t.id = e.tenant_id"
            " WHERE t.slug = %s",
            slug,
        )
        assert bases == [("exact",)]
        assert len(stack.bill(slug)) == IN_FLIGHT, "a call went upstream while the ledger was away"
        check_ledger(database, slug, stack.bill(slug))


def test_without_a_connection_left_calls_are_turned_away_at_once_and_what_is_in_flight_settles(
    database: Cluster,
) -> None:
    """Catalogue fault 17: the database takes no connection any more, and the gateway has lost its own."""
    slug, key = make_tenant(database)
    owner_url = database.env["DATABASE_OWNER_URL"]
    with (
        start_stack(workers=1, env={**database.env, **LEASE}) as stack,
        psycopg.connect(owner_url, autocommit=True) as owner,
    ):
        during: list[Reply] = []
        took: list[float] = []

        async def none_left() -> None:
            owner.execute("ALTER DATABASE exchequer CONNECTION LIMIT 0")
            owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'exchequer_app'"
            )
            await asyncio.sleep(0.3)
            for _ in range(2):
                began = time.monotonic()
                during.extend(await _two_calls(stack, key))
                took.append(time.monotonic() - began)
            await asyncio.sleep(1.5)  # calls end meanwhile: their settlements wait
            owner.execute("ALTER DATABASE exchequer CONNECTION LIMIT -1")

        with _scripted({**SCRIPT, "latency_ms": 2000}):
            replies = many_calls(stack, key, slug, none_left, settle_seconds=1)
        assert {reply.status for reply in during} == {503}
        assert max(took) < 2.5
        assert [reply.status for reply in replies] == [200] * IN_FLIGHT
        database.wait_until_nothing_is_held(30)
        check_ledger(database, slug, stack.bill(slug))
        assert len(stack.bill(slug)) == IN_FLIGHT
        wait_until(lambda: asyncio.run(_two_calls(stack, key))[0].status == 200, 5)


@pytest.mark.parametrize(
    ("synchronous_commit", "may_lose"),
    [("on", False), ("off", True)],
    ids=["on", "off, the twin that must fail"],
)
def test_a_crashed_database_loses_no_hold_that_was_confirmed(
    database: Cluster, tmp_path: Path, synchronous_commit: str, may_lose: bool
) -> None:
    """A worker writes each confirmed hold to an fsynced file, as upstream writes its bill; then kill -9.

    With synchronous_commit off the same check finds holds missing: it would notice.
    """
    bill = tmp_path / "bill"
    script = str(Path(__file__).with_name("confirming_worker.py"))
    worker = subprocess.Popen(
        [sys.executable, script, str(bill), synchronous_commit], env={**os.environ, **database.env}
    )
    try:
        wait_until(
            lambda: bill.exists() and len(bill.read_text().split()) > 500, 30, "no holds were confirmed"
        )
        database.crash()
    finally:
        worker.kill()
        worker.wait()
    database.start()
    confirmed = set(bill.read_text().split())
    kept = {str(identifier) for (identifier,) in database.query("SELECT id FROM ledger_hold")}
    assert bool(confirmed - kept) == may_lose, f"{len(confirmed - kept)} of {len(confirmed)} lost"


# --- Helpers ----------------------------------------------------------------------------------------


class _At:
    """A worker that somebody else started."""

    def __init__(self, url: str) -> None:
        self.url = url


def _later(act: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        act()

    return run


@contextlib.contextmanager
def _scripted(script: dict[str, Any]) -> Iterator[None]:
    before = dict(SCRIPT)
    SCRIPT.update(script)
    try:
        yield
    finally:
        SCRIPT.clear()
        SCRIPT.update(before)


async def _two_calls(stack: Stack, key: str) -> list[Reply]:
    async with aiohttp.ClientSession() as session:
        return [await call(session, url, key, a_call(), {"tag": "during the outage"}) for url in stack.urls]


def _answers(port: int) -> bool:
    import urllib.request

    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
