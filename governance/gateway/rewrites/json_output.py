"""JSON of a schema as the reply: asked for with `output_config.format`.

Of an old model that knows no such thing and goes on from a reply that has begun: with the schema in the
system prompt and such a beginning. It is a word and not the opening brace: the client gets the whole JSON.
"""

from typing import Any

from msgspec import Raw

from governance.gateway.request import ABSENT, Body, Fields, is_given, value_of
from governance.gateway.rewrites import system
from governance.gateway.rewrites.draft import Draft, NotDone, as_json

PREFILL = "JSON:"


def json_output(
    draft: Draft, schema: dict[str, Any], *, takes_format: bool, takes_prefill: bool
) -> Draft | NotDone:
    """`takes_format`, `takes_prefill`: what the model that is asked understands."""
    fields = draft.fields
    if fields.output_config and is_given(fields.output_config.get("format", ABSENT)):
        return NotDone("the request asks for a format of its own")
    if fields.messages and fields.messages[-1].role == "assistant":
        return NotDone("the client has begun the reply itself")
    if fields.max_tokens == 0:
        return NotDone("the request asks for no output")
    if takes_format and _cites(fields):
        return NotDone("a format goes with no citations")
    if takes_format:
        config: Fields = fields.output_config or {}
        wanted = {**config, "format": {"type": "json_schema", "schema": schema}}
        return draft.with_value("output_config", wanted)
    if not takes_prefill:
        return NotDone(f"{fields.model} takes neither a format nor a reply that has begun")
    thinks = fields.thinking and value_of(fields.thinking.get("type", ABSENT), str) != "disabled"
    if fields.tools or fields.stream or thinks:
        return NotDone("a reply that has begun goes with no tools, no stream and no thinking")
    told = system.appended(draft, f"Answer with nothing but JSON of this schema:\n{as_json(schema).decode()}")
    if isinstance(told, NotDone):
        return told
    begun = as_json({"role": "assistant", "content": PREFILL})
    return told.with_messages([*told.messages, begun])


def _cites(fields: Body) -> bool:
    """Whether a document is to be cited from: upstream refuses that together with a format."""
    return any(
        _decoded(block.get("citations", ABSENT)).get("enabled") is True
        for message in fields.messages
        if not isinstance(message.content, str)
        for block in message.content
        if "citations" in block
    )


def _decoded(raw: Raw) -> dict[str, Any]:
    return value_of(raw, dict[str, Any]) or {}
