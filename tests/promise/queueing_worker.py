"""A process whose callers wait for room: places holds, holds them a while, settles them; prints a JSON line.

usage: queueing_worker.py '{"tenant": 1, "legs": [[1, 2], …], "calls": 100, "open": 20, "smallest": 60,
                            "largest": 100, "cost_percents": [10, 100], "held_ms": [1, 20],
                            "seconds": null, "seed": 7}'

Each caller takes one of the groups of legs. With `seconds` callers go on for so long instead of `calls`.
With `shrunk_percent` a hold shrinks to that after a first `held_ms`, as at message_start. Starts at a line on
standard input. `refused_wrongly` are refusals of holds that would have had room.
"""

import asyncio
import json
import os
import random
import sys
from pathlib import Path
from time import monotonic
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import django

django.setup()

from governance.core.ids import uuid7  # noqa: E402
from governance.desk.desk import Desk  # noqa: E402
from governance.desk.items import WOULD_WAIT, Held, PlaceHold, Refused, Shrink  # noqa: E402
from tests.desk.conftest import a_memo, charge_of  # noqa: E402

WAIT_SECONDS = 60.0


async def main(task: dict[str, Any]) -> None:
    desk = Desk(os.environ["DATABASE_URL"], "queueing", on_fatal=print)
    await desk.start()
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    chance = random.Random(task["seed"])
    turns = iter(range(task["calls"] or 10**9))
    until = monotonic() + (task["seconds"] or 10**6)
    waits: list[float] = []
    spent = exhausted = held = wrongly = 0
    spent_percents: list[float] = []

    async def call(legs: list[int]) -> None:
        nonlocal spent, exhausted, held, wrongly
        amount = chance.randint(task["smallest"], task["largest"])
        began = monotonic()
        hold = PlaceHold(uuid7(), task["tenant"], tuple(legs), amount, 1, a_memo(), WOULD_WAIT)
        answer = await desk.place_hold(hold)
        if isinstance(answer, Refused) and answer.fits_later(amount):
            answer = await desk.wait_for_room(hold, answer, WAIT_SECONDS)
        waits.append(monotonic() - began)
        if isinstance(answer, Refused):
            wrongly += amount <= answer.room_nanos
            held += answer.fits_later(amount)
            exhausted += not answer.fits_later(amount)
            spent_percents.append(100 * answer.figures.spent_nanos / answer.figures.limit_nanos)
            await asyncio.sleep(0.001)
        elif isinstance(answer, Held):
            if task["shrunk_percent"]:
                await asyncio.sleep(chance.uniform(*task["held_ms"]) / 1000)
                desk.shrink(Shrink(hold.id, amount * task["shrunk_percent"] // 100, hold.period_ids))
            await asyncio.sleep(chance.uniform(*task["held_ms"]) / 1000)
            cost = amount * chance.randint(*task["cost_percents"]) // 100
            assert await desk.settle(charge_of(hold, cost))
            spent += cost

    async def caller(number: int) -> None:
        for _ in turns:
            if monotonic() > until:
                return
            await call(task["legs"][number % len(task["legs"])])

    began = monotonic()
    await asyncio.gather(*(caller(number) for number in range(task["open"])))
    figures: dict[str, Any] = {
        "spent": spent,
        "exhausted": exhausted,
        "held": held,
        "refused_wrongly": wrongly,
    }
    waits.sort()
    figures["spent_percent_at_first_refusal"] = min(spent_percents, default=None)
    times = {"calls": len(waits), "longest_wait": waits[-1], "p50_wait": waits[len(waits) // 2]}
    print(json.dumps(figures | times | {"seconds": monotonic() - began}), flush=True)
    await desk.stop()


asyncio.run(main(json.loads(sys.argv[1])))
