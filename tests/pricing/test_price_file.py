"""Reading a price file: every figure exact, nothing odd let through."""

from datetime import UTC, datetime
from typing import Any

import pytest

from governance.pricing.price_file import PriceFileError, read_price_file
from governance.pricing.rates import ListRate
from tests.pricing.files import content, price_file


def rates(*, meter: str, variant: str = "standard", above: int = 0, **model: Any) -> list[tuple[Any, ...]]:
    """(nanos_per_mtok, from, to) of one series of a one-model file, in time."""
    found = [
        (row.nanos_per_mtok, row.effective_from, row.effective_to)
        for row in price_file({"id": "claude-a"} | model).rates
        if (row.model_id, row.meter, row.variant, row.above_prompt_tokens)
        == ("claude-a", meter, variant, above)
    ]
    return sorted(found, key=lambda row: row[1] or datetime.min.replace(tzinfo=UTC))


def test_a_cent_per_million_tokens_at_half_price_stays_exact() -> None:
    prices = {"usd_per_mtok": {"cache_read": 0.01}}
    assert rates(meter="cache_read", **prices) == [(10_000_000, None, None)]
    assert rates(meter="cache_read", variant="batch", **prices) == [(5_000_000, None, None)]


def test_a_batch_price_that_is_spelled_out_goes_before_the_discount() -> None:
    assert rates(meter="input", variant="batch", usd_per_mtok={"batch_input": 0.75}) == [
        (750_000_000, None, None)
    ]


def test_history_ends_with_its_last_day_in_utc() -> None:
    october = datetime(2026, 10, 7, tzinfo=UTC)
    history = [{"until": "2026-10-06", "cache_read": 0.2}]
    assert rates(meter="cache_read", price_history=history) == [
        (200_000_000, None, october),
        (100_000_000, october, None),
    ]
    assert rates(meter="input", price_history=history) == [(1_000_000_000, None, None)]


def test_history_may_have_several_steps_in_any_order() -> None:
    history = [{"until": "2026-06-30", "input": 3}, {"until": "2026-03-31", "input": 4}]
    april, july = datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)
    assert rates(meter="input", price_history=history) == [
        (4_000_000_000, None, april),
        (3_000_000_000, april, july),
        (1_000_000_000, july, None),
    ]


def test_a_fast_price_has_an_end_where_the_file_says_so() -> None:
    fast = {"input": 2, "output": 10, "until": "2026-11-29", "note": "preview"}
    end = datetime(2026, 11, 30, tzinfo=UTC)
    assert rates(meter="output", variant="fast", fast_mode_usd_per_mtok=fast) == [(10_000_000_000, None, end)]


def test_a_web_search_has_one_price_for_every_model() -> None:
    search = price_file({"id": "claude-a"}).rates[0]
    assert search == ListRate("*", "web_search", "standard", 0, 10_000_000_000_000, 1_000_000, None, None)


def test_the_us_multiplier_is_an_exact_ratio() -> None:
    assert {row.us_geo_ppm for row in price_file({"id": "claude-a"}).rates[1:]} == {1_100_000}
    without = price_file({"id": "claude-a", "inference_geo_us_multiplier": None})
    assert {row.us_geo_ppm for row in without.rates} == {1_000_000}


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ({"id": "gpt-5"}, "not the id of a Claude model"),
        ({"id": "claude-a", "aliases": ["claude-b"]}, "more than one model: claude-b"),
        ({"usd_per_mtok": {"input": -1}}, "negative"),
        ({"usd_per_mtok": {"input": "1"}}, "'1', not a number"),
        ({"usd_per_mtok": {"input": True}}, "True, not a number"),
        ({"usd_per_mtok": {"input": 1e-12}}, "nine decimals"),
        ({"usd_per_mtok": {"input": float("nan")}}, "nan, not a number"),
        ({"usd_per_mtok": {"input": 1e30}}, "larger than"),
        ({"usd_per_mtok": {"input": None}}, "no price for input or output"),
        ({"usd_per_mtok": {"image_input": 3}}, "not known here: image_input"),
        ({"price_history": [{"until": "soon", "input": 3}]}, "write the last day like"),
        ({"inference_geo_us_multiplier": 0.9}, "US multiplier"),
        ({"inference_geo_us_multiplier": 1.12345678}, "US multiplier"),
        ({"context_window": None}, "context_window"),
        ({"max_output": 0}, "max_output"),
        ({"price_history": None}, "not shaped like a price file"),
    ],
)
def test_a_file_with_an_odd_figure_is_refused_in_a_sentence(model: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PriceFileError, match=sentence):
        price_file({"id": "claude-a"} | model, {"id": "claude-b"})


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not shaped like"),
        (b"{}", "not shaped like"),
        (content({"id": "claude-a"}, currency="EUR"), "in USD"),
        (content({"id": "claude-a"}, unit="per token"), "per 1,000,000 tokens"),
        (content({"id": "claude-a"}, models="all"), "not shaped like"),
        (content({"id": "claude-a"}, server_tools={}), "not shaped like"),
        (content({"id": "claude-a"}, {"id": "claude-a"}), "more than one model: claude-a"),
    ],
)
def test_a_file_of_another_shape_is_refused_in_a_sentence(written: bytes, sentence: str) -> None:
    with pytest.raises(PriceFileError, match=sentence):
        read_price_file("prices.json", written)
