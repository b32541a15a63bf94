"""What a call saved, and what its policies made of it, in words: from the call's own row."""

from typing import Any

from governance.calls.models import Call
from governance.console.policy_page import version_page
from governance.core.money import format_usd
from governance.routing.models import PolicyVersion

LAYER_TEXTS = {
    "client_cache": "Prompt cache, as the client asked",
    "response_cache": "Answered from the response cache",
    "trimming": "Shorter prompt",
    "routing": "Another model",
    "prompt_cache": "Prompt cache, breakpoints added",
    "overhead": "Classifier, summaries, answers not used",
}
"""gateway/savings.py's layers, in the order of the path."""

CLIENTS_OWN = "client_cache"
"""The layer that is none of our doing."""


def savings_rows(call: Call) -> list[dict[str, str]]:
    """One row per layer that made a difference; they add up to the baseline less the cost."""
    layers = call.decision.get("savings")
    if not isinstance(layers, dict) or call.baseline_nanos is None:
        return []
    return [
        {"layer": words, "change": f"{'−' if layers[name] >= 0 else '+'} {format_usd(abs(layers[name]))}"}
        for name, words in LAYER_TEXTS.items()
        if name in layers
    ]


def policy_words(call: Call) -> dict[str, Any] | None:
    """Which rules matched, what was rewritten, what was not done; None where no policy reached the call."""
    policy = call.decision.get("policy")
    if not isinstance(policy, dict):
        return None
    return {
        "why": policy.get("why", ""),
        "applied": _with_pages(policy.get("applied", [])),
        "rewrites": policy.get("rewrites", []),
        "not_done": policy.get("not_done", []),
    }


def _with_pages(applied: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each rule with the page of the version that it is of, as far as the tenant scope reaches."""
    wanted = {row["version"] for row in applied if row.get("version")}
    versions = {
        version.pk: version
        for version in PolicyVersion.objects.filter(pk__in=wanted).only("number", "policy_id")
    }
    return [
        {**row, "page": version_page(versions[row["version"]])} if row.get("version") in versions else row
        for row in applied
    ]
