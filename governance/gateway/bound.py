"""The worst case of a call in nano-dollars, before anything is sent."""

from governance.gateway import errors
from governance.gateway.charging import Promise
from governance.gateway.errors import CallRefused
from governance.gateway.exchange import Exchange


def worst_case(exchange: Exchange) -> Promise:
    """What to hold. CallRefused for a request without a bound, unless the key allows it."""
    key, request = exchange.key, exchange.request
    assert key is not None and request is not None
    tenant = key.tenant
    if not tenant.upstream_headers:
        raise CallRefused(errors.NO_UPSTREAM_CREDENTIAL)
    exchange.bound = "bounded"
    held = [
        book.worst_case(
            request.model,
            input_tokens_max=len(request.body) * 2 + 1000,
            output_tokens_max=request.max_tokens,
            cache_ttl="1h",
            inference_geo=request.fields.inference_geo,
            speed="standard",
            at=exchange.started_at,
        )
        for book in (tenant.book, tenant.list_book)
    ]
    return Promise(held[0], held[1], request.max_tokens, True, exchange.started_at, tenant.book)
