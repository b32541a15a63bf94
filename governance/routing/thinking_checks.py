"""What a policy asks of models that think without being told to: warnings. Part of checks.py.

Thinking counts towards max_tokens, whether its text is shown or not.
"""

from collections.abc import Iterator

from governance.pricing.rates import ModelFacts
from governance.routing.action_checks import Finding, Path, Tiers
from governance.routing.capabilities import (
    THINKING_ROOM_TOKENS,
    capabilities_of,
    is_retired,
    least_thinking,
    tier_of,
)
from governance.routing.document import Rule, Target
from governance.routing.known import Known


def check(rule: Rule, place: Path, known: Known, tiers: Tiers) -> Iterator[Finding]:
    """`place` is the rule's; `tiers` are the policy's own."""
    limits, route = rule.then.max_tokens, rule.then.route
    if limits is not None:
        for name, limit in (("cap", limits.cap), ("set", limits.set)):
            if limit is not None and limit < THINKING_ROOM_TOKENS:
                yield from _short(rule, limit, (*place, "then", "max_tokens", name), known, tiers)
    if route is not None and route.classify is not None:
        path = (*place, "then", "route", "classify", "by")
        yield from _asked(route.classify.by, "what is simple", path, known, tiers)
    if route is not None and route.cascade is not None and route.cascade.confidence is not None:
        path = (*place, "then", "route", "cascade", "confidence")
        yield from _asked(route.cascade.first, "how sure it is", path, known, tiers)


def _short(rule: Rule, limit: int, path: Path, known: Known, tiers: Tiers) -> Iterator[Finding]:
    for model in _reached(rule, known, tiers):
        takes = capabilities_of(model)
        is_off = rule.then.thinking is not None and takes is not None and least_thinking(takes) is not None
        if takes is not None and takes.thinks_unasked and not is_off:
            sentence = (
                f"{model.model_id} thinks unasked, and that counts: max_tokens of {limit:,} may leave "
                f"nothing for the answer. Allow {THINKING_ROOM_TOKENS:,} at least."
            )
            yield Finding(path, sentence, True)
            return


def _reached(rule: Rule, known: Known, tiers: Tiers) -> Iterator[ModelFacts]:
    """The models that the rule's calls may go to: where it sends them, else what they may ask for."""
    route, when = rule.then.route, rule.when
    chosen = None if route is None else known.target(Target(tier=route.tier, model=route.model), tiers)
    names = [chosen] if chosen is not None else [known.model_id(name) for name in when.models]
    for name, model in (known.models or {}).items():
        if name != model.model_id or is_retired(model, known.today):
            continue
        if name in names or (not names and (not when.tiers or tier_of(model) in when.tiers)):
            yield model


def _asked(target: Target, what: str, path: Path, known: Known, tiers: Tiers) -> Iterator[Finding]:
    model = known.model(known.target(target, tiers) or "")
    takes = None if model is None else capabilities_of(model)
    if model is not None and takes is not None and least_thinking(takes) is None:
        sentence = (
            f"{model.model_id} always thinks: to say {what} it gets {THINKING_ROOM_TOKENS:,} tokens more, "
            "and may say it after `timeout_ms`."
        )
        yield Finding(path, sentence, True)
