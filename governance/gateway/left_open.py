"""What a decision leaves open until the call is made, in sentences: for dry runs and previews, which ask no
model. Pure."""

from collections.abc import Iterator

from governance.gateway.request import Request
from governance.pricing.book import PriceBook
from governance.response_cache.suitable import is_repeatable
from governance.routing.document import Cache
from governance.routing.route import Classifier, Ladder, Route


def left_open(
    route: Route, sent: Request, book: PriceBook, *, asks_label: bool, cache_control: str = ""
) -> list[str]:
    """Each begins with the action that it is about. `sent`: the request as it would be sent; `asks_label`:
    a classifier would be asked; `cache_control`: the header exchequer-cache-control."""
    return [
        *(_of_cache(route.cache, sent, cache_control) if route.cache is not None else ()),
        *(_of_label(route.classify) if route.classify is not None and asks_label else ()),
        *(_of_cascade(route, route.cascade, sent, book) if route.cascade is not None else ()),
        *_of_other_models(route, sent),
        *_of_prompt_cache(route),
    ]


def is_first_step(route: Route, sent: Request, book: PriceBook) -> bool:
    """Whether the request is on the first step of a cascade, and its reply may be kept back."""
    if route.cascade is None:
        return False
    first = book.model(route.cascade.first)
    may_wait = route.first_model(stream=sent.stream) == route.cascade.first
    return may_wait and first is not None and first is book.model(sent.model)


def _of_cache(cache: Cache, sent: Request, cache_control: str) -> Iterator[str]:
    if cache_control in ("no-store", "no-cache"):
        yield f"cache: not looked up, because of exchequer-cache-control: {cache_control}."
    elif not is_repeatable(sent.fields):
        yield "cache: not looked up, because the request refers to state upstream or wants no output."
    else:
        yield f"cache: an answer that was kept for the same request ({cache.scope}) is sent instead."


def _of_label(terms: Classifier) -> Iterator[str]:
    places = [f"{label} goes to {model}" for label, model in terms.models.items()]
    otherwise = terms.otherwise or "the model as asked"
    yield f"route: {terms.by} is asked how hard the message is: {', '.join([*places, f'else {otherwise}'])}."


def _of_cascade(route: Route, ladder: Ladder, sent: Request, book: PriceBook) -> Iterator[str]:
    if is_first_step(route, sent, book):
        unsure = ladder.terms.confidence
        sure = "" if unsure is None else f", or it is less than {unsure.at_least} % sure of it"
        checks = ", ".join(ladder.terms.checks)
        yield f"route: {ladder.then} answers where {ladder.first}'s answer fails a check ({checks}){sure}."
    elif sent.stream and not ladder.terms.buffer_streams:
        yield "route: no cascade, because a stream is not kept back unless the rule says `buffer_streams`."


def _of_other_models(route: Route, sent: Request) -> Iterator[str]:
    others = [model for model in route.fallbacks if model != sent.model]
    if others:
        then = ", then ".join(others)
        yield f"fallbacks: {then}, where upstream answers 429, 529 or 5xx or cannot be reached."
    if route.on_exhausted not in (None, sent.model):
        yield f"on_exhausted: {route.on_exhausted}, where the worst case does not fit in a budget."


def _of_prompt_cache(route: Route) -> Iterator[str]:
    if route.prompt_cache is not None:
        yield "prompt_cache: marks are added where they pay, which depends on what came before."
