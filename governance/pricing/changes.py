"""What a price file changes in the prices that are loaded. Pure.

The rule that protects the past, per series (one model, meter, variant and threshold):

- A series that is new is taken whole, history and all.
- Otherwise the loaded prices stand up to a moment, and the file's from then on. The moment is now; or the
  earliest date in the file at which the loaded series has no change yet. A changed price without a date thus
  begins now, and one with a date begins on it.
- A date in the past makes a correction: a new version knows better from that day on, while the rows that it
  closes, and the charges made with them, stay as they were.
- A model that the file does not mention is left alone. A price that it no longer has for a model ends.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby

from governance.core.meters import Meter
from governance.pricing.rates import ListRate, ModelFacts, Variant

Series = tuple[str, Variant, Meter, int]
"""(model id, variant, meter, above_prompt_tokens)."""

_BEGINNING = datetime.min.replace(tzinfo=UTC)
_END = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PriceChange:
    """One price that moves: None before is a new one, None after is one that ends."""

    series: Series
    before: ListRate | None
    after: ListRate | None
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Changes:
    """The rows to close and to add, and what that means for prices."""

    rates_closed: tuple[ListRate, ...]
    rates_added: tuple[ListRate, ...]
    models_closed: tuple[ModelFacts, ...]
    models_added: tuple[ModelFacts, ...]
    prices: tuple[PriceChange, ...]

    def __bool__(self) -> bool:
        return bool(self.rates_closed or self.rates_added or self.models_closed or self.models_added)


def find_changes(
    loaded: Iterable[ListRate],
    loaded_models: Iterable[ModelFacts],
    stated: Iterable[ListRate],
    stated_models: Iterable[ModelFacts],
    now: datetime,
) -> Changes:
    """What loading `stated` over `loaded` does, decided at `now`."""
    file_rows, kept_rows = list(stated), list(loaded)
    mentioned = {row.model_id for row in file_rows}
    before = _by_series(row for row in kept_rows if row.model_id in mentioned)
    wanted = _by_series(file_rows)
    closed: list[ListRate] = []
    added: list[ListRate] = []
    prices: list[PriceChange] = []
    for series in sorted(before.keys() | wanted.keys()):
        old, target = before.get(series, []), _target(before.get(series, []), wanted.get(series, []), now)
        closed += [row for row in old if row not in target]
        added += [row for row in target if row not in old]
        prices += _differences(series, old, target)
    models = {facts.model_id: facts for facts in loaded_models}
    stated_by_id = {facts.model_id: facts for facts in stated_models}
    changed = [facts for model_id, facts in stated_by_id.items() if models.get(model_id) != facts]
    return Changes(
        tuple(closed),
        tuple(added),
        tuple(models[facts.model_id] for facts in changed if facts.model_id in models),
        tuple(changed),
        tuple(prices),
    )


def _by_series(rows: Iterable[ListRate]) -> dict[Series, list[ListRate]]:
    def key(row: ListRate) -> Series:
        return (row.model_id, row.variant, row.meter, row.above_prompt_tokens)

    ordered = sorted(rows, key=lambda row: (key(row), _start(row)))
    return {series: list(group) for series, group in groupby(ordered, key)}


def _target(old: Sequence[ListRate], stated: Sequence[ListRate], now: datetime) -> list[ListRate]:
    """The series as it shall be: `old` up to the moment of change, `stated` from then on."""
    stated = _merged(stated)
    if not old:
        return stated
    known = {edge for row in old for edge in (_start(row), _end(row))}
    dates = {edge for row in stated for edge in (_start(row), _end(row))} - {_BEGINNING, _END}
    moment = min([now, *(dates - known)])
    rows = [*_clipped(old, _BEGINNING, moment), *_clipped(stated, moment, _END)]
    return _merged(rows)


def _clipped(rows: Iterable[ListRate], since: datetime, until: datetime) -> Iterator[ListRate]:
    for row in rows:
        start, end = max(_start(row), since), min(_end(row), until)
        if start < end:
            yield replace(
                row,
                effective_from=None if start == _BEGINNING else start,
                effective_to=None if end == _END else end,
            )


def _merged(rows: Iterable[ListRate]) -> list[ListRate]:
    """Neighbours in time with the same price as one row."""
    merged: list[ListRate] = []
    for row in rows:
        if merged and _same_price(merged[-1], row) and _end(merged[-1]) == _start(row):
            merged[-1] = replace(merged[-1], effective_to=row.effective_to)
        else:
            merged.append(row)
    return merged


def _differences(series: Series, old: Sequence[ListRate], new: Sequence[ListRate]) -> Iterator[PriceChange]:
    """Every stretch of time over which the price differs, first to last."""
    edges = sorted({edge for row in (*old, *new) for edge in (_start(row), _end(row))} - {_END})
    shown: tuple[ListRate | None, ListRate | None] = (None, None)
    for edge in edges:
        before, after = _at(old, edge), _at(new, edge)
        if before == after or (before and after and _same_price(before, after)):
            shown = (None, None)
        elif (before, after) != shown:
            shown = (before, after)
            yield PriceChange(series, before, after, None if edge == _BEGINNING else edge)


def _at(rows: Iterable[ListRate], instant: datetime) -> ListRate | None:
    return next((row for row in rows if _start(row) <= instant < _end(row)), None)


def _same_price(a: ListRate, b: ListRate) -> bool:
    return (a.nanos_per_mtok, a.us_geo_ppm) == (b.nanos_per_mtok, b.us_geo_ppm)


def _start(row: ListRate) -> datetime:
    return row.effective_from or _BEGINNING


def _end(row: ListRate) -> datetime:
    return row.effective_to or _END
