"""Marks a prompt for the prompt cache, where the client did not and where it pays.

Two places are looked at. What many calls begin with, tools and system prompt, is marked at its end: on the
block itself. A conversation is marked at the end of the request, with the top-level field that has the API
choose the last block. A mark costs a premium on what it writes and saves on what is read again, so it is made
only where the prefix was seen within the entry's lifetime, and came again often enough for the tenant's own
prices. `cache_control` is no part of what thinking is signed over; but a system prompt that is one text would
have to become a list of blocks to carry it, and where the history holds signed thinking that is left alone.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec
from msgspec import Raw

from governance.core.usage import Pass, Usage
from governance.gateway.request import Body, Fields, is_given
from governance.gateway.rewrites.draft import (
    Draft,
    NotDone,
    as_json,
    holds_signed_thinking,
    joined,
    raw_list,
    with_key,
)
from governance.gateway.rewrites.prompt_cache_memory import PIECES_MAX, Memory, Pieces, Prefix
from governance.pricing.book import PriceBook
from governance.pricing.rates import ModelFacts
from governance.routing.document import PromptCache

BYTES_PER_TOKEN = 5
"""More than text has: rather too few tokens than too many. A prefix under the model's minimum is marked in
vain, though at no cost."""
TTL_SECONDS = {"5m": 300, "1h": 3_600}
DIGEST_BYTES = 16


class Caller(msgspec.Struct, frozen=True):
    """Whose prompt it is: the tenant's own key for digests, and what tells the caller's row of calls from
    others. `now`: seconds of the memory's clock."""

    memory: Memory
    tenant_key: bytes
    line: str
    now: float


class Marked(msgspec.Struct, frozen=True):
    """`prefix` stands for what was marked; the reply's usage is learned under it. `changing` names a part of
    the prompt that keeps changing."""

    draft: Draft | NotDone
    breakpoints: int = 0
    prefix: bytes = b""
    changing: str | None = None


class _Part(msgspec.Struct, frozen=True):
    """What a prompt begins with, up to the end of `name`."""

    name: str
    digest: bytes
    size: int


def marked(
    draft: Draft, terms: PromptCache, target: ModelFacts | None, book: PriceBook, at: datetime, caller: Caller
) -> Marked:
    """The draft with its breakpoints. `target`: the model that answers. Remembers the prompt."""
    least = None if target is None else target.cacheable_prefix_tokens_min
    if target is None or least is None:
        return Marked(NotDone(f"it is not known how long a prefix {draft.fields.model} caches"))
    if not draft.fields.messages:
        return Marked(NotDone("there are no messages"))
    memory, now, ttl_seconds = caller.memory, caller.now, TTL_SECONDS[terms.ttl]
    parts, pieces, turns = _digests(draft, target, caller.tenant_key)
    repeated = [part for part in reversed(parts) if memory.saw(part.digest, now, ttl_seconds)]
    whole = parts[-1]
    goes_on = memory.saw_turn(whole.digest, turns, now, ttl_seconds)
    line = _digest(caller.tenant_key, [caller.line.encode()])
    changing = memory.keeps_changing(line, pieces, now, ttl_seconds)
    prompt_bytes = whole.size + _text_bytes(draft.fields)
    worth = _Worth(book, target.model_id, at, terms.ttl, prompt_bytes // BYTES_PER_TOKEN)
    control = b'{"type":"ephemeral"}' if terms.ttl == "5m" else b'{"type":"ephemeral","ttl":"1h"}'
    result, count, under = draft, 0, whole.digest
    for part in repeated:
        prefix = memory.prefix(part.digest)
        if prefix.given_up_until > now or part.size // BYTES_PER_TOKEN < least:
            continue
        if worth.pays(part.size // BYTES_PER_TOKEN, prefix.repeats, prefix.gaps):
            done = _with_mark(draft, part.name, control)
            if done is not None:
                result, count, under = done, 1, part.digest
                break
    known, prompt_tokens = memory.prefix(whole.digest), prompt_bytes // BYTES_PER_TOKEN
    may_mark = goes_on and known.given_up_until <= now and prompt_tokens >= least
    if may_mark and worth.pays(prompt_tokens, known.continued, known.turns):
        result, count = result.with_field("cache_control", control), count + 1
    if count == 0:
        return Marked(NotDone(_why(known, bool(repeated) or goes_on, terms.ttl, now)), changing=changing)
    return Marked(result, count, under, changing)


class _Worth(msgspec.Struct, frozen=True):
    """What a mark costs and brings at the prices of `at`."""

    book: PriceBook
    model: str
    at: datetime
    ttl: str
    prompt_tokens: int

    def pays(self, tokens: int, again: int, times: int) -> bool:
        """Whether a prefix of so many tokens, which came again `again` out of `times`, costs less marked:
        each time that it comes again saves, each other time costs the premium."""
        rest = max(0, self.prompt_tokens - tokens)
        five, hour = (tokens, 0) if self.ttl == "5m" else (0, tokens)
        plain = self._nanos(Usage(rest + tokens))
        written, read = self._nanos(Usage(rest, five, hour)), self._nanos(Usage(rest, 0, 0, tokens))
        return again * (plain - read) > (times - again) * (written - plain)

    def _nanos(self, usage: Usage) -> int:
        return self.book.rate([Pass(self.model, usage)], self.at).cost_nanos


def _why(prefix: Prefix, was_seen: bool, ttl: str, now: float) -> str:
    if prefix.given_up_until > now:
        return "what was written of this prompt was not read again; tried again within the hour"
    if not was_seen:
        return f"nothing of this prompt was seen within {ttl}"
    return "what came again of this prompt is too short, or comes again too seldom, to be worth it"


# --- what stands for a prompt -------------------------------------------------------------------
def _digests(draft: Draft, target: ModelFacts, key: bytes) -> tuple[list[_Part], Pieces, list[bytes]]:
    """The parts that it begins with, the shorter first; its pieces; and what stands for the conversation up
    to and including each message."""
    fields = draft.fields
    running = hashlib.sha256(key + target.model_id.encode())
    tools = bytes(draft.raw["tools"]) if fields.tools else b""
    system = bytes(draft.raw["system"]) if fields.system else b""
    parts, size = [], 0
    for name, raw in (("tools", tools), ("system", system)):
        running.update(b"%d:" % len(raw) + raw)
        size += len(raw)
        if raw or name == "system":
            parts.append(_Part(name, running.digest()[:DIGEST_BYTES], size))
    if not system and tools:
        parts = [msgspec.structs.replace(parts[-1], name="tools")]
    turns, messages = [], draft.messages
    for message in messages:
        running.update(message)
        turns.append(running.digest()[:DIGEST_BYTES])
    blocks: Iterable[bytes | Raw] = raw_list(system) if system[:1] == b"[" else [system] if system else []
    pieces = Pieces(
        _digest(key, [tools]),
        tuple(_digest(key, [block]) for block in list(blocks)[:PIECES_MAX]),
        tuple(_digest(key, [message]) for message in messages[:PIECES_MAX]),
    )
    return parts, pieces, turns


def _digest(key: bytes, pieces: Sequence[bytes | Raw]) -> bytes:
    found = hashlib.sha256(key)
    for piece in pieces:
        found.update(piece)
    return found.digest()[:8]


def _text_bytes(fields: Body) -> int:
    """Of the messages, without images and documents, whose bytes say nothing of their tokens."""
    size = 0
    for message in fields.messages:
        if isinstance(message.content, str):
            size += len(message.content)
            continue
        for block in message.content:
            size += sum(len(value) for name, value in block.items() if name != "source")
    return size


# --- breakpoints --------------------------------------------------------------------------------
def _with_mark(draft: Draft, name: str, control: bytes) -> Draft | None:
    """With a breakpoint at the end of the tools or of the system prompt; None where none can be there."""
    fields = draft.fields
    if name == "tools":
        assert fields.tools
        if "defer_loading" in fields.tools[-1]:
            return None
        *before, last = raw_list(draft.raw["tools"])
        return draft.with_field("tools", joined([*before, with_key(last, "cache_control", control)]))
    if isinstance(fields.system, str):
        if holds_signed_thinking(fields):
            return None
        text = as_json(fields.system)
        return draft.with_field("system", b'[{"type":"text","text":%b,"cache_control":%b}]' % (text, control))
    if not fields.system or not _has_text(fields.system[-1]):
        return None
    *before, last = raw_list(draft.raw["system"])
    return draft.with_field("system", joined([*before, with_key(last, "cache_control", control)]))


def _has_text(block: Fields) -> bool:
    return is_given(block.get("text", Raw())) and bytes(block["text"]) != b'""'
