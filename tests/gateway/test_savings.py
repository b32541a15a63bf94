"""What a call saved, layer by layer: the layers add up to the nano-dollar."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governance.core.usage import Pass, Usage
from governance.gateway.savings import Asked, of_answer, of_hit
from governance.pricing.book import PriceBook, compile_book
from governance.pricing.price_file import read_price_file
from tests.pricing.conftest import BUNDLED

NOW = datetime(2026, 11, 20, tzinfo=UTC)
OPUS, SONNET, HAIKU, OLD_HAIKU = (
    "claude-opus-5-5",
    "claude-sonnet-5-5",
    "claude-haiku-5-5",
    "claude-haiku-4-5",
)

_counts = st.integers(0, 200_000)
_usages = st.builds(Usage, _counts, _counts, _counts, _counts, _counts, st.integers(0, 5))
_models = st.sampled_from([OPUS, SONNET, HAIKU, OLD_HAIKU, "claude-unheard-of-9"])
_passes = st.lists(st.builds(Pass, _models, _usages), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def book() -> PriceBook:
    prices = read_price_file(BUNDLED.name, BUNDLED.read_bytes())
    return compile_book(1, prices.rates, prices.models)


def answered(book: PriceBook, asked: Asked, *passes: Pass, beside_nanos: int = 0) -> Any:
    cost = book.rate(passes, NOW).cost_nanos
    return of_answer(
        asked, passes, answer_nanos=cost, cost_nanos=cost + beside_nanos, book=book, at=NOW
    ), cost + beside_nanos


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    model=_models, passes=_passes, sent=st.integers(2, 10**6), trimmed=st.integers(-100, 10**6),
    injected=st.booleans(), beside=st.integers(0, 10**9),
)  # fmt: skip
def test_the_layers_add_up_to_baseline_minus_cost(
    book: PriceBook, model: str, passes: list[Pass], sent: int, trimmed: int, injected: bool, beside: int
) -> None:
    asked = Asked(model, sent, trimmed, injected)
    saved, cost = answered(book, asked, *passes, beside_nanos=beside)
    assert sum(saved.layers.values()) == saved.baseline_nanos - cost
    assert 0 not in saved.layers.values()
    hit = of_hit(asked, passes, book, NOW)
    assert sum(hit.layers.values()) == hit.baseline_nanos


def test_a_call_as_asked_without_caching_saves_nothing(book: PriceBook) -> None:
    saved, cost = answered(book, Asked(SONNET, 800), Pass(SONNET, Usage(200, output_tokens=100)))
    assert (saved.baseline_nanos, saved.layers) == (cost, {})


def test_a_cheaper_model_saves_the_difference_in_price(book: PriceBook) -> None:
    """Opus 5.5 at 4/20 dollars a million, Haiku 5.5 at 0.10/0.50."""
    saved, cost = answered(book, Asked(OPUS, 800), Pass(HAIKU, Usage(1000, output_tokens=1000)))
    assert (cost, saved.baseline_nanos, saved.layers) == (600_000, 24_000_000, {"routing": 23_400_000})


def test_where_tokenizers_differ_the_newer_one_counts_three_tenths_more(book: PriceBook) -> None:
    saved, _ = answered(book, Asked(SONNET, 800), Pass(OLD_HAIKU, Usage(1000, output_tokens=100)))
    assert saved.baseline_nanos == 1300 * 2_000 + 130 * 10_000
    saved, _ = answered(book, Asked(OLD_HAIKU, 800), Pass(SONNET, Usage(1300, output_tokens=130)))
    assert saved.baseline_nanos == 1000 * 1_000 + 100 * 5_000


def test_a_prompt_cache_saves_on_reads_less_its_premium_on_writes(book: PriceBook) -> None:
    """Sonnet 5.5: 2 dollars a million in, 2.50 written for five minutes, 0.10 read."""
    reads = Pass(SONNET, Usage(100, cache_read_input_tokens=10_000))
    writes = Pass(SONNET, Usage(100, cache_creation_5m_tokens=10_000))
    assert answered(book, Asked(SONNET, 800, injected=True), reads)[0].layers == {"prompt_cache": 19_000_000}
    assert answered(book, Asked(SONNET, 800, injected=True), writes)[0].layers == {"prompt_cache": -5_000_000}
    assert answered(book, Asked(SONNET, 800), reads)[0].layers == {"client_cache": 19_000_000}


def test_what_was_cut_out_of_the_prompt_is_counted_at_the_ratio_of_what_was_sent(book: PriceBook) -> None:
    saved, cost = answered(book, Asked(SONNET, 4_000, trimmed_bytes=12_000), Pass(SONNET, Usage(1_000)))
    assert saved.layers == {"trimming": 3 * cost}
    saved, cost = answered(book, Asked(SONNET, 4_000, trimmed_bytes=-40), Pass(SONNET, Usage(1_000)))
    assert saved.layers == {"trimming": -cost // 100}


def test_what_was_paid_beside_the_answer_counts_against_it(book: PriceBook) -> None:
    """The classifier's own cost, and answers that were not good enough."""
    saved, cost = answered(book, Asked(SONNET, 800), Pass(SONNET, Usage(1_000)), beside_nanos=7_777)
    assert saved.layers == {"overhead": -7_777}
    assert saved.baseline_nanos == cost - 7_777


def test_a_kept_answer_saves_what_it_would_cost_today_as_asked(book: PriceBook) -> None:
    """Opus 5.5: 4 dollars a million in, 0.20 read, 20 out."""
    passes = [Pass(SONNET, Usage(cache_read_input_tokens=1_000, output_tokens=10))]
    hit = of_hit(Asked(OPUS, 800, injected=True), passes, book, NOW)
    assert (hit.baseline_nanos, hit.layers) == (4_200_000, {"response_cache": 4_200_000})
    hit = of_hit(Asked(OPUS, 800), passes, book, NOW)
    assert (hit.baseline_nanos, hit.layers) == (
        4_200_000,
        {"client_cache": 3_800_000, "response_cache": 400_000},
    )


def test_what_the_client_caches_itself_is_no_saving_of_another_models(book: PriceBook) -> None:
    """10,000 tokens read from the client's own prompt cache would have been cheap on Opus too."""
    reads = Pass(HAIKU, Usage(cache_read_input_tokens=10_000))
    saved, cost = answered(book, Asked(OPUS, 800), reads)
    as_asked = book.rate([Pass(OPUS, Usage(cache_read_input_tokens=10_000))], NOW).cost_nanos
    assert saved.baseline_nanos == 40_000_000
    assert saved.layers == {"client_cache": 40_000_000 - as_asked, "routing": as_asked - cost}


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    model=_models, passes=_passes, sent=st.integers(2, 10**6), trimmed=st.integers(-100, 10**6),
    injected=st.booleans(), beside=st.integers(0, 10**9),
)  # fmt: skip
def test_a_kept_answer_is_compared_with_what_its_first_call_was(
    book: PriceBook, model: str, passes: list[Pass], sent: int, trimmed: int, injected: bool, beside: int
) -> None:
    """Miss and hit of the same body have one baseline, and the hit saves all of it."""
    asked = Asked(model, sent, trimmed, injected)
    missed, _ = answered(book, asked, *passes, beside_nanos=beside)
    hit = of_hit(asked, passes, book, NOW)
    assert hit.baseline_nanos == missed.baseline_nanos
    assert sum(hit.layers.values()) == hit.baseline_nanos


def test_a_model_that_nobody_knows_claims_no_saving(book: PriceBook) -> None:
    saved, cost = answered(book, Asked("claude-unheard-of-9", 800), Pass(HAIKU, Usage(1000)))
    assert (saved.baseline_nanos, saved.layers) == (cost, {})
