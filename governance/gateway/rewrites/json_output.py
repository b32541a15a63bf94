"""JSON of a schema as the reply, by `output_config.format`: every model that we know takes it."""

from typing import Any

from msgspec import Raw

from governance.gateway.request import ABSENT, Body, Fields, is_given, value_of
from governance.gateway.rewrites.draft import Draft, NotDone


def json_output(draft: Draft, schema: dict[str, Any]) -> Draft | NotDone:
    """The draft with that format, where nothing in it goes against one."""
    fields = draft.fields
    if fields.output_config and is_given(fields.output_config.get("format", ABSENT)):
        return NotDone("the request asks for a format of its own")
    if fields.messages and fields.messages[-1].role == "assistant":
        return NotDone("the client has begun the reply itself")
    if fields.max_tokens == 0:
        return NotDone("the request asks for no output")
    if _cites(fields):
        return NotDone("a format goes with no citations")
    config: Fields = fields.output_config or {}
    return draft.with_value("output_config", {**config, "format": {"type": "json_schema", "schema": schema}})


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
