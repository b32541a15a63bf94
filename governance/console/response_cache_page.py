"""What the response cache found, missed and saved: by rule, key and day, from the rows of calls."""

from collections.abc import Iterable
from typing import Any

from django.db.models import BigIntegerField, Count, Q, QuerySet, Sum
from django.db.models.fields.json import KeyTextTransform, KeyTransform
from django.db.models.functions import Cast, Coalesce, TruncDate
from django.http import HttpRequest

from governance.calls.models import Call
from governance.console.access import access_of
from governance.console.cache_words import REMEDIES
from governance.console.display import short_usd
from governance.console.rule_sums import by_rule
from governance.console.savings_page import WINDOWS, WORDS, percent, saved_by
from governance.core.clock import utcnow
from governance.core.ids import id_floor
from governance.core.money import format_usd
from tenants.models import ApiKey

ROWS_MAX = 20
_FIGURES: dict[str, Any] = {
    "hits": Count("pk", filter=Q(cache="hit")),
    "misses": Count("pk", filter=Q(cache="miss")),
    "bypassed": Count("pk", filter=Q(cache="bypass")),
    "saved": Coalesce(Sum(saved_by("response_cache"), filter=Q(cache="hit")), 0),
}


def response_cache_context(request: HttpRequest) -> dict[str, Any]:
    """What templates/console/response_cache.html names, for the person who asks."""
    access = access_of(request)
    chosen = request.GET.get("window", "24h")
    window = chosen if chosen in WINDOWS else "24h"
    floor = id_floor(int((utcnow() - WINDOWS[window]).timestamp() * 1000))
    calls = access.visible(Call.objects.filter(pk__gte=floor, cache__in=("hit", "miss", "bypass")))
    sums = calls.aggregate(**_FIGURES)
    by_key = list(_grouped(calls, "key_id"))
    names = dict(ApiKey.objects.filter(pk__in=[row["of"] for row in by_key]).values_list("pk", "name"))
    return {
        "window": window,
        "words": WORDS[window],
        "windows": [(name, WORDS[name].removeprefix("the ")) for name in WINDOWS],
        "total": _row(sums),
        "saved": short_usd(int(sums["saved"])),
        "groups": [
            ("By rule", "Rule", _rules(calls)),
            ("By API key", "API key", [{**row, "of": names.get(row["of"], "—")} for row in by_key]),
            ("By day", "Day, UTC", list(_grouped(calls.annotate(day=TruncDate("at")), "day", newest=True))),
        ],
        "not_kept": list(_not_kept(calls)),
        "may_purge": access.manages_something,
    }


def _grouped(calls: "QuerySet[Any]", by: str, *, newest: bool = False) -> Iterable[dict[str, Any]]:
    """Where most was saved first, or the newest."""
    found = calls.values(by).annotate(**_FIGURES).order_by(f"-{by}" if newest else "-saved", by)[:ROWS_MAX]
    return [{"of": row[by], **_row(row)} for row in found]


def _rules(calls: "QuerySet[Any]") -> list[dict[str, Any]]:
    """Of each rule that has `cache`, which need not be the one that chose the model."""
    of = KeyTransform("response_cache", "decision")
    found = calls.values(
        cache_rule=KeyTextTransform("rule", of),
        version=Cast(KeyTextTransform("version", of), BigIntegerField()),
    ).annotate(**_FIGURES)
    sums = by_rule(({**row, "rule": row["cache_rule"]} for row in found), _FIGURES)
    sums.sort(key=lambda row: (-row["saved"], row["rule"] or ""))
    return [{"of": row["rule"] or "—", "in": row["policy"], **_row(row)} for row in sums[:ROWS_MAX]]


def _not_kept(calls: "QuerySet[Any]") -> Iterable[dict[str, Any]]:
    """Why answers were not kept, the most frequent reason first."""
    why = KeyTextTransform("not_kept", KeyTransform("response_cache", "decision"))
    found = calls.annotate(why=why).exclude(why=None).values("why").annotate(calls=Count("pk"))
    for row in found.order_by("-calls", "why")[:ROWS_MAX]:
        yield {**row, "remedy": REMEDIES.get(row["why"], "")}


def _row(row: dict[str, Any]) -> dict[str, Any]:
    looked_up = row["hits"] + row["misses"]
    return {
        "hits": row["hits"],
        "misses": row["misses"],
        "bypassed": row["bypassed"],
        "rate": percent(row["hits"], looked_up),
        "saved": format_usd(int(row["saved"])),
    }
