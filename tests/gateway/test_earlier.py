"""Between two attempts: what is durable before the next is sent, and what becomes of calls that end there."""

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from governance.calls.records import CallRecord
from governance.desk.items import Held, Settlement, Shrink
from governance.gateway import earlier
from governance.gateway.alerts import Alerts
from governance.gateway.attempt import Attempt
from governance.gateway.charging import Promise
from governance.gateway.errors import CallRefused


class Exchange(SimpleNamespace):
    """As much of an exchange as two attempts look at. `settled`: what came to the desk, with its future."""

    def __init__(self, *, claim: bool = False) -> None:
        self.settled: list[tuple[Settlement, asyncio.Future[bool]]] = []
        self.shrunk: list[Shrink] = []
        tenant = SimpleNamespace(id=3, credential_id=5, upstream_headers=(), fingerprint_key=b"k")
        super().__init__(
            id=uuid4(),
            endpoint="/v1/messages",
            key=SimpleNamespace(id=7, team_id=None, tenant=tenant),
            request=SimpleNamespace(model="claude-sonnet-5-5"),
            requested_model="claude-sonnet-5-5",
            claim=object() if claim else None,
            taken=None,
            earlier=None,
            asked_terms=None,
            decision={},
            gateway=SimpleNamespace(
                settle=self._settle,
                alerts=Alerts(),
                unended={},
                desk=SimpleNamespace(shrink=self.shrunk.append),
            ),
        )

    def _settle(self, settlement: Settlement, _: object) -> "asyncio.Future[bool]":
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.settled.append((settlement, future))
        return future

    def attempt(self) -> Attempt:
        promise: Any = Promise(900, 1000, 10, True, None, SimpleNamespace(version=4))  # type: ignore[arg-type]
        this: Any = self
        return Attempt(this, Held(uuid4(), None, lease_id=1), (11, 12), promise)


def two_attempts(**options: bool) -> tuple[Exchange, earlier.Earlier, Attempt, Attempt]:
    exchange = Exchange(**options)
    first = exchange.attempt()
    calls = earlier.of(exchange)  # type: ignore[arg-type]
    calls.ended(first, None, "upstream answered 529 before any output")
    return exchange, calls, first, exchange.attempt()


def a_row(exchange_id: UUID) -> CallRecord:
    return CallRecord(id=exchange_id, tenant_id=3, key_id=7, endpoint="/v1/messages", outcome="refused",
                      status=429, reason="x")  # fmt: skip


async def test_the_next_attempt_waits_until_the_one_before_is_durable() -> None:
    exchange, calls, first, second = two_attempts(claim=True)
    assert [(shrink.hold_id, shrink.amount_nanos) for shrink in exchange.shrunk] == [(first.hold_id, 0)]
    waiting = asyncio.ensure_future(calls.give_way_to(second))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    ((settlement, future),) = exchange.settled
    assert (settlement.call, settlement.claimed, settlement.claim_to) == (None, False, second.hold_id)
    future.set_result(True)
    await waiting
    assert (first.number, second.number, calls.attempts) == (1, 2, 1)
    assert exchange.gateway.unended == {}


async def test_a_call_whose_attempt_a_sweeper_settled_is_the_sweepers() -> None:
    """Its sums are not certain here: nothing is sent, no row is written, and no further hold is placed."""
    exchange, calls, _, second = two_attempts()
    waiting = asyncio.ensure_future(calls.give_way_to(second))
    await asyncio.sleep(0)
    exchange.settled[0][1].set_result(False)
    with pytest.raises(CallRefused):
        await waiting
    assert second.resolved
    assert calls.over
    calls.end_with(a_row(exchange.id))
    assert len(exchange.settled) == 1
    calls.forget()
    assert exchange.gateway.unended == {}


@pytest.mark.parametrize("ours", [True, False])
async def test_a_settlement_that_takes_too_long_ends_the_call_once_it_is_known(
    monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    monkeypatch.setattr(earlier, "DURABLE_SECONDS_MAX", 0.01)
    exchange, calls, _, second = two_attempts()
    with pytest.raises(CallRefused):
        await calls.give_way_to(second)
    assert (calls.over, second.resolved) == (True, False)
    exchange.settled[0][1].set_result(ours)
    await asyncio.sleep(0.01)
    assert second.resolved
    assert len(exchange.settled) == 1 + ours
    if ours:
        call = exchange.settled[1][0].call
        assert call is not None
        assert (call.attempts, call.cost_nanos) == (2, 0)


async def test_a_call_that_is_refused_after_an_attempt_ended_has_one_row_with_its_cost() -> None:
    exchange, _, first, _ = two_attempts()
    row = a_row(exchange.id)
    exchange.gateway.unended[exchange.id].end_with(row)
    ((settlement, _),) = exchange.settled
    assert (settlement.hold_id, settlement.call) == (first.hold_id, row)
    assert (row.attempts, row.cost_nanos, row.outcome) == (1, 0, "refused")
    assert exchange.gateway.unended == {}


async def test_an_attempt_that_costs_more_than_its_hold_does_not_shrink_it() -> None:
    exchange = Exchange()
    first = exchange.attempt()
    charge = first.promise.full_hold("all of it")
    earlier.of(exchange).ended(first, charge, None)  # type: ignore[arg-type]
    assert exchange.shrunk == []
