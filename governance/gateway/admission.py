"""Money before bytes: hold the worst case on every budget that covers the call, or say which one refuses."""

from datetime import datetime

import psycopg
from msgspec.structs import asdict, replace

from governance.budgets.periods import BudgetClosed, PeriodRow, SubjectsFull
from governance.budgets.subjects import SUBJECT_NAMES
from governance.budgets.terms import Leg
from governance.core.clock import utcnow
from governance.core.ids import uuid7
from governance.core.money import format_usd
from governance.core.periods import Period
from governance.desk.batch import Answer
from governance.desk.items import (
    WILL_NOT_WAIT,
    WOULD_WAIT,
    Claimed,
    DeskUnavailable,
    Held,
    PlaceHold,
    Refused,
)
from governance.desk.memo import make_memo
from governance.gateway import errors, other_model
from governance.gateway.attempt import Attempt
from governance.gateway.body import ClientLeft
from governance.gateway.bound import worst_case
from governance.gateway.callers import legs_of
from governance.gateway.charging import Promise
from governance.gateway.clamp import CLAMP_TRIES_MAX, least_max_tokens, lowered
from governance.gateway.errors import DO_NOT_RETRY, CallRefused, Refusal, retry_after
from governance.gateway.exchange import Exchange
from governance.gateway.idempotency import KeyTaken
from governance.gateway.responses import Headers
from governance.gateway.waiting import AskAgain, wait_for_room

PERIOD_TRIES_MAX = 3
"""A period may end while a call is being admitted, by a database clock that is not ours."""
BUDGET_REASONS = ("budget_held", "budget_exhausted", "budget_subjects_full")
HELD_RETRY_SECONDS, WAITED_RETRY_SECONDS = 2, 5
"""Who has waited in vain should not be the first in the queue again at once."""


async def hold(
    exchange: Exchange, promise: Promise, purpose: str = "answer", *, waits: bool = True
) -> Attempt:
    """Place the hold; when this returns, the attempt may go upstream, and what the call's attempts before it
    cost is durable. CallRefused otherwise, or KeyTaken when another call was made under its Idempotency-Key.

    Without `waits` it is placed as it is and at once, or refused.
    """
    memo = _memo(exchange, promise, purpose)
    follows = None
    if exchange.earlier is not None:
        if exchange.earlier.over:
            raise CallRefused(errors.LEDGER_UNAVAILABLE)
        follows = exchange.earlier.open_hold
    since = WOULD_WAIT if waits and exchange.key.hold_wait_seconds else WILL_NOT_WAIT
    tries = 0
    while tries < PERIOD_TRIES_MAX:
        _check_spending_is_possible(exchange)
        legs = legs_of(exchange)
        rows = await _period_rows(exchange, legs)
        period_ids = tuple([row.id for row in rows])
        order = PlaceHold(
            uuid7(),
            exchange.key.tenant.id,
            period_ids,
            promise.held_nanos,
            promise.book.version,
            memo,
            waiting_since=since,
            claim=exchange.claim if follows is None else None,
            follows=follows,
        )
        answer = await _place(exchange, order)
        if isinstance(answer, Held):
            return await _begun(exchange, Attempt(exchange, answer, period_ids, promise, purpose))
        if (
            isinstance(answer, Refused)
            and not answer.closed
            and waits
            and exchange.key.clamp_floor_tokens is not None
        ):
            smaller = await _place_less(exchange, order, answer)
            if isinstance(smaller, Attempt):
                return smaller
            answer = smaller
        if isinstance(answer, Claimed):
            raise KeyTaken(answer)
        if isinstance(answer, AskAgain):
            promise, since = answer
            memo = _memo(exchange, promise, purpose)
            continue
        if not answer.closed and waits and exchange.route is not None:
            cheaper = await _place_cheaper(exchange, order)
            if cheaper is not None:
                return cheaper
        refusing = period_ids.index(answer.period_id)
        if not answer.closed:
            raise _refused(exchange, answer, legs[refusing], rows[refusing], promise.held_nanos)
        exchange.gateway.periods.forget(rows[refusing])
        since = answer.since if since != WILL_NOT_WAIT else since
        tries += 1
    raise CallRefused(errors.LEDGER_UNAVAILABLE)


async def _begun(exchange: Exchange, attempt: Attempt) -> Attempt:
    exchange.held_ms = exchange.elapsed_ms()
    if exchange.earlier is not None:
        try:
            await exchange.earlier.give_way_to(attempt)
        except BaseException:
            exchange.earlier.take_back(attempt)
            raise
    return attempt


def _check_spending_is_possible(exchange: Exchange) -> None:
    gateway, tenant = exchange.gateway, exchange.key.tenant
    if not tenant.has_wall:
        raise errors.forbidden(
            "no_budget",
            f"{tenant.name} has no hard budget, so nothing may be spent. An administrator can set one: "
            "manage.py set_budget --scope tenant.",
        )
    if gateway.desk.unsettled > gateway.limits.settle_backlog_max:
        raise CallRefused(errors.BACKLOG_FULL)


async def _place(exchange: Exchange, order: PlaceHold) -> Answer | AskAgain:
    """The desk's answer, after waiting for room where that helps."""
    try:
        answer = await exchange.gateway.desk.place_hold(order)
        would_wait = order.waiting_since != WILL_NOT_WAIT
        if isinstance(answer, Refused) and would_wait and answer.fits_later(order.amount_nanos):
            return await wait_for_room(exchange, order, answer)
        return answer
    except DeskUnavailable:
        raise CallRefused(errors.LEDGER_UNAVAILABLE) from None
    except ClientLeft:
        exchange.gateway.record_departure(exchange)
        raise


async def _place_less(exchange: Exchange, order: PlaceHold, refused: Refused) -> Attempt | Refused | Claimed:
    """The call with as many `max_tokens` as there is room for, at its place in the queue; it does not wait.

    Where that may not be, or is not enough: the request as it was, and the refusal that it had.
    """
    least = least_max_tokens(exchange)
    if least is None:
        return refused
    asked, room_nanos = exchange.request, refused.room_nanos
    since = refused.since if order.waiting_since != WILL_NOT_WAIT else WILL_NOT_WAIT
    for _ in range(CLAMP_TRIES_MAX):
        request = lowered(exchange, room_nanos, least)
        if request is None:
            break
        exchange.request = request
        fewer = worst_case(exchange)
        memo = _memo(exchange, fewer, "answer")
        order = replace(order, id=uuid7(), amount_nanos=fewer.held_nanos, memo=memo, waiting_since=since)
        try:
            answer = await exchange.gateway.desk.place_hold(order)
        except DeskUnavailable:
            raise CallRefused(errors.LEDGER_UNAVAILABLE) from None
        if isinstance(answer, Held):
            exchange.decision |= {"max_tokens": request.max_tokens, "clamped_from": asked.max_tokens}
            return await _begun(exchange, Attempt(exchange, answer, order.period_ids, fewer))
        exchange.request = asked
        if isinstance(answer, Claimed) or answer.closed:
            return answer
        room_nanos = answer.room_nanos
    return refused


async def _place_cheaper(exchange: Exchange, order: PlaceHold) -> Attempt | None:
    """The call with its policy's `on_exhausted` model, which has a worst case and budgets of its own; it does
    not wait again. None, and the request as it was, where that is not cheaper or does not fit either."""
    assert exchange.route is not None
    model, asked = exchange.route.on_exhausted, exchange.request.model
    if model is None or model == asked:
        return None
    request = other_model.request_for(exchange, model)
    if isinstance(request, str):
        exchange.decision["degrade_not"] = f"{model} ({request})"
        return None
    before = other_model.ask_instead(exchange, request)
    try:
        promise = worst_case(exchange)
        if promise.held_nanos < order.amount_nanos:
            attempt = await hold(exchange, promise, waits=False)
            exchange.decision["degraded_from"] = asked
            return attempt
        exchange.decision["degrade_not"] = f"{model} (not_cheaper)"
    except CallRefused as error:
        if error.refusal.reason not in BUDGET_REASONS:
            raise
        exchange.decision["degrade_not"] = f"{model} ({error.refusal.reason})"
    other_model.undo(exchange, before)
    return None


def _refused(exchange: Exchange, answer: Refused, leg: Leg, row: PeriodRow, needed_nanos: int) -> CallRefused:
    exchange.decision["refused"] = {
        "budget_id": leg.budget.id,
        "subject": leg.subject,
        "period_id": answer.period_id,
        **asdict(answer.figures),
        "needed_nanos": needed_nanos,
        "ahead_nanos": answer.ahead_nanos,
    }
    waited_ms, least = exchange.decision.get("waited_ms", 0), exchange.decision.get("clamp_floor")
    return CallRefused(budget_refusal(answer, leg, row.period, needed_nanos, utcnow(), waited_ms, least))


async def _period_rows(exchange: Exchange, legs: tuple[Leg, ...]) -> tuple[PeriodRow, ...]:
    gateway = exchange.gateway
    known = gateway.periods.known(legs, utcnow())
    if known is not None:
        return known
    try:
        async with gateway.store.connection() as connection:
            # A burst of first calls waits here together; the first one finds the rows for all.
            return gateway.periods.known(legs, utcnow()) or await gateway.periods.ensure(connection, legs)
    except (psycopg.Error, TimeoutError):
        raise CallRefused(errors.LEDGER_UNAVAILABLE) from None
    except BudgetClosed:
        raise CallRefused(errors.SETTINGS_MOVED) from None
    except SubjectsFull as full:
        raise CallRefused(subjects_refusal(full.leg, full.period, utcnow())) from None


def _memo(exchange: Exchange, promise: Promise, purpose: str) -> str:
    key, request, earlier = exchange.key, exchange.request, exchange.earlier
    return make_memo(
        call_id=exchange.id,
        key_id=key.id,
        team_id=key.team_id,
        endpoint=exchange.endpoint,
        requested_model=exchange.requested_model,
        stream=exchange.client_request.stream,
        tags=exchange.tags,
        end_user=exchange.end_user,
        session=exchange.session,
        credential_id=key.tenant.credential_id,
        bound=exchange.bound or "bounded",
        list_nanos=promise.list_nanos,
        number=1 if earlier is None else earlier.next_number,
        purpose=purpose,
        sent_model=request.model,
    )


def budget_refusal(
    answer: Refused,
    leg: Leg,
    period: Period,
    needed_nanos: int,
    now: datetime,
    waited_ms: int = 0,
    least_max_tokens: int | None = None,
) -> Refusal:
    """A 429 in the shape that Claude Code shows verbatim. All figures are of one locked read.
    `least_max_tokens`: what the call was to be lowered to at most, and does not fit with either.

    `budget_held`: it will fit when calls in flight have ended. `budget_exhausted`: not in this period.
    """
    row = answer.figures
    figures = (
        f"This call could cost up to {format_usd(needed_nanos)}; the budget “{leg.title[:120]}” has "
        f"{format_usd(max(row.left_nanos, 0))} left of {format_usd(row.limit_nanos)} "
        f"({format_usd(row.spent_nanos)} spent, {format_usd(row.held_nanos)} held for calls in "
        "flight). "
    )
    if least_max_tokens is not None:
        figures += f"It would not fit even with max_tokens lowered to {least_max_tokens:,}. "
    if answer.fits_later(needed_nanos):
        return _held_refusal(figures, answer.ahead_nanos, waited_ms)
    when = _when_it_resets(leg, period)
    advice = (
        "Ask for fewer max_tokens or a cheaper model, or ask your administrator for a higher limit."
        if row.left_nanos > 0
        else "Ask your administrator for a higher limit."
    )
    return Refusal(
        429,
        "billing_error",
        "budget_exhausted",
        figures + when + advice,
        _exhausted_headers(leg, period, now),
    )


def _held_refusal(figures: str, ahead_nanos: int, waited_ms: int) -> Refusal:
    """It will fit later. `ahead_nanos` are kept for calls that came earlier and wait too."""
    ahead = f"{format_usd(ahead_nanos)} of that is kept for calls that wait longer. " if ahead_nanos else ""
    waited = f"It waited {waited_ms / 1000:.1f} s for that. " if waited_ms else ""
    return Refusal(
        429,
        "billing_error",
        "budget_held",
        f"{figures}{ahead}It will fit once calls in flight have ended. {waited}"
        "Please try again in a few seconds, or ask for fewer max_tokens.",
        retry_after(WAITED_RETRY_SECONDS if waited_ms else HELD_RETRY_SECONDS),
    )


def subjects_refusal(leg: Leg, period: Period, now: datetime) -> Refusal:
    """A 429 for a subject that is new in a period that has all the subjects it may have."""
    budget, kind = leg.budget, SUBJECT_NAMES[leg.budget.scope]
    return Refusal(
        429,
        "billing_error",
        "budget_subjects_full",
        f"The budget “{budget.name}” gives each {kind} {format_usd(budget.limit_nanos)}, to at most "
        f"{budget.subjects_max:,} of them a period; this call names one more. {_when_it_resets(leg, period)}"
        f"Use a {kind} that is known, or ask your administrator to let the budget have more.",
        _exhausted_headers(leg, period, now),
    )


def _when_it_resets(leg: Leg, period: Period) -> str:
    if leg.budget.period == "total":
        return "It does not reset. "
    return f"It resets on {period.ends_at:%Y-%m-%d at %H:%M} UTC. "


def _exhausted_headers(leg: Leg, period: Period, now: datetime) -> Headers:
    """anthropic-ratelimit-unified-*, as Claude Code reads them for a spend cap."""
    budget = leg.budget
    unified = {
        b"status": b"rejected",
        b"overage-utilization": b"1",
        b"overage-surpassed-threshold": b"1",
        b"overage-disabled-reason": b"org_spend_cap_reached",
    }
    named = {"day": b"daily", "week": b"weekly", "month": b"monthly"}.get(budget.period)
    if named:
        unified[b"overage-period"] = named
    if budget.scope in ("tenant", "team", "tag"):
        unified[b"overage-scope"] = b"group_pool"
    headers = [*DO_NOT_RETRY]
    if budget.period != "total":
        reset = b"%d" % int(period.ends_at.timestamp())
        unified[b"reset"] = unified[b"overage-reset"] = reset
        headers.append((b"retry-after", b"%d" % max(1, int((period.ends_at - now).total_seconds()) + 1)))
    headers += [(b"anthropic-ratelimit-unified-" + name, value) for name, value in unified.items()]
    return headers
