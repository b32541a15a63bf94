"""Waiting for room: in order of arrival over all processes, nobody starved, nobody in the way."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic

import pytest
from msgspec.structs import replace

from governance.desk.desk import Desk
from governance.desk.items import WILL_NOT_WAIT, WOULD_WAIT, DeskUnavailable, Held, PlaceHold, Refused, Shrink
from governance.desk.memo import void_of_unused_hold
from tests.desk.conftest import Purse

type StartDesk = Callable[..., Awaitable[Desk]]


async def place(desk: Desk, hold: PlaceHold, seconds: float = 10) -> Held | Refused:
    """Place a hold and wait for room, as the gateway does."""
    hold = replace(hold, waiting_since=WOULD_WAIT if seconds else WILL_NOT_WAIT)
    answer = await desk.place_hold(hold)
    if seconds and isinstance(answer, Refused) and answer.fits_later(hold.amount_nanos):
        return await desk.wait_for_room(hold, answer, seconds)
    return answer


async def until(is_so: Callable[[], bool], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not is_so():
            await asyncio.sleep(0.005)


def tickets(purse: Purse, period_id: int) -> list[int]:
    """The amounts of the live tickets on a row, oldest first."""
    return [
        amount
        for (amount,) in purse.connection.execute(
            "SELECT (value->>1)::bigint FROM ledger_budgetperiod p, jsonb_each(p.fronts)"
            " WHERE p.id = %s AND (value->>2)::bigint > extract(epoch FROM exchequer_now()) * 1000000"
            " ORDER BY (value->>0)::bigint",
            [period_id],
        )
    ]


async def test_a_hold_waits_for_a_call_in_flight_and_gets_the_room_that_it_leaves(
    desk: Desk, purse: Purse
) -> None:
    period = purse.period(limit=100)
    first = purse.hold(60, period)
    await desk.place_hold(first)
    waiter = asyncio.create_task(place(desk, purse.hold(60, period)))
    await until(lambda: desk.waiters == 1)
    assert desk.waiters_before(period) == 1
    began = monotonic()
    await desk.settle(purse.charge(first, 40))
    answer = await waiter
    assert isinstance(answer, Held)
    assert monotonic() - began < 1
    assert purse.row(period) == (40, 60)
    assert desk.waiters == 0
    assert tickets(purse, period) == []


async def test_a_shrink_wakes_a_waiter(desk: Desk, purse: Purse) -> None:
    period = purse.period(limit=100)
    first = purse.hold(60, period)
    await desk.place_hold(first)
    waiter = asyncio.create_task(place(desk, purse.hold(60, period)))
    await until(lambda: desk.waiters == 1)
    await desk.shrink(Shrink(first.id, 40, (period,)))
    assert isinstance(await waiter, Held)


async def test_a_hold_that_would_not_fit_without_calls_in_flight_either_is_not_queued(
    desk: Desk, purse: Purse
) -> None:
    period = purse.period(limit=100)
    spent = purse.hold(50, period)
    await desk.place_hold(spent)
    await desk.settle(purse.charge(spent, 50))
    await desk.place_hold(purse.hold(10, period))
    answer = await place(desk, purse.hold(51, period))
    assert isinstance(answer, Refused)
    assert not answer.fits_later(51)
    assert tickets(purse, period) == []


async def test_of_two_budgets_the_one_that_will_not_fit_later_is_told_about(desk: Desk, purse: Purse) -> None:
    held, spent = purse.period(limit=100), purse.period(limit=50)
    await desk.place_hold(purse.hold(95, held))
    answer = await place(desk, purse.hold(60, held, spent))
    assert isinstance(answer, Refused)
    assert answer.period_id == spent


async def test_a_waiter_hears_at_once_that_it_will_never_fit(desk: Desk, purse: Purse) -> None:
    period = purse.period(limit=100)
    first = purse.hold(60, period)
    await desk.place_hold(first)
    waiter = asyncio.create_task(place(desk, purse.hold(60, period)))
    await until(lambda: desk.waiters == 1)
    await desk.settle(purse.charge(first, 60))
    answer = await asyncio.wait_for(waiter, 1)
    assert isinstance(answer, Refused)
    assert not answer.fits_later(60)
    assert answer.figures.spent_nanos == 60


async def test_a_waiter_whose_time_is_up_gets_figures_of_that_moment(desk: Desk, purse: Purse) -> None:
    period = purse.period(limit=100)
    first = purse.hold(60, period)
    await desk.place_hold(first)
    began = monotonic()
    waiters = [asyncio.create_task(place(desk, purse.hold(60, period), seconds=0.4)) for _ in range(3)]
    await asyncio.sleep(0.2)
    await desk.shrink(Shrink(first.id, 50, (period,)))
    for answer in await asyncio.gather(*waiters):
        assert isinstance(answer, Refused)
        assert answer.fits_later(60)
        assert answer.figures.held_nanos == 50
    assert 0.4 <= monotonic() - began < 2
    assert desk.waiters == 0
    await until(lambda: tickets(purse, period) == [])


async def test_who_came_first_gets_in_first_over_all_processes(start_desk: StartDesk, purse: Purse) -> None:
    period = purse.period(limit=100)
    desks = [await start_desk(worker=f"queue-{i}") for i in range(4)]
    first = purse.hold(100, period)
    await desks[0].place_hold(first)
    order: list[int] = []

    async def wait(number: int) -> None:
        desk, hold = desks[number % 4], purse.hold(100, period)
        assert isinstance(await place(desk, hold), Held)
        order.append(number)
        await desk.settle(void_of_unused_hold(hold, "test"))

    waiters = []
    for number in range(12):
        waiters.append(asyncio.create_task(wait(number)))
        await until(lambda count=number + 1: sum(desk.waiters for desk in desks) == count)  # type: ignore[misc]
    await desks[0].settle(void_of_unused_hold(first, "test"))
    await asyncio.gather(*waiters)
    assert order == list(range(12))


async def test_nobody_passes_an_older_call_that_waits_in_another_process(
    start_desk: StartDesk, purse: Purse
) -> None:
    period = purse.period(limit=100)
    ours, theirs = await start_desk(worker="ours"), await start_desk(worker="theirs")
    in_flight = purse.hold(60, period)
    await ours.place_hold(in_flight)
    large = asyncio.create_task(place(ours, purse.hold(90, period)))
    await until(lambda: tickets(purse, period) == [90])
    refused = await place(theirs, purse.hold(10, period), seconds=0)
    assert isinstance(refused, Refused)
    assert (refused.figures.left_nanos, refused.ahead_nanos, refused.room_nanos) == (40, 90, -50)
    small = asyncio.create_task(place(theirs, purse.hold(20, period)))
    await until(lambda: theirs.waiters == 1)
    await asyncio.sleep(0.3)  # longer than a ticket that nobody renews
    assert not small.done()
    await ours.settle(void_of_unused_hold(in_flight, "test"))
    assert isinstance(await large, Held)
    assert not small.done()
    small.cancel()


async def test_a_younger_call_passes_where_both_fit(start_desk: StartDesk, purse: Purse) -> None:
    """A ticket keeps what its call needs, and no more."""
    narrow, wide = purse.period(limit=100), purse.period(limit=1000)
    desk = await start_desk()
    await desk.place_hold(purse.hold(60, narrow))
    waiter = asyncio.create_task(place(desk, purse.hold(90, narrow, wide)))
    await until(lambda: tickets(purse, narrow) == [90])
    assert tickets(purse, wide) == []
    assert isinstance(await place(desk, purse.hold(900, wide), seconds=0), Held)
    waiter.cancel()


async def test_the_ticket_of_a_dead_process_expires_by_itself(start_desk: StartDesk, purse: Purse) -> None:
    period = purse.period(limit=100)
    dying, living = await start_desk(worker="dying"), await start_desk(worker="living")
    await dying.place_hold(purse.hold(60, period))
    large = replace(purse.hold(90, period), waiting_since=WOULD_WAIT)
    assert isinstance(await dying.place_hold(large), Refused)  # and nobody renews its ticket
    small = purse.hold(10, period)
    assert isinstance(await place(living, small, seconds=0), Refused)
    began = monotonic()
    assert isinstance(await place(living, small), Held)
    assert monotonic() - began < 1


async def test_a_waiter_that_leaves_is_dequeued(start_desk: StartDesk, purse: Purse) -> None:
    period = purse.period(limit=100)
    ours, theirs = await start_desk(worker="ours"), await start_desk(worker="theirs")
    await ours.place_hold(purse.hold(60, period))
    large = asyncio.create_task(place(ours, purse.hold(90, period)))
    await until(lambda: tickets(purse, period) == [90])
    behind = asyncio.create_task(place(ours, purse.hold(30, period)))
    await until(lambda: ours.waiters == 2)
    large.cancel()
    assert isinstance(await asyncio.wait_for(behind, 1), Held)
    await until(lambda: tickets(purse, period) == [], 0.15)
    assert isinstance(await place(theirs, purse.hold(10, period), seconds=0), Held)
    assert purse.row(period) == (0, 100)
    assert ours.waiters == 0


async def test_a_caller_that_leaves_just_as_it_gets_in_owes_nothing(desk: Desk, purse: Purse) -> None:
    period = purse.period(limit=100)
    for delay_seconds in (0, 0.0005, 0.001, 0.002, 0.004):
        first = purse.hold(60, period)
        await desk.place_hold(first)
        waiter = asyncio.create_task(place(desk, purse.hold(60, period)))
        await until(lambda: desk.waiters == 1)
        desk.settle(void_of_unused_hold(first, "test"))
        await asyncio.sleep(delay_seconds)
        waiter.cancel()
        await asyncio.wait({waiter})
        if not waiter.cancelled():
            held = waiter.result()
            assert isinstance(held, Held)
            await desk.settle(void_of_unused_hold(replace(first, id=held.hold_id), "test"))
        await until(lambda: purse.row(period) == (0, 0))


async def test_a_waiter_that_leaves_just_as_it_gets_in_leaves_its_call_to_its_caller(
    start_desk: StartDesk, purse: Purse
) -> None:
    """The call may be placed again, refused or recorded as left: one of them is its row."""
    period, desk = purse.period(limit=100), await start_desk()
    first, second = purse.hold(60, period), purse.hold(60, period)
    await desk.place_hold(first)
    waiter = asyncio.create_task(place(desk, second))
    await until(lambda: desk.waiters == 1)
    with purse.connection.transaction():  # the batch that lets it in waits for this lock
        purse.connection.execute("SELECT 1 FROM ledger_budgetperiod WHERE id = %s FOR UPDATE", [period])
        settled = desk.settle(void_of_unused_hold(first, "test"))
        await asyncio.sleep(0.2)
        waiter.cancel()
        await asyncio.wait({waiter})
    assert await settled
    await until(lambda: purse.entries() == [("void", 0), ("void", 0)])
    assert purse.row(period) == (0, 0)
    assert purse.count("calls_call") == 1  # of the first


async def test_calls_with_different_budgets_never_wait_for_each_other_in_a_ring(
    start_desk: StartDesk, purse: Purse
) -> None:
    """Every hold has three of six legs, nearly all must wait, and all get in."""
    legs = [purse.period(limit=300) for _ in range(6)]
    desks = [await start_desk(worker=f"ring-{i}") for i in range(4)]
    chance = random.Random(7)

    async def call(number: int, desk: Desk) -> None:
        hold = purse.hold(chance.choice([20, 60, 150, 290]), *chance.sample(legs, 3))
        assert isinstance(await place(desk, hold, seconds=60), Held), number
        await asyncio.sleep(chance.random() / 50)
        assert await desk.settle(void_of_unused_hold(hold, "test"))

    async with asyncio.timeout(60):
        await asyncio.gather(*(call(number, desks[number % 4]) for number in range(120)))
    assert {purse.row(leg) for leg in legs} == {(0, 0)}
    assert [tickets(purse, leg) for leg in legs] == [[]] * 6


@dataclass
class Crowd:
    """Small callers without a pause between their calls, and how long each of their waits was."""

    purse: Purse
    period: int
    seconds: float
    running: bool = True
    waits: list[float] = field(default_factory=list)

    async def call(self, desk: Desk) -> None:
        while self.running:
            hold = self.purse.hold(10, self.period)
            began = monotonic()
            answer = await place(desk, hold, self.seconds)
            self.waits.append(monotonic() - began)
            if isinstance(answer, Held):
                await asyncio.sleep(random.uniform(0.01, 0.05))
                await desk.settle(void_of_unused_hold(hold, "small"))
            else:
                await asyncio.sleep(0.005)


async def _large_among_small(start_desk: StartDesk, purse: Purse, seconds: float) -> tuple[bool, float]:
    """(whether a hold of 90 among 24 callers of 10 with room for 105 got in within 4 s, after how long)."""
    crowd = Crowd(purse, purse.period(limit=105), seconds)
    ours, theirs = await start_desk(worker="ours"), await start_desk(worker="theirs")
    callers = [asyncio.create_task(crowd.call(theirs)) for _ in range(24)]
    await asyncio.sleep(0.3)
    large, began, got_in = purse.hold(90, crowd.period), monotonic(), False
    while not got_in and monotonic() - began < 4:
        got_in = isinstance(await place(ours, large, seconds and 4), Held)
        await asyncio.sleep(0.005)
    took = monotonic() - began
    crowd.running = False
    if got_in:
        await ours.settle(void_of_unused_hold(large, "large"))
    await asyncio.gather(*callers)
    return got_in, took


async def test_a_large_call_among_small_ones_of_another_process_gets_in(
    start_desk: StartDesk, purse: Purse
) -> None:
    got_in, took = await _large_among_small(start_desk, purse, seconds=10)
    assert got_in
    assert took < 1.5


async def test_without_tickets_small_calls_starve_a_large_one(start_desk: StartDesk, purse: Purse) -> None:
    """The twin that must fail: everybody only tries again and again."""
    got_in, _ = await _large_among_small(start_desk, purse, seconds=0)
    assert not got_in


async def test_one_tenants_waiters_delay_no_other_tenant(desk: Desk, purse: Purse) -> None:
    full = purse.period(limit=100)
    await desk.place_hold(purse.hold(60, full))
    waiters = [asyncio.create_task(place(desk, purse.hold(50, full))) for _ in range(500)]
    await until(lambda: desk.waiters == 500)
    other = Purse(purse.connection)
    period = other.period(limit=10**6)
    waits = []
    for _ in range(50):
        began = monotonic()
        assert isinstance(await place(desk, other.hold(10, period)), Held)
        waits.append(monotonic() - began)
        await asyncio.sleep(0.005)
    assert sorted(waits)[25] < 0.1
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)


async def test_a_desk_that_stops_tells_its_waiters(start_desk: StartDesk, purse: Purse) -> None:
    desk = await start_desk()
    period = purse.period(limit=100)
    await desk.place_hold(purse.hold(60, period))
    waiter = asyncio.create_task(place(desk, purse.hold(50, period)))
    await until(lambda: desk.waiters == 1)
    await desk.stop(5)
    with pytest.raises(DeskUnavailable, match="stopping"):
        await waiter
