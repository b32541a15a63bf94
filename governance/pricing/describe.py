"""Changes of prices as lines for people: what `load_prices` shows before it asks. Pure."""

from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from itertools import groupby

from governance.core.meters import METERS
from governance.core.money import format_usd
from governance.pricing.changes import Changes, PriceChange
from governance.pricing.rates import PPM, ListRate, ModelFacts


def describe(changes: Changes, now: datetime) -> list[str]:
    """One line per model described anew, per group of new prices, and per price that changes or ends."""
    return [*_models(changes), *_new_prices(changes.prices), *_moved_prices(changes.prices, now)]


def _models(changes: Changes) -> Iterator[str]:
    closed = {facts.model_id: facts for facts in changes.models_closed}
    for facts in changes.models_added:
        before = closed.get(facts.model_id)
        if before is None:
            yield f"+ {facts.model_id}: new model, {facts.status}"
        else:
            yield f"~ {facts.model_id}: {', '.join(_differences(before, facts))}"


def _differences(before: ModelFacts, after: ModelFacts) -> Iterator[str]:
    for field in fields(ModelFacts):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old != new:
            yield f"{field.name} {old} → {new}"


def _new_prices(prices: tuple[PriceChange, ...]) -> Iterator[str]:
    """Prices of a series that had none, a model's meters on one line."""

    def group(change: PriceChange) -> tuple[str, str, int, str]:
        model_id, variant, _, above = change.series
        return (model_id, variant, above, _span(change.after))

    new = sorted((c for c in prices if c.before is None), key=lambda c: METERS.index(c.series[2]))
    for (model_id, variant, above, span), changes in groupby(sorted(new, key=group), group):
        listed = ", ".join(f"{c.series[2]} {_amount(c.after)}" for c in changes)
        yield f"+ {_name(model_id, variant, above)}: {listed}{span}"


def _moved_prices(prices: tuple[PriceChange, ...], now: datetime) -> Iterator[str]:
    for change in prices:
        if change.before is None:
            continue
        model_id, variant, meter, above = change.series
        name = f"{_name(model_id, variant, above)} {meter}"
        since = change.since or datetime.min.replace(tzinfo=UTC)
        when = (
            "from now on" if since >= now else f"from {_time(since)} (corrects the past; charges made stay)"
        )
        if since > now:
            when = f"from {_time(since)}"
        if change.after is None:
            yield f"- {name}: {_amount(change.before)} ends, {when}"
        else:
            geo = _geo_change(change.before, change.after)
            yield f"~ {name}: {_amount(change.before)} → {_amount(change.after)}{geo} {when}"


def _name(model_id: str, variant: str, above: int) -> str:
    long_prompt = f" above {above:,} prompt tokens" if above else ""
    return f"{'any model' if model_id == '*' else model_id} {variant}{long_prompt}"


def _amount(row: ListRate | None) -> str:
    """As price lists write it: tokens by the million, searches by the thousand."""
    if row is None:
        return "no price"
    if row.meter == "web_search":
        return f"{format_usd(row.nanos_per_mtok // 1000)}/1,000"
    return f"{format_usd(row.nanos_per_mtok)}/MTok"


def _geo_change(before: ListRate, after: ListRate) -> str:
    if before.us_geo_ppm == after.us_geo_ppm:
        return ""
    return f", in the US ×{before.us_geo_ppm / PPM:g} → ×{after.us_geo_ppm / PPM:g}"


def _span(row: ListRate | None) -> str:
    if row is None:
        return ""
    since = f" from {_time(row.effective_from)}" if row.effective_from else ""
    until = f" until {_time(row.effective_to)}" if row.effective_to else ""
    return since + until


def _time(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
