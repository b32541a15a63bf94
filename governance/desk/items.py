"""What may be put on the desk, and what comes back. Amounts are nano-dollars.

PlaceHold   →  Held | Refused, or Claimed where its claim belongs to another call
Shrink      →  bool: whether the hold was still open and larger
Settlement  →  bool: whether this settlement resolved the hold (False: someone else already did)
CallRecord  →  True once it is durable
"""

from uuid import UUID

import msgspec
from msgspec.structs import replace

from governance.calls.records import AttemptRecord, CallRecord
from governance.ledger.kinds import Basis, EntryKind


class DeskUnavailable(Exception):
    """The ledger cannot be written now, so nothing may go upstream. Tell the caller to come back (503)."""


class Claim(msgspec.Struct, frozen=True):
    """That this is the one call under a client's `Idempotency-Key`; `body_digest` is the SHA-256 of what it
    asks for. See models.IdempotencyClaim."""

    lineage_id: int
    idempotency_key: str
    body_digest: bytes
    call_id: UUID


class PlaceHold(msgspec.Struct, frozen=True):
    """Take `amount_nanos` on every period of `period_ids`, or on none.

    `memo` is JSON text with what the sweeper needs if this worker dies: see desk/memo.py.
    `period_ids` are distinct BudgetPeriod ids in any order. `waiting_since` is WOULD_WAIT, or WILL_NOT_WAIT,
    or what the first refusal said: the place in the queue, microseconds by the database's clock.
    With a `claim` the hold is placed only if no other call has it; whoever voids the hold must say so
    (Settlement.claimed).
    `follows` is the open hold of the call's attempt before this one. The new hold is placed under the same
    lease or not at all (DeskUnavailable): once that lease was swept, the call may have ended.
    """

    id: UUID
    tenant_id: int
    period_ids: tuple[int, ...]
    amount_nanos: int
    price_version: int
    memo: str
    waiting_since: int = -1
    claim: Claim | None = None
    follows: "Held | None" = None


WILL_NOT_WAIT, WOULD_WAIT = -1, 0


class Figures(msgspec.Struct, frozen=True):
    """One budget period as it stood in one locked read."""

    limit_nanos: int
    spent_nanos: int
    held_nanos: int

    @property
    def left_nanos(self) -> int:
        """Below zero after the limit was lowered."""
        return self.limit_nanos - self.spent_nanos - self.held_nanos

    @property
    def spent_percent(self) -> int:
        return 100 if self.limit_nanos == 0 else self.spent_nanos * 100 // self.limit_nanos


class Held(msgspec.Struct, frozen=True):
    """The hold is committed: the call may go upstream.

    `tightest` is the hard budget with the least left, this hold included; None without a hard one.
    `lease_id` is the lease that the hold was placed under.
    """

    hold_id: UUID
    tightest: Figures | None
    lease_id: int = 0


class Refused(msgspec.Struct, frozen=True):
    """The hold does not fit: `figures` are of the row that refused it.

    `closed` says that the period has ended (or not begun) by the database's clock: look the period up
    again and place a new hold. `since` is the hold's place in the queue, for when it is placed again.
    `ahead_nanos` is kept there for an older call that waits; it is 0 where the hold itself is too large.
    """

    period_id: int
    figures: Figures
    closed: bool
    since: int = 0
    ahead_nanos: int = 0

    def fits_later(self, amount_nanos: int) -> bool:
        """Whether such a hold fits on every budget once the calls in flight have ended."""
        return not self.closed and amount_nanos <= self.figures.limit_nanos - self.figures.spent_nanos

    @property
    def room_nanos(self) -> int:
        """The largest hold that would have been admitted; below zero after the limit was lowered."""
        return self.figures.left_nanos - self.ahead_nanos


class Claimed(msgspec.Struct, frozen=True):
    """Another call has this claim: nothing was held. `in_flight`: its hold is still open; otherwise it was
    charged. `call_id`, `hold_id` and `body_digest` are None for a claim that went in this very moment.
    """

    call_id: UUID | None
    hold_id: UUID | None
    body_digest: bytes | None
    in_flight: bool
    age_seconds: int


class Shrink(msgspec.Struct, frozen=True):
    """Lower an open hold to `amount_nanos`, once less than the worst case is certain."""

    hold_id: UUID
    amount_nanos: int
    period_ids: tuple[int, ...]


class Settlement(msgspec.Struct, frozen=True):
    """Resolve a hold: charge what it cost, or void it with proof that nothing was billed.

    `period_ids` and `held_nanos` are the hold's as this process knows them. A cost above the hold is
    carried as far as the hard budgets allow; the rest is the operator's (governance/desk/overrun.py).
    `call` is written with the call's last attempt, and is None for those before it. `claimed`: a void
    releases the claim of its hold; so does a charge, of a call that gets no answer. `claim_to`: the hold of
    the call's next attempt, which has its claim from now on.
    """

    hold_id: UUID
    kind: EntryKind
    basis: Basis | None
    cost_nanos: int
    held_nanos: int
    list_nanos: int
    period_ids: tuple[int, ...]
    reason: str
    attempt: AttemptRecord
    call: CallRecord | None
    claimed: bool = False
    claim_to: UUID | None = None

    def without_texts(self) -> "Settlement":
        """The same money without any text that came from outside: for the one that can't be written."""
        return replace(
            self,
            reason="recorded without texts that the database refused",
            attempt=replace(
                self.attempt,
                requested_model=None,
                served_model=None,
                service_tier=None,
                speed=None,
                inference_geo=None,
                passes=None,
                upstream_request_id=None,
                stop_reason=None,
                error=None,
            ),
            call=self.call
            and replace(
                self.call,
                tags="{}",
                end_user=None,
                session=None,
                user_agent=None,
                traceparent=None,
                requested_model=None,
                served_model=None,
                decision="{}",
                facts="{}",
            ),
        )

    @staticmethod
    def charge(
        *,
        hold_id: UUID,
        basis: Basis,
        held_nanos: int,
        period_ids: tuple[int, ...],
        attempt: AttemptRecord,
        call: CallRecord | None,
        reason: str = "usage",
        claimed: bool = False,
        claim_to: UUID | None = None,
    ) -> "Settlement":
        """A charge of what the attempt cost."""
        return Settlement(
            hold_id,
            EntryKind.CHARGE,
            basis,
            attempt.cost_nanos,
            held_nanos,
            attempt.list_nanos,
            period_ids,
            reason,
            attempt,
            call,
            claimed,
            claim_to,
        )

    @staticmethod
    def void(
        *,
        hold_id: UUID,
        held_nanos: int,
        period_ids: tuple[int, ...],
        attempt: AttemptRecord,
        call: CallRecord | None,
        reason: str,
        claimed: bool = False,
        claim_to: UUID | None = None,
    ) -> "Settlement":
        """A release in full. `reason` is the proof, e.g. “upstream answered 529 before any output”."""
        return Settlement(
            hold_id,
            EntryKind.VOID,
            None,
            0,
            held_nanos,
            0,
            period_ids,
            reason,
            attempt,
            call,
            claimed,
            claim_to,
        )
