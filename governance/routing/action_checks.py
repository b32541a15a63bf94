"""What a rule's actions mean, against the models that there are. Part of checks.py."""

import difflib
import re
from collections.abc import Iterator, Mapping

import msgspec

from governance.routing.capabilities import DEFAULT_TIERS, capabilities_of, is_retired, retires_soon
from governance.routing.captures import NAMED, PLACEHOLDER
from governance.routing.document import (
    Actions,
    Cascade,
    Classify,
    MaxTokens,
    RouteTo,
    SystemText,
    Target,
    Tier,
)
from governance.routing.known import Known

type Path = tuple[str | int, ...]
type Tiers = Mapping[Tier, str]

_BRACES = re.compile(r"\{[^{}]*\}")


class Finding(msgspec.Struct, frozen=True):
    path: Path
    sentence: str
    is_warning: bool = False


def wrong(path: Path, sentence: str) -> Finding:
    return Finding(path, sentence)


def check(actions: Actions, place: Path, known: Known, tiers: Tiers) -> Iterator[Finding]:
    """`place` is that of `then`; `tiers` are the policy's own."""
    if actions.route is not None:
        yield from _route(actions.route, (*place, "route"), known, tiers)
    yield from _fallbacks(actions, place, known, tiers)
    yield from _on_exhausted(actions, place, known, tiers)
    if actions.max_tokens is not None:
        yield from _max_tokens(
            actions.max_tokens, (*place, "max_tokens"), known, _chosen(actions, known, tiers)
        )
    if actions.history is not None and actions.history.keep_messages >= actions.history.above_messages:
        sentence = "`keep_messages` is less than `above_messages`: otherwise nothing is cut."
        yield wrong((*place, "history", "keep_messages"), sentence)
    if actions.system is not None:
        yield from _system(actions.system, (*place, "system"))
    if actions.json_output is not None:
        yield from _schema(actions.json_output.schema, (*place, "json_output", "schema"))
    for index, stop in enumerate(actions.stop_sequences):
        if not stop.strip():
            yield wrong((*place, "stop_sequences", index), "A stop sequence is more than white space.")
    yield from _ends(actions, place)


def model(name: str, path: Path, known: Known) -> Iterator[Finding]:
    """Can calls be sent to the model of that name?"""
    if known.models is None:
        return
    found = known.model(name)
    if found is None:
        yield wrong(path, no_such_model(name, known))
    elif is_retired(found, known.today):
        yield wrong(path, f"{found.model_id} is retired: Claude answers it with 404. Choose another one.")
    elif capabilities_of(found) is None:
        yield wrong(path, f"It is not known what {found.model_id} takes, so no call is sent there.")
    elif retires_soon(found, known.today):
        yield Finding(
            path, f"{found.model_id} retires on {found.retires_on}. Choose another one before.", True
        )


def no_such_model(name: str, known: Known) -> str:
    names = [each for each, facts in (known.models or {}).items() if not is_retired(facts, known.today)]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = (
        f" Did you mean {close[0]}?" if close else f" There is {', '.join(sorted(DEFAULT_TIERS.values()))}."
    )
    return f"No model is named “{name[:80]}”.{hint}"


def _target(target: Target, path: Path, known: Known, tiers: Tiers) -> Iterator[Finding]:
    if (target.tier is None) == (target.model is None):
        yield wrong(path, "Name either a `tier` or a `model`.")
    elif target.model is not None:
        yield from model(target.model, (*path, "model"), known)
    elif target.tier is not None and target.tier not in tiers:
        meaning = known.tiers.get(target.tier) or DEFAULT_TIERS[target.tier]
        yield from model(meaning, (*path, "tier"), known)


def _route(route: RouteTo, place: Path, known: Known, tiers: Tiers) -> Iterator[Finding]:
    given = [
        name
        for name, value in (
            ("tier", route.tier),
            ("model", route.model),
            ("heuristic", route.heuristic or None),
            ("classify", route.classify),
            ("cascade", route.cascade),
        )
        if value is not None
    ]
    if len(given) != 1:
        said = f"not {' and '.join(given)}" if given else "of which there is none here"
        sentence = f"`route` is one of tier, model, heuristic, classify and cascade, {said}."
        yield wrong(place, sentence)
        return
    if route.upwards and not route.heuristic:
        yield wrong((*place, "upwards"), "`upwards` goes with `heuristic: true` only.")
    if route.classify is not None:
        yield from _classify(route.classify, (*place, "classify"), known, tiers)
    elif route.cascade is not None:
        yield from _cascade(route.cascade, (*place, "cascade"), known, tiers)
    elif not route.heuristic:
        yield from _target(Target(tier=route.tier, model=route.model), place, known, tiers)


def _classify(terms: Classify, place: Path, known: Known, tiers: Tiers) -> Iterator[Finding]:
    yield from _target(terms.by, (*place, "by"), known, tiers)
    labels = {"simple": terms.simple, "complex": terms.complex, "edge": terms.edge}
    if not any(labels.values()):
        yield wrong(place, "`classify` says where calls go that are `simple`, `complex` or `edge`.")
    for name, target in {**labels, "otherwise": terms.otherwise}.items():
        if target is not None:
            yield from _target(target, (*place, name), known, tiers)


def _cascade(terms: Cascade, place: Path, known: Known, tiers: Tiers) -> Iterator[Finding]:
    yield from _target(terms.first, (*place, "first"), known, tiers)
    yield from _target(terms.then, (*place, "then"), known, tiers)
    first, then = known.target(terms.first, tiers), known.target(terms.then, tiers)
    if first is None or then is None:
        return
    prices = known.price(first), known.price(then)
    if first == then:
        yield wrong((*place, "then"), f"The cascade asks {first} twice; `then` is a better model.")
    elif prices[0] is not None and prices[1] is not None and prices[1] <= prices[0]:
        sentence = f"{then} is no dearer than {first}: begin with it, and no second answer is paid for."
        yield wrong((*place, "then"), sentence)


def _chosen(actions: Actions, known: Known, tiers: Tiers) -> str | None:
    """The model that the rule routes to, where it is one."""
    route = actions.route
    if route is None or (route.tier is None) == (route.model is None):
        return None
    return known.target(Target(tier=route.tier, model=route.model), tiers)


def _fallbacks(actions: Actions, place: Path, known: Known, tiers: Tiers) -> Iterator[Finding]:
    chosen = _chosen(actions, known, tiers)
    seen: set[str] = set()
    for index, target in enumerate(actions.fallbacks):
        path = (*place, "fallbacks", index)
        yield from _target(target, path, known, tiers)
        name = known.target(target, tiers)
        if name is None:
            continue
        if name == chosen:
            yield wrong(path, f"{name} is what the rule routes to; a fallback is another model.")
        elif name in seen:
            yield wrong(path, f"{name} is in the chain twice; each model is tried once.")
        seen.add(name)


def _on_exhausted(actions: Actions, place: Path, known: Known, tiers: Tiers) -> Iterator[Finding]:
    target = actions.on_exhausted
    if target is None:
        return
    path = (*place, "on_exhausted")
    yield from _target(target, path, known, tiers)
    name, chosen = known.target(target, tiers), _chosen(actions, known, tiers)
    if name is None or chosen is None:
        return
    prices = known.price(name), known.price(chosen)
    if name == chosen or (prices[0] is not None and prices[1] is not None and prices[0] >= prices[1]):
        yield wrong(path, f"{name} is no cheaper than {chosen}, which the rule routes to.")


def _max_tokens(limits: MaxTokens, place: Path, known: Known, chosen: str | None) -> Iterator[Finding]:
    if limits.cap is None and limits.set is None:
        yield wrong(place, "`max_tokens` needs `cap` or `set`.")
    if limits.cap is not None and limits.set is not None and limits.set > limits.cap:
        yield wrong((*place, "set"), f"`set` is more than the cap of {limits.cap:,} in the same rule.")
    if not known.models:
        return
    largest = max(each.output_tokens_max for each in known.models.values())
    if limits.cap is not None and limits.cap > largest:
        sentence = f"No model writes more than {largest:,} tokens, so this caps nothing."
        yield wrong((*place, "cap"), sentence)
    facts = known.model(chosen) if chosen is not None else None
    most = largest if facts is None else facts.output_tokens_max
    if limits.set is not None and limits.set > most:
        who = "No model writes" if facts is None else f"{facts.model_id} does not write"
        yield wrong((*place, "set"), f"{who} more than {most:,} tokens.")


def _system(terms: SystemText, place: Path) -> Iterator[Finding]:
    used = set(NAMED.findall(terms.text))
    for name, phrase in terms.captures.items():
        path = (*place, "captures", name)
        if not NAMED.fullmatch(f"{{{name}}}"):
            yield wrong(path, f"“{name}” is no name for a capture: use letters, digits and “_”.")
        elif name not in used:
            yield wrong(path, f"The text does not use {{{name}}}.")
        if len(PLACEHOLDER.findall(phrase)) != 1 or len(_BRACES.findall(phrase)) != 1:
            yield wrong(
                path, f"“{phrase}” has {{number}} or {{word}} in it once, such as “{{number}} points”."
            )
    for name in sorted(used - terms.captures.keys()):
        sentence = f"{{{name}}} is not among `captures`"
        if terms.captures:
            yield wrong((*place, "text"), f"{sentence}; say where it is found, or leave it out.")
        else:
            yield Finding((*place, "text"), f"{sentence}, so it stays in the text as it is.", True)


def _schema(schema: Mapping[str, object], place: Path) -> Iterator[Finding]:
    if schema.get("type") != "object":
        yield wrong(place, "The schema is that of an object: `type: object`.")
        return
    from jsonschema import Draft202012Validator, SchemaError  # the gateway does without

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = ".".join(str(part) for part in error.absolute_path)
        yield wrong((*place, *error.absolute_path), f"This is no JSON Schema: {where}: {error.message}.")


def _ends(actions: Actions, place: Path) -> Iterator[Finding]:
    """A call that is denied or answered at once goes no further."""
    others = [
        name
        for name in Actions.__struct_fields__
        if name not in ("deny", "answer") and getattr(actions, name) not in (None, ())
    ]
    if actions.deny is not None and (actions.answer is not None or others):
        names = [*(["answer"] if actions.answer is not None else []), *others]
        yield wrong(
            (*place, "deny"), f"A call that is denied has no {', '.join(names)}; leave one or the other out."
        )
    elif actions.answer is not None and others:
        sentence = (
            f"A call with a template answer goes nowhere: {', '.join(others)} has no effect; leave it out."
        )
        yield wrong((*place, "answer"), sentence)
