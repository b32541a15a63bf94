"""Bad lines on both sides: crumbs, delays, cuts, resets, silence. Nothing is charged below its bill.

Catalogue faults 27, 28, 34 and 35 as the network shows them; tests/gateway has what upstream and clients say.
"""

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import psycopg
import pytest

from tests.chaos_proxy import Chaos, ChaosProxy, in_thread
from tests.faults.cases import LEASE, SCRIPT, Case, gather_evidence, open_holds, tagged_call
from tests.faults.warm import WarmWorkers, Worker, warm_workers
from tests.harness import Stack, wait_until

# What is done to the bytes of one direction → what the ledger says of a JSON call, and of a stream.
UPSTREAM: dict[str, tuple[Chaos, set[str], set[str]]] = {
    "in crumbs": (Chaos(trickle_bytes=11), {"exact"}, {"exact"}),
    "half a second late": (Chaos(latency_seconds=0.5), {"exact"}, {"exact"}),
    "closed after its headers": (Chaos(cut_after_bytes=330), {"full_hold"}, {"full_hold", "bounded"}),
    "closed in the middle": (Chaos(cut_after_bytes=700), {"full_hold", "exact"}, {"bounded", "full_hold"}),
    "reset in the middle": (
        Chaos(cut_after_bytes=700, cut="reset"), {"full_hold", "exact"}, {"bounded", "full_hold"},
    ),
    "silent, and open": (
        Chaos(cut_after_bytes=700, cut="half_open"), {"full_hold", "exact"}, {"bounded", "full_hold"},
    ),
    "silent from the start": (Chaos(cut_after_bytes=0, cut="half_open"), {"full_hold"}, {"full_hold"}),
}  # fmt: skip
CLIENT: dict[str, tuple[str, Chaos, set[str], set[str]]] = {
    "asks in crumbs": ("to_server", Chaos(trickle_bytes=7), {"exact"}, {"exact"}),
    "reads in crumbs": ("to_client", Chaos(trickle_bytes=40), {"exact"}, {"exact"}),
    "is cut off while it reads": (
        "to_client", Chaos(cut_after_bytes=700, cut="reset"), {"exact"}, {"exact", "bounded"},
    ),
    "is cut off while it asks": ("to_server", Chaos(cut_after_bytes=200), set(), set()),
}  # fmt: skip


@pytest.fixture(scope="module")
def upstream(stack: Stack) -> Iterator[ChaosProxy]:
    """Between the gateway and the simulator."""
    assert stack.simulator
    with in_thread(ChaosProxy(stack.simulator.url)) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def warm(upstream: ChaosProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmWorkers]:
    env = {
        **os.environ, **LEASE, "ANTHROPIC_API_KEY": "sk-ant-simulated", "ANTHROPIC_BASE_URL": upstream.url,
        "EXCHEQUER_STREAM_IDLE_SECONDS_MAX": "2", "EXCHEQUER_UPSTREAM_SECONDS_MAX": "3",
    }  # fmt: skip
    with warm_workers(tmp_path_factory.mktemp("lines"), env) as warm:
        yield warm


@pytest.fixture(scope="module")
def url(warm: WarmWorkers) -> str:
    """A worker's."""
    worker = warm.start(1)
    asyncio.run(_ready(worker))
    return worker.url


@pytest.fixture(scope="module")
def client(warm: WarmWorkers) -> Iterator[ChaosProxy]:
    """Between the caller and the gateway."""
    worker = warm.start(2)
    asyncio.run(_ready(worker))
    with in_thread(ChaosProxy(worker.url)) as proxy:
        yield proxy


@pytest.mark.parametrize("fault", UPSTREAM)
def test_a_bad_line_to_upstream_charges_no_less_than_the_bill(
    upstream: ChaosProxy, url: str, owner: psycopg.Connection[Any], stack: Stack, fault: str
) -> None:
    """A JSON call and a stream at once; each has a connection to upstream of its own."""
    chaos, json_says, stream_says = UPSTREAM[fault]
    upstream.cut_all()  # connections are kept alive, and a cut counts the bytes of each
    time.sleep(0.5)
    upstream.to_client = chaos
    try:
        cases = _call_both(url, f"up-{list(UPSTREAM).index(fault)}")
        wait_until(lambda: not open_holds(owner, [case.account.tenant.pk for case in cases]), 20)
    finally:
        upstream.to_client = Chaos()
    _judge(cases, owner, stack, json_says, stream_says)


@pytest.mark.parametrize("fault", CLIENT)
def test_a_bad_line_to_the_client_charges_no_less_than_the_bill(
    client: ChaosProxy, owner: psycopg.Connection[Any], stack: Stack, fault: str
) -> None:
    direction, chaos, json_says, stream_says = CLIENT[fault]
    setattr(client, direction, chaos)
    try:
        cases = _call_both(client.url, f"client-{list(CLIENT).index(fault)}")
        wait_until(lambda: not open_holds(owner, [case.account.tenant.pk for case in cases]), 20)
    finally:
        setattr(client, direction, Chaos())
    _judge(cases, owner, stack, json_says or {"nothing"}, stream_says or {"nothing"})


def _call_both(url: str, name: str) -> list[Case]:
    cases = [Case(name, "kill", mode) for mode in ("json", "stream")]

    async def run(case: Case) -> None:
        async with aiohttp.ClientSession() as session:
            case.reply = await tagged_call(session, url, case.account.key, case.mode, case.name, SCRIPT)

    async def run_all() -> None:
        await asyncio.gather(*map(run, cases))

    asyncio.run(run_all())
    return cases


def _judge(
    cases: list[Case],
    owner: psycopg.Connection[Any],
    stack: Stack,
    json_says: set[str],
    stream_says: set[str],
) -> None:
    gather_evidence(cases, owner, stack)
    assert [case.breaches() for case in cases] == [[], []]
    of_json, of_stream = cases
    assert (of_json.outcome in json_says, of_stream.outcome in stream_says) == (True, True), cases


async def _ready(worker: Worker) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        assert await worker.ready(session)
