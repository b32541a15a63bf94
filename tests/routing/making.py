"""Calls and policies for the tests of routing."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from governance.routing.document import Policy
from governance.routing.facts import CallFacts
from governance.routing.router import Router, compile_router
from governance.routing.rules import CompiledInput
from tests.routing.models import MODELS

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)  # a Friday
TEAM_IDS = {"research": 7, "sales": 8}


def facts(**given: Any) -> CallFacts:
    """A plain question to Opus at noon."""
    plain: dict[str, Any] = {
        "model": "claude-opus-5-5",
        "tags": {},
        "key_public_id": "Abcdefg1",
        "team_id": 7,
        "now": NOON,
        "body_bytes": 200,
        "stream": False,
        "first_turn": True,
        "max_tokens": 4_096,
    }
    return CallFacts(**{**plain, **given})


def policy(*rules: Mapping[str, Any], **others: Any) -> Policy:
    """From plain data, as YAML would have it."""
    named = [{"name": f"rule {number}", **rule} for number, rule in enumerate(rules, 1)]
    return msgspec.convert({"rules": named, **others}, Policy)


def router(*policies: Policy) -> Router:
    """The key's, the team's, the tenant's."""
    inputs = [CompiledInput(number, 10 * number, each) for number, each in enumerate(policies, 1)]
    return compile_router(inputs, models=MODELS, team_ids=TEAM_IDS)


def names(applied: Sequence[Any]) -> list[str]:
    return [each.rule for each in applied]
