"""What a rule does, compiled: each action by its kind, with its value and what is said of it.

Of a kind the first action counts, the rule's own order and that of the policies being the order. Caps are the
exception, the smallest of which counts, and denials, any of which denies.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from governance.routing import heuristic
from governance.routing.capabilities import DEFAULT_TIERS, TIERS
from governance.routing.captures import Captures
from governance.routing.document import (
    Actions,
    Cascade,
    Classify,
    PromptCache,
    RouteTo,
    SystemText,
    Target,
    Tier,
)
from governance.routing.route import Classifier, Ladder, Route, SystemPrompt
from governance.routing.terms import Call

CONCISE: Final = (
    "Answer concisely: give the result first, leave out preambles, repetitions and closing remarks."
)
"""The instruction where a rule says `concise: true`."""

Kind = Literal[
    "model",
    "fallbacks",
    "on_exhausted",
    "max_tokens_cap",
    "max_tokens_set",
    "thinking",
    "stop_sequences",
    "cache",
    "prompt_cache",
    "history",
    "concise",
    "system",
    "json_output",
    "timeout_seconds",
    "answer",
    "deny",
]


class Action(msgspec.Struct, frozen=True):
    """`fields`: what it sets in the Route. `said`: what the call's record and the preview say."""

    kind: Kind
    said: str
    fields: Mapping[str, object]


class Heuristic(msgspec.Struct, frozen=True):
    """The built-in rule: the model is known only when the message is there."""

    models: Mapping[Tier, str]
    upwards: bool
    kind: Kind = "model"

    def resolved(self, call: Call) -> Action:
        requested = call.tier
        if requested is None:
            return self._as_asked(f"{call.facts.model} stays, because its tier is not known")
        choice = heuristic.choose(call.words)
        tier = choice.tier if self.upwards else heuristic.at_most(choice.tier, requested)
        if tier == requested:
            return self._as_asked(f"{call.facts.model} stays: {choice.why}")
        return Action(
            self.kind, f"{self.models[tier]} by heuristic: {choice.why}", {"model": self.models[tier]}
        )

    def _as_asked(self, said: str) -> Action:
        return Action(self.kind, said, {"model": None})


class Filled(msgspec.Struct, frozen=True):
    """A system text with captures: it is an action only for messages in which they are all found."""

    captures: Captures
    replaces: bool
    kind: Kind = "system"

    def resolved(self, call: Call) -> Action | None:
        text = self.captures.fill(call.facts.text)
        return None if text is None else _system(text, self.replaces)


type Compiled = Action | Heuristic | Filled


def tier_models(policies: Iterable[Mapping[Tier, str]]) -> dict[Tier, str]:
    """What each tier means, asked of the policies from the most specific on."""
    chain = list(policies)
    return {
        tier: next((tiers[tier] for tiers in chain if tier in tiers), DEFAULT_TIERS[tier]) for tier in TIERS
    }


def compile_actions(actions: Actions, models: Mapping[Tier, str]) -> tuple[Compiled, ...]:
    """`models`: what the tiers mean to this rule's policy. The document has passed checks.py."""
    return (
        *_refusals(actions),
        *_routing(actions, models),
        *_limits(actions),
        *_caches(actions),
        *_rewrites(actions, models),
    )


def route_of(fields: Mapping[str, object], **others: object) -> Route:
    """A Route with these fields."""
    return Route(**fields, **others)  # type: ignore[arg-type]


def _refusals(actions: Actions) -> Iterable[Compiled]:
    if actions.deny is not None:
        yield Action("deny", "deny", {"deny": actions.deny})
    if actions.answer is not None:
        yield Action("answer", "template answer", {"answer": actions.answer.text})


def _routing(actions: Actions, models: Mapping[Tier, str]) -> Iterable[Compiled]:
    if actions.route is not None:
        yield _route(actions.route, models)
    if actions.fallbacks:
        names = tuple(_named(target, models) for target in actions.fallbacks)
        yield Action("fallbacks", f"fallbacks {', '.join(names)}", {"fallbacks": names})
    if actions.on_exhausted is not None:
        name = _named(actions.on_exhausted, models)
        yield Action("on_exhausted", f"{name} where the budget is short", {"on_exhausted": name})


def _route(route: RouteTo, models: Mapping[Tier, str]) -> Compiled:
    if route.heuristic:
        return Heuristic(models, route.upwards)
    if route.classify is not None:
        classifier = _classifier(route.classify, models)
        return Action("model", f"ask {classifier.by} how hard it is", {"classify": classifier})
    if route.cascade is not None:
        ladder = _ladder(route.cascade, models)
        unsure = route.cascade.confidence
        when = (
            "if a check fails"
            if unsure is None
            else f"if a check fails or it is under {unsure.at_least} % sure"
        )
        return Action("model", f"{ladder.first}, then {ladder.then} {when}", {"cascade": ladder})
    name = _named(Target(tier=route.tier, model=route.model), models)
    return Action("model", name, {"model": name})


def _classifier(terms: Classify, models: Mapping[Tier, str]) -> Classifier:
    labels = {"simple": terms.simple, "complex": terms.complex, "edge": terms.edge}
    return Classifier(
        by=_named(terms.by, models),
        models={label: _named(target, models) for label, target in labels.items() if target is not None},
        otherwise=None if terms.otherwise is None else _named(terms.otherwise, models),
        timeout_ms=terms.timeout_ms,
        remember_seconds=terms.remember_seconds,
        terms=terms,
    )


def _ladder(terms: Cascade, models: Mapping[Tier, str]) -> Ladder:
    return Ladder(_named(terms.first, models), _named(terms.then, models), terms)


def _limits(actions: Actions) -> Iterable[Compiled]:
    limits = actions.max_tokens
    if limits is not None and limits.cap is not None:
        yield Action("max_tokens_cap", f"max_tokens at most {limits.cap:,}", {"max_tokens_cap": limits.cap})
    if limits is not None and limits.set is not None:
        yield Action("max_tokens_set", f"max_tokens {limits.set:,}", {"max_tokens_set": limits.set})
    if actions.thinking is not None:
        yield Action("thinking", "no thinking", {"thinking_off": True})
    if actions.stop_sequences:
        stops = actions.stop_sequences
        yield Action("stop_sequences", f"{len(stops)} stop sequences", {"stop_sequences": stops})
    if actions.timeout_seconds is not None:
        seconds = actions.timeout_seconds
        yield Action("timeout_seconds", f"at most {seconds} s upstream", {"timeout_seconds": seconds})


def _caches(actions: Actions) -> Iterable[Compiled]:
    if actions.cache is not None:
        cache = actions.cache
        yield Action("cache", f"answers kept for {cache.ttl_seconds:,} s by {cache.scope}", {"cache": cache})
    added = actions.prompt_cache
    if added is False:  # takes the place of what a less specific policy would add
        yield Action("prompt_cache", "no prompt cache added", {"prompt_cache": None})
    elif added is not None:
        terms = PromptCache() if added is True else added
        yield Action("prompt_cache", f"prompt cache of {terms.ttl} where it pays", {"prompt_cache": terms})


def _rewrites(actions: Actions, models: Mapping[Tier, str]) -> Iterable[Compiled]:
    if actions.history is not None:
        history = actions.history
        by = models["haiku"] if history.summarise else None
        said = f"history of about {history.keep_messages} messages{f', summed up by {by}' if by else ''}"
        yield Action("history", said, {"history": history, "summarise_by": by})
    if actions.concise is False:
        yield Action("concise", "no concise instruction", {"concise": None})
    elif actions.concise is not None:
        text = CONCISE if actions.concise is True else actions.concise
        yield Action("concise", "concise instruction", {"concise": text})
    if actions.system is not None:
        yield _system_text(actions.system)
    if actions.json_output is not None:
        yield Action("json_output", "JSON output", {"json_output": actions.json_output})


def _system_text(terms: SystemText) -> Compiled:
    replaces = terms.mode == "replace"
    if terms.captures:
        return Filled(Captures(terms.text, terms.captures), replaces)
    return _system(terms.text, replaces)


def _system(text: str, replaces: bool) -> Action:
    said = "another system prompt" if replaces else "more system prompt"
    return Action("system", said, {"system": SystemPrompt(text, replaces)})


def _named(target: Target, models: Mapping[Tier, str]) -> str:
    if target.model is not None:
        return target.model
    assert target.tier is not None, "checks.py refuses a target without a tier and a model"
    return models[target.tier]
