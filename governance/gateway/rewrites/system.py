"""The system prompt: a text after the client's, or instead of it.

Claude Code's first system block names the client and its place is read by position: nothing comes before it
and it is never replaced. A text is added as the last block, after whatever the client marked for the prompt
cache, so that what was cached stays so. (System text that changes from call to call makes the messages after
it new to the cache: that is the price of captures.)
"""

from msgspec import Raw

from governance.gateway.request import ABSENT, Fields, is_given, value_of
from governance.gateway.rewrites.draft import (
    Draft,
    NotDone,
    as_json,
    joined,
    text_after,
    text_block,
    with_key,
)
from governance.routing.route import SystemPrompt

ATTRIBUTION = "x-anthropic-billing-header:"
"""What the text of Claude Code's first block begins with."""


def appended(draft: Draft, text: str) -> Draft | NotDone:
    """With `text` at the end of the system prompt, unless that is what it ends with."""
    system = draft.fields.system
    if not system:
        return draft.with_value("system", text)
    if _ends_with(system, text):
        return draft
    return draft.with_field("system", text_after(draft.raw["system"], text))


def prompt(draft: Draft, terms: SystemPrompt) -> Draft | NotDone:
    return replaced(draft, terms.text) if terms.replaces else appended(draft, terms.text)


def replaced(draft: Draft, text: str) -> Draft | NotDone:
    """With `text` as the system prompt. Where the client marked the end of its own for the prompt cache, the
    end of the new one is marked the same way."""
    system = draft.fields.system
    if not system or isinstance(system, str):
        if isinstance(system, str) and system.startswith(ATTRIBUTION):
            return NotDone("the client's attribution is part of the same text")
        return draft if system == text else draft.with_value("system", text)
    block = text_block(text)
    controls = [b["cache_control"] for b in system if is_given(b.get("cache_control", ABSENT))]
    if controls:
        block = with_key(block, "cache_control", bytes(controls[-1]))
    kept: list[bytes | Raw] = [as_json(system[0])] if _text(system[0]).startswith(ATTRIBUTION) else []
    wanted = joined([*kept, block])
    return draft if wanted == as_json(system) else draft.with_field("system", wanted)


def _ends_with(system: str | list[Fields], text: str) -> bool:
    return system.endswith(text) if isinstance(system, str) else _text(system[-1]) == text


def _text(block: Fields) -> str:
    return value_of(block.get("text", ABSENT), str) or ""
