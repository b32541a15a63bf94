"""JSON of a schema as the reply: asked for with `output_config.format`.

Of an old model that knows no such thing and goes on from a reply that has begun: with the schema in the
system prompt and such a beginning. It is a word and not the opening brace: the client gets the whole JSON.
"""

from typing import Any

from governance.gateway.request import ABSENT, Fields, is_given, value_of
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
