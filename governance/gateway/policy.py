"""What the policies of a call's key make of it: deny, answer, another model, rewrites. Only for keys that
have policies.

`decide` sets `exchange.route` and leaves `exchange.request` as it will be sent; what the client sent stays in
`exchange.asked`. Nothing here touches money: the bound is computed afterwards, from what will be sent.
"""

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from governance.gateway import classifying, dry_run, errors, summarising
from governance.gateway.call_facts import facts_of
from governance.gateway.conversations import conversation_of
from governance.gateway.errors import CallRefused
from governance.gateway.model_list import check_models, models_asked
from governance.gateway.other_model import why_not_allowed
from governance.gateway.responses import GatewayResponse
from governance.gateway.rewrites.rewriting import About, Rewritten, has_rewrites, media_bytes, rewritten
from governance.gateway.savings import Asked
from governance.gateway.template_answer import template_answer
from governance.routing.denials import without_denied
from governance.routing.facts import CallFacts
from governance.routing.route import Route

if TYPE_CHECKING:
    from governance.gateway.exchange import Exchange


async def decide(exchange: "Exchange") -> GatewayResponse | None:
    """The route of a call, and its request rewritten; a response where a template answers. CallRefused for
    what a policy denies."""
    key = exchange.key
    assert key.router is not None
    if key.allowed_models:  # as the client asks; what is sent is checked again, by the pipeline
        check_models(key.allowed_models, models_asked(exchange.request))
    facts = await facts_of(exchange, key.router.asks)
    route = _explained(exchange, _as_asked(exchange, facts) or key.router.route(facts))
    if route.deny is not None:
        raise CallRefused(errors.policy_denied(route.deny))
    if route.answer is not None:
        if exchange.inbound.dry_run:
            return await dry_run.report(exchange, None)
        return template_answer(exchange, route.answer)
    reasons: list[str] = []
    route = without_denied(key.router, route, facts, reasons)
    if route.sticky and key.router.changes_models:
        exchange.conversation = conversation_of(exchange)
    on = await _conversation_model(exchange, route, facts)
    aim = route.first_model(stream=exchange.request.stream) or exchange.request.model
    if on is not None and (on != aim or route.classify is not None):
        exchange.decision["conversation"] = "stays"
        route = replace(key.router.staying(facts), why=f"{on}: the conversation stays on its model")
        reasons.clear()
        route = without_denied(key.router, _explained(exchange, route), facts, reasons)
    if on is None and route.classify is not None:
        route = replace(route, model=await classifying.model_for(exchange, route.classify))
    model, more_reasons = _model(exchange, route, on)
    exchange.route = route = route if model == route.model else replace(route, model=model)
    if not has_rewrites(route):
        _take(exchange, Rewritten(exchange.request), [*reasons, *more_reasons])
        return None
    terms = About(
        book=key.tenant.book,
        at=exchange.started_at,
        max_output_tokens=key.max_output_tokens,
        conversation_model=on,
    )
    sent = rewritten(exchange.request, route, terms)
    if route.history is not None and route.summarise_by is not None and sent.cuts_history:
        summary = await summarising.summary_for(exchange, route.history, route.summarise_by)
        if summary is not None:
            sent = rewritten(exchange.request, route, replace(terms, summary=summary))
    _take(exchange, sent, [*reasons, *more_reasons, *sent.reasons])
    return None


def _as_asked(exchange: "Exchange", facts: CallFacts) -> Route | None:
    """Only what the policies forbid; None for a call that does not ask for that."""
    if not exchange.inbound.as_asked:
        return None
    if not exchange.key.as_asked_allowed:
        raise CallRefused(errors.AS_ASKED_NOT_ALLOWED)
    assert exchange.key.router is not None
    route = exchange.key.router.forbids(facts)
    return replace(route, why=route.why if route.deny else "The caller asked for no routing.", sticky=False)


def _explained(exchange: "Exchange", route: Route) -> Route:
    """The route, once the call's row tells which rules matched, what they did, and why."""
    applied = []
    for each in route.applied:
        row: dict[str, Any] = {"rule": each.rule, "version": each.version_id, "did": each.did}
        if each.shadow:
            row["shadow"] = True
        applied.append(row)
    exchange.route = route
    exchange.decision["policy"] = {"applied": applied, "why": route.why}
    exchange.decision.pop("rule", None)
    if route.rule is not None:
        exchange.decision["rule"] = route.rule
    return route


async def _conversation_model(exchange: "Exchange", route: Route, facts: CallFacts) -> str | None:
    """The model that the call's conversation is to stay on; None where that is not known, or not wanted."""
    if exchange.conversation is None:
        return None
    model = await exchange.gateway.conversations.model(exchange.conversation)
    return model if model is not None and _may_stay(exchange, route, facts, model) else None


def _may_stay(exchange: "Exchange", route: Route, facts: CallFacts, model: str) -> bool:
    """May the call go to the model that its conversation is on? Some policy chose that one for a turn before:
    what this turn's rules choose says nothing about it, unless it is the same."""
    router = exchange.key.router
    assert router is not None
    if not router.may_stay(route, model):
        return False
    if model != route.model and router.denial(facts, model, None) is not None:
        return False
    return why_not_allowed(exchange, model) is None


def _model(exchange: "Exchange", route: Route, on: str | None) -> tuple[str | None, list[str]]:
    """Where the call goes, if its request can go there; None: where it asks to. And why it does not go where
    a rule sends it. `on`: the model that its conversation stays on."""
    asked = exchange.request.model
    model = on or route.first_model(stream=exchange.request.stream) or asked
    if model == asked:
        return None, []
    why_not = why_not_allowed(exchange, model)
    if why_not is not None:
        return None, [f"model: {model} may not be used ({why_not})."]
    return model, []


def _take(exchange: "Exchange", sent: Rewritten, reasons: list[str]) -> None:
    """From now on the rewritten request is the call's; the client's own is for its row, and so are the
    reasons for what was not done."""
    about = exchange.decision["policy"]
    about["rewrites"], about["not_done"] = sent.names, reasons
    asked = exchange.request
    if sent.request is not asked:
        exchange.asked, exchange.request = asked, sent.request
        if sent.request.model != asked.model:
            exchange.decision["model"] = sent.request.model
        if sent.request.max_tokens != asked.max_tokens:
            exchange.decision["max_tokens"] = sent.request.max_tokens
    exchange.asked_terms = Asked(
        model=asked.model,
        sent_bytes=len(sent.request.body) - media_bytes(sent.request),
        trimmed_bytes=sent.removed_bytes,
    )
