"""A prompt as the model reads it: segments in the order tools → system → messages, each with its tokens."""

from dataclasses import dataclass
from typing import Any

from governance.simulator.catalogue import Model
from governance.simulator.errors import invalid
from governance.simulator.tokens import MESSAGE_OVERHEAD_TOKENS, TOOLS_OVERHEAD_TOKENS, tokens_of_block

BREAKPOINTS_MAX = 4
NOT_CACHEABLE = ("thinking", "redacted_thinking")


@dataclass(slots=True)
class Segment:
    level: str  # "tools", "system" or "messages"
    role: str  # of the message; "" outside messages
    block: Any  # the tool definition or content block, decoded
    tokens: int
    ttl: str | None = None  # "5m" or "1h" where a cache breakpoint ends here


def segments_of(body: dict[str, Any], model: Model) -> list[Segment]:
    """Every tool, system block and content block of the request, in cache order, breakpoints marked.

    Raises a 400 for cache breakpoints that the API would refuse.
    """
    segments = [
        Segment("tools", "", tool, tokens_of_block(tool, model.tokenizer)) for tool in body.get("tools") or ()
    ]
    if segments:
        segments[0].tokens += TOOLS_OVERHEAD_TOKENS
    for block in _blocks(body.get("system")):
        segments.append(Segment("system", "", block, tokens_of_block(block, model.tokenizer)))
    for message in body["messages"]:
        first = len(segments)
        for block in _blocks(message["content"]):
            segments.append(
                Segment("messages", message["role"], block, tokens_of_block(block, model.tokenizer))
            )
        if len(segments) > first:
            segments[first].tokens += MESSAGE_OVERHEAD_TOKENS
    return segments


def mark_breakpoints(segments: list[Segment], automatic: Any) -> bool:
    """Set `ttl` on each segment that carries `cache_control`, and on the last cacheable one for the top-level
    `automatic` field. Returns whether there is any. Raises a 400 as the API does."""
    count = 0
    for segment in segments:
        control = segment.block.get("cache_control") if isinstance(segment.block, dict) else None
        if control is not None:
            segment.ttl = _ttl(control, segment.level)
            count += 1
    if automatic is not None:
        ttl = _ttl(automatic, "cache_control")
        if count >= BREAKPOINTS_MAX:
            raise invalid(
                "cache_control: all 4 cache breakpoints are already used by explicit cache_control blocks."
            )
        for segment in reversed(segments):
            if segment.block.get("type") not in NOT_CACHEABLE:
                if segment.ttl is None:
                    segment.ttl, count = ttl, count + 1
                break
    if count > BREAKPOINTS_MAX:
        raise invalid(f"A maximum of 4 blocks with cache_control may be provided. Found {count}.")
    seen_5m = False
    for segment in segments:
        if segment.ttl == "1h" and seen_5m:
            raise invalid(
                f"{segment.level}: a ttl='1h' cache_control block must not come after a ttl='5m' "
                "cache_control block. Note that blocks are processed in the following order: "
                "`tools`, `system`, `messages`."
            )
        seen_5m = seen_5m or segment.ttl == "5m"
    return count > 0


def _ttl(control: Any, where: str) -> str:
    if not isinstance(control, dict) or control.get("type") != "ephemeral":
        raise invalid(f"{where}: cache_control.type: Input should be 'ephemeral'")
    ttl = control.get("ttl", "5m")
    if ttl not in ("5m", "1h"):
        raise invalid(f"{where}: cache_control.ttl: Input should be '5m' or '1h'")
    return str(ttl)


def _blocks(content: Any) -> list[Any]:
    """A string is shorthand for one text block."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return content or []
