"""A call's attempts before its current one: what they cost, and the one that ended and is not settled yet.

A call may need several attempts, each with a hold of its own: a classifier and then the answer, or a second
model after the first one failed. Its row is written once, with the attempt that ends it. So that no worker
can die between two of them and leave a call without a row, they overlap:

    1. the attempt has ended; its hold shrinks to what it cost     ended()
    2. the next hold is placed, if there is room for it            admission.hold
    3. the attempt is settled without the call's row, and durable  give_way_to()
    4. only then the next attempt is sent

Whenever the worker dies, one hold of the call is open, or two of which the second was not sent; the sweeper
writes the row (desk/sweeper.py). Where there is no step 2, the row comes with the ended attempt: end_with().
"""

import asyncio
from typing import TYPE_CHECKING

from governance.calls.models import Outcome
from governance.calls.records import AttemptRecord, CallRecord
from governance.core.usage import Pass
from governance.desk.items import Held
from governance.gateway import call_record, errors
from governance.gateway.attempt import Attempt
from governance.gateway.charging import Charge
from governance.gateway.errors import CallRefused

if TYPE_CHECKING:
    from governance.gateway.exchange import Exchange

DURABLE_SECONDS_MAX = 10.0
"""The ledger has just taken the next hold; if the settlement before it takes longer, something is wrong."""
OWN_PURPOSES = ("classify", "summarise", "judge")
"""Attempts that the client did not ask for: they do not count against its limits on tokens."""


class Earlier:
    """`passes`: the usage of attempts that count against limits on calls. Sums are nano-dollars."""

    __slots__ = (
        "_charge",
        "_exchange",
        "_open",
        "_taken_care_of",
        "_why",
        "attempts",
        "cost_nanos",
        "held_nanos",
        "list_nanos",
        "over",
        "passes",
    )

    def __init__(self, exchange: "Exchange") -> None:
        self._exchange = exchange
        self._open: Attempt | None = None
        self._charge: Charge | None = None
        self._why: str | None = None
        self._taken_care_of: Attempt | None = None
        self.attempts = self.held_nanos = self.cost_nanos = self.list_nanos = 0
        self.passes: tuple[Pass, ...] = ()
        self.over = False
        """The call has ended between two attempts, with its row: it gets no further hold."""

    @property
    def next_number(self) -> int:
        return self.attempts + (self._open is not None) + 1

    @property
    def unsettled(self) -> Attempt | None:
        """The attempt that has ended and is not settled yet."""
        return self._open

    @property
    def open_hold(self) -> Held | None:
        """The hold that the next one must follow."""
        return self._open.held if self._open is not None else None

    @property
    def paid_nanos(self) -> int:
        """What the call has cost up to now."""
        return self.cost_nanos + (
            0 if self._charge is None or self._open is None else self._charge.cost_nanos
        )

    def add_to(self, call: CallRecord) -> None:
        """Add what is settled to the row of the call."""
        call.attempts += self.attempts
        call.held_nanos += self.held_nanos
        call.cost_nanos += self.cost_nanos
        call.list_nanos += self.list_nanos

    def ended(self, attempt: Attempt, charge: Charge | None, why: str | None) -> None:
        """What the attempt costs is known; the call may go on. No charge: nothing was billed, `why` is the
        proof."""
        self._open, self._charge, self._why = attempt, charge, why
        self._exchange.gateway.unended[self._exchange.id] = self
        cost_nanos = 0 if charge is None else charge.cost_nanos
        if cost_nanos < attempt.promise.held_nanos:
            attempt.shrink(cost_nanos)

    def resumed(self) -> None:
        """There is no next attempt: whoever has the ended one ends the call with it."""
        if self._open is not None:
            self._close()

    def end_with(self, call: CallRecord) -> None:
        """The call has ended without another attempt; this is its row, without money."""
        if self.over:
            return
        attempt, charge, why = self._close()
        attempt.settle(charge, why, call=call)
        if self._exchange.taken is not None:
            self._exchange.taken.close(self.passes or None)

    def leave_nothing_open(self) -> None:
        """The client has left. An attempt that waits to be settled ends the call."""
        if self._open is not None and not self._open.resolved:
            self.end_with(call_record.of_call(self._exchange, Outcome.CUT, 499, "client_left"))

    async def give_way_to(self, following: Attempt) -> None:
        """Settle the ended attempt, now that the next one has its hold. CallRefused when that does not become
        durable in time, or a sweeper was first; then the next attempt is not sent, and taken care of."""
        if self._open is None:
            return
        attempt, charge, why = self._close()
        claim_to = following.hold_id if self._exchange.claim is not None else None
        record, settled = attempt.settle(charge, why, claim_to=claim_to)
        self._add(attempt, record, charge)
        try:
            async with asyncio.timeout(DURABLE_SECONDS_MAX):
                await asyncio.shield(settled)
        except BaseException as error:
            settled.add_done_callback(lambda done: _not_sent(following, done))
            self._taken_care_of = following
            self._end()
            if isinstance(error, Exception):
                raise CallRefused(errors.LEDGER_UNAVAILABLE) from error
            raise
        if not settled.result():
            _not_sent(following, settled)
            self._end()
            raise CallRefused(errors.LEDGER_UNAVAILABLE)

    def take_back(self, following: Attempt) -> None:
        """Something failed after the next hold was placed and before its attempt was sent."""
        if following.resolved or following is self._taken_care_of:
            return
        if self._open is not None:  # that one ends the call, and this one was none of its tries
            following.number = 0
            following.settle(None, "failed before anything was sent")
        else:
            following.void("failed before anything was sent", status=500, reason="internal")
            self._end()

    def _end(self) -> None:
        self.over = True
        self._exchange.gateway.unended[self._exchange.id] = (
            self  # whoever refuses the call writes no row of it
        )

    def forget(self) -> None:
        """The response has left."""
        if self.over:
            self._exchange.gateway.unended.pop(self._exchange.id, None)

    def _add(self, attempt: Attempt, record: AttemptRecord, charge: Charge | None) -> None:
        self.attempts += 1
        self.held_nanos += record.held_nanos
        self.cost_nanos += record.cost_nanos
        self.list_nanos += record.list_nanos
        if charge is not None and attempt.purpose not in OWN_PURPOSES:
            self.passes += charge.passes

    def _close(self) -> tuple[Attempt, Charge | None, str | None]:
        attempt, self._open = self._open, None
        assert attempt is not None
        self._exchange.gateway.unended.pop(self._exchange.id, None)
        return attempt, self._charge, self._why


def _not_sent(following: Attempt, settled: "asyncio.Future[bool]") -> None:
    """End a call between two attempts. Where the sums before it are not certain, the sweeper does: the lease
    was swept then, and the hold with it."""
    if settled.cancelled() or settled.exception() is not None or not settled.result():
        following.leave_to_the_sweeper()
    else:
        following.void(
            "not sent: the ledger did not answer in time",
            status=errors.LEDGER_UNAVAILABLE.status,
            reason=errors.LEDGER_UNAVAILABLE.reason,
            outcome=Outcome.REFUSED,
        )


def of(exchange: "Exchange") -> Earlier:
    """The call's earlier attempts; from now on it has some."""
    if exchange.earlier is None:
        exchange.earlier = Earlier(exchange)
    return exchange.earlier
