"""Money before bytes: hold the worst case on every budget that covers the call, or say which one refuses."""

from datetime import datetime

import psycopg
from msgspec.structs import asdict

from governance.budgets.periods import BudgetClosed, PeriodRow, SubjectsFull
from governance.budgets.subjects import SUBJECT_NAMES
from governance.budgets.terms import Leg
from governance.core.clock import utcnow
from governance.core.ids import uuid7
from governance.core.money import format_usd
from governance.core.periods import Period
from governance.desk.items import Claimed, DeskUnavailable, Figures, Held, PlaceHold
from governance.desk.memo import make_memo
from governance.gateway import errors
from governance.gateway.attempt import Attempt
from governance.gateway.callers import legs_of
from governance.gateway.charging import Promise
from governance.gateway.errors import DO_NOT_RETRY, CallRefused, Refusal, retry_after
from governance.gateway.exchange import Exchange
from governance.gateway.idempotency import KeyTaken
from governance.gateway.responses import Headers

PERIOD_TRIES_MAX = 3
"""A period may end while a call is being admitted, by a database clock that is not ours."""
HELD_RETRY_SECONDS = 2


async def hold(exchange: Exchange, promise: Promise) -> Attempt:
    """Place the hold; when this returns, the call may go upstream. CallRefused otherwise, or KeyTaken
    when another call was made under its Idempotency-Key."""
    gateway, key = exchange.gateway, exchange.key
    if not key.tenant.has_wall:
        raise errors.forbidden(
            "no_budget",
            f"{key.tenant.name} has no hard budget, so nothing may be spent. An administrator can set one: "
            "manage.py set_budget --scope tenant.",
        )
    if gateway.desk.unsettled > gateway.limits.settle_backlog_max:
        raise CallRefused(errors.BACKLOG_FULL)
    memo = _memo(exchange, promise)
    legs = legs_of(exchange)
    for _ in range(PERIOD_TRIES_MAX):
        rows = await _period_rows(exchange, legs)
        period_ids = tuple([row.id for row in rows])
        order = PlaceHold(
            uuid7(),
            key.tenant.id,
            period_ids,
            promise.held_nanos,
            promise.book.version,
            memo,
            claim=exchange.claim,
        )
        try:
            answer = await gateway.desk.place_hold(order)
        except DeskUnavailable:
            raise CallRefused(errors.LEDGER_UNAVAILABLE) from None
        if isinstance(answer, Held):
            exchange.held_ms = exchange.elapsed_ms()
            return Attempt(exchange, answer, period_ids, promise)
        if isinstance(answer, Claimed):
            raise KeyTaken(answer)
        refusing = period_ids.index(answer.period_id)
        if not answer.closed:
            leg, row = legs[refusing], rows[refusing]
            exchange.decision["refused"] = {
                "budget_id": leg.budget.id,
                "subject": leg.subject,
                "period_id": answer.period_id,
                **asdict(answer.figures),
                "needed_nanos": promise.held_nanos,
            }
            raise CallRefused(budget_refusal(answer.figures, leg, row.period, promise.held_nanos, utcnow()))
        gateway.periods.forget(rows[refusing])
    raise CallRefused(errors.LEDGER_UNAVAILABLE)


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


def _memo(exchange: Exchange, promise: Promise) -> str:
    key, request = exchange.key, exchange.request
    return make_memo(
        call_id=exchange.id,
        key_id=key.id,
        team_id=key.team_id,
        endpoint=exchange.endpoint,
        requested_model=exchange.requested_model,
        stream=request.stream,
        tags=exchange.tags,
        end_user=exchange.end_user,
        session=exchange.session,
        credential_id=key.tenant.credential_id,
        bound=exchange.bound or "bounded",
        list_nanos=promise.list_nanos,
    )


def budget_refusal(row: Figures, leg: Leg, period: Period, needed_nanos: int, now: datetime) -> Refusal:
    """A 429 in the shape that Claude Code shows verbatim. All figures are of one locked read.

    `budget_held`: it will fit when calls in flight have ended. `budget_exhausted`: not in this period.
    """
    figures = (
        f"This call could cost up to {format_usd(needed_nanos)}; the budget “{leg.title[:120]}” has "
        f"{format_usd(max(row.left_nanos, 0))} left of {format_usd(row.limit_nanos)} "
        f"({format_usd(row.spent_nanos)} spent, {format_usd(row.held_nanos)} held for calls in "
        "flight). "
    )
    if needed_nanos <= row.limit_nanos - row.spent_nanos:
        return Refusal(
            429,
            "billing_error",
            "budget_held",
            figures
            + "It will fit once calls in flight have ended: try again in a few seconds, or ask for fewer "
            "max_tokens.",
            retry_after(HELD_RETRY_SECONDS),
        )
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
