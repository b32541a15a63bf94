"""A call that waits for room in a budget: how long it may, and what ends it before its time.

The order is the desk's business (desk/room.py). Here it is decided that somebody still waits for the answer
and still may have it: a caller who leaves is dequeued, and one whose call may not be made any more is told.
"""

import asyncio
from time import monotonic
from typing import NamedTuple

from governance.desk.batch import Answer
from governance.desk.items import PlaceHold, Refused
from governance.desk.room import RoomFull
from governance.gateway import errors
from governance.gateway.body import ClientLeft
from governance.gateway.charging import Promise
from governance.gateway.errors import CallRefused
from governance.gateway.exchange import Exchange
from governance.gateway.key_rules import changed_meanwhile

LOOK_SECONDS = 0.4
"""Between two looks at the key: with the comparison of versions, a second at most."""
CLIENT_SHARE = 0.5
"""Of the time that the client itself waits for a reply; the rest is for the reply."""
_CLIENT_TIMEOUT = "x-stainless-timeout"


def seconds_left(exchange: Exchange) -> float:
    """How long this call may wait from now on: as its key says, within half of the client's own time-out."""
    passed = monotonic() - exchange.started_monotonic
    waited_ms = _waited_ms(exchange) + exchange.decision.get("upstream_waited_ms", 0)
    seconds: float = exchange.key.hold_wait_seconds - waited_ms / 1000
    of_client = client_seconds(exchange)
    if of_client is not None:
        seconds = min(seconds, of_client * CLIENT_SHARE - passed)
    return seconds


class AskAgain(NamedTuple):
    """What was settled changed, perhaps which budgets cover the call: place a hold of this worst case, at
    this place in the queue (`waiting_since`)."""

    promise: Promise
    since: int


async def wait_for_room(exchange: Exchange, order: PlaceHold, refused: Refused) -> Answer | AskAgain:
    """The desk's last word, or that the hold is to be placed again.

    CallRefused when the call may not be made any more, ClientLeft when nobody waits for it.
    """
    seconds = seconds_left(exchange)
    if seconds <= 0:
        return refused
    desk = exchange.gateway.desk
    exchange.decision.setdefault("queue_position", desk.waiters_before(refused.period_id) + 1)
    before = _waited_ms(exchange)
    began = monotonic()
    waiting = asyncio.ensure_future(desk.wait_for_room(order, refused, seconds))
    leaving = asyncio.ensure_future(exchange.receive())
    try:
        while True:
            await asyncio.wait((waiting, leaving), timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            if leaving.done():
                raise ClientLeft
            key = exchange.key
            try:
                promise = await changed_meanwhile(exchange)
            except CallRefused:
                if not waiting.done():
                    raise
            # The answer may have come while the key was looked at. A hold goes to the caller in any case,
            # which looks at the key once more before it uses it (pipeline.refused_meanwhile).
            if waiting.done():
                exchange.key = key
                return waiting.result()
            if promise is not None:
                return AskAgain(promise, refused.since)
    except RoomFull:
        raise CallRefused(errors.TOO_MANY_WAIT) from None
    finally:
        waiting.cancel()  # a hold that came in this very moment is voided by the desk
        leaving.cancel()
        waited = monotonic() - began
        exchange.decision["waited_ms"] = before + int(waited * 1000)
        exchange.gateway.metrics.waited(waited)


def _waited_ms(exchange: Exchange) -> int:
    waited: int = exchange.decision.get("waited_ms", 0)
    return waited


def client_seconds(exchange: Exchange) -> float | None:
    """What the SDK says of its own time-out."""
    for name, value in exchange.inbound.forward:
        if name == _CLIENT_TIMEOUT:
            try:
                return max(0.0, float(value))
            except ValueError:
                return None
    return None
