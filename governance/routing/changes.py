"""What is different between two versions of a policy: in words, by rule, and line by line."""

import difflib
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

DIFFERENCES_SAID_MAX = 4
DIFF_LINES_MAX = 300
TEXT_SAID_MAX = 60


class HasSource(Protocol):
    """A version, or a draft that stands for one."""

    @property
    def number(self) -> int: ...

    @property
    def source(self) -> str: ...


def changed_rules(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> list[str]:
    """Sentences about the rules that came, went or changed, from two documents (document.Policy as JSON)."""
    old, new = _rules(before or {"rules": []}), _rules(after)
    words = [f"New rule: {name}" for name in new if name not in old]
    words += [f"Gone: {name}" for name in old if name not in new]
    words += [
        f"Changed: {name}: {_differences(old[name], new[name])}"
        for name in new
        if name in old and new[name] != old[name]
    ]
    kept_before, kept_after = [n for n in old if n in new], [n for n in new if n in old]
    if kept_before != kept_after:
        words.append("The rules stand in another order, and the first that fits counts")
    if before is not None:
        words += _settings(before, after)
    return words


def _settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    words = []
    old, new = before.get("tiers") or {}, after.get("tiers") or {}
    for tier in sorted(old.keys() | new.keys()):
        if old.get(tier) != new.get(tier):
            words.append(f"The tier {tier} means {new.get(tier, 'the usual model')} now")
    if before.get("sticky", True) != after.get("sticky", True):
        stays = "stays on its model" if after.get("sticky", True) else "may change its model on the way"
        words.append(f"A conversation {stays}")
    return words


def _differences(old: Any, new: Any) -> str:
    """“when.words.at_most 80 → 120; then.cache is gone”; the first few of many."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    paths = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    said = [
        f"{path} {_short(before[path])} → {_short(after[path])}"
        if path in before and path in after
        else f"{path} {_short(after[path]) + ' is new' if path in after else 'is gone'}"
        for path in paths[:DIFFERENCES_SAID_MAX]
    ]
    more = len(paths) - len(said)
    return "; ".join(said) + (f"; and {more} more" if more else "")


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Whatever is no object, by its path; what is not set is left out."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    elif value is not None and value != []:
        yield path, value


def _short(value: Any) -> str:
    if isinstance(value, list):
        return _short(", ".join(_short(item) for item in value))
    text = str(value).lower() if isinstance(value, bool) else " ".join(str(value).split())
    return text if len(text) <= TEXT_SAID_MAX else f"{text[: TEXT_SAID_MAX - 1]}…"


def _rules(document: Mapping[str, Any]) -> dict[str, Any]:
    """By name; a name that comes twice with the second's number."""
    named: dict[str, Any] = {}
    for number, rule in enumerate(document["rules"], start=1):
        name = rule["name"] if rule["name"] not in named else f"{rule['name']} (rule {number})"
        named[name] = rule
    return named


def line_diff(before: HasSource | None, after: HasSource) -> str:
    """A unified diff, as `diff -u` writes it, of DIFF_LINES_MAX at most; every line is new without a version
    before."""
    lines = difflib.unified_diff(
        before.source.splitlines() if before else [],
        after.source.splitlines(),
        f"version {before.number}" if before else "nothing",
        f"version {after.number}",
        lineterm="",
    )
    shown = list(islice(lines, DIFF_LINES_MAX + 1))
    if len(shown) > DIFF_LINES_MAX:
        shown[-1] = "… the rest is on the policy's page"
    return "\n".join(shown)
