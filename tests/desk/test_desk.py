"""The desk: holds, charges and facts in one transaction, exactly once, never over."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import psycopg
import pytest

from governance.core.ids import uuid7
from governance.desk.batch import Batch, write
from governance.desk.desk import Desk
from governance.desk.items import DeskUnavailable, Figures, Held, Refused, Settlement, Shrink
from governance.desk.records import PER_BATCH_MAX
from tests.desk.conftest import Fatal, Purse


async def test_a_hold_is_committed_before_its_caller_hears_of_it(desk: Desk, purse: Purse) -> None:
    period = purse.period(limit=100)
    hold = purse.hold(60, period)
    assert await desk.place_hold(hold) == Held(hold.id, Figures(100, 0, 60), desk.lease_id)
    assert purse.row(period) == (0, 60)
    assert purse.open_holds() == {hold.id}


async def test_a_charge_moves_a_hold_into_spend_and_writes_its_facts(desk: Desk, purse: Purse) -> None:
    period = purse.period(limit=100)
    hold = purse.hold(60, period)
    await desk.place_hold(hold)
    assert await desk.settle(purse.charge(hold, 25))
    assert purse.row(period) == (25, 0)
    assert purse.entries() == [("charge", 25)]
    assert (purse.count("calls_call"), purse.count("calls_attempt")) == (1, 1)
    assert purse.open_holds() == set()


async def test_a_void_gives_the_whole_hold_back_and_leaves_an_entry(desk: Desk, purse: Purse) -> None:
    period = purse.period(limit=100)
    hold = purse.hold(60, period)
    await desk.place_hold(hold)
    attempt, call = purse.records(hold, 0)
    void = Settlement.void(
        hold_id=hold.id,
        held_nanos=60,
        period_ids=(period,),
        attempt=attempt,
        call=call,
        reason="upstream 529",
    )
    assert await desk.settle(void)
    assert purse.row(period) == (0, 0)
    assert purse.entries() == [("void", 0)]


async def test_a_hold_takes_all_its_legs_or_none(desk: Desk, purse: Purse) -> None:
    wide, narrow = purse.period(limit=1000), purse.period(limit=50)
    refused = await desk.place_hold(purse.hold(60, wide, narrow))
    assert isinstance(refused, Refused)
    assert (refused.period_id, refused.figures) == (narrow, Figures(50, 0, 0))
    assert (purse.row(wide), purse.row(narrow)) == ((0, 0), (0, 0))


async def test_a_hold_says_what_the_tightest_hard_budget_has_left(desk: Desk, purse: Purse) -> None:
    wide, narrow = purse.period(limit=1000), purse.period(limit=70)
    held = [await desk.place_hold(purse.hold(30, wide, narrow)) for _ in range(2)]
    assert [one.tightest for one in held if isinstance(one, Held)] == [Figures(70, 0, 30), Figures(70, 0, 60)]
    soft = await desk.place_hold(purse.hold(30, purse.period(limit=10, hard=False)))
    assert isinstance(soft, Held)
    assert soft.tightest is None


async def test_a_soft_budget_never_refuses(desk: Desk, purse: Purse) -> None:
    period = purse.period(limit=10, hard=False)
    hold = purse.hold(60, period)
    assert isinstance(await desk.place_hold(hold), Held)
    await desk.settle(purse.charge(hold, 60))
    assert purse.row(period) == (60, 0)


async def test_a_hold_outside_its_period_is_refused_as_closed(desk: Desk, purse: Purse) -> None:
    over = purse.period(limit=100, ends_at=datetime(2021, 1, 1, tzinfo=UTC))
    refused = await desk.place_hold(purse.hold(1, over))
    assert isinstance(refused, Refused)
    assert refused.closed


async def test_a_shrink_gives_back_the_difference_once(desk: Desk, purse: Purse) -> None:
    period = purse.period(limit=100)
    hold = purse.hold(60, period)
    await desk.place_hold(hold)
    assert await desk.shrink(Shrink(hold.id, 20, (period,)))
    assert not await desk.shrink(Shrink(hold.id, 40, (period,)))
    assert purse.row(period) == (0, 20)
    await desk.settle(purse.charge(hold, 20, held=20))
    assert purse.row(period) == (20, 0)


async def test_a_hold_resolves_once(desk: Desk, purse: Purse) -> None:
    period = purse.period(limit=100)
    hold = purse.hold(60, period)
    await desk.place_hold(hold)
    answers = await asyncio.gather(*(desk.settle(purse.charge(hold, 25)) for _ in range(5)))
    assert sorted(answers) == [False, False, False, False, True]
    assert purse.row(period) == (25, 0)
    assert purse.entries() == [("charge", 25)]


async def test_concurrent_holds_on_four_legs_never_pass_any_limit(
    start_desk: Callable[..., Awaitable[Desk]], purse: Purse
) -> None:
    legs = [purse.period(limit=limit) for limit in (10_000, 2_500, 3_000, 9_999)]
    desks = [await start_desk(worker=f"race-{i}") for i in range(4)]
    holds = [purse.hold(100, *legs) for _ in range(400)]
    answers = await asyncio.gather(*(desks[i % 4].place_hold(hold) for i, hold in enumerate(holds)))
    assert sum(isinstance(answer, Held) for answer in answers) == 25
    assert [purse.row(leg) for leg in legs] == [(0, 2_500)] * 4
    for answer in answers:
        if isinstance(answer, Refused):
            assert answer.figures.left_nanos < 100


def test_checking_before_adding_overspends_which_is_what_the_desk_prevents(purse: Purse) -> None:
    """The twin that must fail: two readers see the same room and both take it."""
    period = purse.period(limit=100, hard=False)  # no ceiling: the CHECK would catch a hard one
    room = [100 - sum(purse.row(period)) for _ in range(2)]
    for seen in room:
        if seen >= 60:
            purse.connection.execute(
                "UPDATE ledger_budgetperiod SET held_nanos = held_nanos + 60 WHERE id = %s", [period]
            )
    assert purse.row(period) == (0, 120)


def test_the_database_refuses_to_overspend_a_hard_budget_whoever_writes(purse: Purse) -> None:
    period = purse.period(limit=100)
    with pytest.raises(psycopg.errors.CheckViolation, match="hard_budget_is_never_overspent"):
        purse.connection.execute("UPDATE ledger_budgetperiod SET held_nanos = 101 WHERE id = %s", [period])


async def test_a_lowered_limit_admits_nothing_until_spending_is_below_it(desk: Desk, purse: Purse) -> None:
    period = purse.period(limit=100)
    spent, held = purse.hold(40, period), purse.hold(50, period)
    await desk.place_hold(spent)
    await desk.place_hold(held)
    await desk.settle(purse.charge(spent, 40))
    purse.connection.execute(
        "UPDATE ledger_budgetperiod SET limit_nanos = 50, ceiling_nanos = 90 WHERE id = %s", [period]
    )
    assert isinstance(await desk.place_hold(purse.hold(1, period)), Refused)
    await desk.settle(purse.charge(held, 5))
    assert purse.row(period) == (45, 0)
    assert isinstance(await desk.place_hold(purse.hold(6, period)), Refused)
    assert isinstance(await desk.place_hold(purse.hold(5, period)), Held)
    assert purse.row(period) == (45, 5)


async def test_a_threshold_is_crossed_once_in_the_transaction_that_crossed_it(
    desk: Desk, purse: Purse
) -> None:
    period = purse.period(limit=100)
    for cost in (49, 1, 50):
        hold = purse.hold(cost, period)
        await desk.place_hold(hold)
        await desk.settle(purse.charge(hold, cost))
    crossings = purse.connection.execute(
        "SELECT percent, spent_nanos FROM ledger_thresholdcrossing WHERE period_id = %s ORDER BY percent",
        [period],
    ).fetchall()
    assert crossings == [(50, 50), (100, 100)]


async def test_a_cost_above_the_hold_is_charged_as_far_as_every_hard_leg_carries(
    desk: Desk, purse: Purse
) -> None:
    roomy, tight = purse.period(limit=1000), purse.period(limit=70)
    hold = purse.hold(60, roomy, tight)
    await desk.place_hold(hold)
    assert await desk.settle(purse.charge(hold, 100))
    assert (purse.row(roomy), purse.row(tight)) == ((70, 0), (70, 0))
    assert sorted(purse.entries()) == [("charge", 70), ("overrun", 30)]


async def test_a_cost_above_a_hold_on_soft_budgets_alone_is_charged_in_full(desk: Desk, purse: Purse) -> None:
    period = purse.period(limit=70, hard=False)
    hold = purse.hold(60, period)
    await desk.place_hold(hold)
    assert await desk.settle(purse.charge(hold, 100))
    assert purse.row(period) == (100, 0)
    assert purse.entries() == [("charge", 100)]


async def test_a_caller_that_leaves_while_waiting_owes_nothing(desk: Desk, purse: Purse) -> None:
    period, left = purse.period(limit=1000), 0
    for delay_seconds in (0, 0, 0.0005, 0.001, 0.002, 0.004):
        waiter = asyncio.create_task(desk.place_hold(purse.hold(60, period)))
        await asyncio.sleep(delay_seconds)
        waiter.cancel()
        await asyncio.wait({waiter})
        left += waiter.cancelled()
    assert left >= 3
    await asyncio.sleep(0.1)
    served = 6 - left
    assert len(purse.open_holds()) == served
    assert purse.row(period) == (0, 60 * served)


POISON = ["\x00", "\ud800", "x" * 5000]


@pytest.mark.parametrize("poison", POISON, ids=["NUL", "lone surrogate", "too long"])
async def test_one_settlement_that_cannot_be_written_hurts_no_other(
    desk: Desk, purse: Purse, fatal: Fatal, poison: str
) -> None:
    period = purse.period(limit=100_000)
    holds = [purse.hold(10, period) for _ in range(64)]
    await asyncio.gather(*map(desk.place_hold, holds))
    settlements = [
        purse.charge(hold, 10, text=poison if i == 17 else "model") for i, hold in enumerate(holds)
    ]
    assert all(await asyncio.gather(*map(desk.settle, settlements)))
    assert purse.row(period) == (640, 0)
    assert not fatal.errors


async def test_one_hold_that_cannot_be_written_fails_alone(desk: Desk, purse: Purse, fatal: Fatal) -> None:
    period = purse.period(limit=100_000)
    holds = [purse.hold(2**70 if i == 17 else 10, period) for i in range(64)]
    answers = await asyncio.gather(*map(desk.place_hold, holds), return_exceptions=True)
    assert [i for i, answer in enumerate(answers) if isinstance(answer, Exception)] == [17]
    assert purse.row(period) == (0, 630)
    assert not fatal.errors


async def test_a_batch_is_written_as_a_whole_or_not_at_all(desk: Desk, purse: Purse) -> None:
    """Its last statement fails: what the ones before it did is not there, and the next try does it once."""
    period = purse.period(limit=100)
    hold = purse.hold(60, period)
    await desk.place_hold(hold)
    lost = Batch(settlements=[purse.charge(hold, 25)], holds=[purse.hold(10, 2**60)])
    connection = await desk._link.live()
    with pytest.raises(psycopg.Error, match="does not exist"):
        await write(connection, desk._link.lease, lost)
    assert purse.row(period) == (0, 60)
    assert await desk.settle(purse.charge(hold, 25))
    assert purse.row(period) == (25, 0)


async def test_a_hold_on_a_period_that_does_not_exist_fails_alone(desk: Desk, purse: Purse) -> None:
    period = purse.period(limit=100)
    answers = await asyncio.gather(
        desk.place_hold(purse.hold(10, period)),
        desk.place_hold(purse.hold(10, 2**60)),
        return_exceptions=True,
    )
    assert isinstance(answers[0], Held)
    assert isinstance(answers[1], psycopg.Error)


async def test_refusals_are_recorded_within_a_second(desk: Desk, purse: Purse) -> None:
    _, call = purse.records(purse.hold(1), 0)
    call.outcome = "refused"
    async with asyncio.timeout(1):
        assert await desk.record(call)
    assert purse.count("calls_call") == 1


@pytest.mark.parametrize("count", [PER_BATCH_MAX - 1, PER_BATCH_MAX, 2 * PER_BATCH_MAX + 44])
async def test_however_many_refusals_come_at_once_the_last_of_them_is_recorded_within_a_second(
    desk: Desk, purse: Purse, count: int
) -> None:
    calls = [purse.records(purse.hold(1), 0)[1] for _ in range(count)]
    async with asyncio.timeout(1 + count / 500):
        assert all(await asyncio.gather(*map(desk.record, calls)))
    assert purse.count("calls_call") == count


async def test_refusals_that_keep_coming_are_written_many_at_a_time(desk: Desk, purse: Purse) -> None:
    def batches() -> int:
        row = purse.connection.execute(
            "SELECT batch FROM desk_workerlease WHERE id = %s", [desk.lease_id]
        ).fetchone()
        assert row is not None
        return int(row[0])

    begun, written = batches(), []
    for _ in range(600):
        written.append(desk.record(purse.records(purse.hold(1), 0)[1]))
        await asyncio.sleep(0.0005)  # several come while a batch is written
    assert all(await asyncio.gather(*written))
    assert batches() - begun <= 20


async def test_facts_land_in_the_partition_of_their_month(desk: Desk, purse: Purse) -> None:
    _, call = purse.records(purse.hold(1), 0)
    await desk.record(call)
    tables = purse.connection.execute(
        "SELECT tableoid::regclass::text FROM calls_call WHERE tenant_id = %s", [purse.tenant_id]
    ).fetchall()
    assert tables == [(f"calls_call_{datetime.now(UTC):y%Ym%m}",)]


async def test_everything_queued_is_written_before_the_desk_stops(
    start_desk: Callable[..., Awaitable[Desk]], purse: Purse
) -> None:
    desk = await start_desk()
    period = purse.period(limit=10_000)
    holds = [purse.hold(10, period) for _ in range(100)]
    await asyncio.gather(*map(desk.place_hold, holds))
    answers = [desk.settle(purse.charge(hold, 3)) for hold in holds]
    await desk.stop(5)
    assert all(answer.result() for answer in answers)
    assert purse.row(period) == (300, 0)
    leases = purse.connection.execute(
        "SELECT 1 FROM desk_workerlease WHERE id = %s", [desk.lease_id]
    ).fetchall()
    assert leases == []


def test_ids_made_by_one_process_increase() -> None:
    ids = [uuid7() for _ in range(10_000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


async def test_a_desk_that_fails_tells_its_waiters_and_its_worker(
    desk: Desk, purse: Purse, fatal: Fatal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nothing explains: nobody waits for ever, and the worker is told to leave."""

    async def fail(*_: object) -> None:
        raise RuntimeError("nobody expected this")

    monkeypatch.setattr("governance.desk.desk.write", fail)
    with pytest.raises(DeskUnavailable):
        await desk.place_hold(purse.hold(10, purse.period(limit=100)))
    await asyncio.sleep(0)
    assert [str(error) for error in fatal.errors] == ["nobody expected this"]
    assert not desk.healthy
