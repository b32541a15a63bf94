"""A call of several attempts: a hold each, one row, and sums that agree, whichever worker dies when."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings
from msgspec.structs import replace

from governance.calls.records import AttemptRecord, CallRecord
from governance.core.ids import uuid7
from governance.desk import sweeper as sweeping
from governance.desk.desk import Desk
from governance.desk.items import Claim, Claimed, DeskUnavailable, Held, PlaceHold, Settlement, Shrink
from governance.desk.memo import make_memo
from governance.desk.sweeper import Sweeper
from governance.ledger.kinds import Basis
from tests.desk.conftest import Purse

START = Callable[..., Awaitable[Desk]]


@dataclass
class SeveralAttempts:
    """One call at one desk. Amounts are nano-dollars."""

    desk: Desk
    purse: Purse
    period: int
    claim: Claim | None = None

    def __post_init__(self) -> None:
        self.id = uuid7()
        self.holds: list[PlaceHold] = []
        self.held: list[Held] = []
        self.costs: list[int] = []

    async def place(self, amount: int) -> Any:
        number = len(self.holds) + 1
        memo = make_memo(
            call_id=self.id, key_id=7, team_id=None, endpoint="/v1/messages", requested_model="big",
            stream=False, tags={}, end_user=None, session=None, credential_id=None, bound="bounded",
            list_nanos=amount, number=number, purpose="answer" if number == 1 else "fallback",
            sent_model="big" if number == 1 else "small",
        )  # fmt: skip
        hold = PlaceHold(
            uuid7(), self.purse.tenant_id, (self.period,), amount, 1, memo,
            claim=self.claim if number == 1 else None, follows=self.held[-1] if self.held else None,
        )  # fmt: skip
        answer = await self.desk.place_hold(hold)
        if isinstance(answer, Held):
            self.holds.append(hold)
            self.held.append(answer)
        return answer

    def shrink(self, cost: int) -> "asyncio.Future[bool]":
        return self.desk.shrink(Shrink(self.holds[-1].id, cost, (self.period,)))

    def settlement(self, number: int, cost: int, *, ends: bool) -> Settlement:
        """Of attempt `number`; a void where it cost nothing."""
        hold = self.holds[number - 1]
        earlier = self.costs[: number - 1]
        attempt = AttemptRecord(
            id=hold.id, call_id=self.id, tenant_id=hold.tenant_id, key_id=7, number=number, held_nanos=cost,
            cost_nanos=cost, list_nanos=cost, price_version=1,
        )  # fmt: skip
        sums = cost + sum(earlier)
        call = CallRecord(
            id=self.id, tenant_id=hold.tenant_id, key_id=7, endpoint="/v1/messages", outcome="served",
            status=200, reason="served", attempts=number, held_nanos=sums, cost_nanos=sums, list_nanos=sums,
        )  # fmt: skip
        self.costs[number - 1 :] = [cost]
        if cost:
            return Settlement.charge(
                hold_id=hold.id, basis=Basis.EXACT, held_nanos=cost, period_ids=(self.period,),
                attempt=attempt, call=call if ends else None,
                claim_to=None if ends or not self.claim else self.holds[number].id,
            )  # fmt: skip
        return Settlement.void(
            hold_id=hold.id, held_nanos=0, period_ids=(self.period,), attempt=attempt,
            call=call if ends else None, reason="refused", claimed=ends and self.claim is not None,
            claim_to=None if ends or not self.claim else self.holds[number].id,
        )  # fmt: skip


def rows(purse: Purse, sql: str) -> list[Any]:
    return purse.connection.execute(sql, [purse.tenant_id]).fetchall()


def assert_one_sound_row(purse: Purse, calls: int = 1) -> None:
    """Each call has one row, and it is the sum of its attempts."""
    said = rows(
        purse,
        "SELECT id, attempts, held_nanos, cost_nanos, list_nanos FROM calls_call WHERE tenant_id = %s"
        " ORDER BY id",
    )
    summed = rows(
        purse,
        "SELECT call_id, count(*) FILTER (WHERE number > 0), sum(held_nanos) FILTER (WHERE number > 0),"
        " sum(cost_nanos), sum(list_nanos) FROM calls_attempt WHERE tenant_id = %s GROUP BY 1 ORDER BY 1",
    )
    assert said == summed
    assert len(said) == calls
    [(charged,)] = rows(
        purse, "SELECT coalesce(sum(amount_nanos), 0) FROM ledger_ledgerentry WHERE tenant_id = %s"
    )
    assert sum(row[3] for row in said) == charged
    assert not purse.open_holds()


async def sweep(desk: Desk, *dead: Desk, purse: Purse) -> None:
    for one in dead:
        purse.connection.execute(
            "UPDATE desk_workerlease SET swept_at = now(), epoch = epoch + 1 WHERE id = %s", [one.lease_id]
        )
    sweeper = Sweeper(desk, settings.DATABASE_URL, heartbeat_seconds=60, stale_seconds=60)
    await sweeper._settle_orphans(await sweeper._live_connection())
    await sweeper.stop()


async def test_two_attempts_make_one_call_with_their_sum(desk: Desk, purse: Purse) -> None:
    period = purse.period(limit=100)
    call = SeveralAttempts(desk, purse, period)
    await call.place(70)
    call.shrink(5)
    assert isinstance(await call.place(90), Held)  # the first hold has made room
    assert purse.row(period) == (0, 95)
    assert await desk.settle(call.settlement(1, 5, ends=False))
    assert purse.count("calls_call") == 0
    assert await desk.settle(call.settlement(2, 60, ends=True))
    assert purse.row(period) == (65, 0)
    assert_one_sound_row(purse)


@pytest.mark.parametrize("first_cost", [0, 5])
@pytest.mark.parametrize("settled", [False, True], ids=["two holds left", "one hold left"])
@pytest.mark.parametrize("page", [1, 500])
async def test_a_dead_workers_call_gets_one_row_with_the_sum_of_its_attempts(
    start_desk: START,
    purse: Purse,
    monkeypatch: pytest.MonkeyPatch,
    first_cost: int,
    settled: bool,
    page: int,
) -> None:
    monkeypatch.setattr(sweeping, "_HOLDS_PER_SWEEP", page)
    alive, dead = await start_desk(worker="alive"), await start_desk(worker="dead")
    period = purse.period(limit=1000)
    for _ in range(3):
        call = SeveralAttempts(dead, purse, period)
        await call.place(70)
        call.shrink(first_cost)
        await call.place(90)
        if settled:
            await dead.settle(call.settlement(1, first_cost, ends=False))
    await sweep(alive, dead, purse=purse)
    assert_one_sound_row(purse, calls=3)
    assert purse.row(period) == (3 * (90 + first_cost), 0)
    said = rows(
        purse, "SELECT number, purpose, requested_model FROM calls_attempt WHERE tenant_id = %s ORDER BY 1"
    )
    second = (2, "fallback", "small")
    assert said[3:] == [second] * 3


async def test_two_sweepers_and_a_slow_worker_make_one_row_of_a_call(start_desk: START, purse: Purse) -> None:
    one, two, slow = [await start_desk(worker=name) for name in ("one", "two", "slow")]
    period = purse.period(limit=10_000)
    calls = [SeveralAttempts(slow, purse, period) for _ in range(30)]
    for number, call in enumerate(calls):
        await call.place(70)
        call.shrink(5)
        await call.place(90)
        if number % 3:  # durable before the second attempt is sent
            await slow.settle(call.settlement(1, 5, ends=False))

    async def finish(call: SeveralAttempts, sent: bool) -> None:
        if sent:
            await slow.settle(call.settlement(2, 60, ends=True))

    await asyncio.gather(
        sweep(one, slow, purse=purse),
        sweep(two, slow, purse=purse),
        *(finish(call, bool(number % 3)) for number, call in enumerate(calls)),
    )
    said = rows(purse, "SELECT cost_nanos FROM calls_call WHERE tenant_id = %s")
    assert len(said) == 30
    assert {cost for (cost,) in said} <= {95, 65}
    charged = rows(
        purse,
        "SELECT sum(cost_nanos), (SELECT sum(cost_nanos) FROM calls_call c WHERE c.tenant_id = a.tenant_id)"
        " FROM calls_attempt a WHERE tenant_id = %s GROUP BY tenant_id",
    )
    assert charged[0][0] == charged[0][1]
    assert not purse.open_holds()


async def test_a_call_whose_lease_was_swept_gets_no_further_hold(start_desk: START, purse: Purse) -> None:
    """Or its row would be written before all of its attempts were made."""
    alive, slow = await start_desk(worker="alive"), await start_desk(worker="slow")
    period = purse.period(limit=1000)
    call = SeveralAttempts(slow, purse, period)
    await call.place(70)
    call.shrink(5)
    await slow.place_hold(purse.hold(1, period))  # the shrink is written
    await sweep(alive, slow, purse=purse)
    with pytest.raises(DeskUnavailable):
        await call.place(90)
    assert not await slow.settle(call.settlement(1, 5, ends=True))
    assert purse.open_holds() == set()
    assert rows(purse, "SELECT attempts, cost_nanos FROM calls_call WHERE tenant_id = %s AND endpoint = "
                       "'/v1/messages'") == [(1, 5)]  # fmt: skip
    other = purse.hold(1, period)
    assert isinstance(await slow.place_hold(other), Held)  # the worker goes on under a new lease
    assert await slow.settle(purse.charge(other, 1))


async def test_without_the_lease_a_swept_call_would_cost_more_than_its_row_says(
    start_desk: START, purse: Purse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The must-fail twin of the test above: the next hold under whatever lease there is."""
    from governance.desk.queue import Taken

    monkeypatch.setattr(Taken, "keep_to_lease", lambda *_: None)
    alive, slow = await start_desk(worker="alive"), await start_desk(worker="slow")
    call = SeveralAttempts(slow, purse, purse.period(limit=1000))
    await call.place(70)
    await sweep(alive, slow, purse=purse)
    assert isinstance(await call.place(90), Held)
    await slow.settle(call.settlement(1, 5, ends=False))
    await slow.settle(call.settlement(2, 60, ends=True))
    with pytest.raises(AssertionError):
        assert_one_sound_row(purse)


async def test_a_hold_of_an_attempt_that_was_not_made_is_given_back_when_its_call_has_ended(
    start_desk: START, purse: Purse
) -> None:
    """The answer to the second hold was lost, the first attempt ended the call, and then the worker died."""
    alive, dead = await start_desk(worker="alive"), await start_desk(worker="dead")
    period = purse.period(limit=1000)
    call = SeveralAttempts(dead, purse, period)
    await call.place(70)
    await call.place(90)
    await dead.settle(call.settlement(1, 5, ends=True))
    await sweep(alive, dead, purse=purse)
    assert purse.row(period) == (5, 0)
    assert_one_sound_row(purse)
    assert rows(purse, "SELECT number, error FROM calls_attempt WHERE tenant_id = %s ORDER BY 1") == [
        (0, "the call had ended before this attempt"), (1, None),
    ]  # fmt: skip


async def test_a_caller_that_leaves_while_its_next_hold_is_placed_is_ended_by_its_first(
    start_desk: START, purse: Purse
) -> None:
    desk = await start_desk()
    call = SeveralAttempts(desk, purse, purse.period(limit=1000))
    await call.place(70)
    placing = asyncio.create_task(call.place(90))
    await asyncio.sleep(0)
    placing.cancel()
    await desk.settle(call.settlement(1, 5, ends=True))
    for _ in range(100):
        await asyncio.sleep(0.01)
        if not purse.open_holds():
            break
    assert_one_sound_row(purse)


# --- Idempotency-Key ---------------------------------------------------------------------------------


def claim_of(call_id: UUID) -> Claim:
    return Claim(7, "k", b"d" * 32, call_id)


async def test_the_claim_goes_from_attempt_to_attempt_with_its_call(desk: Desk, purse: Purse) -> None:
    period = purse.period(limit=1000)
    call = SeveralAttempts(desk, purse, period, claim_of(uuid7()))
    await call.place(70)
    call.shrink(0)
    await call.place(90)
    await desk.settle(call.settlement(1, 0, ends=False))
    twin = replace(purse.hold(10, period), claim=claim_of(uuid7()))
    answer = await desk.place_hold(twin)
    assert isinstance(answer, Claimed)
    assert (answer.in_flight, answer.hold_id) == (True, call.holds[1].id)
    await desk.settle(call.settlement(2, 60, ends=True))
    answer = await desk.place_hold(replace(twin, id=uuid7()))
    assert isinstance(answer, Claimed)
    assert (answer.in_flight, answer.hold_id) == (False, call.holds[1].id)


async def test_a_call_whose_last_attempt_is_voided_frees_its_key(desk: Desk, purse: Purse) -> None:
    period = purse.period(limit=1000)
    call = SeveralAttempts(desk, purse, period, claim_of(uuid7()))
    await call.place(70)
    call.shrink(5)  # a classifier that was paid for
    await call.place(90)
    await desk.settle(call.settlement(1, 5, ends=False))
    await desk.settle(call.settlement(2, 0, ends=True))
    assert isinstance(await desk.place_hold(replace(purse.hold(10, period), claim=claim_of(uuid7()))), Held)


async def test_a_dead_workers_claim_stays_with_the_call_that_was_charged(
    start_desk: START, purse: Purse
) -> None:
    alive, dead = await start_desk(worker="alive"), await start_desk(worker="dead")
    period = purse.period(limit=1000)
    call = SeveralAttempts(dead, purse, period, claim_of(uuid7()))
    await call.place(70)
    call.shrink(0)
    await call.place(90)
    await sweep(alive, dead, purse=purse)
    assert_one_sound_row(purse)
    answer = await alive.place_hold(replace(purse.hold(10, period), claim=claim_of(uuid7())))
    assert isinstance(answer, Claimed)
    assert not answer.in_flight


def test_memos_of_first_answers_say_nothing_new(purse: Purse) -> None:
    """The path of a call without a policy pays nothing for what others need."""
    memo = make_memo(
        call_id=uuid7(), key_id=7, team_id=None, endpoint="/v1/messages", requested_model="m", stream=False,
        tags={}, end_user=None, session=None, credential_id=None, bound="bounded", list_nanos=1,
        sent_model="m",
    )  # fmt: skip
    assert json.loads(memo).keys().isdisjoint({"number", "purpose", "sent"})
