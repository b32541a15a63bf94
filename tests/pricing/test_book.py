"""Rating: rounding, meters, unknown models, contract prices; and that a bound bounds."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.core.meters import METERS
from governance.core.money import ceil_div
from governance.core.usage import Pass, Usage
from governance.pricing.book import PriceBook, compile_book
from governance.pricing.rates import ANY, ContractRate, ListRate, ModelFacts
from governance.pricing.tables import COST_DENOMINATOR, PriceBookIncomplete
from tests.pricing.conftest import TODAY

DEAREST_FAST = (16_000, 20_000, 32_000, 1_500, 80_000)  # nanos a token; reads: Opus 4.1 and 3 at $1.50/MTok
DEAREST = (15_000, 18_750, 30_000, 1_500, 75_000)


def discount(
    ppm: int, model_id: str = ANY, since: datetime = datetime(2026, 1, 1, tzinfo=UTC)
) -> ContractRate:
    return ContractRate(model_id, ANY, ANY, 0, ppm, None, since, None)


def own_rate(
    nanos_per_mtok: int, model_id: str, meter: str = "input", variant: str = "standard", above: int = 0
) -> ContractRate:
    since = datetime(2026, 1, 1, tzinfo=UTC)
    return ContractRate(model_id, meter, variant, above, None, nanos_per_mtok, since, None)


def test_an_alias_is_priced_as_its_model_and_a_prefix_is_not(book: PriceBook) -> None:
    dated, alias, longer = "claude-haiku-4-5-20251001", "claude-haiku-4-5", "claude-haiku-4-5-20251002"
    assert book.model(alias) == book.model(dated)
    assert book.rate([Pass(alias, Usage(1000))], TODAY) == book.rate([Pass(dated, Usage(1000))], TODAY)
    assert book.model(longer) is None
    assert book.rate([Pass(longer, Usage(1000))], TODAY).unknown_models == (longer,)
    assert book.rate([Pass("claude-opus", Usage(1000))], TODAY).unknown_models == ("claude-opus",)


def test_names_that_only_a_client_understands_are_not_aliases(book: PriceBook) -> None:
    for name in ("opus", "fable", "claude-opus-4-7-20260416", "claude-opus-5-latest", "claude-opus-5-5[1m]"):
        assert book.model(name) is None


def test_a_model_has_the_facts_that_bounds_need(book: PriceBook) -> None:
    facts = book.model("claude-haiku-5-5")
    assert facts is not None
    assert (facts.context_window_tokens, facts.output_tokens_max) == (1_000_000, 128_000)
    assert (facts.cacheable_prefix_tokens_min, facts.tokenizer) == (512, "new")


@pytest.mark.parametrize(("speed", "dearest"), [("standard", DEAREST), ("fast", DEAREST_FAST)])
def test_an_unknown_model_costs_the_dearest_known_price_of_every_meter_and_is_named(
    book: PriceBook, speed: Literal["standard", "fast"], dearest: tuple[int, ...]
) -> None:
    for index, nanos in enumerate(dearest):
        units = [0] * 6
        units[index] = 7
        cost = book.rate([Pass("claude-nova-1", Usage(*units), speed=speed)], TODAY)
        assert (cost.cost_nanos, cost.unknown_models) == (7 * nanos, ("claude-nova-1",))
        in_us = book.rate([Pass("claude-nova-1", Usage(*units), speed=speed, inference_geo="us")], TODAY)
        assert in_us.cost_nanos >= cost.cost_nanos


def test_no_model_costs_more_than_an_unknown_one(book: PriceBook) -> None:
    usage = Usage(1000, 1000, 1000, 150_000, 1000)
    for speed in ("standard", "fast"):
        dearest = book.rate([Pass("?", usage, speed, inference_geo="us")], TODAY).cost_nanos
        for facts in book.models:
            cost = book.rate([Pass(facts.model_id, usage, speed, inference_geo="us")], TODAY)
            assert cost.cost_nanos <= dearest


def test_a_model_without_a_fast_price_is_charged_the_dearest_fast_price_and_named(book: PriceBook) -> None:
    cost = book.rate([Pass("claude-haiku-5-5", Usage(output_tokens=10), speed="fast")], TODAY)
    assert (cost.cost_nanos, cost.unknown_models) == (800_000, ("claude-haiku-5-5 (fast)",))


def test_a_meter_without_a_price_is_charged_the_dearest_and_named(book: PriceBook) -> None:
    cost = book.rate([Pass("claude-2.1", Usage(10, cache_read_input_tokens=10))], TODAY)
    assert (cost.cost_nanos, cost.unknown_models) == (80_000 + 15_000, ("claude-2.1 (cache_read)",))
    assert book.rate([Pass("claude-2.1", Usage(10, output_tokens=1))], TODAY).unknown_models == ()


def test_nothing_used_costs_nothing(book: PriceBook) -> None:
    for passes in ([], [Pass("claude-opus-5-5", Usage())]):
        cost = book.rate(passes, TODAY)
        assert (cost.cost_nanos, cost.list_nanos, cost.by_meter) == (0, 0, {})


def test_an_attempt_is_rounded_up_once_however_many_passes_it_took(book: PriceBook) -> None:
    half_a_nano = Pass("claude-haiku-5-5", Usage(cache_read_input_tokens=1), "standard", "batch", "us")  # 5.5
    assert book.rate([half_a_nano] * 2, TODAY).cost_nanos == 11
    assert book.rate([half_a_nano] * 3, TODAY).cost_nanos == 17


COUNTS = st.integers(0, 3_000_000)
USAGES = st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, st.integers(0, 50))
MODELS = st.sampled_from(
    [
        "claude-haiku-5-5",
        "claude-opus-5-5",
        "claude-sonnet-4-6",
        "claude-haiku-4-5",
        "claude-2.1",
        "claude-new",
    ]
)
PASSES = st.builds(
    Pass,
    MODELS,
    USAGES,
    st.sampled_from(["standard", "fast"]),
    st.sampled_from(["standard", "priority", "batch"]),
    st.sampled_from(["", "us", "global"]),
)
INSTANTS = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))
CONTRACTS = st.lists(
    st.sampled_from(
        [
            discount(150_001),
            discount(333_333, "claude-haiku-5-5"),
            own_rate(90_000_001, "claude-haiku-5-5"),
            own_rate(19_999_999_999, "claude-opus-5-5", "output"),
            own_rate(1, "claude-haiku-5-5", "cache_read", "batch", 100_000),
        ]
    ),
    unique=True,
)


@given(st.lists(PASSES, max_size=4), INSTANTS, CONTRACTS)
def test_the_parts_by_meter_always_add_up_to_the_cost(
    book: PriceBook, passes: list[Pass], at: datetime, terms: list[ContractRate]
) -> None:
    cost = book.with_contract(terms).rate(passes, at)
    assert sum(cost.by_meter.values()) == cost.cost_nanos
    assert min(cost.by_meter.values(), default=0) >= 0
    used = {meter for p in passes for meter, units in zip(METERS, p.usage.units, strict=True) if units}
    assert set(cost.by_meter) == used


@given(st.lists(PASSES, max_size=4), INSTANTS, CONTRACTS)
def test_lines_are_the_cost_before_it_is_rounded(
    book: PriceBook, passes: list[Pass], at: datetime, terms: list[ContractRate]
) -> None:
    own_book = book.with_contract(terms)
    cost, lines = own_book.rate(passes, at), own_book.lines(passes, at)
    assert ceil_div(sum(units * price.rate for price, units in lines), COST_DENOMINATOR) == cost.cost_nanos
    assert (
        ceil_div(sum(units * price.list_rate for price, units in lines), COST_DENOMINATOR) == cost.list_nanos
    )
    assert {price.meter for price, _ in lines} == set(cost.by_meter)
    assert sum(units for _, units in lines) == sum(sum(each.usage.units) for each in passes)


@given(st.lists(PASSES, min_size=1, max_size=4), INSTANTS, CONTRACTS)
def test_more_usage_never_costs_less(
    book: PriceBook, passes: list[Pass], at: datetime, terms: list[ContractRate]
) -> None:
    ours = book.with_contract(terms)
    assert ours.rate(passes, at).cost_nanos >= ours.rate(passes[1:], at).cost_nanos


@given(
    model=MODELS,
    usage=USAGES,
    slack=st.tuples(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 3)),
    ttl=st.sampled_from([None, "5m", "1h"]),
    pinned_geo=st.sampled_from([None, "us", "global"]),
    asked_speed=st.sampled_from(["standard", "fast"]),
    served_fast=st.booleans(),
    tier=st.sampled_from(["standard", "priority"]),
    at=INSTANTS,
    terms=CONTRACTS,
)
def test_no_served_outcome_costs_more_than_the_worst_case(
    book: PriceBook, model: str, usage: Usage, slack: tuple[int, int, int], ttl: Literal["5m", "1h"] | None,
    pinned_geo: str | None, asked_speed: Literal["standard", "fast"], served_fast: bool,
    tier: Literal["standard", "priority"], at: datetime, terms: list[ContractRate],
) -> None:  # fmt: skip
    ours = book.with_contract(terms)
    plain, five_minutes, one_hour, read, output, searches = usage.units
    written = {None: (0, 0), "5m": (five_minutes, 0), "1h": (five_minutes, one_hour)}[ttl]
    served = Usage(plain, *written, read, output, searches)
    speed: Literal["standard", "fast"] = "fast" if asked_speed == "fast" and served_fast else "standard"
    bound = ours.worst_case(
        model,
        input_tokens_max=served.prompt_tokens + slack[0],
        output_tokens_max=output + slack[1],
        cache_ttl=ttl,
        inference_geo=pinned_geo,
        speed=asked_speed,
        at=at,
        web_search_requests_max=searches + slack[2],
    )
    for geo in ("us", "", "global") if pinned_geo is None else (pinned_geo,):
        assert ours.rate([Pass(model, served, speed, tier, geo)], at).cost_nanos <= bound


def bound(book: PriceBook, model: str, **overrides: object) -> int:
    arguments = {
        "input_tokens_max": 1000, "output_tokens_max": 1000, "cache_ttl": None,
        "inference_geo": "global", "speed": "standard", "at": TODAY,
    } | overrides  # fmt: skip
    return book.worst_case(model, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "overrides", "nanos"),
    [
        ("claude-opus-5-5", {}, 4_000_000 + 20_000_000),
        ("claude-opus-5-5", {"cache_ttl": "5m"}, 5_000_000 + 20_000_000),
        ("claude-opus-5-5", {"cache_ttl": "1h"}, 8_000_000 + 20_000_000),
        ("claude-opus-5-5", {"inference_geo": None}, 4_400_000 + 22_000_000),
        ("claude-opus-5-5", {"inference_geo": "us"}, 4_400_000 + 22_000_000),
        ("claude-opus-5-5", {"inference_geo": "US"}, 4_400_000 + 22_000_000),
        ("claude-opus-5-5", {"inference_geo": "us-east"}, 4_400_000 + 22_000_000),
        ("claude-opus-5-5", {"inference_geo": "Global"}, 4_400_000 + 22_000_000),
        ("claude-haiku-4-5", {"inference_geo": None}, 1_000_000 + 5_000_000),
        ("claude-opus-5-5", {"speed": "fast"}, 8_000_000 + 40_000_000),
        ("claude-opus-5-5", {"web_search_requests_max": 2}, 24_000_000 + 20_000_000),
        ("claude-haiku-5-5", {"input_tokens_max": 100_000}, 10_000_000 + 500_000),
        ("claude-haiku-5-5", {"input_tokens_max": 100_001}, 50_000_500 + 2_500_000),
        ("claude-nova-1", {}, 15_000_000 + 75_000_000),
    ],
)
def test_the_worst_case_is_tight(
    book: PriceBook, model: str, overrides: dict[str, object], nanos: int
) -> None:
    assert bound(book, model, **overrides) == nanos


def test_a_discount_is_taken_off_every_meter_and_list_price_stays_beside(book: PriceBook) -> None:
    ours = book.with_contract([discount(150_000)])
    cost = ours.rate([Pass("claude-opus-5-5", Usage(1000, output_tokens=1000, web_search_requests=1))], TODAY)
    assert cost.list_nanos == 34_000_000
    assert cost.by_meter == {"input": 3_400_000, "output": 17_000_000, "web_search": 8_500_000}
    assert bound(ours, "claude-opus-5-5") == 20_400_000


def test_a_models_own_discount_goes_before_the_general_one_also_by_its_alias(book: PriceBook) -> None:
    ours = book.with_contract([discount(150_000), discount(500_000, "claude-haiku-4-5-20251001")])
    assert ours.rate([Pass("claude-haiku-4-5", Usage(1000))], TODAY).cost_nanos == 500_000
    assert ours.rate([Pass("claude-opus-5-5", Usage(1000))], TODAY).cost_nanos == 3_400_000


def test_an_own_rate_replaces_one_list_rate_and_no_other(book: PriceBook) -> None:
    ours = book.with_contract([own_rate(3_500_000_000, "claude-opus-5-5"), discount(100_000)])

    def nanos(usage: Usage, **served: str) -> int:
        return ours.rate([Pass("claude-opus-5-5", usage, **served)], TODAY).cost_nanos  # type: ignore[arg-type]

    assert nanos(Usage(1000)) == 3_500_000
    assert nanos(Usage(1000), inference_geo="us") == 3_850_000
    assert nanos(Usage(1000), speed="fast") == 7_200_000
    assert nanos(Usage(output_tokens=1000)) == 18_000_000
    assert bound(ours, "claude-opus-5-5") == 3_500_000 + 18_000_000


def test_an_unknown_model_has_no_discount(book: PriceBook) -> None:
    ours = book.with_contract([discount(500_000)])
    assert ours.rate([Pass("claude-nova-1", Usage(1000))], TODAY).cost_nanos == 15_000_000
    assert bound(ours, "claude-nova-1") == 90_000_000


def test_a_contract_holds_from_its_beginning_to_just_before_its_end(book: PriceBook) -> None:
    end = TODAY + timedelta(days=1)
    ours = book.with_contract([ContractRate(ANY, ANY, ANY, 0, 500_000, None, TODAY, end)])
    tick = timedelta(microseconds=1)
    served = [Pass("claude-opus-5-5", Usage(1000))]
    assert [ours.rate(served, at).cost_nanos for at in (TODAY - tick, TODAY, end - tick, end)] == [
        4_000_000,
        2_000_000,
        2_000_000,
        4_000_000,
    ]


def test_contract_prices_follow_list_prices_that_change_in_the_middle(book: PriceBook) -> None:
    ours = book.with_contract([discount(500_000, "claude-sonnet-5-5")])
    served = [Pass("claude-sonnet-5-5", Usage(cache_read_input_tokens=1000))]
    assert ours.rate(served, datetime(2026, 10, 6, tzinfo=UTC)).cost_nanos == 100_000
    assert ours.rate(served, datetime(2026, 10, 7, tzinfo=UTC)).cost_nanos == 50_000


def test_no_contract_is_the_list_book_itself(book: PriceBook) -> None:
    assert book.with_contract([]) is book


@given(PASSES, INSTANTS)
def test_costs_are_exact_sums_rounded_up(book: PriceBook, served: Pass, at: datetime) -> None:
    """Against prices written as fractions of a nano-dollar a token, for the one model with every feature."""
    if served.speed == "fast":
        served = Pass("claude-opus-5-5", served.usage, "fast", served.service_tier, served.inference_geo)
        per_token = (8000, 10_000, 16_000, 400, 40_000)
    else:
        usage = served.usage
        served = Pass("claude-haiku-5-5", usage, "standard", served.service_tier, served.inference_geo)
        factor = (5 if usage.prompt_tokens > 100_000 else 1) * (
            Fraction(1, 2) if served.service_tier == "batch" else 1
        )
        per_token = tuple(price * factor for price in (100, 125, 200, 10, 500))
    geo = Fraction(11, 10) if served.inference_geo == "us" else 1
    exact = sum(count * price for count, price in zip(served.usage.units, per_token, strict=False)) * geo
    exact += served.usage.web_search_requests * 10_000_000
    cost = book.rate([served], at).cost_nanos
    assert cost - 1 < exact <= cost


def test_a_book_that_lacks_a_meter_is_refused() -> None:
    row = ListRate("claude-a", "input", "standard", 0, 1, 1_000_000, None, None)
    with pytest.raises(PriceBookIncomplete, match="No model has a price for cache_write_5m"):
        compile_book(1, [row], [])


def test_an_alias_of_a_model_without_rates_is_unknown_not_free() -> None:
    rows = [ListRate("claude-a", meter, "standard", 0, 10**9, 1_000_000, None, None) for meter in METERS]
    facts = ModelFacts("claude-b", ("claude-b-alias",), "b", "active", 1, 1, None, None, "new", None, None)
    cost = compile_book(1, rows, [facts]).rate([Pass("claude-b-alias", Usage(1000))], TODAY)
    assert (cost.cost_nanos, cost.unknown_models) == (1_000_000, ("claude-b-alias (standard)",))
