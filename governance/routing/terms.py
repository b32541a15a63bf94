"""The terms of a match, compiled: one small test each, and what the preview says of it.

The router and the preview use the very same tests, so that the preview cannot tell another story.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from zoneinfo import ZoneInfo

from governance.pricing.rates import ModelFacts
from governance.routing import facts as asked
from governance.routing.capabilities import TIERS, tier_of
from governance.routing.document import Between, Match, Tier, TimeOfDay
from governance.routing.facts import CallFacts
from governance.routing.words import Search, Words, patterns_of

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Names:
    """What names in a policy stand for: models and their aliases, teams' slugs, keys and their rotations."""

    def __init__(
        self,
        models: Iterable[ModelFacts],
        team_ids: Mapping[str, int],
        rotations: Iterable[Collection[str]] = (),
    ) -> None:
        self._models = {name: model for model in models for name in (model.model_id, *model.aliases)}
        self._team_ids = team_ids
        self._rotations = {public_id: frozenset(group) for group in rotations for public_id in group}
        self._tiers = {name: tier_of(model) for name, model in self._models.items()}

    def all_names(self, name: str) -> frozenset[str]:
        """Every name of the model that `name` names; itself alone where it is unknown."""
        model = self._models.get(name)
        return frozenset([name] if model is None else [model.model_id, *model.aliases])

    def is_known(self, name: str) -> bool:
        return name in self._models

    def are_same(self, name: str, other: str) -> bool:
        """Do both name one model?"""
        model = self._models.get(name)
        return name == other or (model is not None and model is self._models.get(other))

    def tier(self, name: str) -> Tier | None:
        return self._tiers.get(name)

    def is_cheaper(self, name: str, other: str) -> bool:
        """Is it of a cheaper tier? Models whose tier is not known are not."""
        tier, than = self._tiers.get(name), self._tiers.get(other)
        return tier is not None and than is not None and TIERS.index(tier) < TIERS.index(than)

    def of_tiers(self, tiers: Iterable[Tier]) -> frozenset[str]:
        """Every name of every model of these tiers."""
        wanted = set(tiers)
        return frozenset(name for name, tier in self._tiers.items() if tier in wanted)

    def team_id(self, name: str) -> int | None:
        """A team's slug, or its id in digits; None for neither."""
        team_id = self._team_ids.get(name)
        return int(name) if team_id is None and name.isascii() and name.isdigit() else team_id

    def of_keys(self, public_ids: Iterable[str]) -> frozenset[str]:
        """These and whatever they were rotated from or to."""
        own = frozenset(public_ids)
        return own.union(*(self._rotations.get(public_id, ()) for public_id in own))


class Call:
    """A call while its rules are looked at: its facts, and what is worked out of them once."""

    __slots__ = ("_local_times", "_names", "_search", "facts", "said")

    def __init__(self, facts: CallFacts, names: Names, search: Search) -> None:
        self.facts = facts
        self._names = names
        self._search = search
        self.said: Words | None = None
        self._local_times: dict[ZoneInfo, tuple[int, int]] = {}

    @property
    def tier(self) -> Tier | None:
        """Of the model that was asked for."""
        return self._names.tier(self.facts.model)

    @property
    def words(self) -> Words:
        """Of the message; read when the first test asks for them, and kept in `said`."""
        if self.said is None:
            self.said = self._search.words(self.facts.text, self.facts.text_characters)
        return self.said

    def local_time(self, zone: ZoneInfo) -> tuple[int, int]:
        """(day of the week from Monday, minute of the day) on the clocks of that zone."""
        found = self._local_times.get(zone)
        if found is None:
            local = self.facts.now.astimezone(zone)
            found = self._local_times[zone] = (local.weekday(), local.hour * 60 + local.minute)
        return found


type Test = Callable[[Call], bool]


class Term:
    """One field of a match.

    wanted, actual  for people     asks      the dear fact that it needs, if any
    cost            orders the tests of a rule, cheapest first
    keywords        patterns that have to be looked for in the message for it
    models          the names of models for which it holds, where it is about nothing but the model
    """

    __slots__ = ("actual", "asks", "cost", "field", "keywords", "models", "test", "wanted")

    def __init__(
        self,
        field: str,
        wanted: str,
        test: Test,
        actual: Callable[[Call], str],
        *,
        asks: str | None = None,
        cost: int = 0,
        keywords: frozenset[bytes] = frozenset(),
        models: frozenset[str] | None = None,
    ) -> None:
        self.field, self.wanted, self.test, self.actual = field, wanted, test, actual
        self.asks, self.cost, self.keywords, self.models = asks, cost, keywords, models


def compile_match(match: Match, names: Names) -> tuple[Term, ...]:
    """The terms in the order of the document's fields; () for a match that asks nothing."""
    return (
        *_identity(match, names),
        *_size(match),
        *_keywords(match),
        *_shape(match),
        *_circumstances(match),
    )


def _identity(match: Match, names: Names) -> Iterable[Term]:
    for name, values in match.tags.items():
        yield _tag(name, (values,) if isinstance(values, str) else tuple(values))
    if match.keys:
        keys = names.of_keys(match.keys)
        yield Term(
            "keys",
            _one_of(match.keys),
            lambda call: call.facts.key_public_id in keys,
            lambda call: call.facts.key_public_id,
        )
    if match.teams:
        teams = frozenset(names.team_id(name) for name in match.teams) - {None}
        yield Term(
            "teams",
            _one_of(match.teams),
            lambda call: call.facts.team_id in teams,
            lambda call: "no team" if call.facts.team_id is None else f"team {call.facts.team_id}",
        )
    if match.end_users:
        users = frozenset(match.end_users)
        yield Term(
            "end_users",
            _one_of(match.end_users),
            lambda call: call.facts.end_user in users,
            lambda call: "not named" if call.facts.end_user is None else call.facts.end_user,
            asks=asked.END_USER,
        )
    if match.models:
        models = frozenset(other for name in match.models for other in names.all_names(name))
        yield Term(
            "models",
            _one_of(match.models),
            lambda call: call.facts.model in models,
            lambda call: call.facts.model,
            models=models,
        )
    if match.tiers:
        of_tiers = names.of_tiers(match.tiers)
        yield Term(
            "tiers",
            _one_of(match.tiers),
            lambda call: call.facts.model in of_tiers,
            lambda call: call.tier or f"{call.facts.model}, whose tier is not known",
            models=of_tiers,
        )


def _tag(name: str, values: tuple[str, ...]) -> Term:
    def actual(call: Call) -> str:
        return call.facts.tags.get(name, "not there")

    if "*" in values:
        return Term(f"tags.{name}", "any value", lambda call: name in call.facts.tags, actual)
    if len(values) == 1:
        (value,) = values
        return Term(f"tags.{name}", value, lambda call: call.facts.tags.get(name) == value, actual)
    some = frozenset(values)
    return Term(f"tags.{name}", _one_of(values), lambda call: call.facts.tags.get(name) in some, actual)


def _size(match: Match) -> Iterable[Term]:
    if match.words is not None:
        within = _within(match.words)
        yield Term(
            "words",
            _range(match.words),
            lambda call: within((call.said or call.words).count),
            lambda call: f"{call.words.count:,}",
            asks=asked.TEXT,
            cost=3,
        )
    if match.bytes is not None:
        fits = _within(match.bytes)
        yield Term(
            "bytes",
            _range(match.bytes),
            lambda call: fits(call.facts.body_bytes),
            lambda call: f"{call.facts.body_bytes:,}",
        )


def _keywords(match: Match) -> Iterable[Term]:
    if match.keywords is None:
        return
    some, every = patterns_of(match.keywords.any), patterns_of(match.keywords.all)
    any_of, all_of = frozenset(some), frozenset(every)
    if some:
        yield Term(
            "keywords.any",
            _one_of(match.keywords.any),
            lambda call: not any_of.isdisjoint((call.said or call.words).found),
            _found_among(some),
            asks=asked.TEXT,
            cost=4,
            keywords=any_of,
        )
    if every:
        yield Term(
            "keywords.all",
            _all_of(match.keywords.all),
            lambda call: all_of <= (call.said or call.words).found,
            _found_among(every),
            asks=asked.TEXT,
            cost=4,
            keywords=all_of,
        )


def _found_among(wanted: Mapping[bytes, str]) -> Callable[[Call], str]:
    def actual(call: Call) -> str:
        found = [keyword for pattern, keyword in wanted.items() if pattern in call.words.found]
        return f"found {', '.join(found)}" if found else "none found"

    return actual


def _shape(match: Match) -> Iterable[Term]:
    if match.has:
        features = frozenset(match.has)
        yield Term(
            "has",
            _all_of(match.has),
            lambda call: features <= call.facts.features,
            lambda call: ", ".join(sorted(call.facts.features)) or "none of these",
            asks=asked.FEATURES,
            cost=1,
        )
    if match.has_any:
        some = frozenset(match.has_any)
        yield Term(
            "has_any",
            _one_of(match.has_any),
            lambda call: not some.isdisjoint(call.facts.features),
            lambda call: ", ".join(sorted(call.facts.features)) or "none of these",
            asks=asked.FEATURES,
            cost=1,
        )
    if match.stream is not None:
        stream = match.stream
        yield Term(
            "stream",
            _yes(stream),
            lambda call: call.facts.stream is stream,
            lambda call: _yes(call.facts.stream),
        )
    if match.turn is not None:
        first = match.turn == "first"
        yield Term(
            "turn",
            match.turn,
            lambda call: call.facts.first_turn is first,
            lambda call: "first" if call.facts.first_turn else "later",
            asks=asked.TURN,
        )


def _circumstances(match: Match) -> Iterable[Term]:
    if match.time is not None:
        yield _time(match.time)
    if match.budget_used is not None:
        within = _within(match.budget_used)

        def in_budget(call: Call) -> bool:
            used = call.facts.budget_used_percent
            return used is not None and within(used)

        yield Term(
            "budget_used",
            _range(match.budget_used, " %"),
            in_budget,
            lambda call: (
                "no hard budget covers the call"
                if call.facts.budget_used_percent is None
                else f"{call.facts.budget_used_percent} %"
            ),
            asks=asked.BUDGET_USED,
            cost=1,
        )
    if match.latency:
        classes = frozenset(match.latency)
        yield Term(
            "latency",
            _one_of(match.latency),
            lambda call: call.facts.latency in classes,
            lambda call: call.facts.latency,
        )


def _time(time: TimeOfDay) -> Term:
    zone = ZoneInfo(time.zone)
    begins, ends = minutes(time.from_), minutes(time.to)
    days = frozenset(_DAYS.index(day) for day in time.days) or frozenset(range(7))

    def within(call: Call) -> bool:
        day, minute = call.local_time(zone)
        if begins < ends:
            return begins <= minute < ends and day in days
        return (minute >= begins and day in days) or (minute < ends and (day - 1) % 7 in days)

    def actual(call: Call) -> str:
        day, minute = call.local_time(zone)
        return f"{_DAYS[day]} {minute // 60:02}:{minute % 60:02} in {time.zone}"

    on = f" on {_one_of(time.days)}" if time.days else ""
    return Term("time", f"{time.from_} to {time.to} in {time.zone}{on}", within, actual, cost=2)


def minutes(clock: str) -> int:
    """“06:30” → 390; “24:00” → 1440."""
    return int(clock[:2]) * 60 + int(clock[3:])


def _within(span: Between) -> Callable[[int], bool]:
    least, most = span.at_least, span.at_most
    if least is None:
        return (lambda value: value <= most) if most is not None else (lambda value: True)
    if most is None:
        return lambda value: value >= least
    return lambda value: least <= value <= most


def _range(span: Between, unit: str = "") -> str:
    ends = []
    if span.at_least is not None:
        ends.append(f"≥ {span.at_least:,}")
    if span.at_most is not None:
        ends.append(f"≤ {span.at_most:,}")
    return " and ".join(ends) + unit if ends else "anything"


def _one_of(values: Iterable[str]) -> str:
    return " or ".join(values)


def _all_of(values: Iterable[str]) -> str:
    return " and ".join(values)


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
