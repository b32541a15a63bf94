"""The recorded shape of a request in words; calls/request_facts.py says what the short names mean."""

from collections.abc import Mapping
from typing import Any

SECTIONS = {
    "sys": "System prompt",
    "tool": "Tool definitions",
    "hist": "Earlier messages",
    "last": "Last message",
    "res": "Tool results",
    "doc": "Documents",
    "img": "Images",
}
COUNTS = {
    "msg": "Messages",
    "tool": "Tool definitions",
    "call": "Tool calls",
    "res": "Tool results",
    "img": "Images",
    "doc": "Documents",
    "bp5": "Cache breakpoints, 5 minutes",
    "bp1": "Cache breakpoints, 1 hour",
}
SETTINGS = {
    "max": "max_tokens",
    "stop": "Stop sequences",
    "fmt": "Output format",
    "think": "Thinking",
    "budget": "Thinking budget",
    "effort": "Effort",
}


def describe(facts: Mapping[str, Any]) -> dict[str, list[tuple[Any, ...]]]:
    """`sections`: (name, bytes, words); `figures`: (name, value). Both empty for a call without facts."""
    sizes, words, counts = facts.get("bytes", {}), facts.get("words", {}), facts.get("n", {})
    sections = [(text, sizes[name], words.get(name, 0)) for name, text in SECTIONS.items() if name in sizes]
    figures = [(text, counts[name]) for name, text in COUNTS.items() if name in counts]
    figures += [(text, facts[name]) for name, text in SETTINGS.items() if name in facts]
    figures += [(f"Keywords “{name}”", hits) for name, hits in sorted(facts.get("kw", {}).items())]
    return {"sections": sections, "figures": figures}
