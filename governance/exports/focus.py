"""An item as a row of FOCUS 1.2: the columns, what stands in them, and how a number is written.

https://focus.finops.org/focus-specification/v1-2/ . Keys of SkuPriceDetails that only the draft of 1.5
defines (TokenDirection, TokenCacheAction) have the prefix x_ until it is ratified.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from governance.core.meters import Meter
from governance.core.money import NANOS_PER_USD
from governance.exports.items import Item, Kind, Sum
from governance.exports.months import DAY, Month
from governance.pricing.book import UnitPrice
from governance.pricing.tables import COST_DENOMINATOR

_USD_PLACES = 27
"""COST_DENOMINATOR × NANOS_PER_USD is 10 to that power."""
assert 10**_USD_PLACES == COST_DENOMINATOR * NANOS_PER_USD

MANDATORY = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd",
    "ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost",
    "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName",
)  # fmt: skip
CONDITIONAL = (
    "BillingAccountType", "ConsumedQuantity", "ConsumedUnit", "ContractedUnitPrice", "ListUnitPrice",
    "PricingCategory", "RegionId", "RegionName", "SkuId", "SkuMeter", "SkuPriceDetails", "SkuPriceId",
    "SubAccountId", "SubAccountName", "SubAccountType", "Tags",
)  # fmt: skip
RECOMMENDED = ("ChargeFrequency", "InvoiceId", "ServiceSubcategory")
OURS = (
    "x_ChargeKind", "x_Basis", "x_RequestCount", "x_KeyId", "x_KeyName", "x_CorrectedPeriodStart",
)  # fmt: skip
COLUMNS = (*sorted((*MANDATORY, *CONDITIONAL, *RECOMMENDED)), *OURS)

NUMBERS = frozenset(
    {
        "BilledCost", "ContractedCost", "EffectiveCost", "ListCost", "PricingQuantity", "ConsumedQuantity",
        "ContractedUnitPrice", "ListUnitPrice", "x_RequestCount",
    }
)  # fmt: skip
"""Everything else is text, which a spreadsheet must not take for a formula."""


@dataclass(frozen=True, slots=True)
class _MeterFacts:
    name: str
    unit: str
    pricing_unit: str
    pricing_unit_places: int
    """A pricing unit is 10 to that power of units."""
    details: Mapping[str, str]


def _tokens(name: str, direction: str, action: str | None = None, ttl: str | None = None) -> _MeterFacts:
    details = {"x_TokenDirection": direction, "x_TokenCacheAction": action, "x_CacheTtl": ttl}
    known = {key: value for key, value in details.items() if value is not None}
    return _MeterFacts(name, "Tokens", "1000000 Tokens", 6, known)


METER_FACTS: Mapping[Meter, _MeterFacts] = {
    "input": _tokens("Input Tokens", "Input", "Uncached"),
    "cache_write_5m": _tokens("Cache Write Input Tokens (5m)", "Input", "Write", "5m"),
    "cache_write_1h": _tokens("Cache Write Input Tokens (1h)", "Input", "Write", "1h"),
    "cache_read": _tokens("Cache Read Input Tokens", "Input", "Read"),
    "output": _tokens("Output Tokens", "Output"),
    "web_search": _MeterFacts("Web Search Requests", "Requests", "1000 Requests", 3, {}),
}

_UNPRICED: Mapping[Kind, tuple[str, str]] = {
    "rounding": ("Adjustment", "Rounding of each charge up to a whole nano-dollar"),
    "whole_hold": ("Adjustment", "Usage not known; charged the worst case that was held"),
    "operator_share": ("Credit", "Cost above the hold, borne by the operator"),
    "unexplained": ("Adjustment", "Part of charges that the price book does not explain"),
    "credit": ("Credit", "Credit"),
    "correction": ("Adjustment", "Correction"),
}
_REGIONS = {"us": "United States", "eu": "European Union", "global": "Global"}


@dataclass(frozen=True, slots=True)
class Names:
    """What ids are called; as of today, for names are no facts."""

    tenant_slug: str
    tenant_name: str
    teams: Mapping[int, tuple[str, str]]
    """team id → (slug, name)"""
    keys: Mapping[int, tuple[str, str]]
    """key id → (public id, name)"""
    families: Mapping[str, str]
    """model id → family"""


def row_of(item: Item, found: Sum, *, month: Month, day: datetime, names: Names) -> dict[str, str]:
    """The row's columns; those without a value are left out, which is how CSV spells null."""
    cost = usd(found.amount)
    team_id, team_name = names.teams.get(item.team_id or 0, ("", ""))
    key_id, key_name = names.keys.get(item.key_id or 0, ("", ""))
    row = {
        "BilledCost": cost,
        "ContractedCost": cost,
        "EffectiveCost": cost,
        "ListCost": usd(found.list_amount),
        "BillingAccountId": names.tenant_slug,
        "BillingAccountName": names.tenant_name,
        "BillingAccountType": "Tenant",
        "BillingCurrency": "USD",
        "BillingPeriodStart": instant(month.starts_at),
        "BillingPeriodEnd": instant(month.ends_at),
        "ChargePeriodStart": instant(day),
        "ChargePeriodEnd": instant(day + DAY),
        "ChargeFrequency": "One-Time" if item.kind in ("credit", "correction") else "Usage-Based",
        "InvoiceIssuerName": "Anthropic",
        "ProviderName": "Anthropic",
        "PublisherName": "Anthropic",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceSubcategory": "Generative AI",
        "ServiceName": "Claude API",
        "SubAccountId": team_id,
        "SubAccountName": team_name,
        "SubAccountType": "Team" if team_id else "",
        "Tags": item.tags,
        "x_ChargeKind": item.kind,
        "x_Basis": item.basis or "",
        "x_RequestCount": str(found.requests),
        "x_KeyId": key_id,
        "x_KeyName": key_name,
    }
    if item.priced is not None:
        return row | _usage(item.priced, found.units, names)
    return row | _unpriced(item, month)


def _usage(priced: UnitPrice, units: int, names: Names) -> dict[str, str]:
    meter, geo = METER_FACTS[priced.meter], priced.inference_geo
    sku = f"{priced.model}/{priced.meter}"
    price = [sku, priced.variant]
    details = {"x_ModelDeveloper": "Anthropic", "x_ModelId": priced.model, "x_Variant": priced.variant}
    details |= meter.details
    if family := names.families.get(priced.model):
        details["x_ModelFamily"] = family
    if geo == "us":
        price.append("us")
        details["x_InferenceGeo"] = geo
    if priced.above_prompt_tokens:
        price.append(f"above-{priced.above_prompt_tokens}")
        details["x_AbovePromptTokens"] = str(priced.above_prompt_tokens)
    places = meter.pricing_unit_places
    return {
        "ChargeCategory": "Usage",
        "ChargeDescription": f"{priced.model}: {meter.name}",
        "ConsumedQuantity": decimal(units, 0),
        "ConsumedUnit": meter.unit,
        "PricingQuantity": decimal(units, places),
        "PricingUnit": meter.pricing_unit,
        "PricingCategory": "Standard",
        "ListUnitPrice": usd(priced.list_rate * 10**places),
        "ContractedUnitPrice": usd(priced.rate * 10**places),
        "SkuId": sku,
        "SkuMeter": meter.name,
        "SkuPriceId": "/".join(price),
        "SkuPriceDetails": json.dumps(details, sort_keys=True, separators=(",", ":")),
        "RegionId": geo,
        "RegionName": _REGIONS.get(geo, geo),
    }


def _unpriced(item: Item, month: Month) -> dict[str, str]:
    """Quantities stay empty: nothing was metered. A correction of an earlier month is of class Correction; of
    the same month it is not, for FOCUS calls so only what corrects an invoice that has gone out."""
    category, description = _UNPRICED[item.kind]
    if item.model:
        description = f"{item.model}: {description}"
    if item.reason:
        description = f"{description}: {item.reason}"
    row = {"ChargeCategory": category, "ChargeDescription": description}
    if item.corrected_month is not None:
        row["x_CorrectedPeriodStart"] = instant(item.corrected_month)
        if item.corrected_month < month.starts_at:
            row["ChargeClass"] = "Correction"
    return row


def usd(amount: int) -> str:
    """Nano-dollars × COST_DENOMINATOR → dollars, every digit of them."""
    return decimal(amount, _USD_PLACES)


def decimal(whole: int, places: int) -> str:
    """(1250, 3) → '1.25'. Exact, without an exponent; always with a point, for readers that guess types."""
    digits = f"{abs(whole):0{places + 1}d}"
    split = len(digits) - places
    text = f"{digits[:split]}.{digits[split:].rstrip('0') or '0'}"
    return f"-{text}" if whole < 0 else text


def instant(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
