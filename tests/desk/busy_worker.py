"""A process that places and settles holds until SIGTERM, then prints its longest silence and its calls.

usage: busy_worker.py TENANT_ID PERIOD_ID TRANSACTION_TIMEOUT_SECONDS
"""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import django

django.setup()

from governance.core.ids import uuid7  # noqa: E402
from governance.desk.desk import Desk  # noqa: E402
from governance.desk.items import DeskUnavailable, PlaceHold  # noqa: E402
from governance.desk.memo import void_of_unused_hold  # noqa: E402
from tests.desk.conftest import a_memo  # noqa: E402


async def main(tenant_id: int, period_id: int, timeout_seconds: float) -> None:
    desk = Desk(
        os.environ["DATABASE_URL"], "busy", on_fatal=print, transaction_timeout_seconds=timeout_seconds
    )
    await desk.start()
    print("ready", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    calls, longest_seconds, last = 0, 0.0, time.monotonic()

    async def call() -> None:
        nonlocal calls, longest_seconds, last
        while not stop.is_set():
            hold = PlaceHold(uuid7(), tenant_id, (period_id,), 10, 1, a_memo())
            try:
                await desk.place_hold(hold)
                await desk.settle(void_of_unused_hold(hold, "a busy worker's call"))
            except DeskUnavailable:
                await asyncio.sleep(0.01)
                continue
            calls += 1
            now = time.monotonic()
            longest_seconds, last = max(longest_seconds, now - last), now

    await asyncio.gather(*(call() for _ in range(8)))
    print(longest_seconds, calls, flush=True)
    await desk.stop()


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
