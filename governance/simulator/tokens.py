"""Made-up but deterministic token counts; text never counts more than one token per UTF-8 byte.

The real tokenizer is not public. The old one is taken as four bytes a token, the new one (since Opus 4.7)
as 30 % more tokens. What matters to a test is that the count is stable, grows with the text, and that the
parts of a prompt add up: caching splits it by segment.
"""

from typing import Any

import msgspec

TOOLS_OVERHEAD_TOKENS = 346  # what a request with tools pays for the hidden tool-use system prompt
MESSAGE_OVERHEAD_TOKENS = 3
IMAGE_TOKENS = 1_600
DOCUMENT_TOKENS = 3_000
BYTES_PER_TOKEN_OLD = 4


def tokens_of_bytes(size: int, tokenizer: str) -> int:
    """Tokens for `size` bytes of text, rounded up."""
    if tokenizer == "new":
        return (size * 13 + 39) // 40
    return (size + 3) // 4


def bytes_of_tokens(tokens: int, tokenizer: str) -> int:
    """The most bytes of text that count as at most `tokens`."""
    if tokenizer == "new":
        return tokens * 40 // 13
    return tokens * BYTES_PER_TOKEN_OLD


def tokens_of_block(block: Any, tokenizer: str) -> int:
    """Tokens of a content block, a system block or a tool definition, as decoded from JSON.

    Base64 of an image or a PDF does not count as text: each counts a flat sum.
    """
    if isinstance(block, str):
        return tokens_of_bytes(len(block.encode()), tokenizer)
    if isinstance(block, dict):
        kind = block.get("type")
        if kind == "text" and isinstance(block.get("text"), str):
            return tokens_of_bytes(len(block["text"].encode()), tokenizer)
        if kind == "image":
            return IMAGE_TOKENS
        if kind == "document" and _source_type(block) != "text":
            return DOCUMENT_TOKENS
        if kind == "tool_result" and isinstance(block.get("content"), list):
            return MESSAGE_OVERHEAD_TOKENS + sum(
                tokens_of_block(part, tokenizer) for part in block["content"]
            )
        block = {name: value for name, value in block.items() if name not in ("cache_control", "signature")}
    return tokens_of_bytes(len(msgspec.json.encode(block)), tokenizer)


def _source_type(block: dict[str, Any]) -> Any:
    source = block.get("source")
    return source.get("type") if isinstance(source, dict) else None
