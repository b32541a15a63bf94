"""What the policy pages show: what is wrong with the draft, versions, and the difference between two."""

import difflib
from dataclasses import dataclass
from typing import Any

from django.urls import reverse

from governance.console.display import when
from governance.routing.changes import HasSource, changed_rules
from governance.routing.drafts import check_draft
from governance.routing.models import PolicyVersion, RoutingPolicy
from governance.routing.naming import known_of

VERSIONS_SHOWN = 200
CONTEXT_LINES = 3


@dataclass(frozen=True, slots=True)
class Draft:
    """The draft as something to compare a version with."""

    source: str
    number: int = 0


def page_context(policy: RoutingPolicy, *, may_change: bool) -> dict[str, Any]:
    """Above and beneath the form (templates/console/policy_top.html, policy_versions.html)."""
    known, live = known_of(policy), policy.live
    checked = check_draft(policy.draft, known)
    differs = live is not None and live.source != policy.draft
    return {
        "checked": checked,
        "draft_differs": differs,
        "live_checked": check_draft(live.source, known) if live and differs else None,
        "live": live,
        "versions": version_rows(policy, may_change=may_change)[:10],
        "urls": urls_of(policy),
    }


def urls_of(policy: RoutingPolicy) -> dict[str, str]:
    change = reverse("admin:routing_routingpolicy_change", args=[policy.pk])
    names = ("publish", "roll-back", "versions", "preview", "switch")
    return {"change": change, **{n.replace("-", "_"): change.replace("/change/", f"/{n}/") for n in names}}


def version_page(version: PolicyVersion) -> str:
    """The page with the whole text of a version."""
    page = reverse("admin:routing_routingpolicy_change", args=[version.policy_id])
    return f"{page.replace('/change/', '/versions/')}?before=0&after={version.number}"


def version_rows(policy: RoutingPolicy, *, may_change: bool) -> list[dict[str, Any]]:
    """Newest first."""
    versions = list(PolicyVersion.objects.filter(policy=policy).defer("document")[:VERSIONS_SHOWN])
    urls = urls_of(policy)
    return [
        {
            "version": version,
            "when": when(version.published_at),
            "is_live": version.pk == policy.live_id,
            "diff_url": f"{urls['versions']}?before={version.number - 1}&after={version.number}",
            "roll_back_url": f"{urls['roll_back']}?number={version.number}" if may_change else "",
        }
        for version in versions
    ]


def compared(policy: RoutingPolicy, before: str, after: str) -> dict[str, Any]:
    """The difference between two of "3" (a version), "draft" and "0" (nothing); the newest step unless
    told. Names that there are not stand for nothing."""
    rows = PolicyVersion.objects.filter(policy=policy)
    numbers = [str(number) for number in rows.values_list("number", flat=True)]
    chosen_after = after if after in numbers or after == "draft" else next(iter(numbers), "draft")
    if before not in numbers and before not in ("draft", "0"):
        before = str(int(chosen_after) - 1) if chosen_after != "draft" else next(iter(numbers), "0")
    wanted = [int(name) for name in (before, chosen_after) if name in numbers]
    versions = {str(version.number): version for version in rows.filter(number__in=wanted)}
    sources: dict[str, HasSource] = {**versions, "draft": Draft(policy.draft)}
    old, new = versions.get(before), sources[chosen_after]
    return {
        "choices": [("draft", "Draft"), *((n, f"Version {n}") for n in numbers), ("0", "Nothing")],
        "before": before,
        "after": chosen_after,
        "rows": diff_rows(sources.get(before), new),
        "words": changed_rules(old.document if old else None, new.document)
        if isinstance(new, PolicyVersion)
        else [],
    }


def diff_rows(before: HasSource | None, after: HasSource) -> list[dict[str, Any]]:
    """Lines of both with their numbers: kind is "same", "gone", "new" or "skip" (lines that are equal)."""
    old, new = before.source.splitlines() if before else [], after.source.splitlines()
    rows: list[dict[str, Any]] = []
    for group in difflib.SequenceMatcher(None, old, new).get_grouped_opcodes(CONTEXT_LINES):
        if rows or group[0][1] > 0:
            rows.append({"kind": "skip", "old": "", "new": "", "text": "…"})
        for tag, old_from, old_to, new_from, new_to in group:
            if tag == "equal":
                rows += [
                    {"kind": "same", "old": a + 1, "new": b + 1, "text": old[a]}
                    for a, b in zip(range(old_from, old_to), range(new_from, new_to), strict=True)
                ]
                continue
            rows += [
                {"kind": "gone", "old": n + 1, "new": "", "text": old[n]} for n in range(old_from, old_to)
            ]
            rows += [
                {"kind": "new", "old": "", "new": n + 1, "text": new[n]} for n in range(new_from, new_to)
            ]
    return rows
