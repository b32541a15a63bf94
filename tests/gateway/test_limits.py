"""What one process keeps in memory and waits for is bounded, and one tenant cannot take it all."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from governance.gateway.body import BodyBudget, read_body
from governance.gateway.errors import CallRefused
from tests.gateway.asking import ASK, assert_refused, post, script
from tests.harness import Account, make_tenant, start_stack, wait_until


def test_a_body_that_trickles_is_a_408_and_large_ones_at_once_are_a_429(account: Account) -> None:
    def trickle() -> Iterator[bytes]:
        for byte in json.dumps(ASK):
            yield byte.encode()
            time.sleep(0.1)

    limits = {"EXCHEQUER_BODY_SECONDS_MAX": "1", "EXCHEQUER_BODY_BYTES_PER_TENANT_MAX": "3000"}
    with start_stack(env=limits) as stack:
        assert_refused(post(stack, account, trickle()), 408, "timeout_error", "1 seconds")
        large = {**ASK, "system": "x" * 1500}
        slow = threading.Thread(
            target=post, args=(stack, account, large), kwargs={"headers": script(latency_ms=1500)}
        )
        slow.start()
        wait_until(lambda: bool(account.holds()), 5)
        response = post(stack, account, large)
        assert_refused(response, 429, "rate_limit_error", "large requests at once")
        neighbour = make_tenant()
        assert post(stack, neighbour, large).status_code == 200
        slow.join()
        assert post(stack, account, large).status_code == 200
    reasons = [call.reason for call in account.wait_for_calls(4)]
    assert sorted(reasons) == ["body_too_slow", "served", "served", "tenant_body_bytes"]


def test_a_body_takes_the_memory_that_has_arrived_not_what_it_declares() -> None:
    taken: list[int] = []
    arriving = iter([b"{", b"}" * 9])

    async def receive() -> dict[str, Any]:
        part = next(arriving)
        return {"type": "http.request", "body": part, "more_body": part == b"{"}

    read = read_body(receive, 32_000_000, bytes_max=32_000_000, seconds_max=1, take=taken.append)
    assert asyncio.run(read) == b"{" + b"}" * 9
    assert taken == [1, 9]


def test_the_memory_for_bodies_is_given_back() -> None:
    budget = BodyBudget(bytes_max=100, tenant_bytes_max=60)
    budget.take(1, 60)
    with pytest.raises(CallRefused, match="organisation"):
        budget.take(1, 1)
    budget.take(2, 40)
    with pytest.raises(CallRefused, match="no memory left"):
        budget.take(2, 1)
    budget.give_back(1, 60)
    budget.give_back(2, 40)
    assert budget.in_flight == 0
    budget.take(2, 60)
