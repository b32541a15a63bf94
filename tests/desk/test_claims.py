"""An idempotency key buys one call: the claim is taken with the hold, and released only by a void."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from django.conf import settings
from msgspec.structs import replace

from governance.core.ids import uuid7
from governance.desk.batch import Batch, write
from governance.desk.desk import Desk
from governance.desk.items import Claim, Claimed, Held, PlaceHold, Refused, Settlement
from governance.desk.memo import void_of_unused_hold
from governance.desk.sweeper import Sweeper
from governance.ledger.kinds import Basis
from tests.desk.conftest import Purse

DIGEST = bytes(32)
START = Callable[..., Awaitable[Desk]]


def claiming(hold: PlaceHold, key: str = "k", lineage_id: int = 7, digest: bytes = DIGEST) -> PlaceHold:
    return replace(hold, claim=Claim(lineage_id, key, digest, uuid7()))


def void(purse: Purse, hold: PlaceHold) -> Settlement:
    return void_of_unused_hold(hold, "nothing was sent")


def claims(purse: Purse) -> int:
    return purse.count("desk_idempotencyclaim")


async def test_the_second_call_of_a_key_hears_of_the_first_and_holds_nothing(
    desk: Desk, purse: Purse
) -> None:
    period = purse.period(limit=1000)
    first, second = claiming(purse.hold(60, period)), claiming(purse.hold(60, period), digest=b"x" * 32)
    assert isinstance(await desk.place_hold(first), Held)
    answer = await desk.place_hold(second)
    assert first.claim is not None
    assert isinstance(answer, Claimed)
    assert (answer.call_id, answer.hold_id, answer.body_digest) == (first.claim.call_id, first.id, DIGEST)
    assert answer.in_flight
    assert purse.row(period) == (0, 60)


async def test_a_charged_call_keeps_its_claim_and_is_no_longer_in_flight(desk: Desk, purse: Purse) -> None:
    period = purse.period(limit=1000)
    first = claiming(purse.hold(60, period))
    await desk.place_hold(first)
    await desk.settle(purse.charge(first, 5))
    answer = await desk.place_hold(claiming(purse.hold(60, period)))
    assert isinstance(answer, Claimed)
    assert not answer.in_flight


async def test_a_void_releases_the_claim_in_its_own_transaction(desk: Desk, purse: Purse) -> None:
    period = purse.period(limit=1000)
    first = claiming(purse.hold(60, period))
    await desk.place_hold(first)
    assert await desk.settle(void(purse, first))
    assert claims(purse) == 0
    assert isinstance(await desk.place_hold(claiming(purse.hold(60, period))), Held)


async def test_a_void_that_comes_after_an_exact_charge_releases_nothing(desk: Desk, purse: Purse) -> None:
    period = purse.period(limit=1000)
    first = claiming(purse.hold(60, period))
    await desk.place_hold(first)
    await desk.settle(purse.charge(first, 60))
    assert not await desk.settle(void(purse, first))
    assert claims(purse) == 1


async def test_a_void_that_comes_after_a_sweepers_charge_gives_back_the_money_and_the_claim(
    desk: Desk, purse: Purse
) -> None:
    """Nothing was billed: to tell its client for a day that the call was charged would be untrue."""
    period = purse.period(limit=1000)
    first = claiming(purse.hold(60, period))
    await desk.place_hold(first)
    sweepers = replace(purse.charge(first, 60), basis=Basis.FULL_HOLD)
    assert await desk.settle(sweepers)
    assert claims(purse) == 1
    assert not await desk.settle(void(purse, first))
    assert purse.entries() == [("charge", 60), ("credit", -60)]
    assert claims(purse) == 0
    second = claiming(purse.hold(60, period))
    assert isinstance(await desk.place_hold(second), Held)
    assert not await desk.settle(void(purse, first))  # told twice: the second call's claim is not the first's
    assert claims(purse) == 1


async def test_a_hold_that_a_budget_refuses_leaves_no_claim(desk: Desk, purse: Purse) -> None:
    period = purse.period(limit=50)
    assert isinstance(await desk.place_hold(claiming(purse.hold(60, period))), Refused)
    assert claims(purse) == 0
    assert isinstance(await desk.place_hold(claiming(purse.hold(40, period))), Held)


async def test_tenants_and_keys_do_not_meet_under_one_idempotency_key(
    desk: Desk, purse: Purse, owner_connection: psycopg.Connection[Any]
) -> None:
    other = Purse(owner_connection)
    holds = [
        claiming(purse.hold(10, purse.period(limit=100))),
        claiming(purse.hold(10, purse.period(limit=100)), lineage_id=8),
        claiming(other.hold(10, other.period(limit=100))),
    ]
    assert all(isinstance(answer, Held) for answer in await asyncio.gather(*map(desk.place_hold, holds)))


async def test_of_many_duplicates_in_one_batch_the_first_is_held_and_the_others_take_no_room(
    start_desk: START, purse: Purse
) -> None:
    """The legs of unequal holds around them stay with their own holds."""
    desk = await start_desk()
    wide, narrow = purse.period(limit=1000), purse.period(limit=100)
    duplicates = [claiming(purse.hold(90, narrow, wide)) for _ in range(20)]
    batch = [purse.hold(5, wide), *duplicates, purse.hold(10, narrow), purse.hold(3, wide, narrow)]
    written = await write(await desk._link.live(), desk._link.lease, Batch(holds=batch))
    kinds = [type(answer) for answer in written.answers]
    assert kinds == [Held, Held, *[Claimed] * 19, Held, Refused]
    assert all(answer.in_flight for answer in written.answers if isinstance(answer, Claimed))
    assert (purse.row(wide), purse.row(narrow)) == ((0, 95), (0, 100))
    assert purse.open_holds() == {batch[0].id, duplicates[0].id, batch[21].id}


async def test_duplicates_of_a_refused_call_are_told_to_try_again(start_desk: START, purse: Purse) -> None:
    desk = await start_desk()
    period = purse.period(limit=50)
    batch = [claiming(purse.hold(60, period)), claiming(purse.hold(10, period)), purse.hold(20, period)]
    written = await write(await desk._link.live(), desk._link.lease, Batch(holds=batch))
    refused, second, other = written.answers
    assert (type(refused), type(other)) == (Refused, Held)
    assert second == Claimed(None, None, None, True, 0)
    assert claims(purse) == 0


async def test_a_hundred_duplicates_at_two_desks_take_one_hold(start_desk: START, purse: Purse) -> None:
    """cases D11; must-fail twin below: without claims the same race makes a hundred holds."""
    desks = [await start_desk(worker=name) for name in ("one", "two")]
    period = purse.period(limit=10_000)
    holds = [claiming(purse.hold(10, period)) for _ in range(100)]
    answers = await asyncio.gather(*(desks[n % 2].place_hold(hold) for n, hold in enumerate(holds)))
    assert [type(answer) for answer in answers].count(Held) == 1
    assert len(purse.open_holds()) == claims(purse) == 1


async def test_without_claims_a_hundred_duplicates_take_a_hundred_holds(
    start_desk: START, purse: Purse
) -> None:
    desks = [await start_desk(worker=name) for name in ("one", "two")]
    period = purse.period(limit=10_000)
    await asyncio.gather(*(desks[n % 2].place_hold(purse.hold(10, period)) for n in range(100)))
    assert len(purse.open_holds()) == 100


async def test_desks_that_share_no_budget_still_share_the_claim(start_desk: START, purse: Purse) -> None:
    """The unique key decides, not the lock on a budget's row; claims are taken in one order: no deadlock."""
    desks = [await start_desk(worker=name) for name in ("one", "two")]
    periods = [purse.period(limit=10_000), purse.period(limit=10_000)]
    orders = (range(30), range(29, -1, -1))
    answers = await asyncio.gather(
        *(
            desks[n].place_hold(claiming(purse.hold(10, periods[n]), key=f"k{number}"))
            for n in (0, 1)
            for number in orders[n]
        )
    )
    assert [type(answer) for answer in answers].count(Held) == 30


async def test_a_caller_that_leaves_before_its_call_was_sent_frees_its_key(
    start_desk: START, purse: Purse
) -> None:
    desk = await start_desk()
    period = purse.period(limit=100)
    waiting = asyncio.create_task(desk.place_hold(claiming(purse.hold(60, period))))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    for _ in range(100):
        await asyncio.sleep(0.02)
        if isinstance(await desk.place_hold(claiming(purse.hold(50, period))), Held):
            return
    pytest.fail("The key stayed taken.")


async def test_expired_claims_can_be_taken_again_and_are_swept(
    start_desk: START, purse: Purse, owner_connection: psycopg.Connection[Any]
) -> None:
    desk = await start_desk()
    period = purse.period(limit=1000)
    open_hold, charged, stale = (claiming(purse.hold(10, period), key=key) for key in ("a", "b", "c"))
    for hold in (open_hold, charged, stale):
        await desk.place_hold(hold)
    for hold in (charged, stale):
        await desk.settle(purse.charge(hold, 5))
    owner_connection.execute(
        "UPDATE desk_idempotencyclaim SET expires_at = exchequer_now() - interval '1 s' WHERE tenant_id = %s",
        [purse.tenant_id],
    )
    again = await desk.place_hold(claiming(purse.hold(10, period), key="a"))
    assert isinstance(again, Claimed)
    assert again.in_flight  # a call that takes longer than a day is still the one call
    assert isinstance(await desk.place_hold(claiming(purse.hold(10, period), key="b")), Held)
    sweeper = Sweeper(desk, settings.DATABASE_URL, heartbeat_seconds=60, stale_seconds=3600)
    await sweeper.sweep()
    await sweeper.sweep()
    await sweeper.stop()
    left = owner_connection.execute(
        "SELECT idempotency_key FROM desk_idempotencyclaim WHERE tenant_id = %s ORDER BY 1", [purse.tenant_id]
    ).fetchall()
    assert left == [("a",), ("b",)]


async def test_of_two_duplicates_that_wait_for_room_one_gets_in_and_the_other_hears_of_it(
    start_desk: START, purse: Purse
) -> None:
    desk = await start_desk()
    period = purse.period(limit=100)
    blocker = purse.hold(90, period)
    await desk.place_hold(blocker)
    holds = [replace(claiming(purse.hold(60, period)), waiting_since=0) for _ in range(2)]
    refusals = [await desk.place_hold(hold) for hold in holds]
    waiting = [
        asyncio.create_task(desk.wait_for_room(hold, refused, 10))
        for hold, refused in zip(holds, refusals, strict=True)
        if isinstance(refused, Refused)
    ]
    await asyncio.sleep(0.01)
    assert claims(purse) == 0
    await desk.settle(purse.charge(blocker, 0))
    first, second = await asyncio.gather(*waiting)
    assert isinstance(first, Held)
    assert isinstance(second, Claimed)
    assert second.in_flight
    assert claims(purse) == 1
