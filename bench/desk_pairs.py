"""Hold and settlement pairs a second through one desk, without HTTP: two budgets, three fact rows a pair.

    python -m bench.desk_pairs '{"callers": 256, "seconds": 3}'

Uses the database that the environment names and budget periods of its own. Prints one JSON object.
"""

import asyncio
import json
import os
import sys
import time
from datetime import UTC, datetime
from typing import Any

import psycopg
import uvloop

CALLERS = 256
_TENANT_ID = 9_000_000
_ENDPOINT, _MODEL = "/v1/messages", "claude-sonnet-5"
_LIMIT_NANOS = 10**17
_HELD_NANOS, _COST_NANOS = 2_000_000, 500_000
_PERIOD = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


def main() -> None:
    import django

    django.setup()
    asked = json.loads(sys.argv[1])
    print(json.dumps(uvloop.run(_measure(asked["callers"], asked["seconds"]))))


async def _measure(callers: int, seconds: float) -> dict[str, float]:
    from governance.calls.records import AttemptRecord, CallRecord
    from governance.core.ids import uuid7
    from governance.desk.desk import Desk
    from governance.desk.items import Held, PlaceHold, Settlement
    from governance.desk.memo import make_memo
    from governance.ledger.kinds import Basis

    period_ids = _make_periods()
    desk = Desk(os.environ["DATABASE_URL"], "bench", on_fatal=_die)
    await desk.start()
    waits: list[float] = []
    pairs = 0
    end = time.perf_counter() + seconds

    async def caller() -> None:
        nonlocal pairs
        while (asked := time.perf_counter()) < end:
            call_id = uuid7()
            memo = make_memo(
                call_id=call_id, key_id=7, team_id=None, endpoint=_ENDPOINT, requested_model=_MODEL,
                stream=False, tags={}, end_user=None, session=None, credential_id=None,
                bound="bounded", list_nanos=_HELD_NANOS,
            )  # fmt: skip
            hold = PlaceHold(uuid7(), _TENANT_ID, period_ids, _HELD_NANOS, 1, memo)
            answer = await desk.place_hold(hold)
            assert isinstance(answer, Held)
            waits.append((time.perf_counter() - asked) * 1000)
            call = CallRecord(
                id=call_id, tenant_id=_TENANT_ID, key_id=7, endpoint=_ENDPOINT, outcome="served", status=200,
                reason="served", requested_model=_MODEL, cost_nanos=_COST_NANOS,
            )  # fmt: skip
            attempt = AttemptRecord(
                id=hold.id, call_id=call_id, tenant_id=_TENANT_ID, key_id=7, held_nanos=_HELD_NANOS,
                cost_nanos=_COST_NANOS, list_nanos=_COST_NANOS, price_version=1,
            )  # fmt: skip
            charge = Settlement.charge(
                hold_id=hold.id, basis=Basis.EXACT, held_nanos=_HELD_NANOS, period_ids=period_ids,
                attempt=attempt, call=call,
            )  # fmt: skip
            assert await desk.settle(charge)
            pairs += 1

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    taken, cpu = time.perf_counter() - began, time.process_time() - cpu
    await desk.stop()
    waits.sort()
    return {
        "pairs": pairs,
        "pairs_per_second": pairs / taken,
        "cpu_ms_per_pair": cpu * 1000 / pairs,
        "hold_p50_ms": waits[len(waits) // 2],
        "hold_p99_ms": waits[len(waits) * 99 // 100],
    }


def _make_periods() -> tuple[int, int]:
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        return _make_period(connection, 1), _make_period(connection, 2)


def _make_period(connection: psycopg.Connection[Any], number: int) -> int:
    budget_id = _TENANT_ID + number + 10 * int(time.time())
    row = connection.execute(
        "INSERT INTO ledger_budgetperiod (tenant_id, budget_id, subject, starts_at, ends_at, limit_nanos,"
        " ceiling_nanos, spent_nanos, held_nanos, alert_percents)"
        " VALUES (%s, %s, '', %s, %s, %s, %s, 0, 0, '{}') RETURNING id",
        [_TENANT_ID, budget_id, *_PERIOD, _LIMIT_NANOS, _LIMIT_NANOS],
    ).fetchone()
    assert row is not None
    return int(row[0])


def _die(error: BaseException) -> None:
    print(f"The desk failed: {error!r}", file=sys.stderr, flush=True)
    os._exit(1)


if __name__ == "__main__":
    main()
