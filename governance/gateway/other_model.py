"""The call with another model than it was to have: what that needs, and the way back.

For what comes up on the way (fallbacks, escalation, a budget that has no room); a model that a rule chose
beforehand is one of rewrites/. Whatever is asked for instead is bounded and held like any request.
"""

from governance.gateway.exchange import Exchange
from governance.gateway.operator_rules import why_no_model
from governance.gateway.request import Request, RequestRefused
from governance.gateway.rewrites.draft import NotDone, draft_of
from governance.gateway.rewrites.model import swapped
from governance.gateway.savings import Asked

type Before = tuple[Request, Request | None, Asked | None, str | None]


def request_for(exchange: Exchange, model: str) -> Request | str:
    """The request for that model, or the reason why it cannot be asked."""
    why_not = why_not_allowed(exchange, model)
    if why_not is not None:
        return why_not
    key, request = exchange.key, exchange.request
    target, source = key.tenant.book.model(model), key.tenant.book.model(request.model)
    draft = swapped(draft_of(request), target, model, exchange.started_at.date(), source=source)
    if isinstance(draft, NotDone):
        return "incompatible"
    try:
        return draft.request()
    except RequestRefused:
        return "incompatible"


def why_not_allowed(exchange: Exchange, model: str) -> str | None:
    """Why that model may not be asked for this call, by its key or the operator, whatever a policy says."""
    key = exchange.key
    return why_no_model(model, key.allowed_models, key.tenant.operator_rules, key.tenant.book)


def ask_instead(exchange: Exchange, request: Request) -> Before:
    """From now on the call is that request; what is returned undoes it."""
    before = (exchange.request, exchange.asked, exchange.asked_terms, exchange.bound)
    if exchange.asked is None:
        exchange.asked = exchange.request
    if exchange.asked_terms is None:
        exchange.asked_terms = Asked(exchange.asked.model, len(request.body))
    exchange.request = request
    return before


def undo(exchange: Exchange, before: Before) -> None:
    exchange.request, exchange.asked, exchange.asked_terms, exchange.bound = before
