"""Why: for one call, each rule with its terms, what they wanted and what there was, and the outcome.

It asks the very tests that the router asks, so that it cannot tell another story than the call's.
"""

import msgspec

from governance.routing.facts import CallFacts
from governance.routing.route import Route
from governance.routing.router import Router
from governance.routing.rules import CompiledRule
from governance.routing.terms import Call, Term


class TermSeen(msgspec.Struct, frozen=True):
    """One field of a match: `wanted` and `actual` are for people, such as "≥ 99 %" and "2 %"."""

    field: str
    wanted: str
    actual: str
    holds: bool

    def __str__(self) -> str:
        return f"{self.field}: wanted {self.wanted}, is {self.actual}"


class RuleSeen(msgspec.Struct, frozen=True):
    """A rule as the call met it.

    terms     of `when`: all must hold
    unless    of `unless`: where all hold, the rule does not match; None where there is no `unless`
    reached   False after a final rule of the same policy
    did       its actions that count; of a shadow rule, what it would have done
    """

    policy_id: int
    version_id: int
    name: str
    shadow: bool
    reached: bool
    matched: bool
    terms: tuple[TermSeen, ...]
    unless: tuple[TermSeen, ...] | None
    did: tuple[str, ...]

    @property
    def why(self) -> str:
        """The sentence for people: what kept it from matching, or that it did."""
        if not self.reached:
            return "Not looked at: a rule before it is final."
        if self.matched:
            return "Would have matched." if self.shadow else "Matched."
        missed = [str(term) for term in self.terms if not term.holds]
        if missed:
            return f"No match: {'; '.join(missed)}."
        excepted = "; ".join(f"{term.field} is {term.actual}" for term in self.unless or ())
        return f"No match, because of its `unless`: {excepted}."


class Preview(msgspec.Struct, frozen=True):
    rules: tuple[RuleSeen, ...]
    route: Route


def preview(router: Router, facts: CallFacts) -> Preview:
    """What becomes of a call with these facts, rule by rule; whatever some rule asks for must be in them."""
    call = router.call(facts)
    route = router.route(facts)
    applied = iter(route.applied)
    rules: list[RuleSeen] = []
    for policy in router.policies:
        reached = True
        for rule in policy:
            seen = _seen(rule, call, reached=reached)
            if seen.matched:
                seen = msgspec.structs.replace(seen, did=next(applied).did)
                reached = not rule.ends_policy
            rules.append(seen)
    return Preview(tuple(rules), route)


def _seen(rule: CompiledRule, call: Call, *, reached: bool) -> RuleSeen:
    terms = _terms(rule.terms, call)
    unless = _terms(rule.unless_terms, call) if rule.unless else None
    excepted = unless is not None and all(term.holds for term in unless)
    return RuleSeen(
        policy_id=rule.policy_id,
        version_id=rule.version_id,
        name=rule.name,
        shadow=rule.shadow,
        reached=reached,
        matched=reached and all(term.holds for term in terms) and not excepted,
        terms=terms,
        unless=unless,
        did=(),
    )


def _terms(terms: tuple[Term, ...], call: Call) -> tuple[TermSeen, ...]:
    return tuple([TermSeen(term.field, term.wanted, term.actual(call), term.test(call)) for term in terms])
