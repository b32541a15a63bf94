"""The row that each client request leaves: see calls/models.Call for what the columns mean."""

from typing import TYPE_CHECKING

import msgspec

from governance.calls.records import AttemptRecord, CallRecord
from governance.gateway import facts

if TYPE_CHECKING:
    from governance.gateway.exchange import Exchange

_encode = msgspec.json.Encoder().encode


def of_call(exchange: "Exchange", outcome: str, status: int, reason: str, content: bytes = b"") -> CallRecord:
    """The row of a call that took no hold. The caller's key must be known."""
    key, inbound = exchange.key, exchange.inbound
    call = CallRecord(
        id=exchange.id,
        tenant_id=key.tenant.id,
        team_id=key.team_id,
        key_id=key.id,
        tags=_encode(exchange.tags).decode() if exchange.tags else "{}",
        end_user=exchange.end_user,
        session=exchange.session,
        user_agent=inbound.user_agent,
        traceparent=inbound.traceparent,
        endpoint=exchange.endpoint,
        requested_model=exchange.requested_model,
        stream=exchange.client_request.stream if exchange.parsed else False,
        outcome=outcome,
        status=status,
        reason=reason,
        bound=exchange.bound,
        decision=_encode(exchange.decision).decode() if exchange.decision else "{}",
        cache=exchange.cache,
        rule=None if exchange.route is None else exchange.route.rule,
        policy_version=None if exchange.route is None else exchange.route.version_id,
        held_ms=exchange.held_ms,
        first_byte_ms=exchange.first_byte_ms,
        duration_ms=exchange.elapsed_ms(),
    )
    if exchange.parsed:
        facts.add(call, exchange, content)
    return call


def of_attempt(
    exchange: "Exchange", attempt: AttemptRecord, outcome: str, status: int, reason: str, content: bytes
) -> CallRecord:
    """The row of a call that this attempt ends. `content`: the reply's raw content, if it was read."""
    call = of_call(exchange, outcome, status, reason, content)
    call.served_model = attempt.served_model
    return with_money(call, exchange, attempt)


def of_money(
    exchange: "Exchange", attempt: AttemptRecord, outcome: str, status: int, reason: str
) -> CallRecord:
    """The same with nothing that the client or upstream wrote, for when that cannot be recorded."""
    key = exchange.key
    call = CallRecord(
        id=exchange.id,
        tenant_id=key.tenant.id,
        team_id=key.team_id,
        key_id=key.id,
        endpoint=exchange.endpoint,
        outcome=outcome,
        status=status,
        reason=reason,
    )
    return with_money(call, exchange, attempt)


def with_money(call: CallRecord, exchange: "Exchange", attempt: AttemptRecord) -> CallRecord:
    """The row with what the call cost: its last attempt, and those before it."""
    call.attempts = 1
    call.held_nanos = attempt.held_nanos
    call.cost_nanos = attempt.cost_nanos
    call.list_nanos = attempt.list_nanos
    call.price_version = attempt.price_version
    if exchange.earlier is not None:
        exchange.earlier.add_to(call)
    if call.baseline_nanos is None:
        call.baseline_nanos = call.cost_nanos
    return call
