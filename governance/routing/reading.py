"""YAML text → document.Policy, or every problem that it has, each with its line. Not imported by the gateway.

msgspec stops at the first error; here each rule is read on its own, and what was found wrong is taken out of
the tree before the rest is read again, so that ten mistakes give ten sentences.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import msgspec

from governance.routing.document import Actions, Match, Policy, Rule
from governance.routing.problems import PolicyInvalid, Problem
from governance.routing.yaml_tree import Tree, read_tree

PROBLEMS_MAX = 50
_PATH = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.S)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_VALUE = re.compile(r"Invalid enum value (.*)", re.S)
_EXPECTED = re.compile(r"Expected `([^`]+)`, got `([^`]+)`")
_LIMIT = re.compile(r"Expected `(\w+)`(?: of length)? (>=|<=) (\d+)")

type Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Read:
    """A policy, and where in the text its parts stand."""

    policy: Policy
    tree: Tree


def read_policy(source: str) -> Read:
    """Raises PolicyInvalid."""
    tree = read_tree(source)
    problems = list(_problems(tree))
    if problems:
        raise PolicyInvalid(problems[:PROBLEMS_MAX])
    return Read(msgspec.convert(tree.value(), Policy), tree)


def _problems(tree: Tree) -> Iterator[Problem]:
    """Destroys the tree where there are any."""
    if not isinstance(tree.inside, dict):
        yield Problem(tree.line, "A policy is an object with `rules:` and perhaps `tiers:` and `sticky:`.")
        return
    rules = tree.inside.get("rules")
    if rules is not None and isinstance(rules.inside, list):
        wrong = [index for index, rule in enumerate(rules.inside) if _is_wrong(rule, Rule)]
        for index in wrong[:PROBLEMS_MAX]:
            yield from _each_problem(rules.inside[index], Rule)
        # The count of rules stays what it is; those that were reported are not reported again.
        for index in wrong:
            rules.inside[index] = _any_rule(rules.line)
    yield from _each_problem(tree, Policy)


def _any_rule(line: int) -> Tree:
    return Tree(line, {"name": Tree(line, None, "some rule"), "then": Tree(line, {})})


def _is_wrong(tree: Tree, kind: type) -> bool:
    return _error(tree, kind) is not None


def _error(tree: Tree, kind: type) -> tuple[str, Path, bool] | None:
    """msgspec's message, its path (“...” for a key that it does not name), and is it about a key itself?"""
    try:
        msgspec.convert(tree.value(), kind)
    except msgspec.ValidationError as error:
        message, _, where = str(error).rpartition(" - at ")
        if not message:
            message, where = where, ""
        about_key = where.startswith("`key`")
        path = where.removeprefix("`key` in ").strip("`").removeprefix("$")
        parts = tuple(name or _index(index) for name, index in _PATH.findall(path))
        return message, parts, about_key
    return None


def _index(text: str) -> str | int:
    return text if text == "..." else int(text)


def _each_problem(tree: Tree, kind: type) -> Iterator[Problem]:
    """One problem after the other: what is wrong is taken out, until the rest reads."""
    removed: set[Path] = set()
    for _ in range(PROBLEMS_MAX):
        error = _error(tree, kind)
        if error is None:
            return
        message, path, about_key = error
        path = _exact(tree, kind, path, message, about_key)
        parent, at = _walk(tree, path)
        if unknown := _UNKNOWN.fullmatch(message):
            parent, at, path = at, _field(at, unknown[1]), (*path, unknown[1])
        if missing := _MISSING.fullmatch(message):
            if (*path, missing[1]) not in removed:
                yield Problem(at.line, _sentence(message, kind, path, at))
            at.inside = {**_inside(at), missing[1]: _right(kind, (*path, missing[1]), at.line)}
            continue
        yield Problem(at.line, _sentence(message, kind, path, at))
        if at is tree:
            return
        removed.add(path)
        _remove(parent, at)


def _right(kind: type, path: Path, line: int) -> Tree:
    """Something that reads where a required field is missing, so that what comes after it is read too."""
    hint = _hint(kind, path)
    for value in (Tree(line, None, "some text"), Tree(line, None, 1), Tree(line, {}), Tree(line, [])):
        try:
            msgspec.convert(value.value(), hint)
        except msgspec.ValidationError:
            continue
        return value
    if get_origin(_plain(hint)) is tuple:
        return Tree(line, [_right(kind, (*path, 0), line)])
    struct = _struct(hint)
    required = (
        [field.encode_name for field in msgspec.structs.fields(struct) if field.required] if struct else []
    )
    return Tree(line, {name: _right(kind, (*path, name), line) for name in required})


def _exact(tree: Tree, kind: type, path: Path, message: str, about_key: bool) -> Path:
    """The path with the key that msgspec does not name: the one that alone makes the same error."""
    if about_key:
        path = (*path, "...")
    while "..." in path:
        position = path.index("...")
        _, holder = _walk(tree, path[:position])
        fields = _inside(holder)
        found = None
        for name, child in fields.items():
            holder.inside = {name: child}
            error = _error(tree, kind)
            if error is not None and error[0] == message and error[1][:position] == path[:position]:
                found = name
                break
        holder.inside = fields
        if found is None:
            return path[:position]
        path = (*path[:position], found, *path[position + 1 :])
    return path


def _walk(tree: Tree, path: Path) -> tuple[Tree, Tree]:
    """(what holds it, what is there)."""
    parent = at = tree
    for part in path:
        inner = at.child(part)
        if inner is None:
            break
        parent, at = at, inner
    return parent, at


def _field(tree: Tree, name: str) -> Tree:
    return tree.child(name) or tree


def _inside(tree: Tree) -> dict[str, Tree]:
    return dict(tree.inside) if isinstance(tree.inside, dict) else {}


def _remove(parent: Tree, child: Tree) -> None:
    if isinstance(parent.inside, dict):
        parent.inside = {name: each for name, each in parent.inside.items() if each is not child}
    elif isinstance(parent.inside, list):
        parent.inside = [each for each in parent.inside if each is not child]


# --- Sentences --------------------------------------------------------------------------------
_KINDS = {
    "int": "a whole number",
    "str": "text",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "nothing",
    "float": "a number with a point",
}


def _sentence(message: str, kind: type, path: Path, at: Tree) -> str:
    name = next((str(part) for part in reversed(path) if isinstance(part, str)), kind.__name__.lower())
    if unknown := _UNKNOWN.fullmatch(message):
        return _about_unknown(unknown[1], _struct(_hint(kind, path[:-1])))
    if missing := _MISSING.fullmatch(message):
        what = name if path else kind.__name__.lower()
        return f"`{what}` needs `{missing[1]}`."
    if _VALUE.fullmatch(message):
        of_values = list(_literals(_hint(kind, path)))
        known = of_values or list(_literals(_hint(kind, path[:-1])))  # else it is about the name itself
        wrong = at.scalar if of_values and isinstance(at.scalar, str) else name
        return f"“{wrong}” is none of {', '.join(known)}.{_meant(str(wrong), known)}"
    if "matching regex" in message:
        return f"`{name}` is a time of day such as “06:30”, with two digits for the hour."
    if limit := _LIMIT.match(message):
        return _about_limit(name, limit[1], limit[2], int(limit[3]))
    if expected := _EXPECTED.match(message):
        return _about_type(name, expected[1].split(" | "), expected[2], at)
    return f"`{name}`: {message}."


def _about_unknown(name: str, struct: type | None) -> str:
    known = list(_names(struct)) if struct else []
    meant = _meant(name, known)
    if not meant:
        for other, place in ((Actions, "`then:`"), (Match, "`when:`"), (Rule, "the rule itself")):
            if other is not struct and name in _names(other):
                return f"`{name}` belongs into {place}, not here."
    return f"There is no field `{name[:60]}` here.{meant or ' There is ' + ', '.join(known) + '.'}"


def _about_limit(name: str, what: str, sign: str, bound: int) -> str:
    side = "at least" if sign == ">=" else "at most"
    unit = {"int": "", "str": " characters", "array": " entries", "object": " entries"}[what]
    if bound == 1:
        unit = unit.replace("characters", "character").replace("entries", "entry")
    return f"`{name}` {'is' if what == 'int' else 'has'} {side} {bound:,}{unit}."


def _about_type(name: str, wanted: list[str], got: str, at: Tree) -> str:
    kinds = [kind for kind in wanted if kind != "null"] or wanted
    if "str" in kinds and got in ("int", "float", "bool") and at.inside is None:
        shown = str(at.scalar).lower() if isinstance(at.scalar, bool) else at.scalar
        return f"`{name}` is text: put “{shown}” in quotes."
    if got == "float" and "int" in kinds:
        return f"`{name}` is a whole number, not {at.scalar}."
    text = " or ".join(_KINDS.get(kind, kind) for kind in kinds)
    return f"`{name}` is {text}, not {_KINDS.get(got, got)}."


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name.lower().replace("-", "_"), list(known), n=1, cutoff=0.65)
    return f" Did you mean {close[0]}?" if close else ""


# --- The document's own types, by path ------------------------------------------------------
def _hint(kind: type, path: Path) -> Any:
    """The type that the document wants there; Any where the path leaves it."""
    hint: Any = kind
    for part in path:
        struct = _struct(hint)
        if struct is None or get_origin(_plain(hint)) is dict:
            args = [arg for arg in get_args(_plain(hint)) if arg is not Ellipsis]
            hint = args[-1] if args else Any
        elif isinstance(part, str):
            names = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
            hint = names.get(part, Any)
        else:
            hint = next(iter(get_args(_plain(hint))), hint)
    return hint


def _plain(hint: Any) -> Any:
    """Without Annotated, `type` aliases and “or None”."""
    while True:
        if hasattr(hint, "__value__"):
            hint = hint.__value__
        elif hasattr(hint, "__metadata__"):
            hint = hint.__origin__
        else:
            break
    options = [arg for arg in get_args(hint) if arg is not type(None)]
    if len(options) == 1 and type(None) in get_args(hint):
        return _plain(options[0])
    return hint


def _struct(hint: Any) -> type | None:
    hint = _plain(hint)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint
    for arg in get_args(hint):
        found = None if arg is Ellipsis else _struct(arg)
        if found is not None:
            return found
    return None


def _names(struct: type) -> tuple[str, ...]:
    return struct.__struct_encode_fields__  # type: ignore[attr-defined, no-any-return]


def _literals(hint: Any) -> Iterator[str]:
    hint = _plain(hint)
    if get_origin(hint) is Literal:
        yield from get_args(hint)
    else:
        for arg in get_args(hint):
            if arg is not Ellipsis:
                yield from _literals(arg)
