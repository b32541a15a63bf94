"""What a draft says: the policy that it reads as, or what is wrong with which of its lines."""

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from governance.routing.document import Policy


@dataclass(frozen=True, slots=True)
class Problem:
    """A sentence about a line, counted from 1."""

    line: int
    sentence: str

    def __str__(self) -> str:
        return f"Line {self.line}: {self.sentence}"


@dataclass(frozen=True, slots=True)
class Checked:
    """`policy` is None where there are problems. Warnings do not keep a draft from being published."""

    policy: Policy | None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def check_draft(source: str) -> Checked:
    """Read a draft and check what it means."""
    import yaml  # the gateway never reads drafts, and does without

    try:
        return Checked(msgspec.convert(yaml.safe_load(source), Policy))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return Checked(None, (Problem(line, f"This is no YAML: {error.problem}."),))
    except msgspec.ValidationError as error:
        sentence, _, path = str(error).partition(" - at ")
        return Checked(None, (Problem(_line_of(yaml.compose(source), path.strip("`")), f"{sentence}."),))


def _line_of(node: Any, path: str) -> int:
    """The line on which `$.rules[0].when` begins in what yaml.compose made; None is an empty text."""
    if node is None:
        return 1
    for part in re.findall(r"[^.$\[\]]+", path):
        if isinstance(node.value, list) and part.isdecimal():
            node = node.value[int(part)]
        else:
            node = next((value for key, value in node.value if key.value == part), node)
    return int(node.start_mark.line) + 1


def as_document(policy: Policy) -> dict[str, Any]:
    """A policy as JSON, the way the database gives it back: what a version keeps, and workers load."""
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(policy))
    return document
