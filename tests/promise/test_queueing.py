"""Many callers in several processes wait for room: nothing is overspent, all is used, nobody is starved."""

import io
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection

from governance.core.clock import utcnow
from governance.core.money import NANOS_PER_USD
from governance.pricing.loading import load_book
from tests.desk.conftest import Purse

WORKER = str(Path(__file__).with_name("queueing_worker.py"))
SMALLEST, LARGEST = 60, 100


@pytest.fixture
def purse(owner_connection: psycopg.Connection[Any]) -> Purse:
    return Purse(owner_connection)


def run_workers(
    tasks: Sequence[dict[str, Any]], meanwhile: Any = lambda: None
) -> tuple[list[dict[str, Any]], Any]:
    """What each worker printed at its end; `meanwhile` runs while they do."""
    workers = []
    for number, task in enumerate(tasks):
        settings = {"seed": number, "calls": None, "seconds": None, "shrunk_percent": None} | task
        argv = [sys.executable, WORKER, json.dumps(settings)]
        workers.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    try:
        for worker in workers:
            assert worker.stdout
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin
            worker.stdin.write("go\n")
            worker.stdin.flush()
        seen = meanwhile()
        printed = [worker.communicate(timeout=600)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return [json.loads(text) for text in printed], seen


@pytest.mark.parametrize(
    ("calls", "at_once"),
    [pytest.param(1_200, 240, id="short"), pytest.param(10_000, 2_000, id="long", marks=pytest.mark.soak)],
)
def test_calls_of_four_processes_on_four_legs_use_a_limit_up_and_never_pass_one(
    purse: Purse, calls: int, at_once: int
) -> None:
    """cases A2, A11: tenant, team, key by day and key by month; two in three calls find money left."""
    limit = calls * 36
    tenant = purse.period(limit)
    teams = [purse.period(limit * 2 // 3) for _ in range(2)]
    keys = [(purse.period(limit // 3), purse.period(limit // 2)) for _ in range(4)]
    legs = [[tenant, teams[number % 2], *keys[number]] for number in range(4)]
    task = {
        "tenant": purse.tenant_id, "legs": legs, "calls": calls // 4, "open": at_once // 4,
        "smallest": SMALLEST, "largest": LARGEST, "cost_percents": [10, 100], "held_ms": [5, 200],
    }  # fmt: skip
    results, _ = run_workers([task] * 4)
    print(json.dumps(results, indent=1))
    rows = purse.connection.execute(
        "SELECT id, limit_nanos, spent_nanos, held_nanos FROM ledger_budgetperiod WHERE tenant_id = %s",
        [purse.tenant_id],
    ).fetchall()
    assert all(spent + held <= most for _, most, spent, held in rows)
    assert {held for *_, held in rows} == {0}
    (of_tenant,) = (spent for row, _, spent, _ in rows if row == tenant)
    assert limit - SMALLEST < of_tenant <= limit
    assert of_tenant == sum(result["spent"] for result in results)
    assert sum(result["calls"] for result in results) == calls
    assert sum(result["exhausted"] for result in results) > 0
    assert [result["refused_wrongly"] for result in results] == [0] * 4
    assert sum(amount for _, amount in purse.entries()) == of_tenant


def test_one_large_call_among_small_callers_of_other_processes_gets_in_within_a_second_of_room(
    purse: Purse,
) -> None:
    """The room of 105 is full of holds of 10 that last up to 50 ms; the large one needs 90 of it."""

    def crowd(period: int) -> dict[str, Any]:
        return {
            "tenant": purse.tenant_id, "legs": [[period]], "open": 24, "smallest": 10, "largest": 10,
            "cost_percents": [0, 0], "held_ms": [10, 50], "seconds": 5,
        }  # fmt: skip

    alone, _ = run_workers([crowd(purse.period(105))] * 2)
    period = purse.period(105)
    large = crowd(period) | {"open": 1, "smallest": 90, "largest": 90}
    among, _ = run_workers([large, crowd(period), crowd(period)], lambda: time.sleep(1))
    print(json.dumps([alone, among], indent=1))
    of_large, *of_small = among
    assert of_large["calls"] >= 3
    assert of_large["longest_wait"] < 1.5
    assert {result["exhausted"] + result["held"] for result in among} == {0}
    longest_alone = max(result["longest_wait"] for result in alone)
    assert max(result["longest_wait"] for result in of_small) < longest_alone + 2


def _hold_nanos(model: str, input_tokens: int, output_tokens: int) -> int:
    return load_book(connection).worst_case(
        model,
        input_tokens_max=input_tokens,
        output_tokens_max=output_tokens,
        cache_ttl="5m",
        inference_geo=None,
        speed="standard",
        at=utcnow(),
    )


@pytest.mark.parametrize(
    ("model", "max_tokens", "spent_percent_min"),
    [
        pytest.param("claude-sonnet-5-5", 16_000, 95, id="Sonnet, capped"),
        pytest.param("claude-sonnet-5-5", 64_000, 0, id="Sonnet, not capped", marks=pytest.mark.soak),
        pytest.param("claude-opus-5-5", 16_000, 0, id="Opus, capped", marks=pytest.mark.soak),
        pytest.param("claude-opus-5-5", 64_000, 0, id="Opus, not capped", marks=pytest.mark.soak),
    ],
)
def test_twenty_agents_are_not_told_exhausted_before_their_money_is_nearly_spent(
    purse: Purse, model: str, max_tokens: int, spent_percent_min: float
) -> None:
    """$25, 200 kB of context a call: a token a byte is held until message_start tells that it is a quarter.

    A call costs a twentieth of what it holds. Every agent waits for the others and none is starved.
    """
    call_command("load_prices", yes=True, stdout=io.StringIO())
    limit = 25 * NANOS_PER_USD
    hold = _hold_nanos(model, 200_000, max_tokens)
    shrunk = _hold_nanos(model, 50_000, max_tokens)
    period = purse.period(limit)
    agents = {
        "tenant": purse.tenant_id, "legs": [[period]], "open": 5, "calls": limit * 30 // hold // 4,
        "smallest": hold, "largest": hold, "cost_percents": [2, 8], "held_ms": [5, 25],
        "shrunk_percent": max(8, 100 * shrunk // hold + 1),
    }  # fmt: skip
    results, _ = run_workers([agents] * 4)
    told = [result["spent_percent_at_first_refusal"] for result in results]
    print(json.dumps([model, max_tokens, hold / NANOS_PER_USD, shrunk / NANOS_PER_USD, told, results]))
    assert all(percent is not None for percent in told), "The money was not used up: the test proves nothing."
    assert min(told) >= spent_percent_min
    assert min(told) > 100 * (limit - hold) / limit
    assert [result["refused_wrongly"] + result["held"] for result in results] == [0] * 4
    assert max(result["longest_wait"] for result in results) < 30
    spent, held = purse.row(period)
    assert held == 0
    assert limit - hold < spent <= limit
