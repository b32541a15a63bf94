"""What policies and caches saved: layer by layer, rule by rule, from the rows of calls.

“As asked” is what the calls would have cost without us: the clients' own prompt caching is off it already,
and told apart. An answer of a policy's own is counted and has no price: nobody knows how long Claude's would
have been.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.db.models import BigIntegerField, Count, F, Q, QuerySet, Sum
from django.db.models.fields.json import KeyTextTransform, KeyTransform
from django.db.models.functions import Cast, Coalesce
from django.http import HttpRequest

from governance.calls.models import Call
from governance.console.access import access_of
from governance.console.display import short_usd
from governance.console.rule_sums import by_rule
from governance.console.savings_rows import CLIENTS_OWN, LAYER_TEXTS
from governance.core.clock import utcnow
from governance.core.ids import id_floor
from governance.core.money import format_usd

WINDOWS = {"1h": timedelta(hours=1), "24h": timedelta(hours=24), "7d": timedelta(days=7)}
WORDS = {"1h": "the last hour", "24h": "the last 24 hours", "7d": "the last 7 days"}
ROWS_MAX = 20
TEMPLATE = "template_answer"
"""The reason of a call that a policy answered by itself."""
_BASELINE = Coalesce("baseline_nanos", "cost_nanos")  # where nothing was compared, nothing was saved


def savings_context(request: HttpRequest) -> dict[str, Any]:
    """What templates/console/savings.html names, for the person who asks."""
    chosen = request.GET.get("window", "24h")
    window = chosen if chosen in WINDOWS else "24h"
    floor = id_floor(int((utcnow() - WINDOWS[window]).timestamp() * 1000))
    calls = access_of(request).visible(Call.objects.filter(pk__gte=floor))
    sums = calls.aggregate(
        calls=Count("pk"),
        templates=Count("pk", filter=Q(reason=TEMPLATE)),
        baseline=Coalesce(Sum(_BASELINE), 0, output_field=BigIntegerField()),
        cost=Coalesce(Sum("cost_nanos"), 0, output_field=BigIntegerField()),
        **{layer: Sum(saved_by(layer)) for layer in LAYER_TEXTS},
    )
    clients_own, cost = int(sums[CLIENTS_OWN] or 0), int(sums["cost"])
    as_asked = int(sums["baseline"]) - clients_own
    ours = [layer for layer in LAYER_TEXTS if sums[layer] and layer != CLIENTS_OWN]
    return {
        "window": window,
        "words": WORDS[window],
        "windows": [(name, WORDS[name].removeprefix("the ")) for name in WINDOWS],
        "calls": sums["calls"],
        "templates": sums["templates"],
        "as_asked": short_usd(as_asked),
        "cost": short_usd(cost),
        "saved": short_usd(as_asked - cost),
        "saved_percent": percent(as_asked - cost, as_asked),
        "exact": {"as_asked": format_usd(as_asked), "cost": format_usd(cost)},
        "layers": [_layer(layer, int(sums[layer]), as_asked) for layer in ours],
        "clients_own": format_usd(clients_own) if clients_own else None,
        "rules": list(_rules(calls)),
    }


def saved_by(layer: str) -> Any:
    return Cast(KeyTextTransform(layer, KeyTransform("savings", "decision")), BigIntegerField())


def _layer(layer: str, saved_nanos: int, as_asked_nanos: int) -> dict[str, Any]:
    return {
        "words": LAYER_TEXTS[layer],
        "saved": f"{'−' if saved_nanos >= 0 else '+'} {format_usd(abs(saved_nanos))}",
        "percent": percent(saved_nanos, as_asked_nanos),
        "width": max(0, min(100, saved_nanos * 100 // as_asked_nanos)) if as_asked_nanos else 0,
    }


def _rules(calls: "QuerySet[Any]") -> Iterable[dict[str, Any]]:
    """Of each rule that chose something; what it saved is of the calls that it chose for, by all layers."""
    found = (
        calls.exclude(rule=None)
        .values("rule", version=F("policy_version"))
        .annotate(
            calls=Count("pk"),
            templates=Count("pk", filter=Q(reason=TEMPLATE)),
            as_asked=Sum(_BASELINE) - Coalesce(Sum(saved_by(CLIENTS_OWN)), 0),
            cost=Sum("cost_nanos"),
        )
    )
    sums = by_rule(found, ("calls", "templates", "as_asked", "cost"))
    sums.sort(key=lambda row: (row["cost"] - row["as_asked"], row["rule"]))
    for row in sums[:ROWS_MAX]:
        as_asked, cost = row["as_asked"], row["cost"]
        yield {
            **row,
            "cost": format_usd(cost),
            "saved": format_usd(as_asked - cost) if as_asked else "—",
            "percent": percent(as_asked - cost, as_asked),
        }


def percent(part: int, whole: int) -> str:
    """“12.3 %”, rounded down; “—” of nothing."""
    return f"{part * 1000 // whole / 10:.1f} %" if whole > 0 else "—"
