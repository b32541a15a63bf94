"""Which budgets a call is charged to: what it says about itself, asked of what its key is covered by."""

from collections.abc import Iterable

from governance.budgets.subjects import TIERS, Caller
from governance.budgets.terms import Leg
from governance.gateway.exchange import Exchange
from governance.gateway.model_list import UNSAID, models_asked
from governance.gateway.user_id import end_user_of
from governance.pricing.book import PriceBook


def legs_of(exchange: Exchange) -> tuple[Leg, ...]:
    """Every pot that this call is charged to. A key without budgets that ask who is calling pays nothing."""
    coverage = exchange.key.coverage
    if not coverage.by_call:
        return coverage.legs
    return coverage.of_call(
        Caller(
            end_user_of(exchange.client_request.user_id),
            exchange.session,
            exchange.tags,
            _models(exchange.key.tenant.book, models_asked(exchange.request)),
        )
    )


def _models(book: PriceBook, asked: Iterable[str]) -> frozenset[str] | None:
    """Ids and tiers of the models that may serve the request; None where that is not said."""
    names: set[str] = set()
    for model in asked:
        if model == UNSAID:
            return None
        facts = book.model(model)
        if facts is not None:
            names |= {facts.model_id, facts.family}
            continue
        # A name that we do not know, a new date for instance, may be any model of the tier that it says.
        tiers = {tier for tier in TIERS if tier in model.lower()}
        if not tiers:
            return None
        names |= {model, *tiers}
        names.update(known.model_id for known in book.models if known.family in tiers)
    return frozenset(names)
