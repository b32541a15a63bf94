"""The worst case of a call in nano-dollars, before anything is sent; or why there is none."""

from bisect import bisect_right

from governance.core.money import NANOS_MAX
from governance.core.usage import Speed
from governance.gateway import errors
from governance.gateway.betas import KNOWN_BETAS
from governance.gateway.charging import Promise
from governance.gateway.errors import CallRefused, forbidden, invalid
from governance.gateway.exchange import Exchange
from governance.gateway.request import CacheTtl, Request
from governance.gateway.text_bound import InputBound, input_bound, unbounded_features
from governance.pricing.book import PriceBook
from governance.pricing.rates import ModelFacts
from governance.routing.capabilities import retires_soon

CONTEXT_WINDOW_TOKENS_MAX = 1_000_000
"""The window of a model that we do not know, or that a beta widens."""
_WIDER_WINDOW = "context-1m"
UNKNOWN_BETAS_MAX = 16  # of one request are alerted


def worst_case(exchange: Exchange) -> Promise:
    """What to hold for the request, with `exchange.bound` saying how sure that is:

        bounded    it cannot cost more
        assumed    it cannot, unless a body field, beta or model that we do not know changes the price
        unbounded  it can; the key allows that

    CallRefused for a request without a bound on any other key.
    """
    key, request = exchange.key, exchange.request
    if not key.tenant.upstream_headers:
        raise CallRefused(errors.NO_UPSTREAM_CREDENTIAL)
    facts = key.tenant.book.model(request.model)
    if facts is not None and facts.retires_on and retires_soon(facts, exchange.started_at.date()):
        exchange.decision["model_retires"] = str(facts.retires_on)
    window = _window_tokens(exchange, facts)
    bound = input_bound(request, window)
    features = unbounded_features(request)
    if features:
        _check_allowed(exchange, features)
        bound = InputBound(window * bound.passes_max, bound.passes_max, bound.web_searches_max)
        exchange.bound = "unbounded"
    elif _alerts(exchange, known_model=facts is not None):
        exchange.bound = "assumed"
    else:
        exchange.bound = "bounded"
    held_nanos = _priced(key.tenant.book, exchange, bound, request.max_tokens)
    if held_nanos > NANOS_MAX:
        raise invalid(
            "worst_case_too_large",
            "The worst case of this request is more money than can be held. Lower max_tokens or max_uses.",
        )
    list_book = key.tenant.list_book
    has_bound = exchange.bound != "unbounded"
    is_estimate = has_bound and bound.tokens_max < window * bound.passes_max
    return Promise(
        held_nanos=held_nanos,
        list_nanos=held_nanos
        if list_book is key.tenant.book
        else min(NANOS_MAX, _priced(list_book, exchange, bound, request.max_tokens)),
        max_tokens=request.max_tokens,
        single_pass=bound.passes_max == 1 and exchange.bound == "bounded",
        at=exchange.started_at,
        book=key.tenant.book,
        bound_nanos=held_nanos if has_bound else None,
        input_tokens_max=bound.tokens_max if is_estimate else None,
    )


def max_tokens_within(exchange: Exchange, room_nanos: int) -> int | None:
    """The most output tokens, fewer than the request asks for, with which its worst case is at most
    `room_nanos`; 0 where one is too many, None where it may be sampled in several passes."""
    key, request = exchange.key, exchange.request
    book = key.tenant.book
    bound = input_bound(request, _window_tokens(exchange, book.model(request.model)))
    if bound.passes_max > 1:
        return None
    return bisect_right(
        range(1, request.max_tokens),
        room_nanos,
        key=lambda max_tokens: _priced(book, exchange, bound, max_tokens),
    )


def _window_tokens(exchange: Exchange, facts: ModelFacts | None) -> int:
    window = facts.context_window_tokens if facts else CONTEXT_WINDOW_TOKENS_MAX
    if any(beta.startswith(_WIDER_WINDOW) for beta in exchange.inbound.beta):
        window = max(window, CONTEXT_WINDOW_TOKENS_MAX)
    return window


def _priced(book: PriceBook, exchange: Exchange, bound: InputBound, max_tokens: int) -> int:
    request = exchange.request
    speed: Speed = "standard" if request.fields.speed in (None, "standard") else "fast"
    return book.worst_case(
        request.model,
        input_tokens_max=bound.tokens_max,
        output_tokens_max=max_tokens * bound.passes_max,
        cache_ttl=_cache_ttl(request, bound),
        inference_geo=request.fields.inference_geo,
        speed=speed,
        at=exchange.started_at,
        web_search_requests_max=bound.web_searches_max,
    )


def _cache_ttl(request: Request, bound: InputBound) -> CacheTtl:
    """Server tools write to the cache after each result, whether or not the request asks for caching."""
    return request.cache_ttl or ("5m" if bound.passes_max > 1 else None)


def _check_allowed(exchange: Exchange, features: tuple[str, ...]) -> None:
    if not exchange.key.unbounded_allowed:
        raise forbidden(
            "unbounded",
            f"The cost of this request has no upper bound because of {', '.join(features)}, so no "
            "budget can hold it. Leave that out (a web search needs max_uses), or ask your administrator for "
            "a key that may send unbounded calls.",
        )


def _alerts(exchange: Exchange, *, known_model: bool) -> bool:
    """Whether the request names what we do not know: somebody should teach us what it costs."""
    request, tenant_id = exchange.request, exchange.key.tenant.id
    unknown = exchange.gateway.alerts.unknown
    betas = [beta for beta in exchange.inbound.beta if beta not in KNOWN_BETAS]
    for beta in betas[:UNKNOWN_BETAS_MAX]:
        unknown("beta", beta[:64], tenant_id)
    for name in request.unknown_fields:
        unknown("field", name, tenant_id)
    if not known_model:
        unknown("model", request.model[:128], tenant_id)
    return bool(betas or request.unknown_fields or not known_model)
