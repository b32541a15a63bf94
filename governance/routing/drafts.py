"""What a draft says: the policy that it reads as, or what is wrong with which of its lines."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from governance.audit.events import SECRET_TEXT
from governance.core.clock import utcnow
from governance.routing.checks import check
from governance.routing.document import Policy
from governance.routing.known import Known
from governance.routing.problems import PolicyInvalid
from governance.routing.problems import Problem as Problem


@dataclass(frozen=True, slots=True)
class Checked:
    """`policy` is None where there are problems. Warnings do not keep a draft from being published."""

    policy: Policy | None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def check_draft(source: str, known: Known | None = None) -> Checked:
    """Read a draft and check what it means; names of models, keys and teams against `known`, if given."""
    from governance.routing.reading import read_policy  # with YAML, which the gateway does without

    if secrets := tuple(_secrets(source)):
        return Checked(None, secrets)
    try:
        read = read_policy(source)
    except PolicyInvalid as invalid:
        return Checked(None, invalid.problems)
    found = check(read.policy, read.tree, known or Known(utcnow().date()))
    return Checked(None if found.problems else read.policy, found.problems, found.warnings)


def _secrets(source: str) -> Iterator[Problem]:
    """In comments too: a version is kept for ever, read by many and sent by e-mail."""
    for number, line in enumerate(source.split("\n"), start=1):
        if SECRET_TEXT.search(line):
            yield Problem(number, "This looks like a secret key: take it out, and revoke it if it is one.")


def as_document(policy: Policy) -> dict[str, Any]:
    """A policy as JSON, the way the database gives it back: what a version keeps, and workers load."""
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(policy))
    return document
