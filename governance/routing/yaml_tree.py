"""YAML text as a tree that knows its lines. Not imported by the gateway.

As much of YAML 1.2 as a policy needs, and nothing that reads otherwise than it looks: `no`, `22:00` and dates
are text; numbers are those of the core schema; tags, anchors, aliases and a field given twice are refused.
JSON is YAML, and reads too.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from governance.routing.problems import PolicyInvalid, Problem

SOURCE_BYTES_MAX = 65_536
LEVELS_MAX = 40
DIGITS_MAX = 15

_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_OPENS = (
    yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken, yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
)  # fmt: skip
_CLOSES = (yaml.BlockEndToken, yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken)

type Scalar = bool | int | float | str | None
type Value = Scalar | list[Value] | dict[str, Value]


@dataclass(slots=True)
class Tree:
    """A value and the line that it begins on, that of its field's name where it has one.

    `inside` is a dict for an object, a list for an array, else None; `scalar` is then the value.
    """

    line: int
    inside: "dict[str, Tree] | list[Tree] | None"
    scalar: Scalar = None

    def value(self) -> Value:
        """As plain data."""
        if isinstance(self.inside, dict):
            return {name: each.value() for name, each in self.inside.items()}
        if isinstance(self.inside, list):
            return [each.value() for each in self.inside]
        return self.scalar

    def child(self, part: str | int) -> "Tree | None":
        if isinstance(self.inside, dict):
            return self.inside.get(str(part))
        if isinstance(self.inside, list) and isinstance(part, int) and part < len(self.inside):
            return self.inside[part]
        return None

    def line_of(self, *path: str | int) -> int:
        """The line of what is there, or of the nearest thing around it."""
        at = self
        for part in path:
            inner = at.child(part)
            if inner is None:
                break
            at = inner
        return at.line


def read_tree(source: str) -> Tree:
    """Raises PolicyInvalid with every problem that can be found."""
    size = len(source.encode(errors="replace"))
    if size > SOURCE_BYTES_MAX:
        raise PolicyInvalid(
            [
                Problem(
                    1, f"A policy has at most {SOURCE_BYTES_MAX:,} bytes; this one has {size:,}. Split it up."
                )
            ]
        )
    try:
        problems = list(_refused_tokens(source))
        if problems:
            raise PolicyInvalid(problems)
        node = yaml.compose(source, yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        raise PolicyInvalid([_broken(error)]) from None
    except yaml.reader.ReaderError as error:
        line = source.count("\n", 0, error.position) + 1
        raise PolicyInvalid([Problem(line, "A character here cannot be shown; remove it.")]) from None
    if node is None:
        raise PolicyInvalid([Problem(1, "The policy is empty. It needs at least one rule under `rules:`.")])
    tree = _tree(node, node.start_mark.line + 1, problems)
    if problems:
        raise PolicyInvalid(problems)
    return tree


def _refused_tokens(source: str) -> Iterator[Problem]:
    """Before anything is built of them: an alias could stand for a million things."""
    level = 0
    for token in yaml.scan(source, yaml.BaseLoader):
        line = token.start_mark.line + 1
        if isinstance(token, yaml.AnchorToken | yaml.AliasToken):
            sign = "&" if isinstance(token, yaml.AnchorToken) else "*"
            yield Problem(line, f"Write it out instead of {sign}{token.value}, or put the text in quotes.")
        elif isinstance(token, yaml.TagToken):
            yield Problem(line, "Leave out the tag that begins with “!”, or put the text in quotes.")
        elif isinstance(token, yaml.DirectiveToken):
            yield Problem(line, "Leave out the line that begins with “%”.")
        elif isinstance(token, _OPENS):
            level += 1
            if level > LEVELS_MAX:
                yield Problem(line, f"This is nested deeper than {LEVELS_MAX} levels.")
                return
        elif isinstance(token, _CLOSES):
            level -= 1


def _broken(error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    said = f"{error.context or ''} {error.problem or ''}"
    if "\\t" in said or "'\t'" in said:
        return Problem(line, "Indent with spaces instead of tabs.")
    if "expected a single document" in said:
        return Problem(line, "A policy is one document: leave out the line “---” in the middle.")
    if "mapping values are not allowed" in said:
        return Problem(
            line, "There is a colon too many, or the indentation is off; put text with “: ” in quotes."
        )
    if "expected <block end>" in said or "could not find expected ':'" in said:
        return Problem(line, "The indentation is off, or a colon is missing after a field's name.")
    return Problem(line, f"This cannot be read as YAML: {(error.problem or 'it breaks off').strip()}.")


def _tree(node: yaml.Node, line: int, problems: list[Problem]) -> Tree:
    if isinstance(node, yaml.MappingNode):
        return Tree(line, _fields(node, problems))
    if isinstance(node, yaml.SequenceNode):
        return Tree(line, [_tree(each, each.start_mark.line + 1, problems) for each in node.value])
    assert isinstance(node, yaml.ScalarNode)
    return Tree(line, None, _scalar(node, problems))


def _fields(node: yaml.MappingNode, problems: list[Problem]) -> dict[str, Tree]:
    fields: dict[str, Tree] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        inner = _tree(value, line, problems)
        if not isinstance(key, yaml.ScalarNode):
            problems.append(Problem(line, "The name of a field is a word, not a list or an object."))
        elif key.value in fields:
            first = fields[key.value].line
            problems.append(
                Problem(line, f"`{key.value}` is given a second time; it stands in line {first}.")
            )
        else:
            fields[key.value] = inner
    return fields


def _scalar(node: yaml.ScalarNode, problems: list[Problem]) -> Scalar:
    text: str = node.value
    if node.style is not None:  # in quotes, or a block of text
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        if len(text) > DIGITS_MAX:
            problems.append(Problem(node.start_mark.line + 1, "The number is too large; put text in quotes."))
            return 0
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) and len(text) <= 2 * DIGITS_MAX else text
