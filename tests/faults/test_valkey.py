"""Faults 20 to 22: Valkey slow, restarted, flushed, poisoned. Limits on calls live there, and nothing that a
call needs: none fails, none waits long, none is charged otherwise, and counting goes on afterwards."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import redis

from governance.limits.limits import set_limit
from governance.limits.models import CallLimit
from tenants.scope import platform_scope
from tests.chaos_proxy import ChaosProxy, in_thread
from tests.gateway.asking import ASK, post
from tests.harness import Account, Stack, make_tenant, start_stack, wait_until

ROUND_TRIP_SECONDS_MAX = 0.25
"""What a Valkey that hangs may cost, once an outage (limits/meter.py)."""


@dataclass
class Line:
    """A gateway whose way to Valkey can be spoiled."""

    stack: Stack
    proxy: ChaosProxy

    @property
    def alone(self) -> bool:
        lines = self.stack.workers[0].get("/metrics")[1].splitlines()
        return any(line.startswith("exchequer_call_limits_alone") and line.endswith(" 1.0") for line in lines)


@pytest.fixture(scope="module")
def line() -> Iterator[Line]:
    with (
        in_thread(ChaosProxy(os.environ["REDIS_URL"])) as proxy,
        start_stack(env={"REDIS_URL": proxy.url}) as stack,
    ):
        yield Line(stack, proxy)


@pytest.fixture
def account() -> Account:
    made = make_tenant()
    measures = {"requests_per_minute": 6000, "concurrent_calls": 50}
    with platform_scope():
        set_limit(made.tenant, measures, scope="key", ref=str(made.issued.key.pk))
    return made


def served(line: Line, account: Account, stream: bool, calls: int = 4) -> float:
    """That so many calls are served, and charged exactly; how long the slowest took."""
    before, slowest = len(account.entries()), 0.0
    for _ in range(calls):
        began = time.monotonic()
        assert post(line.stack, account, {**ASK, "stream": stream}).status_code == 200
        slowest = max(slowest, time.monotonic() - began)
    wait_until(lambda: len(account.entries()) == before + calls and not account.holds(), 5)
    assert {entry.basis for entry in account.entries()} == {"exact"}
    return slowest


def counters(account: Account) -> list[bytes]:
    with platform_scope():
        limit = CallLimit.objects.get(tenant=account.tenant)
    return list(redis.from_url(os.environ["REDIS_URL"]).keys(f"exchequer:limit:{limit.pk}:*"))


modes = pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])


@modes
def test_a_valkey_that_answers_after_seconds_costs_one_call_a_quarter_of_one(
    line: Line, account: Account, stream: bool
) -> None:
    """Fault 20."""
    usual = served(line, account, stream)
    line.proxy.to_client.latency_seconds = 1
    try:
        slowest = served(line, account, stream)
        assert line.alone
        assert slowest < usual + 2 * ROUND_TRIP_SECONDS_MAX + 1, "more than one busy machine is slow by"
    finally:
        line.proxy.to_client.latency_seconds = 0
        line.proxy.cut_all()
    wait_until(lambda: not line.alone, 15)
    served(line, account, stream)


@modes
def test_a_valkey_that_is_restarted_empty_is_counted_in_again(
    line: Line, account: Account, stream: bool
) -> None:
    """Fault 21: its connections break and its counters are gone, as after an eviction or FLUSHALL."""
    served(line, account, stream)
    redis.from_url(os.environ["REDIS_URL"]).flushdb()
    served(line, account, stream)
    line.proxy.cut_all()
    served(line, account, stream)
    wait_until(lambda: not line.alone, 15)
    served(line, account, stream)
    assert counters(account)


@modes
@pytest.mark.parametrize("junk", ["text", "another type", "far future", "nan"])
def test_what_somebody_else_wrote_under_a_limits_name_is_forgotten(
    line: Line, account: Account, stream: bool, junk: str
) -> None:
    """Fault 22: the limit counts anew; the worker goes on counting with the others."""
    wait_until(lambda: not line.alone, 15)
    served(line, account, stream, calls=1)
    valkey = redis.from_url(os.environ["REDIS_URL"])
    for name in counters(account):
        kind = valkey.type(name)
        if junk == "another type":
            valkey.delete(name)
            valkey.rpush(name, "not", "ours")
        elif kind == b"hash":
            for worker in valkey.hkeys(name):
                valkey.hset(name, worker, "junk")
        else:
            valkey.set(name, {"text": "junk", "far future": "9" * 18, "nan": "nan"}[junk])
    served(line, account, stream, calls=3)
    assert not line.alone
    assert all(valkey.type(name) in (b"hash", b"string") for name in counters(account))
