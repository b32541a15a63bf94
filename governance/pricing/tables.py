"""Compiling price rows into the tables that `book.PriceBook` looks up. Pure.

Time is cut into epochs at every instant where any price changes, so a look-up is one bisection and one
dictionary access. Rates become whole numbers over a common denominator: LIST_DENOMINATOR for list rates
(per million units × US multiplier in ppm), COST_DENOMINATOR once a discount in ppm has been taken.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from governance.core.meters import METERS
from governance.pricing.rates import ANY, PPM, VARIANTS, ContractRate, ListRate, ModelFacts, Variant

LIST_DENOMINATOR = PPM * PPM
COST_DENOMINATOR = PPM * PPM * PPM

Rates = tuple[int, ...]
"""One whole number per meter, in the order of METERS."""


class PriceBookIncomplete(ValueError):
    """The rows leave a meter without any price; the message says which."""


class Tier(NamedTuple):
    """The rates of a pass whose prompt is longer than `above_prompt_tokens` (0: any prompt)."""

    above_prompt_tokens: int
    elsewhere: Rates
    us: Rates
    us_geo_ppm: Rates
    gaps: tuple[int, ...] = ()
    """Meters that have no price here and are charged at the dearest known one."""


Tiers = tuple[Tier, ...]
"""Highest threshold first; the last one is the base."""


class Epoch(NamedTuple):
    """Everything in force between two instants at which any price changes."""

    tiers: Mapping[tuple[str, Variant], Tiers]
    """List rates by (model id or alias, variant)."""
    dearest: Mapping[Variant, Tiers]
    """By variant: what a model without a price is charged."""
    contract: Mapping[tuple[str, Variant], Tiers] = {}
    """Rates over COST_DENOMINATOR, tier by tier as in `tiers`, for the models that a contract names."""
    keep_ppm: int = PPM
    """What the contract leaves of list price on every other model."""


Span = tuple[datetime | None, datetime | None]


def boundaries(spans: Iterable[Span]) -> list[datetime]:
    """The instants at which a span begins or ends, in order."""
    return sorted({instant for span in spans for instant in span if instant is not None})


def instants(cuts: Sequence[datetime]) -> Iterator[datetime]:
    """One instant inside each stretch that the cuts leave: before the first, then each cut itself."""
    yield datetime.min.replace(tzinfo=UTC)
    yield from cuts


def in_force[Row: (ListRate, ContractRate)](rows: Iterable[Row], at: datetime) -> list[Row]:
    return [
        row
        for row in rows
        if (row.effective_from is None or row.effective_from <= at)
        and (row.effective_to is None or at < row.effective_to)
    ]


def compile_epoch(
    rows: Sequence[ListRate], models: Mapping[str, ModelFacts], shared: dict[Tiers, Tiers]
) -> Epoch:
    """The tables of rows in force together. `models` is by id and alias.

    `shared` keeps one copy of the tiers that epochs and aliases have in common; pass the same one each time.
    """
    found: dict[tuple[str, Variant], dict[int, dict[int, ListRate]]] = {}
    for row in rows:
        by_threshold = found.setdefault((row.model_id, row.variant), {})
        by_threshold.setdefault(row.above_prompt_tokens, {})[METERS.index(row.meter)] = row
    fees = found.pop((ANY, "standard"), {}).get(0, {})
    dearest = {variant: _dearest(rows, variant) for variant in VARIANTS}
    tiers: dict[tuple[str, Variant], Tiers] = {}
    for (model_id, variant), by_threshold in found.items():
        compiled = tuple(
            _tier(threshold, {**fees, **by_threshold[threshold]}, dearest[variant])
            for threshold in sorted(by_threshold, reverse=True)
        )
        tiers[model_id, variant] = shared.setdefault(compiled, compiled)
    for name, facts in models.items():
        for variant in VARIANTS:
            if (facts.model_id, variant) in tiers:
                tiers[name, variant] = tiers[facts.model_id, variant]
    return Epoch(tiers, {variant: (tier,) for variant, tier in dearest.items()})


def with_terms(epoch: Epoch, rows: Sequence[ContractRate], models: Mapping[str, ModelFacts]) -> Epoch:
    """The epoch under contract rows in force; a model's own discount goes before the one on every model."""
    keep_ppm: dict[str, int] = {}
    own: dict[tuple[str, str, int, str], int] = {}
    for row in rows:
        model_id = _model_id(row.model_id, models)
        if row.discount_ppm is not None:
            keep_ppm[model_id] = PPM - row.discount_ppm
        elif row.nanos_per_mtok is not None:
            own[model_id, row.variant, row.above_prompt_tokens, row.meter] = row.nanos_per_mtok
    keep_any_ppm = keep_ppm.pop(ANY, PPM)
    named = keep_ppm.keys() | {key[0] for key in own}
    contract = {}
    for (name, variant), tiers in epoch.tiers.items():
        model_id = _model_id(name, models)
        if model_id in named:
            keep = keep_ppm.get(model_id, keep_any_ppm)
            contract[name, variant] = tuple(
                _own_tier(
                    tier, keep, [own.get((model_id, variant, tier.above_prompt_tokens, m)) for m in METERS]
                )
                for tier in tiers
            )
    return epoch._replace(contract=contract, keep_ppm=keep_any_ppm)


def _model_id(name: str, models: Mapping[str, ModelFacts]) -> str:
    facts = models.get(name)
    return name if facts is None else facts.model_id


def _tier(threshold: int, by_meter: Mapping[int, ListRate], dearest: Tier) -> Tier:
    elsewhere, us, us_geo_ppm = list(dearest.elsewhere), list(dearest.us), list(dearest.us_geo_ppm)
    for meter, row in by_meter.items():
        elsewhere[meter] = row.nanos_per_mtok * PPM
        us[meter] = row.nanos_per_mtok * row.us_geo_ppm
        us_geo_ppm[meter] = row.us_geo_ppm
    gaps = tuple(meter for meter in range(len(METERS)) if meter not in by_meter)
    return Tier(threshold, tuple(elsewhere), tuple(us), tuple(us_geo_ppm), gaps)


def _own_tier(tier: Tier, keep_ppm: int, own: Sequence[int | None]) -> Tier:
    """The tier over COST_DENOMINATOR: own rates where there are some, else list rates less the discount."""
    elsewhere, us = [rate * keep_ppm for rate in tier.elsewhere], [rate * keep_ppm for rate in tier.us]
    for meter, nanos_per_mtok in enumerate(own):
        if nanos_per_mtok is not None:
            elsewhere[meter] = nanos_per_mtok * PPM * PPM
            us[meter] = nanos_per_mtok * tier.us_geo_ppm[meter] * PPM
    return tier._replace(elsewhere=tuple(elsewhere), us=tuple(us))


def _dearest(rows: Sequence[ListRate], variant: Variant) -> Tier:
    """The highest rate of each meter over every model of that variant (fast: of standard too)."""
    variants = {"standard", "fast"} if variant == "fast" else {variant}
    elsewhere, us, us_geo_ppm = [], [], []
    for meter in METERS:
        same_meter = [row for row in rows if row.meter == meter]
        candidates = [row for row in same_meter if row.variant in variants] or same_meter
        if not candidates:
            raise PriceBookIncomplete(
                f"No model has a price for {meter}. Load prices: manage.py load_prices."
            )
        elsewhere.append(max(row.nanos_per_mtok * PPM for row in candidates))
        us.append(max(row.nanos_per_mtok * row.us_geo_ppm for row in candidates))
        us_geo_ppm.append(max(row.us_geo_ppm for row in candidates))
    return Tier(0, tuple(elsewhere), tuple(us), tuple(us_geo_ppm))
