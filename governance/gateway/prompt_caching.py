"""The step that marks a call's prompt for the prompt cache, and what is learned from its reply.

Only for calls whose route asks for it, and only once it is known that they are really sent.
"""

from hashlib import sha256
from time import monotonic
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from governance.core.usage import Pass
from governance.gateway.rewrites.prompt_cache import Caller
from governance.gateway.rewrites.rewriting import marked
from governance.gateway.savings import Asked
from governance.pricing.book import PriceBook

if TYPE_CHECKING:
    from governance.gateway.exchange import Exchange

BYTES_MAX = 4 * 1024 * 1024
"""About a million tokens of text. More is pictures, and other calls would wait while it is hashed."""


def mark(exchange: "Exchange") -> None:
    """Marks the request where that pays; the decision says what was done or why not."""
    route, key, request = exchange.route, exchange.key, exchange.request
    assert route is not None
    assert route.prompt_cache is not None
    if exchange.inbound.dry_run:  # it must not count as a time that the prompt was seen
        return
    caller = Caller(
        exchange.gateway.prompt_memory,
        key.tenant.fingerprint_key,
        f"{key.lineage_id} {exchange.session or exchange.tags.get('endpoint', '')}",
        exchange.started_monotonic,
    )
    about = exchange.decision.setdefault("policy", {})
    if len(request.body) > BYTES_MAX:
        about["not_done"] = (
            *about.get("not_done", ()),
            "prompt-cache: the prompt is too large to be looked at",
        )
        return
    result = marked(request, route.prompt_cache, key.tenant.book, exchange.started_at, caller)
    about["rewrites"] = (*about.get("rewrites", ()), *result.names)
    about["not_done"] = (*about.get("not_done", ()), *result.reasons)
    if result.prompt_prefix is None:
        return
    exchange.prompt_prefix = result.request.model, result.prompt_prefix
    exchange.request = result.request
    exchange.asked = exchange.asked or request
    terms = exchange.asked_terms or Asked(exchange.asked.model, sent_bytes=len(result.request.body))
    exchange.asked_terms = replace(terms, injected=True)


def learn(exchange: "Exchange", passes: tuple[Pass, ...], book: PriceBook) -> None:
    """What the reply to a marked prompt read and wrote: remembered, and on the call's row. `passes`: as
    served; there is one at least."""
    assert exchange.prompt_prefix is not None
    model, prefix = exchange.prompt_prefix
    if book.model(passes[0].model) is not book.model(model):
        return  # another model answered, whose cache says nothing of this one's
    worth = exchange.gateway.prompt_memory.learn(
        prefix, passes, book, exchange.started_at, began=exchange.started_monotonic, now=monotonic()
    )
    exchange.decision["prompt_cache"] = {
        # Of the tenant's own digest once more, so that what is on a page is no key to the memory.
        "prefix": sha256(prefix).hexdigest()[:12],
        **msgspec.structs.asdict(worth),
    }
