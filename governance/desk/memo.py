"""What a hold remembers, so that someone else can write its call when its worker is gone.

A memo is JSON text of about 1 KB, of 2 KB at the worst; tags that would not fit are left out and counted.
"""

from typing import Any
from uuid import UUID

import msgspec

from governance.calls.records import AttemptRecord, CallRecord
from governance.desk.items import PlaceHold, Settlement
from governance.ledger.kinds import Basis

_TAG_BYTES_MAX = 400

_encode = msgspec.json.Encoder().encode


def make_memo(
    *,
    call_id: UUID,
    key_id: int,
    team_id: int | None,
    endpoint: str,
    requested_model: str | None,
    stream: bool,
    tags: dict[str, str],
    end_user: str | None,
    session: str | None,
    credential_id: int | None,
    bound: str,
    list_nanos: int,
    number: int = 1,
    purpose: str = "answer",
    sent_model: str | None = None,
) -> str:
    """The memo of a hold. `bound` is bounded | unbounded | assumed; `list_nanos` the hold at list price.
    `sent_model`: what the attempt asks for, where that is not what the client did."""
    kept = _tags_that_fit(tags)
    memo = {
        "call": call_id,
        "key": key_id,
        "team": team_id,
        "endpoint": endpoint,
        "model": requested_model and requested_model[:100],
        "stream": stream,
        "tags": kept,
        "user": end_user and end_user[:64],
        "session": session and session[:64],
        "credential": credential_id,
        "bound": bound,
        "list": list_nanos,
    }
    if number > 1 or purpose != "answer":
        memo |= {"number": number, "purpose": purpose}
    if sent_model is not None and sent_model != requested_model:
        memo["sent"] = sent_model[:100]
    if len(kept) < len(tags):
        memo["tags_left_out"] = len(tags) - len(kept)
    return _encode(memo).decode()


def _tags_that_fit(tags: dict[str, str]) -> dict[str, str]:
    kept: dict[str, str] = {}
    size = 0
    for name, value in tags.items():
        size += len(_encode(name)) + len(_encode(value)) + 2
        if size > _TAG_BYTES_MAX:
            break
        kept[name] = value
    return kept


def void_of_unused_hold(hold: PlaceHold, reason: str, *, call_ends: bool = True) -> Settlement:
    """A hold that was committed for a caller who will never use it. Nothing went upstream.

    Without `call_ends` the call's row is left to the caller: it may be served with another hold. The attempt
    then has number 0, for it was none of the call's tries.
    """
    memo = msgspec.json.decode(hold.memo)
    attempt, call = _records(memo, hold.id, hold.tenant_id, hold.amount_nanos, hold.price_version)
    attempt.error = reason
    if not call_ends:
        attempt.number = 0
    call.outcome, call.status, call.reason = "cut", 499, "caller_left"
    return Settlement.void(
        hold_id=hold.id,
        held_nanos=hold.amount_nanos,
        period_ids=hold.period_ids,
        attempt=attempt,
        call=call if call_ends else None,
        reason=reason,
        claimed=hold.claim is not None,
    )


def charge_of_orphan(
    *,
    hold_id: UUID,
    tenant_id: int,
    period_ids: tuple[int, ...],
    amount_nanos: int,
    price_version: int,
    memo: dict[str, Any],
) -> Settlement:
    """A dead worker's hold, charged in full: the call may have reached upstream and been billed. The call's
    row is that of a call without other attempts: see sweeper.py."""
    attempt, call = _records(memo, hold_id, tenant_id, amount_nanos, price_version)
    attempt.basis = Basis.FULL_HOLD
    attempt.cost_nanos = call.cost_nanos = amount_nanos
    attempt.list_nanos = call.list_nanos = max(int(memo.get("list", 0)), 0)
    attempt.error = "the worker died before the outcome was known"
    if "tags_left_out" in memo:
        call.decision = _encode({"tags_left_out": memo["tags_left_out"]}).decode()
    return Settlement.charge(
        hold_id=hold_id,
        basis=Basis.FULL_HOLD,
        held_nanos=amount_nanos,
        period_ids=period_ids,
        attempt=attempt,
        call=call,
        reason="worker died; outcome unknown",
    )


def void_of_unmade_attempt(
    *,
    hold_id: UUID,
    tenant_id: int,
    period_ids: tuple[int, ...],
    amount_nanos: int,
    price_version: int,
    memo: dict[str, Any],
) -> Settlement:
    """A dead worker's hold of a call that had ended without it: it was placed for one more attempt, which was
    not made."""
    attempt, _ = _records(memo, hold_id, tenant_id, amount_nanos, price_version)
    attempt.number, attempt.error = 0, "the call had ended before this attempt"
    return Settlement.void(
        hold_id=hold_id,
        held_nanos=amount_nanos,
        period_ids=period_ids,
        attempt=attempt,
        call=None,
        reason=attempt.error,
    )


def _records(
    memo: dict[str, Any], hold_id: UUID, tenant_id: int, amount_nanos: int, price_version: int
) -> tuple[AttemptRecord, CallRecord]:
    call_id = UUID(memo["call"])
    attempt = AttemptRecord(
        id=hold_id,
        call_id=call_id,
        tenant_id=tenant_id,
        key_id=memo["key"],
        credential_id=memo["credential"],
        number=memo.get("number", 1),
        purpose=memo.get("purpose", "answer"),
        requested_model=memo.get("sent", memo["model"]),
        held_nanos=amount_nanos,
        cost_nanos=0,
        list_nanos=0,
        price_version=price_version,
    )
    call = CallRecord(
        id=call_id,
        tenant_id=tenant_id,
        team_id=memo["team"],
        key_id=memo["key"],
        tags=_encode(memo["tags"]).decode(),
        end_user=memo["user"],
        session=memo["session"],
        endpoint=memo["endpoint"],
        requested_model=memo["model"],
        stream=memo["stream"],
        outcome="swept",
        status=502,
        reason="worker_died",
        bound=memo["bound"],
        attempts=1,
        held_nanos=amount_nanos,
        price_version=price_version,
    )
    return attempt, call
