"""Sums of calls, rule by rule. A rule is its name in a policy, whichever version of that was live."""

from collections.abc import Collection, Iterable
from typing import Any

from governance.routing.models import PolicyVersion


def by_rule(rows: Iterable[dict[str, Any]], figures: Collection[str]) -> list[dict[str, Any]]:
    """Each row is of a `rule` in a `version` (an id) and has the figures. Those of one rule added up, with
    the name of its `policy` as far as the tenant scope reaches."""
    rows = list(rows)
    versions = (
        PolicyVersion.objects.select_related("policy")
        .only("policy__name")
        .in_bulk({row["version"] for row in rows if row["version"] is not None})
    )
    found: dict[tuple[int | None, str | None], dict[str, Any]] = {}
    for row in rows:
        version = versions.get(row["version"])
        policy = None if version is None else version.policy
        of = (None if policy is None else policy.pk, row["rule"])
        sums = found.setdefault(of, {"rule": row["rule"], "policy": policy and policy.name})
        for name in figures:
            sums[name] = sums.get(name, 0) + int(row[name] or 0)
    return list(found.values())
