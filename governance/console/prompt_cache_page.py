"""What marking prompts for the prompt cache paid and saved, prefix by prefix, and what keeps prompts from it:
from the decisions on the newest calls (gateway/prompt_caching.py writes them)."""

import re
from collections import Counter, defaultdict
from datetime import timedelta
from typing import Any

from governance.calls.models import Call
from governance.console.access import Access
from governance.console.display import short_usd
from governance.core.clock import utcnow
from governance.core.ids import id_floor
from tenants.models import ApiKey

WITHIN = timedelta(hours=24)
CALLS_READ_MAX = 5_000
REASONS_SHOWN = 20
PREFIXES_SHOWN = 50
_ABOUT = "prompt-cache: "
_COUNTS = re.compile(r" in \d+ of \d+ calls$")


def prompt_cache_context(access: Access) -> dict[str, Any]:
    """What templates/console/prompt_cache.html names, for the person who asks."""
    floor = id_floor(int((utcnow() - WITHIN).timestamp() * 1000))
    reached = access.visible(Call.objects.filter(pk__gte=floor, decision__has_key="policy"))
    calls = list(
        reached.order_by("-pk").only("id", "key_id", "served_model", "tags", "decision")[:CALLS_READ_MAX]
    )
    keys = ApiKey.objects.filter(pk__in={call.key_id for call in calls}).in_bulk()
    by_prefix: defaultdict[str, list[Call]] = defaultdict(list)
    reasons: Counter[str] = Counter()
    newest: dict[str, Call] = {}
    for call in calls:
        figures = call.decision.get("prompt_cache")
        if isinstance(figures, dict):
            by_prefix[figures["prefix"]].append(call)
        for reason in call.decision["policy"].get("not_done", ()):
            if reason.startswith(_ABOUT):
                words = _COUNTS.sub("", reason.removeprefix(_ABOUT))
                reasons[words] += 1
                newest.setdefault(words, call)
    rows = [_row(prefix, group, keys) for prefix, group in by_prefix.items()]
    rows.sort(key=lambda row: row["net_nanos"], reverse=True)
    return {
        "prefixes": rows[:PREFIXES_SHOWN],
        "total": short_usd(sum(row["net_nanos"] for row in rows)),
        "reasons": [
            {"words": words, "count": f"{count:,}", "pk": newest[words].pk}
            for words, count in reasons.most_common(REASONS_SHOWN)
        ],
        "calls": f"{len(calls):,}",
        "is_part": len(calls) == CALLS_READ_MAX,
    }


def _row(prefix: str, calls: list[Call], keys: dict[int, ApiKey]) -> dict[str, Any]:
    figures = [call.decision["prompt_cache"] for call in calls]
    read, written, premium, saved = (
        sum(each[name] for each in figures)
        for name in ("read_tokens", "written_tokens", "premium_nanos", "saved_nanos")
    )
    hits = sum(each["read_tokens"] > 0 for each in figures)
    newest = calls[0]
    names = {keys[call.key_id].name for call in calls if call.key_id in keys}
    return {
        "prefix": prefix,
        "pk": newest.pk,
        "model": newest.served_model or "—",
        "key": names.pop() if len(names) == 1 else f"{len(names)} keys",
        "endpoint": newest.tags.get("endpoint", ""),
        "calls": f"{len(calls):,}",
        "hit_percent": f"{100 * hits // len(calls)} %",
        "read": f"{read:,}",
        "written": f"{written:,}",
        "premium": short_usd(premium),
        "saved": short_usd(saved),
        "net": short_usd(saved - premium),
        "net_nanos": saved - premium,
    }
