"""The rules that reach one key, compiled; facts in, a Route out. No I/O, no looking up, no state.

Policies are asked from the most specific on: the key's, the team's, the tenant's. Of a kind of action the
first one counts, so that a key's rule goes before its tenant's; but a denial of any of them denies, and the
smallest cap holds, so that no team undoes what its tenant forbids. `final` ends its own policy and no other.
A rule that saves because a budget is used up (`degrades`) sends no call to a dearer tier than it would go to
without it.

    router = compile_router(policies, models=book.models, team_ids={"research": 7})
    if asked.TEXT in router.asks: …                # what has to be found out for it
    route = router.route(CallFacts(…))
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, get_args

import msgspec

from governance.pricing.rates import ModelFacts
from governance.routing import heuristic
from governance.routing.actions import Action, Kind, route_of, tier_models
from governance.routing.facts import CallFacts
from governance.routing.route import AS_ASKED, Applied, Ladder, Route
from governance.routing.rules import CompiledInput, CompiledRule
from governance.routing.terms import Call, Names, Test
from governance.routing.words import search_for

ROUTES_REMEMBERED_MAX: Final = 512
"""Per router: what it made of the rules that matched, so that it is put together once."""


_MODELS: Final = ("model", "fallbacks", "on_exhausted")
"""Kinds of actions that name models to which a call may go."""
_ASKING: Final = (*_MODELS, "history")
"""And that which may have a model asked for a summary."""
_FORBIDDING: Final = frozenset({"deny", "max_tokens_cap"})
"""Kinds that hold for a call that wants no routing."""
_STAYING: Final = frozenset(get_args(Kind)) - {"model"}


type Kinds = frozenset[str]
type Counted = tuple[CompiledRule, Action]
type Counts = dict[str, Counted]
type Step = tuple[Test, tuple[Test, ...], CompiledRule]
type Program = tuple[Step, ...]


def _step(rule: CompiledRule) -> Step:
    """The rule with its first test, the others, and itself."""
    first, *more = rule.tests or (_always,)
    return first, tuple(more), rule


class Router:
    """Made by `compile_router`, for any number of keys that the same policies reach."""

    __slots__ = (
        "_as_asked",
        "_chooser",
        "_denies_models",
        "_named_models",
        "_names",
        "_programs",
        "_routes",
        "_search",
        "asks",
        "changes_models",
        "chooses_models",
        "denies_models",
        "policies",
    )

    def __init__(self, policies: Sequence[tuple[CompiledRule, ...]], names: Names, *, sticky: bool) -> None:
        self.policies = tuple(policies)
        self._programs: dict[str, tuple[Program, ...]] = {}
        rules = [rule for rules in policies for rule in rules]
        self.asks: frozenset[str] = frozenset().union(*(rule.asks for rule in rules))
        self._chooser = next(
            (rules[0].policy_id for rules in policies if any(map(_names_models, rules))), None
        )
        self.changes_models = self._chooser is not None
        self.chooses_models = any(action.kind == "model" for rule in rules for action in rule.actions)
        self._names = names
        self._named_models = frozenset().union(*(rule.models for rule in rules if rule.models is not None))
        self._routes: dict[tuple[object, ...], Route] = {}
        self._search = search_for(frozenset().union(*(_keywords(rule) for rule in rules)))
        self._denies_models = [any(rule.denies_models for rule in rules) for rules in policies]
        self.denies_models = any(self._denies_models[1:])
        self._as_asked = AS_ASKED if sticky else Route(sticky=False)

    def route(self, facts: CallFacts) -> Route:
        """What becomes of the call."""
        call = self.call(facts)
        matched = self._matched(call)
        return self._remembered(call, matched) if matched else self._as_asked

    def staying(self, facts: CallFacts) -> Route:
        """The same for a turn of a conversation that stays on its model: no rule chooses another."""
        call = self.call(facts)
        return self._remembered(call, self._matched(call), _STAYING)

    def forbids(self, facts: CallFacts) -> Route:
        """What is left for a call that wants no routing: what the policies forbid."""
        call = self.call(facts)
        return self._remembered(call, self._matched(call), _FORBIDDING)

    def _matched(self, call: Call) -> list[CompiledRule]:
        facts, matched = call.facts, []
        for rules in self._programs.get(facts.model) or self._programs_for(facts.model):
            for first_test, more_tests, rule in rules:
                if not first_test(call):  # where most rules end
                    continue
                for test in more_tests:
                    if not test(call):
                        break
                else:
                    if rule.unless and rule.is_excepted(call):
                        continue
                    matched.append(rule)
                    if rule.ends_policy:
                        break
        return matched

    def denial(self, facts: CallFacts, model: str, policy_id: int | None) -> str | None:
        """Why a call may not go to a model that a rule of that policy chose: the sentence of a less specific
        policy that denies such calls. A policy's own denials are about what is asked: it may well send calls
        where they may not go by themselves. Without `policy_id`, because the model was chosen for an earlier
        call: of the most specific policy that chooses any."""
        policy_id = self._chooser if policy_id is None else policy_id
        place = next((i for i, rules in enumerate(self.policies) if rules[0].policy_id == policy_id), None)
        if place is None or not any(self._denies_models[place + 1 :]):
            return None
        call = self.call(msgspec.structs.replace(facts, model=model))
        for program in self._programs_for(model)[place + 1 :]:
            for first_test, more_tests, rule in program:
                if not first_test(call) or not all(test(call) for test in more_tests):
                    continue
                if rule.unless and rule.is_excepted(call):
                    continue
                if rule.deny is not None and not rule.shadow:
                    return rule.deny
                if rule.ends_policy:
                    break
        return None

    def _programs_for(self, model: str) -> tuple["Program", ...]:
        """The rules of each policy that can match calls of that model, with the tests that remain to be made.
        All models that no rule names are one to the rules, and remembered as one."""
        name = model if model in self._named_models else ""
        if name not in self._programs:
            self._programs[name] = tuple(
                [
                    tuple([_step(rule) for rule in rules if rule.models is None or name in rule.models])
                    for rules in self.policies
                ]
            )
        return self._programs[name]

    def _remembered(self, call: Call, matched: list["CompiledRule"], only: Kinds | None = None) -> Route:
        """The Route of these rules; the same one again for the same model and choice of the heuristic. Names
        that clients make up are not remembered: they would crowd out the others."""
        if not self._names.is_known(call.facts.model) or True in [rule.has_captures for rule in matched]:
            return self.combined(call, matched, only)
        key: tuple[object, ...] = (call.facts.model, only, *matched)
        if True in [rule.uses_heuristic for rule in matched]:
            key = (heuristic.choose(call.words), *key)
        route = self._routes.get(key)
        if route is None:
            route = self.combined(call, matched, only)
            if len(self._routes) < ROUTES_REMEMBERED_MAX:
                self._routes[key] = route
        return route

    def call(self, facts: CallFacts) -> Call:
        """The call as the rules' tests look at it."""
        return Call(facts, self._names, self._search)

    def combined(self, call: Call, matched: Sequence[CompiledRule], only: Kinds | None = None) -> Route:
        """The Route of the rules that matched, in their order; `only` of their actions of these kinds."""
        counts, shadows, otherwise = _what_counts(call, matched, only)
        chosen = counts.get("model")
        degraded, ceiling = False, None
        if chosen is not None and chosen[0].degrades:
            degraded, ceiling = True, _dearest(chosen[1])
            if ceiling is not None:
                counts["model"] = self._no_dearer(call, chosen, otherwise, ceiling)
        fields: dict[str, object] = {}
        did: dict[CompiledRule, list[str]] = {}
        for rule, action in counts.values():
            fields.update(action.fields)
            did.setdefault(rule, []).append(action.said)
        model = fields.get("model")
        if model is not None and self._names.are_same(str(model), call.facts.model):
            fields["model"] = None
        applied = tuple(
            [
                Applied(
                    rule.policy_id,
                    rule.version_id,
                    rule.name,
                    tuple(shadows[rule] if rule.shadow else did.get(rule, ())),
                    rule.shadow,
                )
                for rule in matched
            ]
        )
        chose, why = _reason(counts)
        keeps = counts.get("cache")
        return route_of(
            fields,
            applied=applied,
            rule=None if chose is None else chose.name,
            version_id=None if chose is None else chose.version_id,
            why=why,
            cache_rule=None if keeps is None else keeps[0].name,
            cache_version_id=None if keeps is None else keeps[0].version_id,
            sticky=self._as_asked.sticky,
            degraded=degraded,
            ceiling=ceiling,
            policies={kind: counts[kind][0].policy_id for kind in _ASKING if kind in counts},
        )

    def _no_dearer(self, call: Call, degrading: Counted, otherwise: Counted | None, ceiling: str) -> Counted:
        """The choice of a rule that degrades; or what the call would do without it, where that is cheaper."""
        if otherwise is not None:
            if "model" not in otherwise[1].fields:  # who knows before a classifier was asked?
                return degrading
            would = otherwise[1].fields["model"] or call.facts.model
            return otherwise if self._names.is_cheaper(str(would), ceiling) else degrading
        if not self._names.is_cheaper(call.facts.model, ceiling):
            return degrading
        said = f"{call.facts.model} stays, which is cheaper than {ceiling}"
        return degrading[0], Action("model", said, {"model": None})

    def may_stay(self, route: Route, model: str) -> bool:
        """May a conversation stay on that model, for all that the budgets say?"""
        if not route.degraded:
            return True
        ceiling = route.ceiling
        return ceiling is not None and (
            self._names.are_same(model, ceiling) or self._names.is_cheaper(model, ceiling)
        )


def compile_router(
    policies: Sequence[CompiledInput],
    *,
    models: Iterable[ModelFacts],
    team_ids: Mapping[str, int] | None = None,
    rotations: Iterable[Collection[str]] = (),
) -> Router:
    """The router of these policies, the key's before the team's before the tenant's.

    `models` are the price book's; `team_ids` the ids of the tenant's teams by slug; `rotations` the public
    ids of its keys that are one key to budgets and policies, together. The policies must have passed
    checks.py.
    """
    names = Names(models, team_ids or {}, rotations)
    compiled = []
    for position, source in enumerate(policies):
        tiers = tier_models([later.policy.tiers for later in policies[position:]])
        compiled.append(tuple([CompiledRule(rule, source, names, tiers) for rule in source.policy.rules]))
    return Router(compiled, names, sticky=policies[0].policy.sticky if policies else True)


def _what_counts(
    call: Call, matched: Sequence[CompiledRule], only: Kinds | None
) -> tuple[Counts, dict[CompiledRule, list[str]], Counted | None]:
    """Of each kind the action that counts, with its rule, in the order of the rules; what each shadow rule
    would have done; and what would choose the model without the rules that degrade. Where the call is denied,
    nothing else counts."""
    counts: Counts = {}
    otherwise: Counted | None = None
    shadows: dict[CompiledRule, list[str]] = {}
    for rule in matched:
        would_do = shadows.setdefault(rule, []) if rule.shadow else None
        for compiled in rule.actions:
            action = compiled if isinstance(compiled, Action) else compiled.resolved(call)
            if action is None:
                continue
            if would_do is not None:
                would_do.append(action.said)
                continue
            if only is not None and action.kind not in only:
                continue
            first = counts.get(action.kind)
            if first is None or (action.kind == "max_tokens_cap" and _cap(action) < _cap(first[1])):
                counts[action.kind] = (rule, action)
            if action.kind == "model" and otherwise is None and not rule.degrades:
                otherwise = (rule, action)
    denied = counts.get("deny")
    return ({"deny": denied} if denied is not None else counts), shadows, otherwise


def _dearest(action: Action) -> str | None:
    """The dearest model that a choice may come to; None where that is not known beforehand."""
    model, ladder = action.fields.get("model"), action.fields.get("cascade")
    if isinstance(ladder, Ladder):
        return ladder.then
    return None if model is None else str(model)


def _cap(action: Action) -> int:
    cap = action.fields["max_tokens_cap"]
    assert isinstance(cap, int)
    return cap


def _reason(counts: Counts) -> tuple[CompiledRule | None, str]:
    """The rule that chose, and the sentence about it; (None, "") where only shadow rules matched."""
    for kind in ("deny", "answer", "model"):
        if kind in counts:
            break
    else:
        kind = next(iter(counts), "")
        if not kind:
            return None, ""
    rule, action = counts[kind]
    because = f" because of {rule.signals}" if rule.signals else ", which holds for every call"
    return rule, f"{action.said}: rule “{rule.name}”{because}"


def _names_models(rule: CompiledRule) -> bool:
    return any(action.kind in _MODELS for action in rule.actions)


def _always(call: Call) -> bool:
    return True


def _keywords(rule: CompiledRule) -> frozenset[bytes]:
    """What has to be looked for in a message for that rule."""
    found = frozenset().union(*(term.keywords for term in (*rule.terms, *rule.unless_terms)))
    return found | heuristic.WANTED if rule.uses_heuristic else found
