"""Reading a file of prices (the shape of data/claude_prices.json) into the rows that it states. Pure.

Numbers are read as decimals and must come out as whole nano-dollars; nothing passes through a float. A
date in the file is a day in UTC: `"until": "2026-10-06"` holds up to, and without, 2026-10-07T00:00Z. A
batch price that the file does not spell out is its standard price times the file's batch discount; a cache
price that it does not spell out does not exist.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

from governance.core.meters import METERS, Meter
from governance.core.money import usd_to_nanos
from governance.pricing.rates import ANY, PPM, ListRate, ModelFacts, Variant

_TOKEN_METERS: tuple[Meter, ...] = METERS[:5]
_ID = re.compile(r"claude-[a-z0-9.-]+")
_NOT_PRICES = {
    "note", "until", "beta", "long_prompt_above", "above_prompt_tokens", "prompt_tokens_are", "per_iteration",
    "whole_request_at_higher_rate",
}  # fmt: skip


class PriceFileError(ValueError):
    """The file cannot be taken as prices; the message says where and why."""


@dataclass(frozen=True, slots=True)
class PriceFile:
    """What a file states. `rates` of one model, meter, variant and threshold never overlap in time."""

    source: str
    digest: str
    rates: tuple[ListRate, ...]
    models: tuple[ModelFacts, ...]


def read_price_file(name: str, content: bytes) -> PriceFile:
    """`name` is for people: it becomes part of `source`. Raises PriceFileError."""
    try:
        stated = json.loads(content, parse_float=Decimal)
    except ValueError as error:
        raise PriceFileError(f"{name} is not JSON: {error}.") from None
    try:
        if (stated["currency"], stated["unit"]) != ("USD", "per 1,000,000 tokens"):
            raise PriceFileError(f"{name} must state prices in USD per 1,000,000 tokens.")
        rates = [_web_search(stated["server_tools"])]
        for entry in stated["models"]:
            rates.extend(
                _model_rates(entry, _decimal(stated["global_rules"]["batch_discount"], "batch_discount"))
            )
        models = tuple(_model_facts(entry) for entry in stated["models"])
    except (KeyError, TypeError, AttributeError) as error:
        raise PriceFileError(f"{name} is not shaped like a price file: {error!r}.") from None
    _refuse_ambiguous_names(models)
    source = f"{name}, compiled {stated.get('compiled', 'at an unknown date')}"
    return PriceFile(source, hashlib.sha256(content).hexdigest(), tuple(rates), models)


def _web_search(server_tools: Mapping[str, Any]) -> ListRate:
    per_search = _decimal(server_tools["web_search_usd_per_1000"], "web_search_usd_per_1000") / 1000
    return ListRate(ANY, "web_search", "standard", 0, _nanos(per_search * PPM, "web_search"), PPM, None, None)


def _model_rates(entry: Mapping[str, Any], batch_discount: Decimal) -> Iterator[ListRate]:
    """Every rate of one model: current ones from where its history ends, and the history itself."""
    model_id = entry["id"]
    us_geo_ppm = _ppm(entry["inference_geo_us_multiplier"], model_id)

    def rate(
        variant: Variant,
        above: int,
        meter: Meter,
        usd: Decimal,
        since: datetime | None,
        until: datetime | None,
    ) -> ListRate:
        nanos = _nanos(usd, f"{model_id} {variant} {meter}")
        return ListRate(model_id, meter, variant, above, nanos, us_geo_ppm, since, until)

    def rates_of(
        stated: Mapping[str, Any],
        above: int,
        since: Mapping[tuple[int, Meter], datetime],
        until: datetime | None,
    ) -> Iterator[ListRate]:
        for meter, usd in _prices(stated, model_id).items():
            batch_usd = stated.get(f"batch_{meter}")
            batch_usd = (
                usd * batch_discount if batch_usd is None else _decimal(batch_usd, f"{model_id} batch")
            )
            begins = since.get((above, meter))
            yield rate("standard", above, meter, usd, begins, until)
            yield rate("batch", above, meter, batch_usd, begins, until)

    ended: dict[tuple[int, Meter], datetime] = {}
    for past in sorted(entry["price_history"], key=lambda past: str(past["until"])):
        above, until = past.get("long_prompt_above", 0), _end_of(past["until"], model_id)
        yield from rates_of(past, above, ended, until)
        ended.update(((above, meter), until) for meter in _prices(past, model_id))
    current = entry["usd_per_mtok"]
    if not {"input", "output"} <= _prices(current, model_id).keys():
        raise PriceFileError(f"{model_id} has no price for input or output.")
    yield from rates_of(current, 0, ended, None)
    if long_prompt := entry["long_prompt"]:
        yield from rates_of(long_prompt, long_prompt["above_prompt_tokens"], ended, None)
    if fast := entry["fast_mode_usd_per_mtok"]:
        ends = None if fast.get("until") is None else _end_of(fast["until"], model_id)
        for meter, usd in _prices(fast, model_id).items():
            yield rate("fast", 0, meter, usd, None, ends)


def _prices(stated: Mapping[str, Any], model_id: str) -> dict[Meter, Decimal]:
    """The token prices among a section's fields. A field that is neither a price nor a known note is refused:
    it might be a meter that would then go unpriced."""
    known = {*_TOKEN_METERS, *(f"batch_{meter}" for meter in _TOKEN_METERS), *_NOT_PRICES}
    if unknown := stated.keys() - known:
        raise PriceFileError(f"{model_id} has prices that are not known here: {', '.join(sorted(unknown))}.")
    return {m: _decimal(stated[m], f"{model_id} {m}") for m in _TOKEN_METERS if stated.get(m) is not None}


def _model_facts(entry: Mapping[str, Any]) -> ModelFacts:
    if not _ID.fullmatch(entry["id"]):
        raise PriceFileError(f"“{entry['id']}” is not the id of a Claude model.")
    return ModelFacts(
        model_id=entry["id"],
        # Anything but a plain id is a remark about a name that only some client understands.
        aliases=tuple(alias for alias in entry["aliases"] if _ID.fullmatch(alias)),
        family=entry["family"],
        status=entry["status"],
        context_window_tokens=_tokens(entry, "context_window"),
        output_tokens_max=_tokens(entry, "max_output"),
        batch_output_tokens_max=entry["max_output_batch_beta"],
        cacheable_prefix_tokens_min=entry["min_cacheable_prefix_tokens"],
        tokenizer=entry["tokenizer"],
        released_on=_day_or_none(entry["released"]),
        retires_on=_day_or_none(entry["retires"]),
    )


def _tokens(entry: Mapping[str, Any], field: str) -> int:
    if type(entry[field]) is not int or entry[field] < 1:
        raise PriceFileError(f"{entry['id']} has a {field} of {entry[field]!r}, not a number of tokens.")
    return int(entry[field])


def _refuse_ambiguous_names(models: tuple[ModelFacts, ...]) -> None:
    names = [name for facts in models for name in (facts.model_id, *facts.aliases)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PriceFileError(f"These names stand for more than one model: {', '.join(twice)}.")


def _decimal(value: object, where: str) -> Decimal:
    if type(value) not in (int, Decimal):
        raise PriceFileError(f"{where} is {value!r}, not a number.")
    return Decimal(cast(Decimal, value))


def _nanos(usd: Decimal, where: str) -> int:
    try:
        nanos = usd_to_nanos(usd)
    except ValueError as error:
        raise PriceFileError(f"{where}: {error}") from None
    if nanos < 0:
        raise PriceFileError(f"{where} is negative.")
    return nanos


def _ppm(multiplier: object, model_id: str) -> int:
    """1.1 → 1_100_000; None is no surcharge."""
    if multiplier is None:
        return PPM
    ppm = _decimal(multiplier, f"{model_id} inference_geo_us_multiplier") * PPM
    if ppm != int(ppm) or ppm < PPM:
        raise PriceFileError(
            f"{model_id} has a US multiplier of {multiplier}; it must be 1 or more, to six decimals."
        )
    return int(ppm)


def _end_of(day: object, model_id: str) -> datetime:
    """The instant at which a day, the last that a price holds on, is over in UTC."""
    parsed = _day_or_none(day)
    if parsed is None:
        raise PriceFileError(f"{model_id} has a price until “{day}”; write the last day like 2026-10-06.")
    return datetime(parsed.year, parsed.month, parsed.day, tzinfo=UTC) + timedelta(days=1)


def _day_or_none(text: object) -> date | None:
    """An exact day; the file also has remarks such as “not sooner than …”, which are not dates."""
    try:
        return date.fromisoformat(str(text))
    except ValueError:
        return None
