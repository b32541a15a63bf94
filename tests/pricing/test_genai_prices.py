"""Our prices against an independent price book, the `genai-prices` package: equal, but for what is listed.

Each difference is asserted to still exist, so that the list shrinks when the other book catches up.
"""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices import calc_price

from governance.core.usage import Pass, Usage
from governance.pricing.book import PriceBook
from tests.pricing.conftest import TODAY

# Their input_tokens include what went through the cache.
WRITE = {"input_tokens": 1000, "cache_write_tokens": 1000}
METERS = {
    "input_tokens": {"input_tokens": 1000},
    "cache_creation_5m_tokens": WRITE | {"cache_write_5m_tokens": 1000},
    "cache_creation_1h_tokens": WRITE | {"cache_write_1h_tokens": 1000},
    "cache_read_input_tokens": {"input_tokens": 1000, "cache_read_tokens": 1000},
    "output_tokens": {"output_tokens": 1000},
}
VARIANTS: dict[str, tuple[dict[str, str], dict[str, str] | None]] = {
    "standard": ({}, None),
    "batch": ({"service_tier": "batch"}, {"processing": "batch"}),
    "fast": ({"speed": "fast"}, {"speed": "fast"}),
}

NOT_IN_THEIRS = {"claude-mythos-5-1", "claude-mythos-5", "claude-mythos-preview"}
"""Limited availability: they leave such models out."""

BATCH_AT_FULL_PRICE_IN_THEIRS = {
    "claude-opus-4-1-20250805",
    "claude-opus-4-20250514",
    "claude-sonnet-4-20250514",
    "claude-3-7-sonnet-20250219",
    "claude-3-5-haiku-20241022",
    "claude-3-haiku-20240307",
    "claude-3-opus-20240229",
    "claude-3-5-sonnet-20241022",
    "claude-3-5-sonnet-20240620",
    "claude-3-sonnet-20240229",
    "claude-2.1",
    "claude-2.0",
}
"""Retired before they had batch prices, which they then silently take for standard ones."""


def theirs(model: str, at: datetime = TODAY, context: dict[str, str] | None = None, **usage: int) -> Decimal:
    """In USD. LookupError for a model that they do not have."""
    price = calc_price(
        TheirUsage(**usage), model, provider_id="anthropic", genai_request_timestamp=at, price_context=context
    )
    return price.total_price


def ours(book: PriceBook, model: str, usage: Usage, at: datetime = TODAY, **served: str) -> Decimal | None:
    """In USD; None where the book has no price of its own."""
    cost = book.rate([Pass(model, usage, **served)], at)  # type: ignore[arg-type]
    return None if cost.unknown_models else Decimal(cost.cost_nanos).scaleb(-9)


def test_every_price_is_the_same_but_for_the_known_differences(book: PriceBook) -> None:
    differing, compared = set(), 0
    for facts in book.models:
        for variant, (served, context) in VARIANTS.items():
            for field, usage in METERS.items():
                our_usd = ours(book, facts.model_id, Usage(**{field: 1000}), **served)
                if our_usd is None or facts.model_id in NOT_IN_THEIRS:
                    continue
                compared += 1
                if theirs(facts.model_id, context=context, **usage) != our_usd:
                    differing.add((facts.model_id, variant))
    assert differing == {(model, "batch") for model in BATCH_AT_FULL_PRICE_IN_THEIRS}
    assert compared > 280


@pytest.mark.parametrize("model", sorted(NOT_IN_THEIRS))
def test_models_of_limited_availability_are_still_missing_from_theirs(model: str) -> None:
    with pytest.raises(LookupError):
        theirs(model, input_tokens=1000)


@pytest.mark.parametrize("model", sorted(BATCH_AT_FULL_PRICE_IN_THEIRS))
def test_batches_of_retired_models_are_still_at_full_price_in_theirs(book: PriceBook, model: str) -> None:
    their_usd = theirs(model, context={"processing": "batch"}, output_tokens=1000)
    assert their_usd == 2 * (ours(book, model, Usage(output_tokens=1000), service_tier="batch") or 0)


def test_the_long_prompt_price_of_haiku_5_5_is_the_same(book: PriceBook) -> None:
    for input_tokens in (100_000, 100_001):
        usage = Usage(input_tokens, output_tokens=1000)
        their_usd = theirs("claude-haiku-5-5", input_tokens=input_tokens, output_tokens=1000)
        assert their_usd == ours(book, "claude-haiku-5-5", usage)


@pytest.mark.parametrize("model", ["claude-opus-4-6", "claude-sonnet-4-6"])
def test_the_long_prompt_price_of_4_6_ended_on_the_same_day(book: PriceBook, model: str) -> None:
    for at in (datetime(2026, 3, 12, 12, tzinfo=UTC), datetime(2026, 3, 13, 12, tzinfo=UTC)):
        their_usd = theirs(model, at, input_tokens=300_000, output_tokens=1000)
        assert their_usd == ours(book, model, Usage(300_000, output_tokens=1000), at)


def test_theirs_still_lacks_the_earlier_cache_read_price_of_sonnet_5_5(book: PriceBook) -> None:
    before = datetime(2026, 10, 1, tzinfo=UTC)
    their_usd = theirs("claude-sonnet-5-5", before, input_tokens=1000, cache_read_tokens=1000)
    assert their_usd * 2 == ours(book, "claude-sonnet-5-5", Usage(cache_read_input_tokens=1000), before)


def test_theirs_still_ignores_where_a_pass_was_served(book: PriceBook) -> None:
    their_usd = theirs("claude-opus-5-5", context={"inference_geo": "us"}, output_tokens=1000)
    our_usd = ours(book, "claude-opus-5-5", Usage(output_tokens=1000), inference_geo="us")
    assert our_usd == their_usd * Decimal("1.1")


def test_a_web_search_costs_the_same(book: PriceBook) -> None:
    assert theirs("claude-opus-5-5", web_searches=3) == ours(
        book, "claude-opus-5-5", Usage(web_search_requests=3)
    )
