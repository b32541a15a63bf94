"""Is a cheap model's reply good enough? The checks of a cascade, on a complete Message. Pure.

refusal      it declined (stop_reason refusal)
truncation   it did not come to its end: max_tokens, or the context window
json         its text is no JSON, or not of the schema that was asked for
hedging      it says that it does not know, in one of HEDGES

A reply that calls tools is judged by the first two only: its text is not the answer.
"""

from collections.abc import Collection
from typing import Any

import msgspec

from governance.gateway.json_schema import fits
from governance.routing.document import CascadeCheck

TEXT_CHARACTERS_MAX = 20_000
"""Of the beginning: hedges stand there."""
HEDGES = (
    "as an ai",
    "cannot determine",
    "can't determine",
    "cannot say for certain",
    "don't have enough information",
    "do not have enough information",
    "i am not able to",
    "i am not certain",
    "i am not sure",
    "i am unable to",
    "i cannot answer",
    "i can't answer",
    "i do not know",
    "i don't know",
    "i'm not able to",
    "i'm not certain",
    "i'm not sure",
    "i'm unable to",
    "it is unclear",
    "it's unclear",
)
_CUT = frozenset({"max_tokens", "model_context_window_exceeded"})


class _Block(msgspec.Struct):
    type: str = ""
    text: str = ""


class _Message(msgspec.Struct):
    content: list[_Block] = []
    stop_reason: str | None = None


_decode = msgspec.json.Decoder(_Message).decode


def failed_check(
    message: bytes, checks: Collection[CascadeCheck], schema: dict[str, Any] | None, begun: str = ""
) -> str | None:
    """The first check that the Message fails; None where it is good enough. `begun`: the words of the reply
    that the request itself put there. A body that is no Message fails as `unreadable`."""
    try:
        reply = _decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "unreadable"
    if "refusal" in checks and reply.stop_reason == "refusal":
        return "refusal"
    if "truncation" in checks and reply.stop_reason in _CUT:
        return "truncation"
    if _calls_tools(reply):
        return None
    text = _text(reply)
    if "json" in checks and not any(_is_json(said, schema) for said in (text, begun + text)):
        return "json"
    if "hedging" in checks:
        said = text[:TEXT_CHARACTERS_MAX].lower().replace("’", "'")
        if any(hedge in said for hedge in HEDGES):
            return "hedging"
    return None


def answer_in(message: bytes) -> str:
    """The text of a Message that a check could read; "" where it calls tools."""
    reply = _decode(message)
    return "" if _calls_tools(reply) else _text(reply)


def _calls_tools(reply: _Message) -> bool:
    return any(block.type.endswith("tool_use") for block in reply.content)


def _text(reply: _Message) -> str:
    return "".join(block.text for block in reply.content if block.type == "text")


def _is_json(text: str, schema: dict[str, Any] | None) -> bool:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return schema is None or fits(value, schema)
