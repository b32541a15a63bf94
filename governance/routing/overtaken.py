"""Actions that never count, because an earlier rule of the same kind matches whatever theirs does. Part of
checks.py. Only what is plain from the text: a rule that asks the same or less."""

from collections.abc import Iterator

from governance.routing.action_checks import Finding
from governance.routing.document import Actions, Between, Match, Policy, Rule

_ANY_OF = frozenset({"keys", "teams", "end_users", "models", "tiers", "has_any", "latency"})
_FIRST_COUNTS = (
    "route", "fallbacks", "on_exhausted", "thinking", "stop_sequences", "cache", "prompt_cache", "history",
    "concise", "system", "json_output", "timeout_seconds", "answer",
)  # fmt: skip


def overtaken(policy: Policy) -> Iterator[Finding]:
    """A warning for each rule with actions that an earlier one takes from it."""
    live = [(index, rule) for index, rule in enumerate(policy.rules) if not rule.shadow]
    for place, (index, rule) in enumerate(live):
        for _, earlier in live[:place]:
            why = _why_not(earlier, rule) if covers(earlier, rule) else None
            if why is not None:
                sentence = f"{why}: “{earlier.name}” stands before and matches whatever this rule matches."
                yield Finding(("rules", index), sentence, True)
                break


def covers(wide: Rule, narrow: Rule) -> bool:
    """Does the one match whatever the other does? Where that is not plain, no."""
    return wide.unless in (None, narrow.unless) and all(
        _covers(name, getattr(wide.when, name), getattr(narrow.when, name))
        for name in Match.__struct_fields__
    )


def _covers(name: str, wide: object, narrow: object) -> bool:
    if wide == getattr(Match(), name) or wide == narrow:
        return True
    if isinstance(wide, Between) and isinstance(narrow, Between):
        return (wide.at_least or 0) <= (narrow.at_least or 0) and (
            wide.at_most is None or (narrow.at_most is not None and narrow.at_most <= wide.at_most)
        )
    if isinstance(wide, dict) and isinstance(narrow, dict):
        return wide.items() <= narrow.items()
    if isinstance(wide, tuple) and isinstance(narrow, tuple) and narrow:
        return set(narrow) <= set(wide) if name in _ANY_OF else name == "has" and set(wide) <= set(narrow)
    return False


def _why_not(earlier: Rule, rule: Rule) -> str | None:
    """Of `deny` and of caps not only the first counts."""
    first, later = earlier.then, rule.then
    if earlier.final:
        return None if earlier.when == Match() else "This rule is never reached"  # else it is a problem
    if first.deny is not None:
        return "Its calls are denied"
    done = [name for name in _FIRST_COUNTS if getattr(later, name) not in (None, ())]
    lost = [f"`{name}`" for name in done if first.answer is not None or _surely(first, name)]
    limits, before = later.max_tokens, first.max_tokens
    if limits is not None and limits.set is not None and before is not None and before.set is not None:
        lost.append("`max_tokens.set`")
    return f"Its {', '.join(lost)} never counts" if lost else None


def _surely(actions: Actions, name: str) -> bool:
    """A system text with captures adds nothing to a message that does not have them."""
    value = getattr(actions, name)
    return value not in (None, ()) and not (name == "system" and actions.system and actions.system.captures)
