"""Asking for more: who is short of money asks, who manages the tenant answers.

Who may ask and who may answer is the console's to know (console/access.py). An approval is a top-up, a raise
or a new limit, in the transaction that marks the request; a request is answered once.
"""

from datetime import datetime

from django.db import IntegrityError, transaction

from governance.audit import events
from governance.audit.events import SYSTEM, Actor
from governance.budgets.adjustments import AdjustmentRefused, raise_limit, top_up
from governance.budgets.limits import change_budget
from governance.budgets.models import Budget, IncreaseRequest, RequestState
from governance.budgets.subjects import subject_text
from governance.core.money import NANOS_MAX, format_usd
from governance.ledger.models import DatabaseNow
from tenants.scope import tenant_scope

REASON_LENGTH_MAX = 256


class RequestRefused(ValueError):
    """A request that cannot be made or answered so; the text says why and what to do."""


def ask_for_more(
    budget: Budget, *, amount_nanos: int, reason: str, subject: str = "", actor: Actor | None = None
) -> IncreaseRequest:
    """Ask for so much more on a budget. One open request a person, budget and subject."""
    if not 0 < amount_nanos <= NANOS_MAX:
        raise RequestRefused("Ask for an amount above zero.")
    if subject and not budget.each:
        raise RequestRefused("This budget has one pot for all; leave the subject out.")
    if budget.closed_at is not None:
        raise RequestRefused("This budget is closed: there is nothing to ask of it.")
    who = actor or SYSTEM
    request = IncreaseRequest(
        tenant_id=budget.tenant_id,
        budget=budget,
        subject=subject_text(subject),
        amount_nanos=amount_nanos,
        reason=_said(reason, "Say what the money is for"),
        asked_by_id=who.user_id,
        asked_by_name=who.name[:200],
    )
    with tenant_scope(budget.tenant_id):
        try:
            with transaction.atomic():
                request.save(force_insert=True)
                _record("request.ask", request, actor, request.reason, amount_nanos)
        except IntegrityError:
            raise RequestRefused(
                "You have asked for more on this budget already; wait for the answer."
            ) from None
    return request


def approve(
    request: IncreaseRequest,
    *,
    granted: str,
    amount_nanos: int,
    answer: str,
    until: datetime | None = None,
    actor: Actor | None = None,
) -> IncreaseRequest:
    """Grant so much (it need not be what was asked for), as `IncreaseRequest.Granted` says."""
    kinds = IncreaseRequest.Granted
    with transaction.atomic(), tenant_scope(request.tenant_id):
        request = _open(request)
        budget, subject = request.budget, request.subject
        reason = f"asked by {request.asked_by_name}: {request.reason}"[:REASON_LENGTH_MAX]
        if (until is not None) != (granted == kinds.RAISE):
            raise RequestRefused("Say until when for a raise, and for nothing else.")
        if granted == kinds.TOP_UP:
            top_up(budget, amount_nanos=amount_nanos, subject=subject, reason=reason, actor=actor)
        elif granted == kinds.RAISE and until is not None:
            raise_limit(
                budget, amount_nanos=amount_nanos, until=until, subject=subject, reason=reason, actor=actor
            )
        elif granted == kinds.LIMIT:
            if subject:
                raise RequestRefused("A new limit would be everybody's; top up or raise this one pot.")
            if amount_nanos <= 0 or budget.limit_nanos + amount_nanos > NANOS_MAX:
                raise AdjustmentRefused("The amount must be above zero, and a limit can hold it.")
            change_budget(budget, limit_nanos=budget.limit_nanos + amount_nanos, actor=actor)
        else:
            raise RequestRefused(f"“{granted}” cannot be granted; use one of {', '.join(kinds.values)}.")
        request.granted, request.granted_nanos = granted, amount_nanos
        _close(request, RequestState.APPROVED, answer.strip()[:REASON_LENGTH_MAX], actor)
        _record("request.approve", request, actor, request.answer, amount_nanos)
    return request


def deny(request: IncreaseRequest, *, answer: str, actor: Actor | None = None) -> IncreaseRequest:
    """Refuse, with a reason that the asker reads."""
    with transaction.atomic(), tenant_scope(request.tenant_id):
        request = _open(request)
        _close(request, RequestState.DENIED, _said(answer, "Say why not"), actor)
        _record("request.deny", request, actor, request.answer, request.amount_nanos)
    return request


def _open(request: IncreaseRequest) -> IncreaseRequest:
    rows = IncreaseRequest.objects.select_for_update(of=("self",)).select_related("budget")
    locked: IncreaseRequest = rows.get(pk=request.pk)
    if locked.state != RequestState.OPEN:
        raise RequestRefused(f"{locked.decided_by_name} has {locked.state} this request already.")
    return locked


def _close(request: IncreaseRequest, state: str, answer: str, actor: Actor | None) -> None:
    request.state, request.answer = state, answer
    request.decided_by_name = (actor or SYSTEM).name[:200]
    request.decided_at = DatabaseNow()
    request.save()
    request.refresh_from_db(fields=["decided_at"])


def _said(text: str, please: str) -> str:
    text = text.strip()
    if not text:
        raise RequestRefused(f"{please}: the other side reads it.")
    if len(text) > REASON_LENGTH_MAX:
        raise RequestRefused(f"Say it in at most {REASON_LENGTH_MAX} characters.")
    return text


def _record(
    action: str, request: IncreaseRequest, actor: Actor | None, words: str, amount_nanos: int
) -> None:
    facts: dict[str, object] = {"amount": format_usd(amount_nanos), "reason": words}
    if request.subject:
        facts["subject"] = request.subject
    if request.granted:
        facts["granted"] = request.granted
    events.record(actor, request.tenant_id, action, request, after=facts)
