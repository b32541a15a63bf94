"""document.py read word for word, without a thought to speed: what the router is held against."""

import unicodedata
from collections.abc import Sequence
from zoneinfo import ZoneInfo

from governance.routing.capabilities import DEFAULT_TIERS
from governance.routing.document import Between, Match, Policy, Rule, TimeOfDay
from governance.routing.facts import CallFacts
from tests.routing.making import TEAM_IDS
from tests.routing.models import BY_NAME

DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


def rules_that_match(policies: Sequence[Policy], facts: CallFacts) -> list[tuple[int, Rule]]:
    found = []
    for number, policy in enumerate(policies, 1):
        for rule in policy.rules:
            if matches(rule.when, facts) and not (rule.unless is not None and matches(rule.unless, facts)):
                found.append((number, rule))
                if rule.final and not rule.shadow:
                    break
    return found


def outcome(policies: Sequence[Policy], facts: CallFacts) -> dict[str, object]:
    """model, deny, cap, cache and the rule's name, as the docstring says."""
    matched = [(number, rule) for number, rule in rules_that_match(policies, facts) if not rule.shadow]
    denials = [rule.then.deny for _, rule in matched if rule.then.deny is not None]
    if denials:
        return {"deny": denials[0], "model": None, "max_tokens_cap": None, "cache": None}
    routes = [(number, rule) for number, rule in matched if rule.then.route is not None]
    caches = [rule.then.cache for _, rule in matched if rule.then.cache is not None]
    limits = [rule.then.max_tokens.cap for _, rule in matched if rule.then.max_tokens is not None]
    caps = [cap for cap in limits if cap is not None]
    model = None
    if routes:
        model = meant(policies, *routes[0])
        if degrades(routes[0][1]):
            others = [(number, rule) for number, rule in routes if not degrades(rule)]
            would = meant(policies, *others[0]) if others else facts.model
            model = would if is_cheaper(would, model) else model
    return {
        "deny": None,
        "model": None if model is not None and same(model, facts.model) else model,
        "max_tokens_cap": min(caps, default=None),
        "cache": caches[0] if caches else None,
    }


def meant(policies: Sequence[Policy], number: int, rule: Rule) -> str:
    """The model that the rule of that policy names."""
    route = rule.then.route
    assert route is not None
    if route.tier is None:
        assert route.model is not None
        return route.model
    meanings = [policy.tiers[route.tier] for policy in policies[number - 1 :] if route.tier in policy.tiers]
    return [*meanings, DEFAULT_TIERS[route.tier]][0]


def degrades(rule: Rule) -> bool:
    return rule.when.budget_used is not None and rule.when.budget_used.at_least is not None


def is_cheaper(name: str, other: str) -> bool:
    order = ["haiku", "sonnet", "opus", "fable"]
    tiers = [tier_named(each) for each in (name, other)]
    return None not in tiers and order.index(str(tiers[0])) < order.index(str(tiers[1]))


def tier_named(name: str) -> str | None:
    model = BY_NAME.get(name)
    return {"mythos": "fable"}.get(model.family, model.family) if model else None


def matches(match: Match, facts: CallFacts) -> bool:
    words = words_of(facts.text)
    tier = tier_named(facts.model)
    wants = match.keywords
    return all(
        [
            all(tagged(facts, name, values) for name, values in match.tags.items()),
            not match.keys or facts.key_public_id in match.keys,
            not match.teams or facts.team_id in [TEAM_IDS.get(team) for team in match.teams],
            not match.end_users or facts.end_user in match.end_users,
            not match.models or any(same(name, facts.model) for name in match.models),
            not match.tiers or tier in match.tiers,
            within(match.words, len(words)),
            within(match.bytes, facts.body_bytes),
            wants is None or not wants.any or any(said(keyword, words) for keyword in wants.any),
            wants is None or all(said(keyword, words) for keyword in wants.all),
            set(match.has) <= facts.features,
            not match.has_any or bool(set(match.has_any) & facts.features),
            match.stream is None or match.stream == facts.stream,
            match.turn is None or (match.turn == "first") == facts.first_turn,
            match.time is None or in_time(match.time, facts),
            match.budget_used is None
            or (
                facts.budget_used_percent is not None and within(match.budget_used, facts.budget_used_percent)
            ),
            not match.latency or facts.latency in match.latency,
        ]
    )


def same(name: str, other: str) -> bool:
    return name == other or (name in BY_NAME and BY_NAME[name] is BY_NAME.get(other))


def tagged(facts: CallFacts, name: str, values: str | tuple[str, ...]) -> bool:
    allowed = [values] if isinstance(values, str) else values
    return name in facts.tags and ("*" in allowed or facts.tags[name] in allowed)


def words_of(text: str) -> list[str]:
    """Character by character: letters with their marks, digits and _."""
    folded = text.casefold().replace("i\u0307", "i")
    return "".join([char if is_in_word(char) else " " for char in folded]).split()


def is_in_word(char: str) -> bool:
    is_mark = unicodedata.category(char) in ("Mn", "Mc") and char not in map(chr, range(0xFE00, 0xFE10))
    return char == "_" or char.isalnum() or is_mark


def said(keyword: str, words: list[str]) -> bool:
    wanted = words_of(keyword)
    return any(words[start : start + len(wanted)] == wanted for start in range(len(words)))


def within(span: Between | None, value: int) -> bool:
    if span is None:
        return True
    return (span.at_least is None or value >= span.at_least) and (
        span.at_most is None or value <= span.at_most
    )


def in_time(time: TimeOfDay, facts: CallFacts) -> bool:
    """Minute by minute from when the span begins: is it now?"""
    local = facts.now.astimezone(ZoneInfo(time.zone))
    now = local.hour * 60 + local.minute
    begins, ends = (int(clock[:2]) * 60 + int(clock[3:]) for clock in (time.from_, time.to))
    days = time.days or DAYS
    today, yesterday = DAYS[local.weekday()], DAYS[local.weekday() - 1]
    if begins < ends:
        return today in days and now in range(begins, ends)
    return (today in days and now in range(begins, 1440)) or (yesterday in days and now in range(0, ends))
