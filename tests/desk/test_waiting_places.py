"""How many may wait, and whose places go when there are more."""

import asyncio

import pytest

from governance.desk.items import Held
from governance.desk.room import RoomFull
from tests.desk.conftest import Purse
from tests.desk.test_waiting import StartDesk, place, until


async def test_only_so_many_wait_in_a_process_and_of_a_tenant(start_desk: StartDesk, purse: Purse) -> None:
    desk = await start_desk(waiters_max=5, waiters_of_tenant_max=3)
    purses = [purse, Purse(purse.connection)]
    waiters = []
    for one, waits in zip(purses, (3, 2), strict=True):
        period = one.period(limit=100)
        await desk.place_hold(one.hold(60, period))
        waiters += [asyncio.create_task(place(desk, one.hold(50, period))) for _ in range(waits)]
        expected = len(waiters)
        await until(lambda count=expected: desk.waiters == count)  # type: ignore[misc]
        with pytest.raises(RoomFull):
            await place(desk, one.hold(50, period))
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)
    assert desk.waiters == 0


async def test_a_tenant_that_fills_the_places_loses_its_newest_to_others_until_they_have_as_many(
    start_desk: StartDesk, purse: Purse
) -> None:
    """Who waits longest stays; a newcomer whose tenant has as many as anybody is turned away."""
    desk = await start_desk(waiters_max=6, waiters_of_tenant_max=6)
    many, few = purse, Purse(purse.connection)
    blockers = [one.hold(60, one.period(limit=100)) for one in (many, few)]
    for blocker in blockers:
        await desk.place_hold(blocker)

    def wait(number: int, one: Purse) -> "asyncio.Task[object]":
        return asyncio.create_task(place(desk, one.hold(50, *blockers[number].period_ids)))

    first = []
    for count in range(1, 7):
        first.append(wait(0, many))
        await until(lambda count=count: desk.waiters == count)  # type: ignore[misc]
    newcomers = []
    for count in range(1, 4):
        newcomers.append(wait(1, few))
        await until(lambda count=count: desk.waiters_before(blockers[1].period_ids[0]) == count)  # type: ignore[misc]
    assert desk.waiters == 6
    assert [waiter.done() for waiter in first] == [False] * 3 + [True] * 3
    assert all(isinstance(waiter.exception(), RoomFull) for waiter in first[3:])
    with pytest.raises(RoomFull):
        await place(desk, few.hold(50, *blockers[1].period_ids))
    for blocker in blockers:
        await desk.settle(purse.charge(blocker, 0))
    for waiter in (first[0], newcomers[0]):
        answer = await waiter
        assert isinstance(answer, Held)
    for waiter in (*first[1:3], *newcomers[1:]):
        waiter.cancel()
    await asyncio.wait([*first, *newcomers])
    assert desk.waiters == 0
