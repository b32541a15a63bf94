"""What 1,000 tokens of every kind cost on every model, written out from Anthropic's price list."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from governance.core.usage import Pass, Usage
from governance.pricing.book import PriceBook
from tests.pricing.conftest import TODAY

# USD per million tokens: input, 5-minute write, 1-hour write, read, output. “-” is not sold.
PRICES = """
model                              standard                      batch                     fast        geo
claude-fable-5-2              8    10  16  0.2   40      4      5    8   0.1    20  16   20 32 0.4 80  us
claude-mythos-5-2             8    10  16  0.2   40      4      5    8   0.1    20  16   20 32 0.4 80  us
claude-fable-5-1             10  12.5  20 0.25   50      5   6.25   10 0.125    25   -    -  -   -  -  us
claude-mythos-5-1            10  12.5  20 0.25   50      5   6.25   10 0.125    25   -    -  -   -  -  us
claude-fable-5               10  12.5  20    1   50      5   6.25   10   0.5    25   -    -  -   -  -  us
claude-mythos-5              10  12.5  20    1   50      5   6.25   10   0.5    25   -    -  -   -  -  us
claude-opus-5-5               4     5   8  0.2   20      2    2.5    4   0.1    10   8   10 16 0.4 40  us
claude-opus-5                 5  6.25  10  0.5   25    2.5  3.125    5  0.25  12.5  10 12.5 20   1 50  us
claude-opus-4-8               5  6.25  10  0.5   25    2.5  3.125    5  0.25  12.5  10 12.5 20   1 50  us
claude-opus-4-7               5  6.25  10  0.5   25    2.5  3.125    5  0.25  12.5   -    -  -   -  -  us
claude-opus-4-6               5  6.25  10  0.5   25    2.5  3.125    5  0.25  12.5   -    -  -   -  -  us
claude-opus-4-5-20251101      5  6.25  10  0.5   25    2.5  3.125    5  0.25  12.5   -    -  -   -  -  -
claude-sonnet-5-5             2   2.5   4  0.1   10      1   1.25    2  0.05     5   -    -  -   -  -  us
claude-sonnet-5               2   2.5   4  0.2   10      1   1.25    2   0.1     5   -    -  -   -  -  us
claude-sonnet-4-6             3  3.75   6  0.3   15    1.5  1.875    3  0.15   7.5   -    -  -   -  -  us
claude-sonnet-4-5-20250929    3  3.75   6  0.3   15    1.5  1.875    3  0.15   7.5   -    -  -   -  -  -
claude-haiku-5-5            0.1 0.125 0.2 0.01  0.5   0.05 0.0625  0.1 0.005  0.25   -    -  -   -  -  us
claude-haiku-4-5-20251001     1  1.25   2  0.1    5    0.5  0.625    1  0.05   2.5   -    -  -   -  -  -
claude-mythos-preview        10  12.5  20    1   50      5   6.25   10   0.5    25   -    -  -   -  -  -
claude-opus-4-1-20250805     15 18.75  30  1.5   75    7.5  9.375   15  0.75  37.5   -    -  -   -  -  -
claude-opus-4-20250514       15 18.75  30  1.5   75    7.5  9.375   15  0.75  37.5   -    -  -   -  -  -
claude-sonnet-4-20250514      3  3.75   6  0.3   15    1.5  1.875    3  0.15   7.5   -    -  -   -  -  -
claude-3-7-sonnet-20250219    3  3.75   6  0.3   15    1.5  1.875    3  0.15   7.5   -    -  -   -  -  -
claude-3-5-haiku-20241022   0.8     1 1.6 0.08    4    0.4    0.5  0.8  0.04     2   -    -  -   -  -  -
claude-3-haiku-20240307    0.25   0.3 0.5 0.03 1.25  0.125   0.15 0.25 0.015 0.625   -    -  -   -  -  -
claude-3-opus-20240229       15 18.75  30  1.5   75    7.5  9.375   15  0.75  37.5   -    -  -   -  -  -
claude-3-5-sonnet-20241022    3  3.75   6  0.3   15    1.5  1.875    3  0.15   7.5   -    -  -   -  -  -
claude-3-5-sonnet-20240620    3  3.75   6  0.3   15    1.5  1.875    3  0.15   7.5   -    -  -   -  -  -
claude-3-sonnet-20240229      3  3.75   6  0.3   15    1.5  1.875    3  0.15   7.5   -    -  -   -  -  -
claude-2.1                    8     -   -    -   24      4      -    -     -    12   -    -  -   -  -  -
claude-2.0                    8     -   -    -   24      4      -    -     -    12   -    -  -   -  -  -
"""

METER_FIELDS = (
    "input_tokens",
    "cache_creation_5m_tokens",
    "cache_creation_1h_tokens",
    "cache_read_input_tokens",
    "output_tokens",
)
VARIANTS = ({}, {"service_tier": "batch"}, {"speed": "fast"})
LINES = [line.split() for line in PRICES.strip().splitlines()[1:]]


def nanos(usd_per_mtok: str) -> int:
    """For 1,000 tokens."""
    return int(Decimal(usd_per_mtok) * 1_000_000)


def cost(book: PriceBook, model: str, usage: Usage, at: datetime = TODAY, **served: str) -> int:
    return book.rate([Pass(model, usage, **served)], at).cost_nanos  # type: ignore[arg-type]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[0])
def test_every_model_costs_what_the_price_list_says(book: PriceBook, line: list[str]) -> None:
    model, *prices, geo = line
    for variant, served in enumerate(VARIANTS):
        for meter, field in enumerate(METER_FIELDS):
            price = prices[5 * variant + meter]
            rated = book.rate([Pass(model, Usage(**{field: 1000}), **served)], TODAY)  # type: ignore[arg-type]
            if price == "-":
                assert rated.unknown_models, (model, served, field)
                continue
            assert rated.unknown_models == ()
            assert rated.cost_nanos == rated.list_nanos == nanos(price), (model, served, field)
            in_us = cost(book, model, Usage(**{field: 1000}), inference_geo="us", **served)
            assert in_us * 10 == nanos(price) * (11 if geo == "us" else 10)


def test_the_table_has_every_model_of_the_book(book: PriceBook) -> None:
    assert [line[0] for line in LINES] == [facts.model_id for facts in book.models]
    assert len(LINES) == 31


def test_fractions_of_a_nano_dollar_are_kept_until_the_attempt_is_added_up(book: PriceBook) -> None:
    # Haiku 5.5 batch in the US: reads 5.5 nanos a token, 5m writes 68.75.
    served = {"service_tier": "batch", "inference_geo": "us"}
    assert cost(book, "claude-haiku-5-5", Usage(cache_read_input_tokens=1), **served) == 6
    assert cost(book, "claude-haiku-5-5", Usage(cache_read_input_tokens=2), **served) == 11
    assert (
        cost(book, "claude-haiku-5-5", Usage(cache_read_input_tokens=1, cache_creation_5m_tokens=1), **served)
        == 75
    )
    assert cost(book, "claude-haiku-5-5", Usage(cache_creation_5m_tokens=3), **served) == 207


@pytest.mark.parametrize(
    ("usage", "nanos_expected"),
    [
        (Usage(100_000, output_tokens=1_000), 10_000_000 + 500_000),
        (Usage(100_001, output_tokens=1_000), 50_000_500 + 2_500_000),
        (Usage(1, 0, 0, 100_000, 1_000), 500 + 5_000_000 + 2_500_000),
        (Usage(0, 100_001), 62_500_625),
        (Usage(0, 0, 100_001), 100_001_000),
        (Usage(0, 50_000, 50_000, 0, 200_000), 6_250_000 + 10_000_000 + 100_000_000),  # output is not prompt
    ],
)
def test_haiku_5_5_charges_the_whole_pass_more_above_100_000_prompt_tokens(
    book: PriceBook, usage: Usage, nanos_expected: int
) -> None:
    assert cost(book, "claude-haiku-5-5", usage) == nanos_expected


def test_the_threshold_is_judged_pass_by_pass_not_on_their_sum(book: PriceBook) -> None:
    passes = [Pass("claude-haiku-5-5", Usage(60_000)), Pass("claude-haiku-5-5", Usage(60_000))]
    assert book.rate(passes, TODAY).cost_nanos == 12_000_000


def test_haiku_5_5_long_batches_cost_half_on_every_meter(book: PriceBook) -> None:
    usage = Usage(100_000, 1_000, 1_000, 1_000, 1_000)
    assert cost(
        book, "claude-haiku-5-5", usage, service_tier="batch"
    ) == 25_000_000 + 312_500 + 500_000 + 25_000 + (1_250_000)


def test_sonnet_5_5_cache_reads_cost_twice_as_much_until_october(book: PriceBook) -> None:
    before = datetime(2026, 10, 6, 23, 59, 59, 999_999, tzinfo=UTC)
    after = datetime(2026, 10, 7, tzinfo=UTC)
    usage = Usage(cache_read_input_tokens=1_000)
    assert cost(book, "claude-sonnet-5-5", usage, before) == 200_000
    assert cost(book, "claude-sonnet-5-5", usage, after) == 100_000
    assert cost(book, "claude-sonnet-5-5", usage, before, service_tier="batch") == 100_000


@pytest.mark.parametrize(
    ("model", "ended", "long_nanos", "flat_nanos"),
    [
        (
            "claude-opus-4-6",
            datetime(2026, 3, 13, tzinfo=UTC),
            2_000_010_000 + 37_500_000,
            1_000_005_000 + 25_000_000,
        ),
        (
            "claude-sonnet-4-6",
            datetime(2026, 3, 13, tzinfo=UTC),
            1_200_006_000 + 22_500_000,
            600_003_000 + 15_000_000,
        ),
        (
            "claude-sonnet-4-5",
            datetime(2026, 5, 1, tzinfo=UTC),
            1_200_006_000 + 22_500_000,
            600_003_000 + 15_000_000,
        ),
    ],
)
def test_long_prompts_cost_more_only_while_they_did(
    book: PriceBook, model: str, ended: datetime, long_nanos: int, flat_nanos: int
) -> None:
    usage = Usage(200_001, output_tokens=1_000)
    assert cost(book, model, usage, datetime(2026, 3, 1, tzinfo=UTC)) == long_nanos
    assert cost(book, model, usage, ended) == flat_nanos
    at_the_threshold = Usage(200_000, output_tokens=1_000)
    before = cost(book, model, at_the_threshold, datetime(2026, 3, 1, tzinfo=UTC))
    assert before == cost(book, model, at_the_threshold, ended)


def test_the_fast_price_of_opus_4_8_ends_with_november(book: PriceBook) -> None:
    served = [Pass("claude-opus-4-8", Usage(output_tokens=1_000), speed="fast")]
    last = book.rate(served, datetime(2026, 11, 29, 23, 59, tzinfo=UTC))
    assert (last.cost_nanos, last.unknown_models) == (50_000_000, ())
    gone = book.rate(served, datetime(2026, 11, 30, tzinfo=UTC))
    assert (gone.cost_nanos, gone.unknown_models) == (80_000_000, ("claude-opus-4-8 (fast)",))


def test_fast_and_the_us_multiply(book: PriceBook) -> None:
    usage = Usage(output_tokens=1_000)
    assert cost(book, "claude-opus-5-5", usage, speed="fast", inference_geo="us") == 44_000_000


def test_priority_tier_is_metered_at_the_standard_price(book: PriceBook) -> None:
    usage = Usage(1_000, output_tokens=1_000)
    assert cost(book, "claude-sonnet-4-6", usage, service_tier="priority") == 3_000_000 + 15_000_000


def test_a_web_search_costs_a_cent_wherever_it_is_served(book: PriceBook) -> None:
    for served in ({}, {"inference_geo": "us"}, {"service_tier": "batch"}, {"speed": "fast"}):
        assert cost(book, "claude-opus-5-5", Usage(web_search_requests=3), **served) == 30_000_000
