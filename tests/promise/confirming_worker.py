"""Places holds for ever and appends the id of each confirmed one to an fsynced file.

usage: confirming_worker.py FILE on|off        (off: synchronous_commit off, as it must never be)
"""

import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import django

django.setup()

import psycopg  # noqa: E402

from governance.core.ids import uuid7  # noqa: E402
from governance.desk.desk import Desk  # noqa: E402
from governance.desk.items import PlaceHold  # noqa: E402
from tests.desk.conftest import a_memo  # noqa: E402


async def main(path: str, synchronous_commit: str) -> None:
    with psycopg.connect(os.environ["DATABASE_OWNER_URL"], autocommit=True) as connection:
        row = connection.execute(
            "INSERT INTO ledger_budgetperiod (tenant_id, budget_id, subject, starts_at, ends_at, limit_nanos,"
            " ceiling_nanos, spent_nanos, held_nanos, alert_percents)"
            " VALUES (1, -1, gen_random_uuid()::text, '2020-01-01', '2100-01-01', 1e9, 1e9, 0, 0, '{}')"
            " RETURNING id"
        ).fetchone()
    assert row
    desk = Desk(os.environ["DATABASE_URL"], "confirming", on_fatal=print)
    await desk.start()
    if synchronous_commit == "off":
        connection = await desk._link.live()
        await connection.execute("SET synchronous_commit = off")
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def confirm() -> None:
        while True:
            hold = PlaceHold(uuid7(), 1, (row[0],), 1, 1, a_memo())
            await desk.place_hold(hold)
            os.write(file, f"{hold.id}\n".encode())
            os.fdatasync(file)

    await asyncio.gather(*(confirm() for _ in range(16)))


asyncio.run(main(sys.argv[1], sys.argv[2]))
