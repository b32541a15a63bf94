"""What a call would have cost as asked, and which technique saved how much of it. Pure; integers only.

`baseline_nanos`: the same answer from the model that the client asked for, with its whole prompt, and nothing
of it read from or written to a cache. From there each layer's part is the difference that it makes, in the
order of the path, so that the parts add up to baseline minus cost exactly:

    client_cache     reads at a fraction of the price, less the premium on writes, at breakpoints that the
                     client set: it would have had that without us, so it comes before what we do
    response_cache   the answer was kept: nothing is paid, so nothing is left for the others to save
    trimming         what rewrites took out of the prompt, less what they added to it
    routing          another model answered than was asked
    prompt_cache     like client_cache, at breakpoints that we set
    overhead         what was paid beside the answer, below zero: classifying, summarising, answers not used

What is estimated: tokens taken out are counted from their bytes at the ratio of what was sent, and priced as
if no cache had had them; where the two models' tokenizers differ, the new one counts 30 % more tokens than
the old one for the same text; the asked model's prompt cache would have had what the other one's had.
"""

from collections.abc import Iterable
from datetime import datetime

import msgspec
from msgspec.structs import replace

from governance.core.usage import Pass, Usage
from governance.pricing.book import PriceBook

BYTES_PER_TOKEN_MIN = 2
"""Of text, in any writing."""

type Layers = dict[str, int]
"""Layer → nano-dollars saved; below zero where it cost more. Only those that made a difference."""


class Savings(msgspec.Struct, frozen=True):
    """`baseline_nanos` minus the call's cost is the sum of `layers`."""

    baseline_nanos: int
    layers: Layers


class Asked(msgspec.Struct, frozen=True):
    """How the client's request differs from what was sent: of `sent_bytes` + `trimmed_bytes`, the latter were
    taken out; below zero where more was added. `injected`: the cache breakpoints are ours."""

    model: str
    sent_bytes: int
    trimmed_bytes: int = 0
    injected: bool = False


def of_answer(
    asked: Asked,
    passes: Iterable[Pass],
    *,
    answer_nanos: int,
    cost_nanos: int,
    book: PriceBook,
    at: datetime,
) -> Savings:
    """`answer_nanos`: what the attempt cost whose answer the client got; `cost_nanos`: all attempts."""
    found = tuple([_uncached(each) if asked.injected else each for each in passes])
    unrouted = tuple([_on_model(each, asked.model, book) for each in found])
    baseline, without_us = _as_asked(asked, unrouted, book, at)
    unrouted_nanos = _cost(book, unrouted, at) if asked.trimmed_bytes else without_us
    routed_nanos = unrouted_nanos if unrouted == found else _cost(book, found, at)
    layers = {
        "client_cache": baseline - without_us,
        "trimming": without_us - unrouted_nanos,
        "routing": unrouted_nanos - routed_nanos,
        "prompt_cache": routed_nanos - answer_nanos,
        "overhead": answer_nanos - cost_nanos,
    }
    return Savings(baseline, {name: saved for name, saved in layers.items() if saved})


def of_hit(asked: Asked, passes: Iterable[Pass], book: PriceBook, at: datetime) -> Savings:
    """An answer from the response cache; `passes`: what it took to make it, priced as of today."""
    found = [_uncached(each) if asked.injected else each for each in passes]
    unrouted = tuple([_on_model(each, asked.model, book) for each in found])
    baseline, without_us = _as_asked(asked, unrouted, book, at)
    layers = {"response_cache": without_us} if without_us else {}
    if baseline != without_us:
        layers["client_cache"] = baseline - without_us
    return Savings(baseline, layers)


def _as_asked(asked: Asked, passes: tuple[Pass, ...], book: PriceBook, at: datetime) -> tuple[int, int]:
    """What these passes cost with the whole prompt: without any cache, and with what was cached of them."""
    uncached = tuple([_uncached(each) for each in passes])
    is_any_cached = uncached != passes
    if asked.trimmed_bytes:
        passes = tuple(_untrimmed(each, asked) for each in passes)
        uncached = tuple(_untrimmed(each, asked) for each in uncached)
    without_us = _cost(book, passes, at)
    return (_cost(book, uncached, at) if is_any_cached else without_us), without_us


def _uncached(served: Pass) -> Pass:
    if not is_cached(served.usage):
        return served
    return replace(served, usage=served.usage.uncached)


def is_cached(usage: Usage) -> bool:
    """Whether a prompt cache was read from or written to."""
    return usage.prompt_tokens != usage.input_tokens


def _on_model(served: Pass, model: str, book: PriceBook) -> Pass:
    """The pass as that model would have done it; as it was where either is not known."""
    asked, answered = book.model(model), book.model(served.model)
    if asked is None or answered is None or asked.model_id == answered.model_id:
        return served
    usage = served.usage
    if asked.tokenizer != answered.tokenizer:
        more, less = (13, 10) if asked.tokenizer == "new" else (10, 13)
        *tokens, searches = usage.units
        usage = Usage(*[*(count * more // less for count in tokens), searches])
    return replace(served, model=asked.model_id, usage=usage)


def _untrimmed(served: Pass, asked: Asked) -> Pass:
    usage = served.usage
    taken = usage.prompt_tokens * asked.trimmed_bytes // max(asked.sent_bytes, 1)
    # A short request with pictures has many tokens to a byte, which what was taken out had not.
    taken = min(taken, max(asked.trimmed_bytes, 0) // BYTES_PER_TOKEN_MIN) if taken > 0 else taken
    return replace(served, usage=replace(usage, input_tokens=max(0, usage.input_tokens + taken)))


def _cost(book: PriceBook, passes: Iterable[Pass], at: datetime) -> int:
    return book.rate(passes, at).cost_nanos
