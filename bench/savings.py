"""What a policy saves: a workload through the gateway and the simulator at list prices, layer by layer.

    python -m bench.savings                     50,000 requests, a few minutes
    python -m bench.savings --requests 2000

The workload: prompts of about 800 tokens, answers of about 400, asked of Opus; 35 % are repeats, 60 % are
simple tasks. The policy (POLICY) shortens the system prompt, keeps answers for a day, sends simple tasks to
Haiku and lets Haiku judge what its rules cannot tell. The table's sums are read from the calls' rows and
compared with the ledger, and with the simulator's bill at list prices.
"""

import argparse
import asyncio
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.stack import Stack, running_stack
from governance.core.clock import utcnow
from governance.core.money import format_usd
from governance.core.usage import served_passes
from governance.ops.processes import CannotRun
from governance.simulator.bill import read_bill

REQUESTS, CALLERS, SEED = 50_000, 32, 1121
REPEATS_PERCENT, SIMPLE_PERCENT, UNCLEAR_PERCENT = 35, 60, 15
"""UNCLEAR of those that are not simple: the rules cannot tell, so the classifier is asked."""
OUTPUT_TOKENS = 400
MODEL = "claude-opus-5-5"

POLICY = """
rules:
  - name: The short system prompt
    when: {tags: {feature: support}}
    then:
      system:
        mode: replace
        text: You answer customers of a shop for garden tools. Be friendly, correct and brief.
  - name: Answers may be a day old
    when: {tags: {feature: support}}
    then: {cache: {ttl_seconds: 86400, scope: tenant}}
  - name: Simple tasks go to Haiku
    when: {keywords: {any: [translate, summarise, classify]}}
    then: {route: {tier: haiku}}
  - name: Hard ones stay on Opus
    when: {keywords: {any: [analyse, architecture]}}
    then: {route: {tier: opus}}
  - name: Haiku judges the rest
    then: {route: {classify: {simple: {tier: haiku}, complex: {tier: opus}, otherwise: {tier: opus}}}}
  - name: Haiku need not think for that
    then: {thinking: off}
"""
_SYSTEM = (
    "You are the assistant of a shop that sells garden tools. Greet the customer, answer in at most five "
    "sentences, say when you do not know, never promise a delivery date, and never speak of prices. "
) * 8
_SIMPLE = ("Translate this note into French", "Summarise this note", "Classify the mood of this note")
_HARD = "Analyse the trade-offs in this note and propose an architecture"
_UNCLEAR = "What should we do about this note"
_WORDS = ("spade", "rake", "hedge", "soil", "clay", "water", "shovel", "frost", "seed", "bulb", "compost")


@dataclass(frozen=True, slots=True)
class Sums:
    """Of all calls' rows, in nano-dollars; `entries_nanos` of the ledger, `billed_nanos` by the simulator."""

    calls: int
    attempts: int
    baseline_nanos: int
    cost_nanos: int
    entries_nanos: int
    billed_nanos: int
    layers: dict[str, int]


def bodies(count: int, seed: int = SEED) -> list[bytes]:
    """The workload; the same for the same seed."""
    chance = random.Random(seed)
    found: list[bytes] = []
    for number in range(count):
        if found and chance.randrange(100) < REPEATS_PERCENT:
            found.append(chance.choice(found))
        else:
            found.append(_body(chance, number))
    return found


def _body(chance: random.Random, number: int) -> bytes:
    if chance.randrange(100) < SIMPLE_PERCENT:
        task = chance.choice(_SIMPLE)
    else:
        task = _UNCLEAR if chance.randrange(100) < UNCLEAR_PERCENT else _HARD
    note = " ".join(chance.choices(_WORDS, k=120))
    return json.dumps(
        {
            "model": MODEL,
            "max_tokens": 1024,
            "system": _SYSTEM,
            "messages": [{"role": "user", "content": f"{task} (no. {number}): {note}"}],
        }
    ).encode()


async def send(stack: Stack, requests: list[bytes], progress: Progress) -> dict[int, int]:
    """Every request once, from CALLERS callers; how many answers had which status."""
    task = progress.add_task("calls", total=len(requests))
    headers = {
        "x-api-key": stack.key,
        "content-type": "application/json",
        "anthropic-version": "2023-06-01",
        "exchequer-tags": "feature=support",
    }
    url = f"http://127.0.0.1:{stack.gateway.port}/v1/messages"
    waiting, statuses = iter(requests), dict[int, int]()

    async def caller(session: aiohttp.ClientSession) -> None:
        for body in waiting:
            async with session.post(url, data=body, headers=headers) as response:
                await response.read()
            statuses[response.status] = statuses.get(response.status, 0) + 1
            progress.advance(task)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(caller(session) for _ in range(CALLERS)))
    return statuses


def publish_policy() -> None:
    """To the tenant that `stack.key` belongs to."""
    from governance.routing.policies import create_policy, publish
    from tenants.models import Tenant
    from tenants.scope import platform_scope

    with platform_scope():
        tenant = Tenant.objects.get(slug="bench")
        publish(create_policy(tenant, scope="tenant", name="savings", draft=POLICY))


def read_sums(bill: Path) -> Sums:
    from django.db import connection

    from governance.pricing.loading import load_book

    def row(sql: str) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()

    [(calls, attempts, baseline, cost)] = row(
        "SELECT count(*), sum(attempts), sum(baseline_nanos), sum(cost_nanos) FROM calls_call"
    )
    [(entries,)] = row("SELECT sum(amount_nanos) FROM ledger_ledgerentry")
    layers = row(
        "SELECT key, sum(value::bigint) FROM calls_call, jsonb_each_text(decision->'savings') GROUP BY key"
    )
    book, now = load_book(connection), utcnow()
    billed = sum(book.rate(served_passes(line), now).cost_nanos for line in read_bill(bill))
    saved = {layer: int(nanos) for layer, nanos in layers}
    return Sums(calls, attempts, int(baseline), int(cost), int(entries), billed, saved)


def show(sums: Sums, requests: int) -> list[str]:
    """Print the table; what does not agree, in sentences."""
    from governance.console.savings_rows import LAYER_TEXTS

    table = Table(title=f"{requests:,} requests: what each layer saved, at list prices")
    table.add_column("layer")
    table.add_column("nano-dollars", justify="right")
    table.add_column("US dollars", justify="right")
    table.add_column("of baseline", justify="right")

    def add(name: str, nanos: int) -> None:
        share = f"{nanos * 1000 // sums.baseline_nanos / 10:.1f} %" if sums.baseline_nanos else ""
        table.add_row(name, f"{nanos:,}", format_usd(nanos), share)

    add("As asked, without any cache", sums.baseline_nanos)
    for layer, words in LAYER_TEXTS.items():
        if layer in sums.layers:
            add(f"  {words}", -sums.layers[layer])
    table.add_section()
    add("Cost", sums.cost_nanos)
    Console().print(table)
    wrong = []
    if sums.calls != requests:
        wrong.append(f"{requests:,} requests were sent and {sums.calls:,} calls are recorded.")
    if sums.baseline_nanos - sum(sums.layers.values()) != sums.cost_nanos:
        wrong.append("The layers do not add up to baseline less cost.")
    if sums.entries_nanos != sums.cost_nanos:
        wrong.append(f"The ledger says {format_usd(sums.entries_nanos)}.")
    if sums.billed_nanos != sums.cost_nanos:
        wrong.append(f"The simulator billed {format_usd(sums.billed_nanos)}.")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.savings", description="What a policy saves.")
    parser.add_argument("--requests", type=int, default=REQUESTS, metavar="N")
    arguments = parser.parse_args()
    script = {"output_tokens": OUTPUT_TOKENS}
    try:
        with running_stack(script=script, plain=False) as stack, Progress(transient=True) as progress:
            publish_policy()
            statuses = asyncio.run(send(stack, bodies(arguments.requests), progress))
            wait_until_written(arguments.requests)
            sums = read_sums(stack.bill)
    except CannotRun as error:
        sys.exit(str(error))
    wrong = show(sums, arguments.requests)
    if statuses != {200: arguments.requests}:
        wrong.append(f"Not every answer was a 200: {statuses}.")
    sys.exit("\n".join(wrong) if wrong else 0)


def wait_until_written(calls: int, seconds: float = 30) -> None:
    """Settling is asynchronous: until every call has its row and nothing is held."""
    import time

    from django.db import connection

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with connection.cursor() as cursor:
            cursor.execute("SELECT (SELECT count(*) FROM calls_call), (SELECT count(*) FROM ledger_hold)")
            written, held = cursor.fetchone()
        if written >= calls and not held:
            return
        time.sleep(0.2)


if __name__ == "__main__":
    main()
