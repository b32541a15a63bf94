"""A published rule, compiled: its match as tests with the cheapest first, what it does, what it asks for."""

from collections.abc import Mapping, Sequence

import msgspec

from governance.routing import facts as asked
from governance.routing.actions import Filled, Heuristic, compile_actions
from governance.routing.document import Policy, Rule, Tier
from governance.routing.terms import Call, Names, Term, Test, compile_match


class CompiledInput(msgspec.Struct, frozen=True):
    """One published policy as it goes into a router."""

    policy_id: int
    version_id: int
    policy: Policy


class CompiledRule:
    """A rule ready to be asked. `signals` is its whole match as a phrase."""

    __slots__ = (
        "actions",
        "asks",
        "degrades",
        "denies_models",
        "deny",
        "ends_policy",
        "has_captures",
        "models",
        "name",
        "policy_id",
        "said",
        "shadow",
        "signals",
        "terms",
        "tests",
        "unless",
        "unless_terms",
        "unless_tests",
        "uses_heuristic",
        "version_id",
    )

    def __init__(self, rule: Rule, source: CompiledInput, names: Names, models: Mapping[Tier, str]) -> None:
        self.name = rule.name
        self.policy_id, self.version_id = source.policy_id, source.version_id
        self.shadow = rule.shadow
        self.ends_policy = rule.final and not rule.shadow
        self.terms = compile_match(rule.when, names)
        self.unless_terms = compile_match(rule.unless, names) if rule.unless is not None else ()
        self.unless = rule.unless is not None
        of_models = [term.models for term in self.terms if term.models is not None]
        self.models = frozenset.intersection(*of_models) if of_models else None
        self.tests = _cheapest_first([term for term in self.terms if term.models is None])
        self.unless_tests = _cheapest_first(self.unless_terms)
        self.actions = compile_actions(rule.then, models)
        self.has_captures = any(isinstance(action, Filled) for action in self.actions)
        self.deny = rule.then.deny
        self.degrades = rule.when.budget_used is not None and rule.when.budget_used.at_least is not None
        terms = (*self.terms, *self.unless_terms)
        self.denies_models = self.deny is not None and any(term.models is not None for term in terms)
        self.uses_heuristic = any(isinstance(action, Heuristic) for action in self.actions)
        self.asks = self._asks()
        self.signals = ", ".join(
            [
                *(f"{term.field} {term.wanted}" for term in self.terms),
                *(f"not {term.field} {term.wanted}" for term in self.unless_terms),
            ]
        )

    def is_excepted(self, call: Call) -> bool:
        """Does `unless` match?"""
        return all(test(call) for test in self.unless_tests)

    def _asks(self) -> frozenset[str]:
        found = {term.asks for term in (*self.terms, *self.unless_terms) if term.asks is not None}
        if self.has_captures or self.uses_heuristic:
            found.add(asked.TEXT)
        return frozenset(found)


def _cheapest_first(terms: Sequence[Term]) -> tuple[Test, ...]:
    return tuple([term.test for term in sorted(terms, key=lambda term: term.cost)])
