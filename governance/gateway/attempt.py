"""One try upstream: it owns a hold, and sees to it that the hold is resolved exactly once.

`charge` or `void` end it and its call; `settle` ends it where the call goes on with another, or without one
(earlier.py). All only queue a settlement on the desk, which keeps it until it is durable: no await, so
neither a disconnect nor a cancellation can come between.
"""

import logging
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import msgspec

from governance.calls.models import Outcome
from governance.calls.records import AttemptRecord, CallRecord
from governance.core.usage import Pass, total_usage
from governance.desk.items import Held, Settlement, Shrink
from governance.gateway import call_record, prompt_caching, savings
from governance.gateway.charging import Charge, Promise
from governance.ledger.kinds import Basis

if TYPE_CHECKING:
    import asyncio

    from governance.gateway.exchange import Exchange

log = logging.getLogger(__name__)

NEAR_PERCENT = 90
"""Of the input tokens that were held: above it, the estimate is about to fail."""

_encode = msgspec.json.Encoder().encode


class Voided(NamedTuple):
    """A void that waits: the call may go on with another attempt."""

    proof: str
    status: int
    reason: str


class Attempt:
    """A committed hold and what became of it. `promise` shrinks with the hold. `model`: what is asked for.

    With `may_go_on` a void is only noted, in `voided`, for somebody who decides what comes next.
    """

    __slots__ = (
        "exchange",
        "first_byte_ms",
        "held",
        "hold_id",
        "may_go_on",
        "model",
        "number",
        "period_ids",
        "promise",
        "purpose",
        "resolved",
        "sent_monotonic",
        "upstream_request_id",
        "upstream_status",
        "voided",
    )

    def __init__(
        self,
        exchange: "Exchange",
        held: Held,
        period_ids: tuple[int, ...],
        promise: Promise,
        purpose: str = "answer",
    ) -> None:
        self.exchange = exchange
        self.held = held
        self.hold_id: UUID = held.hold_id
        self.period_ids = period_ids
        self.promise = promise
        self.purpose = purpose
        self.number = 1 if exchange.earlier is None else exchange.earlier.next_number
        self.model = exchange.request.model[:128]
        self.resolved = False
        self.may_go_on = False
        self.voided: Voided | None = None
        self.sent_monotonic = monotonic()
        self.upstream_status: int | None = None
        self.upstream_request_id: str | None = None
        self.first_byte_ms: int | None = None

    def began(self, status: int, request_id: str | None) -> None:
        """Upstream's response headers are there."""
        self.upstream_status = status
        self.upstream_request_id = request_id and request_id[:128]
        self.first_byte_ms = int((monotonic() - self.sent_monotonic) * 1000)
        self.exchange.first_byte_ms = self.exchange.elapsed_ms()
        self.exchange.gateway.metrics.upstream_began(self.first_byte_ms)

    def shrink(self, amount_nanos: int) -> None:
        """Give back what is certainly not needed. From here on the smaller amount is what counts: should the
        desk settle first, a cost above it is checked against the hold as it stands in the database."""
        self.promise = msgspec.structs.replace(self.promise, held_nanos=amount_nanos)
        self.exchange.gateway.desk.shrink(Shrink(self.hold_id, amount_nanos, self.period_ids))

    def charge(self, charge: Charge, *, outcome: str, status: int, reason: str, content: bytes = b"") -> None:
        """Resolve the hold with a charge, and the call. `content`: the reply's raw content, for its
        fingerprint."""
        if self.resolved:
            return
        exchange = self.exchange
        attempt, call = self._rows(charge, charge.why, outcome, status, reason, content)
        exchange.gateway.settle(self._settlement(charge, charge.why, attempt, call), call)
        self.resolved = True
        if exchange.taken is not None:
            earlier = exchange.earlier
            exchange.taken.close(charge.passes if earlier is None else (*earlier.passes, *charge.passes))
        self._look_at(charge)

    def settle(
        self,
        charge: Charge | None,
        why: str | None,
        *,
        call: CallRecord | None = None,
        claim_to: UUID | None = None,
    ) -> "tuple[AttemptRecord, asyncio.Future[bool]]":
        """Resolve the hold of an attempt whose call goes on, or ends with a row that is made and counted by
        somebody else: this attempt's money is added to it. No charge: a void; `why` is its proof."""
        try:
            attempt = self._record(charge, why and why[:256])
        except Exception:
            log.exception("An attempt of call %s is recorded with its money only.", self.exchange.id)
            attempt = self._money(charge, why and why[:256])
        if call is not None:
            call_record.with_money(call, self.exchange, attempt)
        # A call without an answer may be tried again, though its classifier was paid; one that was answered
        # from the cache as well, for nothing.
        frees_key = call is not None and (call.outcome != Outcome.SERVED or call.cache == "hit")
        settlement = self._settlement(charge, why, attempt, call, frees_key=frees_key, claim_to=claim_to)
        settled = self.exchange.gateway.settle(settlement, None)
        self.resolved = True
        if charge is not None:
            self._look_at(charge)
        return attempt, settled

    def _settlement(
        self,
        charge: Charge | None,
        why: str | None,
        attempt: AttemptRecord,
        call: CallRecord | None,
        *,
        frees_key: bool = False,
        claim_to: UUID | None = None,
    ) -> Settlement:
        """`frees_key`: the call's Idempotency-Key may be sent again for another try."""
        claimed = frees_key and self.exchange.claim is not None
        if charge is None:
            return Settlement.void(
                hold_id=self.hold_id,
                held_nanos=self.promise.held_nanos,
                period_ids=self.period_ids,
                attempt=attempt,
                call=call,
                reason=(why or "")[:256],
                claimed=claimed,
                claim_to=claim_to,
            )
        return Settlement.charge(
            hold_id=self.hold_id,
            basis=charge.basis,
            held_nanos=self.promise.held_nanos,
            period_ids=self.period_ids,
            attempt=attempt,
            call=call,
            reason=charge.why or "usage",
            claimed=claimed,
            claim_to=claim_to,
        )

    def _look_at(self, charge: Charge) -> None:
        for model in charge.unknown_models:
            self.exchange.gateway.alerts.unknown("model", model[:128], self.exchange.key.tenant.id)
        if charge.basis is Basis.EXACT and self.promise.bound_nanos:
            self._compare(charge, self.promise.bound_nanos)

    def _compare(self, charge: Charge, bound_nanos: int) -> None:
        """How much of the worst case the call used: all of it by writing max_tokens is fine, most of the
        input tokens that were estimated is a warning, and more than all is a bound that does not hold."""
        exchange, promise = self.exchange, self.promise
        alerts = exchange.gateway.alerts
        exchange.gateway.metrics.bound_used(charge.cost_nanos / bound_nanos)
        if charge.cost_nanos > bound_nanos:
            if not charge.unknown_models:  # else the price is a guess, and dear on purpose
                alerts.broken(exchange, self.hold_id, bound_nanos, charge.cost_nanos)
        elif promise.input_tokens_max is not None:
            prompt_tokens = sum(served.usage.prompt_tokens for served in charge.passes)
            if prompt_tokens * 100 > promise.input_tokens_max * NEAR_PERCENT:
                alerts.near(exchange, prompt_tokens, promise.input_tokens_max)

    def void(self, proof: str, *, status: int, reason: str, outcome: str = Outcome.FAILED) -> None:
        """Resolve the hold for nothing, and the call. `proof` says why nothing can have been billed."""
        if self.resolved:
            return
        if self.may_go_on:
            self.voided = Voided(proof, status, reason)
            return
        exchange = self.exchange
        attempt, call = self._rows(None, proof[:256], outcome, status, reason, b"")
        exchange.gateway.settle(self._settlement(None, proof, attempt, call, frees_key=True), call)
        self.resolved = True
        if exchange.taken is not None:
            exchange.taken.close(exchange.earlier.passes if exchange.earlier is not None else None)

    def void_now(self) -> bool:
        """The void that was noted, if any: the call ends with it."""
        noted, self.may_go_on = self.voided, False
        if noted is None:
            return False
        self.void(noted.proof, status=noted.status, reason=noted.reason)
        return True

    def leave_to_the_sweeper(self) -> None:
        """Its lease was swept: what it is charged, and its call's row, come with the sweeper's settlement."""
        self.resolved = True
        if self.exchange.taken is not None:
            self.exchange.taken.close()

    def settling(self, settle: Callable[[], None]) -> Callable[[], None]:
        """`settle`; should it fail, the whole hold is charged: nobody else would, while this worker lives."""

        def settle_in_any_case() -> None:
            try:
                settle()
            except Exception as error:
                log.exception("Call %s could not be settled; its whole hold is charged.", self.exchange.id)
                charge = self.promise.full_hold(f"settling failed: {type(error).__name__}")
                self.charge(charge, outcome=Outcome.FAILED, status=500, reason="internal")

        return settle_in_any_case

    def _rows(
        self, charge: Charge | None, error: str | None, outcome: str, status: int, reason: str, content: bytes
    ) -> tuple[AttemptRecord, CallRecord]:
        """The attempt's and its call's row. Whatever is wrong with what they describe, there are rows: a
        hold that nobody resolves would be held for ever."""
        try:
            if self.exchange.prompt_prefix is not None and charge is not None and charge.passes:
                prompt_caching.learn(self.exchange, charge.passes, self.promise.book)
            baseline_nanos = self.baseline(charge)
            attempt = self._record(charge, error)
            call = call_record.of_attempt(self.exchange, attempt, outcome, status, reason, content)
            if baseline_nanos is not None:
                call.baseline_nanos = baseline_nanos
        except Exception:
            log.exception("Call %s is recorded with its money only.", self.exchange.id)
            attempt = self._money(charge, error)
            call = call_record.of_money(self.exchange, attempt, outcome, status, reason)
        return attempt, call

    def baseline(self, charge: Charge | None, paid_nanos: int | None = None) -> int | None:
        """What the call would have cost as asked, with what was saved in the decision; None where nothing
        was done that could have saved anything. `paid_nanos`: for all of its attempts, where this one that
        answered is not the last."""
        exchange = self.exchange
        if charge is None or not charge.passes or charge.basis is Basis.FULL_HOLD:
            return None  # the whole hold says nothing of what the answer cost
        earlier = exchange.earlier
        changed = exchange.asked_terms is not None or earlier is not None
        if not changed and not any(savings.is_cached(each.usage) for each in charge.passes):
            return None
        saved = savings.of_answer(
            exchange.asked_terms or savings.Asked(exchange.requested_model or "", sent_bytes=1),
            charge.passes,
            answer_nanos=charge.cost_nanos,
            cost_nanos=charge.cost_nanos + (0 if earlier is None else earlier.cost_nanos)
            if paid_nanos is None
            else paid_nanos,
            book=self.promise.book,
            at=self.promise.at,
        )
        if saved.layers:
            exchange.decision["savings"] = saved.layers
        return saved.baseline_nanos

    def _money(self, charge: Charge | None, error: str | None) -> AttemptRecord:
        """The attempt's row with nothing in it that came from outside."""
        exchange = self.exchange
        return AttemptRecord(
            id=self.hold_id,
            call_id=exchange.id,
            tenant_id=exchange.key.tenant.id,
            key_id=exchange.key.id,
            number=self.number,
            purpose=self.purpose,
            credential_id=exchange.key.tenant.credential_id,
            held_nanos=self.promise.held_nanos,
            bound_nanos=self.promise.bound_nanos,
            cost_nanos=charge.cost_nanos if charge else 0,
            list_nanos=charge.list_nanos if charge else 0,
            price_version=self.promise.book.version,
            basis=charge.basis if charge else None,
            usage_source=charge.usage_source if charge else "none",
            error=error,
        )

    def _record(self, charge: Charge | None, error: str | None) -> AttemptRecord:
        record = self._money(charge, error)
        record.requested_model = self.model
        record.upstream_status = self.upstream_status
        record.upstream_request_id = self.upstream_request_id
        record.first_byte_ms = self.first_byte_ms
        record.duration_ms = int((monotonic() - self.sent_monotonic) * 1000)
        if charge is not None:
            record.cost_by_meter = _encode(charge.by_meter).decode()
            record.stop_reason = charge.stop_reason and charge.stop_reason[:64]
            if charge.passes:
                _write_usage(record, charge.passes)
        return record


def _write_usage(record: AttemptRecord, passes: tuple[Pass, ...]) -> None:
    usage = total_usage(passes) if len(passes) > 1 else passes[0].usage
    served = passes[0]
    record.served_model = served.model[:128]
    record.service_tier = served.service_tier
    record.speed = served.speed
    record.inference_geo = served.inference_geo[:32] or None
    record.input_tokens = usage.input_tokens
    record.cache_creation_5m_tokens = usage.cache_creation_5m_tokens
    record.cache_creation_1h_tokens = usage.cache_creation_1h_tokens
    record.cache_read_input_tokens = usage.cache_read_input_tokens
    record.output_tokens = usage.output_tokens
    record.web_search_requests = usage.web_search_requests
    if len(passes) > 1:
        record.passes = _encode([_pass_row(each) for each in passes]).decode()


def _pass_row(served: Pass) -> dict[str, Any]:
    return {
        "model": served.model,
        "speed": served.speed,
        "service_tier": served.service_tier,
        "inference_geo": served.inference_geo,
        "units": served.usage.units,
    }
