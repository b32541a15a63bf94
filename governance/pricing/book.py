"""The price book: usage in, nano-dollars out, exactly. Pure: compiled once from rows, then never asks anyone.

Every cost is a sum of whole numbers over one common denominator, rounded up once per attempt. One book
serves list prices and, through `with_contract`, one tenant's contract prices.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

import msgspec

from governance.core.meters import METERS, Meter
from governance.core.money import ceil_div
from governance.core.usage import Pass, Speed
from governance.pricing import tables
from governance.pricing.rates import PPM, ContractRate, ListRate, ModelFacts, Variant

_INPUT, _WRITE_5M, _WRITE_1H, _READ, _OUTPUT, _SEARCH = range(len(METERS))
_INPUT_SIDE = {
    None: (_INPUT, _READ),
    "5m": (_INPUT, _READ, _WRITE_5M),
    "1h": (_INPUT, _READ, _WRITE_5M, _WRITE_1H),
}

_SERVABLE: dict[Speed, tuple[Variant, ...]] = {"standard": ("standard",), "fast": ("standard", "fast")}


class Cost(msgspec.Struct, frozen=True):
    """What an attempt costs, in nano-dollars.

    `cost_nanos` is at the contract price where there is one, `list_nanos` at list price. `by_meter` has the
    meters that were used and sums exactly to `cost_nanos`. `unknown_models` names what had no price of its
    own and was charged at the dearest known: a model, “model (fast)” or “model (meter)”; empty is normal.
    """

    cost_nanos: int
    list_nanos: int
    by_meter: dict[Meter, int]
    unknown_models: tuple[str, ...]


class UnitPrice(NamedTuple):
    """What a unit of one meter costs: `list_rate` and `rate` are nano-dollars × COST_DENOMINATOR. The sum of
    units × rate over an attempt, rounded up, is its cost."""

    model: str
    """The model's id; the name as served where it is not known."""
    variant: Variant
    inference_geo: str
    above_prompt_tokens: int
    meter: Meter
    list_rate: int
    rate: int


@dataclass(frozen=True, slots=True, eq=False)
class PriceBook:
    """Made by `compile_book`, or by `loading.load_book` from the database."""

    version: int
    """The load of prices that it holds; a hold pins it, so that the same book can be compiled again."""
    _models: Mapping[str, ModelFacts]
    _boundaries: Sequence[datetime]
    _epochs: Sequence[tables.Epoch]

    def model(self, name: str) -> ModelFacts | None:
        """The model of that exact id or alias (never of a prefix); None for an unknown one."""
        return self._models.get(name)

    @property
    def models(self) -> tuple[ModelFacts, ...]:
        """Every known model once, retired ones too."""
        return tuple(facts for name, facts in self._models.items() if name == facts.model_id)

    def rate(self, passes: Iterable[Pass], at: datetime) -> Cost:
        """The cost of one attempt's passes at the prices of `at` (aware; when the request started)."""
        epoch = self._epoch(at)
        list_numerator = 0
        numerators = [0] * len(METERS)
        unknown: set[str] = set()
        for served in passes:
            key, tier, rates, own, keep_ppm, listed = _terms(epoch, served)
            if not listed:
                unknown.add(f"{key[0]} ({key[1]})" if key[0] in self._models else key[0])
            for meter, count in enumerate(served.usage.units):
                if count:
                    amount = count * rates[meter]
                    list_numerator += amount
                    numerators[meter] += amount * keep_ppm if own is None else count * own[meter]
                    if meter in tier.gaps:
                        unknown.add(f"{key[0]} ({METERS[meter]})")
        cost_nanos, by_meter = _round_up(numerators)
        list_nanos = ceil_div(list_numerator, tables.LIST_DENOMINATOR)
        return Cost(cost_nanos, list_nanos, by_meter, tuple(sorted(unknown)) if unknown else ())

    def lines(self, passes: Iterable[Pass], at: datetime) -> list[tuple[UnitPrice, int]]:
        """The same, not yet rounded: the units of each meter of each pass, and what one of them costs."""
        epoch = self._epoch(at)
        found = []
        for served in passes:
            (name, variant), tier, rates, own, keep_ppm, _ = _terms(epoch, served)
            facts = self._models.get(name)
            model = name if facts is None else facts.model_id
            for meter, count in enumerate(served.usage.units):
                if count:
                    price = UnitPrice(
                        model,
                        variant,
                        served.inference_geo,
                        tier.above_prompt_tokens,
                        METERS[meter],
                        rates[meter] * PPM,
                        rates[meter] * keep_ppm if own is None else own[meter],
                    )
                    found.append((price, count))
        return found

    def worst_case(
        self,
        model: str,
        *,
        input_tokens_max: int,
        output_tokens_max: int,
        cache_ttl: Literal["5m", "1h"] | None,
        inference_geo: str | None,
        speed: Speed,
        at: datetime,
        web_search_requests_max: int = 0,
    ) -> int:
        """The most that one pass within these maxima can cost, in nano-dollars, however it is served.

        `cache_ttl`: the longest TTL that the request may write to the cache with; None if it caches nothing.
        `inference_geo`: where the request insists on being served; only "global" is sure not to be the US.
        `speed` fast may be served at either speed. An unknown model is bounded at the dearest known price.
        """
        epoch = self._epoch(at)
        in_us = inference_geo != "global"  # "US", or a place we never heard of, may cost as much as "us"
        input_side = _INPUT_SIDE[cache_ttl]
        worst = 0
        for variant in _SERVABLE[speed]:
            key = (model, variant)
            listed, contract = epoch.tiers.get(key), epoch.contract.get(key)
            keep_ppm = 1 if contract else epoch.keep_ppm if listed else PPM  # contract tiers have it in them
            for tier in contract or listed or epoch.dearest[variant]:
                if 0 < tier.above_prompt_tokens >= input_tokens_max:
                    continue  # no prompt can be that long
                rates = tier.us if in_us else tier.elsewhere
                amount = (
                    input_tokens_max * max([rates[meter] for meter in input_side])
                    + output_tokens_max * rates[_OUTPUT]
                    + web_search_requests_max * rates[_SEARCH]
                )
                worst = max(worst, amount * keep_ppm)
        return ceil_div(worst, tables.COST_DENOMINATOR)

    def with_contract(self, contract_rates: Iterable[ContractRate]) -> "PriceBook":
        """A book that charges these terms; itself where there are none. `Cost` has the list price beside."""
        rows = list(contract_rates)
        if not rows:
            return self
        spans = [(row.effective_from, row.effective_to) for row in rows]
        cuts = tables.boundaries([*spans, *((cut, None) for cut in self._boundaries)])
        epochs = [
            tables.with_terms(self._epoch(instant), tables.in_force(rows, instant), self._models)
            for instant in tables.instants(cuts)
        ]
        return PriceBook(self.version, self._models, cuts, epochs)

    def _epoch(self, at: datetime) -> tables.Epoch:
        return self._epochs[bisect_right(self._boundaries, at)]


def compile_book(version: int, rates: Iterable[ListRate], models: Iterable[ModelFacts]) -> PriceBook:
    """The book of these rows. Raises tables.PriceBookIncomplete where a meter has no price at all."""
    rows = list(rates)
    by_name = {name: facts for facts in models for name in (facts.model_id, *facts.aliases)}
    cuts = tables.boundaries((row.effective_from, row.effective_to) for row in rows)
    shared: dict[tables.Tiers, tables.Tiers] = {}
    epochs = [
        tables.compile_epoch(tables.in_force(rows, instant), by_name, shared)
        for instant in tables.instants(cuts)
    ]
    return PriceBook(version, by_name, cuts, epochs)


def _terms(
    epoch: tables.Epoch, served: Pass
) -> tuple[tuple[str, Variant], tables.Tier, tables.Rates, tables.Rates | None, int, bool]:
    """What prices a pass: its (name, variant), tier and list rates; the contract's own rates (over
    COST_DENOMINATOR) or else what it leaves of list price; whether the model has a price at all."""
    key = (served.model, _variant(served))
    tiers, contract, keep_ppm = epoch.tiers.get(key), epoch.contract.get(key), epoch.keep_ppm
    listed = tiers is not None
    if tiers is None:
        tiers, keep_ppm = epoch.dearest[key[1]], PPM
    index = _tier_index(tiers, served.usage.prompt_tokens)
    in_us = served.inference_geo == "us"
    tier = tiers[index]
    rates = tier.us if in_us else tier.elsewhere
    own = None if contract is None else contract[index].us if in_us else contract[index].elsewhere
    return key, tier, rates, own, keep_ppm, listed


def _variant(served: Pass) -> Variant:
    if served.speed == "fast":
        return "fast"
    return "batch" if served.service_tier == "batch" else "standard"


def _tier_index(tiers: tables.Tiers, prompt_tokens: int) -> int:
    """Which tier prices the whole pass: the highest threshold that its prompt exceeds, else the base."""
    last = len(tiers) - 1
    for index in range(last):
        if prompt_tokens > tiers[index].above_prompt_tokens:
            return index
    return last


def _round_up(numerators: Sequence[int]) -> tuple[int, dict[Meter, int]]:
    """The total in whole nano-dollars, rounded up, and the used meters' parts, which add up to it exactly:
    each part is the step that the rounded-up running total makes at its meter."""
    by_meter: dict[Meter, int] = {}
    running = total = 0
    for meter, numerator in zip(METERS, numerators, strict=True):
        if numerator:
            running += numerator
            before, total = total, ceil_div(running, tables.COST_DENOMINATOR)
            by_meter[meter] = total - before
    return total, by_meter
