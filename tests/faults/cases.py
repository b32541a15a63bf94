"""One call through one worker that is armed with one fault point, many such at a time."""

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psycopg

from tests.faults.checker import Breach, check
from tests.faults.evidence import Evidence, collect
from tests.faults.points import POINTS, Action
from tests.faults.warm import WarmWorkers
from tests.harness import Account, Stack, make_tenant
from tests.promise.load import Reply, a_call, headers

AT_ONCE = 8
"""Workers alive at a time: each takes a handful of the database's connections."""
RELEASE_SECONDS_MAX = 30.0
FIRE_SECONDS_MAX = 15.0
SETTLE_SECONDS = 10.0
"""How long a worker that goes on gets to settle what it holds."""
LEASE = {"EXCHEQUER_LEASE_HEARTBEAT_SECONDS": "0.5", "EXCHEQUER_LEASE_STALE_SECONDS": "4"}
USAGE = {"input_tokens": 9, "output_tokens": 10}
"""Fewer tokens than a stream that breaks off has bytes: the simulator bills in full what nobody read on."""
SCRIPT = {"usage": USAGE, "latency_ms": 30, "deltas": 4, "chunk_delay_ms": 2}


@dataclass
class Case:
    """One fault of one call, and what came of it."""

    point: str
    action: Action
    mode: str
    account: Account = field(default_factory=lambda: make_tenant("100"))
    fired: bool = False
    reply: Reply | None = None
    held_while_alive: int = 0
    evidence: Evidence | None = None

    @property
    def name(self) -> str:
        return f"{self.point}-{self.action}-{self.mode}"

    @property
    def outcome(self) -> str:
        """What the ledger says of the call: nothing, void, or the basis of its charge."""
        assert self.evidence
        if not self.evidence.entries:
            return "nothing"
        entries = sorted(self.evidence.entries, key=lambda entry: entry.id)
        return "+".join(entry.basis or entry.kind for entry in entries)

    def breaches(self) -> list[Breach]:
        assert self.evidence
        return check(self.evidence)


async def run_cases(
    cases: Sequence[Case], warm: WarmWorkers, folder: Path, owner: psycopg.Connection[Any]
) -> None:
    """Each case's call, AT_ONCE at a time. A worker that its fault leaves alive is stopped after its case."""
    free = asyncio.Queue[int]()
    for slot in range(1, AT_ONCE + 1):
        free.put_nowait(slot)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session:

        async def run(case: Case) -> None:
            slot = await free.get()
            try:
                await _run_case(case, warm, slot, folder / case.name, session, owner)
            finally:
                free.put_nowait(slot)

        await asyncio.gather(*map(run, cases))


async def _run_case(
    case: Case,
    warm: WarmWorkers,
    slot: int,
    report: Path,
    session: aiohttp.ClientSession,
    owner: psycopg.Connection[Any],
) -> None:
    worker = warm.start(slot, {"point": case.point, "action": case.action, "report": str(report)})
    try:
        assert await worker.ready(session), warm.log(slot)[-3000:]
        point = POINTS[case.point]
        script = {**SCRIPT, **dict(point.script)}
        case.reply = await tagged_call(
            session, worker.url, case.account.key, case.mode, case.name, script, point.asks
        )
        case.fired = await _fires(report)
        if case.action != "kill":
            for _ in range(int(SETTLE_SECONDS / 0.05)):
                case.held_while_alive = len(open_holds(owner, [case.account.tenant.pk]))
                if not case.held_while_alive or not worker.alive:
                    break
                await asyncio.sleep(0.05)
            if not worker.alive:
                case.held_while_alive = 0
    finally:
        worker.kill()


async def _fires(report: Path) -> bool:
    """Settling waits for nobody: it may come after the reply."""
    for _ in range(int(FIRE_SECONDS_MAX / 0.02)):
        if os.path.exists(report):  # noqa: ASYNC240  a local file
            return True
        await asyncio.sleep(0.02)
    return False


async def tagged_call(
    session: aiohttp.ClientSession,
    url: str,
    key: str,
    mode: str,
    name: str,
    script: dict[str, Any],
    model: str | None = None,
) -> Reply:
    """One call that the bill and the ledger know by `name`."""
    sent = headers(key, {**script, "id": name}) | {"exchequer-tags": f"call={name}"}
    body = json.dumps(a_call(stream=mode == "stream") | ({"model": model} if model else {}))
    seconds = aiohttp.ClientTimeout(20)
    try:
        async with session.post(f"{url}/v1/messages", data=body, headers=sent, timeout=seconds) as response:
            return Reply(response.status, await response.read(), dict(response.headers))
    except (aiohttp.ClientError, TimeoutError):
        return Reply(0, b"", {})


def gather_evidence(
    cases: Sequence[Case], owner: psycopg.Connection[Any], stack: Stack, names: Sequence[str] = ()
) -> None:
    """Read what each case left in the ledger and on the bill; `names`: of its calls, where not its own."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for line in stack.bill():
        lines.setdefault(line["script_id"], []).append(line)
    for case in cases:
        bill = [line for name in names or (case.name,) for line in lines.get(name, ())]
        case.evidence = collect(owner, [case.account.tenant.pk], bill)


def open_holds(owner: psycopg.Connection[Any], tenant_ids: Sequence[int]) -> list[Any]:
    """(hold, lease, tags) of what is still held."""
    return owner.execute(
        "SELECT id, lease_id, memo->'tags' FROM ledger_hold WHERE tenant_id = ANY(%s)", [list(tenant_ids)]
    ).fetchall()
