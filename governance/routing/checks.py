"""What a policy means: whatever cannot be, or cannot be meant. Pure; the names that there are come as Known.

A problem keeps a policy from being published; a warning does not.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from governance.routing import action_checks, thinking_checks
from governance.routing.action_checks import Finding, Path, wrong
from governance.routing.document import Actions, Between, Keywords, Match, Policy, Rule, TimeOfDay
from governance.routing.known import Known
from governance.routing.overtaken import overtaken
from governance.routing.problems import Problem, in_order
from governance.routing.words import pattern_of

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
ENDINGS_MAX: Final = 4
"""Of other keywords that one ends in, as “interest rate” in “rate”: each costs wherever it is found."""
_PLAIN_RULE = Rule(name="plain", then=Actions())


class Lines(Protocol):
    """Where in the text something stands: yaml_tree.Tree."""

    def line_of(self, *path: str | int) -> int: ...


class Findings(msgspec.Struct, frozen=True):
    """In the order of the lines."""

    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def check(policy: Policy, lines: Lines, known: Known) -> Findings:
    """Every problem and warning, each with its line."""
    found = [*_tiers(policy, known), *_names(policy), *_order(policy), *_endings(policy), *overtaken(policy)]
    found += _characters(msgspec.to_builtins(policy), ())
    for index, rule in enumerate(policy.rules):
        place: Path = ("rules", index)
        found += _rule(rule, place)
        found += _match(rule.when, (*place, "when"), known)
        if rule.unless is not None:
            found += _match(rule.unless, (*place, "unless"), known)
        found += action_checks.check(rule.then, (*place, "then"), known, policy.tiers)
        found += thinking_checks.check(rule, place, known, policy.tiers)
    problems = [Problem(lines.line_of(*each.path), each.sentence) for each in found if not each.is_warning]
    warnings = [Problem(lines.line_of(*each.path), each.sentence) for each in found if each.is_warning]
    return Findings(in_order(problems), in_order(warnings))


def _characters(value: object, place: Path) -> Iterator[Finding]:
    """Texts go into headers, logs and rows, where NUL and its like do harm; half a surrogate is no text."""
    if isinstance(value, str):
        is_name = place[-1:] == ("name",)
        if _CONTROL.search(value) or (is_name and not value.isprintable()):
            field = next(part for part in reversed(place) if isinstance(part, str))
            yield wrong(place, f"`{field}` has a control character in it; remove it.")
    elif isinstance(value, dict):
        for name, inner in value.items():
            if _CONTROL.search(name):
                yield wrong(place, "A field's name has a control character in it; remove it.")
            else:
                yield from _characters(inner, (*place, name))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _characters(inner, (*place, index))


def _tiers(policy: Policy, known: Known) -> Iterator[Finding]:
    for tier, name in policy.tiers.items():
        yield from action_checks.model(name, ("tiers", tier), known)


def _names(policy: Policy) -> Iterator[Finding]:
    names = Counter(rule.name for rule in policy.rules)
    first: set[str] = set()
    for index, rule in enumerate(policy.rules):
        if names[rule.name] > 1 and rule.name in first:
            sentence = f"Another rule is named “{rule.name}” too; a call's record could not tell them apart."
            yield wrong(("rules", index, "name"), sentence)
        first.add(rule.name)


def _order(policy: Policy) -> Iterator[Finding]:
    ending = None
    for index, rule in enumerate(policy.rules):
        if ending is not None:
            sentence = f"This rule is never reached: “{ending}” is final and holds for every call."
            yield wrong(("rules", index), sentence)
        elif rule.final and not rule.shadow and rule.when == Match() and rule.unless is None:
            ending = rule.name


def _rule(rule: Rule, place: Path) -> Iterator[Finding]:
    if rule.then == _PLAIN_RULE.then and not rule.final:
        yield wrong((*place, "then"), "This rule does nothing: say what under `then:`.")
    if rule.unless is not None and len(rule.unless.has) > 1:
        sentence = (
            "`has` under `unless:` takes away only calls that have all of these; `has_any` takes away those "
            "that have one."
        )
        yield Finding((*place, "unless", "has"), sentence, True)
    if rule.unless == Match():
        yield wrong(
            (*place, "unless"),
            "An empty `unless:` matches every call, so the rule never applies; leave it out.",
        )
    elif rule.unless is not None and rule.unless == rule.when:
        yield wrong((*place, "unless"), "`unless:` takes away all that `when:` matches.")


def _match(match: Match, place: Path, known: Known) -> Iterator[Finding]:
    spans = {"words": match.words, "bytes": match.bytes, "budget_used": match.budget_used}
    for name, span in spans.items():
        if span is not None:
            yield from _between(span, (*place, name), name)
    if match.keywords is not None:
        yield from _keywords(match.keywords, (*place, "keywords"))
    if match.time is not None:
        yield from _time(match.time, (*place, "time"))
    for tag, values in match.tags.items():
        if values == ():
            sentence = f'“{tag}” has no value, so no call matches; "*" stands for any.'
            yield wrong((*place, "tags", tag), sentence)
    for index, name in enumerate(match.models):
        if known.models is not None and known.model(name) is None:
            yield wrong((*place, "models", index), action_checks.no_such_model(name, known))
    yield from _known_names(match.keys, (*place, "keys"), known.keys, "key has the public id")
    yield from _known_names(match.teams, (*place, "teams"), known.teams, "team has the slug or id")


def _known_names(names: Iterable[str], place: Path, known: object, what: str) -> Iterator[Finding]:
    if known is None:
        return
    assert isinstance(known, set | frozenset | dict | list | tuple)
    for index, name in enumerate(names):
        if name not in known:
            yield wrong((*place, index), f"No {what} “{name}”.")


def _between(span: Between, place: Path, name: str) -> Iterator[Finding]:
    least, most = span.at_least, span.at_most
    if least is None and most is None:
        yield wrong(place, f"`{name}` needs `at_least` or `at_most`.")
    elif least is not None and most is not None and least > most:
        yield wrong((*place, "at_least"), f"No number is at least {least:,} and at most {most:,}.")


def _keywords(wanted: Keywords, place: Path) -> Iterator[Finding]:
    if not wanted.any and not wanted.all:
        yield wrong(place, "`keywords` needs words under `any` or `all`.")
    for name, texts in (("any", wanted.any), ("all", wanted.all)):
        for index, text in enumerate(texts):
            at = (*place, name, index)
            words = pattern_of(text).decode().split()
            if not words:
                yield wrong(at, f"“{text}” has neither letters nor digits, and those are what is looked for.")
            elif words != text.casefold().split():
                sentence = f"Letters and digits count only: “{text}” is looked for as “{' '.join(words)}”."
                yield Finding(at, sentence, True)


def _endings(policy: Policy) -> Iterator[Finding]:
    placed: dict[bytes, tuple[Path, str]] = {}
    for index, rule in enumerate(policy.rules):
        for side, match in (("when", rule.when), ("unless", rule.unless)):
            wanted = None if match is None else match.keywords
            for name, texts in () if wanted is None else (("any", wanted.any), ("all", wanted.all)):
                for at, text in enumerate(texts):
                    place: Path = ("rules", index, side, "keywords", name, at)
                    placed.setdefault(pattern_of(text), (place, text))
    for pattern, (place, text) in placed.items():
        if sum(pattern[start:] in placed for start in range(1, len(pattern))) > ENDINGS_MAX:
            sentence = (
                f"“{text}” ends in more than {ENDINGS_MAX} other keywords of this policy, all of which are "
                "found wherever it is; leave the longest out."
            )
            yield wrong(place, sentence)


def _time(time: TimeOfDay, place: Path) -> Iterator[Finding]:
    try:
        ZoneInfo(time.zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        sentence = f"There is no time zone “{time.zone}”; write one such as Europe/Berlin or UTC."
        yield wrong((*place, "zone"), sentence)
    if time.from_ == time.to:
        yield wrong((*place, "from"), f"From {time.from_} to {time.to} is no time at all; leave out `time`.")
