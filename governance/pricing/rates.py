"""The rows that a price book is compiled from, as plain values. No Django, no I/O."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from governance.core.meters import Meter

Variant = Literal["standard", "fast", "batch"]
VARIANTS: tuple[Variant, ...] = ("standard", "fast", "batch")
"""Standard covers Priority Tier too: its tokens are bought ahead, and list price is what they replace."""

ANY = "*"
"""Every model, or every meter: the web-search fee and discounts on everything use it."""

PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class ListRate:
    """What Anthropic charges for one meter of one model over a span of time.

    `nanos_per_mtok`: nano-dollars for a million units of the meter (tokens; searches for web_search).
    `above_prompt_tokens`: the rate holds for a whole pass whose prompt is longer than this; 0 for the base.
    `us_geo_ppm`: the multiplier when served in the US, in millionths (1_100_000 is ×1.1).
    `effective_from` is inclusive, None for “always”; `effective_to` exclusive, None for “to this day”.
    """

    model_id: str
    meter: Meter
    variant: Variant
    above_prompt_tokens: int
    nanos_per_mtok: int
    us_geo_ppm: int
    effective_from: datetime | None
    effective_to: datetime | None


@dataclass(frozen=True, slots=True)
class ContractRate:
    """What one tenant pays instead: a discount on a model (or on ANY), or an own rate for one list rate.

    Exactly one of `discount_ppm` (150_000 is 15 % off every meter and variant) and `nanos_per_mtok` is set.
    An own rate replaces the list rate of the same model, meter, variant and threshold; no discount is taken
    off it, and the list rate's US multiplier still applies.
    """

    model_id: str
    meter: str
    variant: str
    above_prompt_tokens: int
    discount_ppm: int | None
    nanos_per_mtok: int | None
    effective_from: datetime
    effective_to: datetime | None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model can do, as far as prices and bounds need it."""

    model_id: str
    aliases: tuple[str, ...]
    family: str
    status: str
    context_window_tokens: int
    output_tokens_max: int
    batch_output_tokens_max: int | None
    cacheable_prefix_tokens_min: int | None
    tokenizer: str
    """'new' counts about 30 % more tokens than 'old' for the same text."""
    released_on: date | None
    retires_on: date | None
