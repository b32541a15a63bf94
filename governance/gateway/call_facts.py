"""What a policy may look at, taken from the call: governance/routing/facts.py says what the fields mean."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from governance.gateway.features import rule_features
from governance.gateway.request import Fields, Request, value_of
from governance.routing.facts import BUDGET_USED, FEATURES, TEXT, CallFacts, looked_at

if TYPE_CHECKING:
    from governance.gateway.exchange import Exchange


async def facts_of(exchange: "Exchange", asks: Collection[str]) -> CallFacts:
    """The facts of a call whose body was read. `asks`: which of those that cost something are wanted."""
    request, inbound, key = exchange.request, exchange.inbound, exchange.key
    facts = CallFacts(
        model=request.model,
        tags=exchange.tags,
        key_public_id=key.public_id,
        team_id=key.team_id,
        now=exchange.started_at,
        body_bytes=len(exchange.body),
        stream=request.stream,
        first_turn=is_first_turn(request),
        max_tokens=request.max_tokens,
        end_user=exchange.end_user,
        latency=inbound.latency,
    )
    if TEXT in asks:
        facts.text, facts.text_characters = last_text(request)
    if FEATURES in asks:
        facts.features = rule_features(request)
    if BUDGET_USED in asks:
        facts.budget_used_percent = await exchange.gateway.budget_use.percent(exchange)
    return facts


def is_first_turn(request: Request) -> bool:
    return not any(turn.role == "assistant" for turn in request.fields.messages)


def last_text(request: Request) -> tuple[str, int]:
    """The newest user message that has text in it, as much of it as is looked at, and how many characters
    the whole of it has. Results of tools are not text that a user wrote."""
    for turn in reversed(request.fields.messages):
        if turn.role != "user":
            continue
        text = turn.content if isinstance(turn.content, str) else _texts(turn.content)
        if text:
            return looked_at(text), len(text)
    return "", 0


def _texts(blocks: list[Fields]) -> str:
    found = (value_of(block["text"], str) for block in blocks if "text" in block)
    return "\n".join(text for text in found if text)
