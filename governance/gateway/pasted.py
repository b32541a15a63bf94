"""A request that was pasted into the console, read exactly as a call's body is: for previews of policies.

Nothing is sent or held. The console gets these functions from governance/urls.py.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from governance.gateway.call_facts import is_first_turn, last_text
from governance.gateway.errors import CallRefused
from governance.gateway.features import rule_features
from governance.gateway.left_open import left_open
from governance.gateway.model_list import check_models, models_asked
from governance.gateway.operator_rules import OperatorRules, compile_rules, why_no_model
from governance.gateway.request import Request, RequestRefused, read_request
from governance.gateway.rewrites.rewriting import About, rewritten
from governance.gateway.user_id import TEXT_LENGTH_MAX, end_user_of
from governance.pricing.book import PriceBook
from governance.routing.denials import without_denied
from governance.routing.facts import CallFacts
from governance.routing.route import Route
from governance.routing.router import Router


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What else decides. `allowed_models` and `max_output_tokens` are the key's; `refused` and `broken` rows
    of pricing/queries.py."""

    book: PriceBook
    allowed_models: Collection[str] = ()
    max_output_tokens: int | None = None
    refused: Sequence[Any] = ()
    broken: Sequence[Any] = ()


class Outcome(msgspec.Struct, frozen=True):
    """What the call would be before anything is held.

    model        that is asked first          refused     by the key's models or the operator, and why
    rewrites     what is changed              not_done    sentences about what cannot be
    depends_on   sentences about what is known only once the call is made
    """

    model: str
    refused: str | None = None
    rewrites: tuple[str, ...] = ()
    not_done: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()


def pasted_facts(
    body: bytes,
    *,
    tags: Mapping[str, str],
    key_public_id: str,
    team_id: int | None,
    at: datetime,
    latency: str,
    budget_used_percent: int | None,
) -> CallFacts:
    """All facts, the dear ones too. ValueError with the sentence that the call would be refused with."""
    request = _read(body)
    text, text_characters = last_text(request)
    return CallFacts(
        model=request.model,
        tags=tags,
        key_public_id=key_public_id,
        team_id=team_id,
        now=at,
        body_bytes=len(body),
        stream=request.stream,
        first_turn=is_first_turn(request),
        max_tokens=request.max_tokens,
        end_user=(end_user_of(request.user_id) or "")[:TEXT_LENGTH_MAX] or None,
        latency=latency,
        text=text,
        text_characters=text_characters,
        features=rule_features(request),
        budget_used_percent=budget_used_percent,
    )


def pasted_outcome(body: bytes, router: Router, route: Route, facts: CallFacts, terms: Terms) -> Outcome:
    """What `policy.decide` makes of that route of the router, where the conversation's model is not known."""
    request, rules = _read(body), compile_rules(terms.refused, terms.broken)
    refused = _refused(request, None, terms)
    if refused is not None or route.deny is not None or route.answer is not None:
        return Outcome(request.model, refused)
    reasons: list[str] = []
    route = without_denied(router, route, facts, reasons)
    if route.classify is not None:
        route = msgspec.structs.replace(route, model=route.classify.otherwise)
    model = route.first_model(stream=request.stream)
    if model is not None and model != request.model:
        why_not = why_no_model(model, terms.allowed_models, rules, terms.book)
        if why_not is not None:
            reasons.append(f"model: {model} may not be used ({why_not}).")
            model = None
    about = About(book=terms.book, at=facts.now, max_output_tokens=terms.max_output_tokens)
    sent = rewritten(request, msgspec.structs.replace(route, model=model), about)
    open_ = left_open(route, sent.request, terms.book, asks_label=bool(facts.text.strip()))
    may_stay = not route.degraded or route.ceiling is not None
    if route.sticky and router.changes_models and not facts.first_turn and may_stay:
        dearer = f", if that is no dearer than {route.ceiling}" if route.ceiling is not None else ""
        open_.append(f"route: a conversation stays on the model that answered it last{dearer}.")
    return Outcome(
        sent.request.model,
        _refused(sent.request, rules, terms),
        sent.names,
        (*reasons, *sent.reasons),
        tuple(open_),
    )


def _refused(request: Request, rules: OperatorRules | None, terms: Terms) -> str | None:
    """The sentence of the key's or the operator's refusal. Betas are headers, which nobody pastes."""
    try:
        if rules is not None:
            rules.check(request, (), terms.book)
        if terms.allowed_models:
            check_models(terms.allowed_models, models_asked(request))
    except CallRefused as refused:
        return refused.refusal.message
    return None


def _read(body: bytes) -> Request:
    try:
        return read_request(body)
    except RequestRefused as refused:
        raise ValueError(refused.sentence) from None
