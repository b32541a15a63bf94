"""kill -9 and an exception at every fault point, for JSON and streams: nothing lost, doubled, stuck or over.

Catalogue faults 1 to 7, 13 and 25 (README.md). All cases run first, many at a time; each test then looks at
its own. A sound worker beside them sweeps what the dead ones held.
"""

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest

from governance.ops.processes import PROJECT
from tests.faults.cases import (
    RELEASE_SECONDS_MAX,
    SCRIPT,
    Case,
    gather_evidence,
    open_holds,
    run_cases,
    tagged_call,
)
from tests.faults.points import POINTS, SWEEP_POINTS, find
from tests.faults.warm import WarmWorkers, warm_workers
from tests.gateway.policies import govern
from tests.harness import Stack, make_tenant, wait_until

CASES = [
    (name, action, mode)
    for name, point in POINTS.items()
    for action in ("kill", "raise", "lose")
    for mode in point.modes
    if action != "lose" or point.lost
]


@pytest.fixture(scope="module")
def cases(
    owner: psycopg.Connection[Any], stack: Stack, warm: WarmWorkers, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Case]:
    made = [Case(point, action, mode) for point, action, mode in CASES]  # type: ignore[arg-type]
    for case in made:
        if POINTS[case.point].policy:
            govern(case.account, POINTS[case.point].policy)

    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            assert await warm.start(0).ready(session), warm.log(0)
        await run_cases(made, warm, tmp_path_factory.mktemp("fired"), owner)

    asyncio.run(run())
    tenants = [case.account.tenant.pk for case in made]
    wait_until(
        lambda: not open_holds(owner, tenants), RELEASE_SECONDS_MAX, lambda: str(open_holds(owner, tenants))
    )
    gather_evidence(made, owner, stack)
    return {case.name: case for case in made}


@pytest.mark.parametrize(("point", "action", "mode"), CASES, ids=["-".join(case) for case in CASES])
def test_a_fault_at_any_point_loses_doubles_and_overspends_nothing(
    cases: dict[str, Case], point: str, action: str, mode: str
) -> None:
    case = cases[f"{point}-{action}-{mode}"]
    expected = POINTS[point]
    assert case.evidence
    assert case.fired, "the call never came that far: the test proves nothing"
    assert case.breaches() == []
    assert case.outcome in {"kill": expected.killed, "raise": expected.raised, "lose": expected.lost}[action]
    if action == "kill":
        assert len(case.evidence.bill) == expected.billed
    assert not case.held_while_alive, "a worker that goes on left a hold open"


@pytest.mark.parametrize("point", SWEEP_POINTS)
def test_a_sweeper_that_is_killed_leaves_its_work_to_the_next_which_does_it_once(
    owner: psycopg.Connection[Any], stack: Stack, tmp_path: Path, point: str
) -> None:
    """Catalogue fault 7. One worker dies with a hold, a second dies while it sweeps, a third sweeps."""
    assert stack.simulator
    account = make_tenant("100")
    env = {
        **os.environ,
        "EXCHEQUER_LEASE_HEARTBEAT_SECONDS": "0.1", "EXCHEQUER_LEASE_STALE_SECONDS": "0.5",
        "ANTHROPIC_API_KEY": "sk-ant-simulated", "ANTHROPIC_BASE_URL": stack.simulator.url,
    }  # fmt: skip

    async def run(warm: WarmWorkers) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
            victim = warm.start(
                1, {"point": "dispatch.before", "action": "kill", "report": str(tmp_path / "1")}
            )
            assert await victim.ready(session)
            await tagged_call(session, victim.url, account.key, "json", point, SCRIPT)
            assert len(open_holds(owner, [account.tenant.pk])) == 1
            sweeper = warm.start(2, {"point": point, "action": "kill", "report": str(tmp_path / "2")})
            while sweeper.alive:
                await asyncio.sleep(0.02)
            assert (tmp_path / "2").read_text() == f"{point}\n"
            assert await warm.start(3).ready(session)

    with warm_workers(tmp_path, env) as warm:
        asyncio.run(run(warm))
        wait_until(lambda: not account.holds(), RELEASE_SECONDS_MAX)
    case = Case(point, "kill", "json", account)
    gather_evidence([case], owner, stack)
    assert case.breaches() == []
    assert case.outcome == "full_hold"


def test_every_point_is_a_function_of_the_code_path_that_exists() -> None:
    assert len(POINTS) >= 25
    for point in (POINTS | SWEEP_POINTS).values():
        assert callable(find(point.where)[2])


def test_no_environment_variable_arms_a_production_worker() -> None:
    """The points are code of the tests: nothing that a worker imports knows of them."""
    names = [
        str(path)
        for folder in ("governance", "tenants")
        for path in (PROJECT / folder).rglob("*.py")
        if re.search(r"^\s*(from|import) tests\b|InjectedFault", path.read_text(), re.MULTILINE)
    ]
    assert names == []
