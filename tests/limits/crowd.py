"""A process full of callers of ten tenants, each of whom has a limit: who was let through.

    python -m tests.limits.crowd REDIS_URL PREFIX CALLERS SECONDS    → JSON

Every caller comes back when it is told to, until its time is up.
"""

import asyncio
import json
import random
import sys
from collections import Counter
from time import monotonic

from governance.limits.meter import Meter
from governance.limits.terms import Check

TENANTS = 10
LIMIT = 100


async def crowd(redis_url: str, prefix: str, callers: int, seconds: float) -> dict[str, object]:
    async def four_workers() -> int:
        return 4

    # Whether a busy machine is taken for an outage is another question.
    meter = Meter(redis_url, four_workers, round_trip_seconds_max=10)
    admitted: Counter[str] = Counter()
    began = monotonic()

    async def caller(number: int) -> None:
        tenant = f"{prefix}-{number % TENANTS}"
        check = Check(tenant, "requests", "rate", LIMIT, 1)
        while monotonic() - began < seconds:
            answer = await meter.take([check])
            if answer.refused is None:
                admitted[tenant] += 1
                return
            await asyncio.sleep(answer.wait_seconds * random.uniform(1, 1.5))

    await asyncio.gather(*(caller(number) for number in range(callers)))
    shared = meter.shared
    await meter.stop()
    return {"admitted": admitted, "elapsed": monotonic() - began, "shared": shared}


if __name__ == "__main__":
    url, name, count, until = sys.argv[1:]
    print(json.dumps(asyncio.run(crowd(url, name, int(count), float(until)))))
