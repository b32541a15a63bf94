"""Which requests may be answered from the cache, and which replies may be kept. Pure; both say why not."""

from collections.abc import Collection
from operator import attrgetter
from typing import Any

import msgspec

STATEFUL_FIELDS = ("container", "thread", "mcp_servers", "fallback_credit_token", "billing_policy")
"""What refers to state upstream, runs somebody's tools, or says who pays."""
KEPT_STOP_REASONS = frozenset(("end_turn", "stop_sequence", "tool_use"))
_stateful = attrgetter(*STATEFUL_FIELDS)
_THINKING = frozenset(("thinking", "redacted_thinking"))


class _Block(msgspec.Struct):
    type: str


class _Message(msgspec.Struct):
    type: str
    content: list[_Block]
    stop_reason: str | None = None
    container: Any = None


_decode = msgspec.json.Decoder(_Message).decode


def is_repeatable(fields: Any) -> bool:
    """Whether a request with these top-level fields may be answered from the cache."""
    return fields.max_tokens > 0 and not any(_stateful(fields))


def why_not_kept(message: bytes, also: Collection[str]) -> str | None:
    """Why a Message may not be kept, in few words that go on the call's row; None where it may. `also`:
    "tool_use" and "thinking" where the rule wants those kept as well."""
    try:
        found = _decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "not a Message that we can read"
    if found.type != "message" or not found.content:
        return "no content"
    if found.stop_reason not in KEPT_STOP_REASONS:
        return f"stop reason {_told(found.stop_reason)}"
    if found.container is not None:
        return "a container"
    kinds = {block.type for block in found.content}
    if "tool_use" not in also and (found.stop_reason == "tool_use" or any(map(_is_of_tools, kinds))):
        return "tool use"
    if "thinking" not in also and not kinds.isdisjoint(_THINKING):
        return "thinking"
    unknown = sorted(
        kind for kind in kinds if kind != "text" and kind not in _THINKING and not _is_of_tools(kind)
    )
    return f"a block of type {_told(unknown[0])}" if unknown else None


def _is_of_tools(kind: str) -> bool:
    """tool_use, server_tool_use, mcp_tool_use; tool_result, web_search_tool_result, …"""
    return kind.endswith(("tool_use", "tool_result"))


def _told(name: str | None) -> str:
    """A name that upstream wrote, as it may stand on a row."""
    return name[:40] if name and name.isascii() and name.isprintable() else "unknown"
