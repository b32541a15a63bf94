"""What policies and caches saved: layer by layer, rule by rule, from the rows of calls."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.db.models import BigIntegerField, Count, F, QuerySet, Sum
from django.db.models.fields.json import KeyTextTransform, KeyTransform
from django.db.models.functions import Cast, Coalesce
from django.http import HttpRequest

from governance.calls.models import Call
from governance.console.access import access_of
from governance.console.display import short_usd
from governance.console.savings_rows import LAYER_TEXTS
from governance.core.clock import utcnow
from governance.core.ids import id_floor
from governance.core.money import format_usd

WINDOWS = {"1h": timedelta(hours=1), "24h": timedelta(hours=24), "7d": timedelta(days=7)}
WORDS = {"1h": "the last hour", "24h": "the last 24 hours", "7d": "the last 7 days"}
ROWS_MAX = 20
_BASELINE = Coalesce("baseline_nanos", "cost_nanos")  # where nothing was compared, nothing was saved


def savings_context(request: HttpRequest) -> dict[str, Any]:
    """What templates/console/savings.html names, for the person who asks."""
    chosen = request.GET.get("window", "24h")
    window = chosen if chosen in WINDOWS else "24h"
    floor = id_floor(int((utcnow() - WINDOWS[window]).timestamp() * 1000))
    calls = access_of(request).visible(Call.objects.filter(pk__gte=floor))
    sums = calls.aggregate(
        calls=Count("pk"),
        baseline=Coalesce(Sum(_BASELINE), 0, output_field=BigIntegerField()),
        cost=Coalesce(Sum("cost_nanos"), 0, output_field=BigIntegerField()),
        **{layer: Sum(saved_by(layer)) for layer in LAYER_TEXTS},
    )
    baseline, cost = int(sums["baseline"]), int(sums["cost"])
    return {
        "window": window,
        "words": WORDS[window],
        "windows": [(name, WORDS[name].removeprefix("the ")) for name in WINDOWS],
        "calls": sums["calls"],
        "baseline": short_usd(baseline),
        "cost": short_usd(cost),
        "saved": short_usd(baseline - cost),
        "saved_percent": percent(baseline - cost, baseline),
        "exact": {"baseline": format_usd(baseline), "cost": format_usd(cost)},
        "layers": [_layer(layer, int(sums[layer]), baseline) for layer in LAYER_TEXTS if sums[layer]],
        "rules": list(_rules(calls)),
    }


def saved_by(layer: str) -> Any:
    return Cast(KeyTextTransform(layer, KeyTransform("savings", "decision")), BigIntegerField())


def _layer(layer: str, saved_nanos: int, baseline_nanos: int) -> dict[str, Any]:
    return {
        "words": LAYER_TEXTS[layer],
        "saved": f"{'−' if saved_nanos >= 0 else '+'} {format_usd(abs(saved_nanos))}",
        "percent": percent(saved_nanos, baseline_nanos),
        "width": max(0, min(100, saved_nanos * 100 // baseline_nanos)) if baseline_nanos else 0,
    }


def _rules(calls: "QuerySet[Any]") -> Iterable[dict[str, Any]]:
    """Of each rule that chose something; what it saved is of the calls that it chose for, by all layers."""
    found = (
        calls.exclude(rule=None)
        .values("rule")
        .annotate(count=Count("pk"), baseline=Sum(_BASELINE), cost=Sum("cost_nanos"))
        .order_by(F("baseline") - F("cost"))
        .reverse()[:ROWS_MAX]
    )
    for row in found:
        baseline, cost = int(row["baseline"] or 0), int(row["cost"])
        yield {
            "rule": row["rule"],
            "calls": row["count"],
            "cost": format_usd(cost),
            "saved": format_usd(baseline - cost) if baseline else "—",
            "percent": percent(baseline - cost, baseline),
        }


def percent(part: int, whole: int) -> str:
    """“12.3 %”, rounded down; “—” of nothing."""
    return f"{part * 1000 // whole / 10:.1f} %" if whole > 0 else "—"
