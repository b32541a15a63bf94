"""The shape of a request, recorded with each call so that later advice has something to go by. No text.

`facts` is one JSON object; a figure that is zero and a setting that was not given are left out:

    v      1, the version of this shape
    bytes  {sys, tool, hist, last, res, doc, img}: bytes of JSON per section: the system prompt, tool
           definitions, messages but the last, the last message, tool results, documents, images. A tool
           result, document or image counts in its own section only; what a tool result contains is its.
    words  the same sections without img: estimated from the spaces at the start of each block
    n      {msg, tool, call, res, img, doc, bp5, bp1}: messages, tool definitions, tool calls, tool results,
           images and documents (also inside tool results), cache breakpoints of 5 minutes and of 1 hour
    max    the requested max_tokens        stop    how many stop sequences
    fmt    type of the output format       think   type of thinking      budget  its token budget
    effort the requested effort            kw      {list: hits} of calls/keywords.py

Names that clients choose freely appear as "other". `fingerprints` is what `Fingerprints` packs and
unpacks. A fingerprint is the first 8 bytes of SHA-256 over the tenant's key and the piece, so that
pieces can be recognised within a tenant and nothing can be learned about them without its key.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate, chain, islice
from typing import Any, Protocol

import msgspec
from msgspec import Raw

from governance.calls.keywords import keyword_scores

SHAPE_VERSION = 1
FINGERPRINT_BYTES = 8
PIECES_MAX = 32  # fingerprints of each kind; of messages the newest, of everything else the first
_NOTHING = bytes(FINGERPRINT_BYTES)
BUDGET_TOKENS_MAX = 10_000_000  # a thinking budget above this is none
WORD_SAMPLE_BYTES = 1_024  # of each block; the rest is taken to be like it

_ODD, _MASK = 0x9E37_79B9_7F4A_7C15, (1 << 64) - 1

type Block = dict[str, Raw]


class Message(Protocol):
    @property
    def role(self) -> str: ...
    @property
    def content(self) -> str | list[Block]: ...


class Media(Protocol):
    @property
    def kind(self) -> str: ...
    @property
    def source(self) -> Block | None: ...


class Body(Protocol):
    """The decoded fields that are looked at; blocks have raw values."""

    @property
    def max_tokens(self) -> int: ...
    @property
    def messages(self) -> Sequence[Message]: ...
    @property
    def system(self) -> str | list[Block] | None: ...
    @property
    def tools(self) -> list[Block] | None: ...
    @property
    def thinking(self) -> Block | None: ...
    @property
    def output_config(self) -> Block | None: ...
    @property
    def cache_control(self) -> Block | None: ...
    @property
    def stop_sequences(self) -> list[str] | None: ...


class Request(Protocol):
    @property
    def fields(self) -> Body: ...
    @property
    def media(self) -> Sequence[Media]: ...


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """Eight bytes each; `prefix` is the running hash over all messages before the first of `messages`.

    Packed: 1 byte version, 4 bytes counts (system, tools, documents, messages), the reply (zeros: none),
    the prefix, then the lists in that order.
    """

    system: tuple[bytes, ...]
    tools: tuple[bytes, ...]
    documents: tuple[bytes, ...]
    messages: tuple[bytes, ...]
    reply: bytes
    prefix: bytes

    @classmethod
    def unpack(cls, packed: bytes) -> "Fingerprints":
        """What `request_facts` packed. ValueError for another version."""
        version, *counts = packed[:5]
        if version != SHAPE_VERSION:
            raise ValueError(f"Fingerprints of version {version} cannot be read by this version.")
        step = FINGERPRINT_BYTES
        reply, prefix, *rest = (packed[start : start + step] for start in range(5, len(packed), step))
        lists = iter(rest)
        system, tools, documents, messages = (tuple(islice(lists, count)) for count in counts)
        return cls(system, tools, documents, messages, reply, prefix)

    def prefixes(self) -> tuple[bytes, ...]:
        """For each of `messages` what stands for everything up to and including it.

        Equal prefixes of two calls mean equal conversations so far.
        """
        running = accumulate(self.messages, _extended, initial=int.from_bytes(self.prefix))
        return tuple(value.to_bytes(FINGERPRINT_BYTES) for value in islice(running, 1, None))


def _extended(prefix: int, message: bytes) -> int:
    """The running hash with one more message. The messages' own hashes are keyed, so this need not be."""
    return (prefix * _ODD + int.from_bytes(message)) & _MASK


class RequestFacts(msgspec.Struct, frozen=True, gc=False):
    """`facts` is JSON text in the shape above; `fingerprints` is packed."""

    facts: str
    fingerprints: bytes


def request_facts(request: Request, fingerprint_key: bytes, reply_content: bytes = b"") -> RequestFacts:
    """Facts and fingerprints of a request and of its reply's raw `content`.

    Takes about 25 µs for 1 KB and 4 µs for each further KB: with megabytes of media call it in a thread.
    """
    fields = request.fields
    sections = _Sections()
    system = _system_paragraphs(fields.system, sections)
    tools = [sections.add("tool", tool) for tool in fields.tools or ()]
    turns = _turns(fields.messages, sections)
    documents = [
        b"\0".join(item.source.values())
        for item in request.media
        if item.kind == "document" and item.source is not None
    ]
    if fields.cache_control:
        sections.count_breakpoint(b"".join(fields.cache_control.values()))
    counts = {"msg": len(fields.messages), "tool": len(tools), **sections.counts}
    for item in request.media:
        if name := _COUNT_OF_MEDIA.get(item.kind):
            counts[name] = counts.get(name, 0) + 1
    facts = {
        "v": SHAPE_VERSION,
        "bytes": sections.bytes,
        "words": sections.words,
        "n": {name: count for name, count in counts.items() if count},
        "max": fields.max_tokens,
        "kw": keyword_scores(_last_user_text(fields.messages)),
        **_settings(fields),
    }
    packed = _packed_fingerprints(fingerprint_key, (system, tools, documents), turns, reply_content)
    return RequestFacts(_encode(facts).decode(), packed)


def cache_digest(
    tenant_id: int, model: str, anthropic_version: str, anthropic_beta: str, body: bytes
) -> bytes:
    """The key of an exact answer in the response cache, 32 bytes: never the same for two tenants."""
    about = _encode((tenant_id, model, anthropic_version, anthropic_beta))  # JSON: no two read alike
    digest = hashlib.sha256(about)
    digest.update(body)
    return digest.digest()


def fingerprint(key: bytes, piece: bytes) -> bytes:
    """Eight bytes that stand for the piece within the tenant whose key it is."""
    return hashlib.sha256(key + piece).digest()[:FINGERPRINT_BYTES]


_encode = msgspec.json.Encoder().encode
_NO_BLOCKS: tuple[Block, ...] = ()
_SECTION_OF_TYPE = {b'"tool_result"': "res", b'"document"': "doc", b'"image"': "img"}
_COUNT_OF_MEDIA = {"image": "img", "document": "doc"}
_TOOL_CALLS = {b'"tool_use"', b'"server_tool_use"', b'"mcp_tool_use"'}


class _Sections:
    """Sums per section, filled block by block."""

    __slots__ = ("bytes", "counts", "words")

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}
        self.words: dict[str, int] = {}
        self.counts: dict[str, int] = {}

    def add(self, section: str, block: Block) -> bytes:
        """Counts one block or definition; returns what identifies it, without its cache breakpoint."""
        if "cache_control" in block:
            self.count_breakpoint(bytes(block["cache_control"]))
            block = {name: value for name, value in block.items() if name != "cache_control"}
        piece = _encode(block)
        self.add_text(section, piece)
        return piece

    def add_text(self, section: str, piece: bytes) -> None:
        size = len(piece)
        self.bytes[section] = self.bytes.get(section, 0) + size
        if section == "img":
            return
        if size > WORD_SAMPLE_BYTES:
            words = piece.count(b" ", 0, WORD_SAMPLE_BYTES) * size // WORD_SAMPLE_BYTES
        else:
            words = piece.count(b" ")
        self.words[section] = self.words.get(section, 0) + words + 1

    def count_breakpoint(self, control: bytes) -> None:
        if control != b"null":
            self.count("bp1" if b"1h" in control else "bp5")

    def count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1


def _system_paragraphs(system: str | list[Block] | None, sections: _Sections) -> list[bytes]:
    if isinstance(system, str):
        piece = _encode(system)
        sections.add_text("sys", piece)
        return piece.strip(b'"').split(b"\\n\\n", PIECES_MAX - 1)
    paragraphs: list[bytes] = []
    for block in system or _NO_BLOCKS:
        sections.add("sys", block)
        text = bytes(block.get("text", b"")).strip(b'"')
        paragraphs += text.split(b"\\n\\n", PIECES_MAX - 1)
    return paragraphs


def _turns(messages: Sequence[Message], sections: _Sections) -> list[bytes]:
    """One piece per message: what identifies it, whatever cache breakpoints it carries."""
    turns = []
    section, newest = "hist", len(messages) - 1
    for index, message in enumerate(messages):
        if index == newest:
            section = "last"
        content = message.content
        pieces = [message.role.encode()]
        if isinstance(content, str):
            pieces.append(_encode(content))
            sections.add_text(section, pieces[-1])
        else:
            for block in content:
                kind = bytes(block.get("type", b""))
                special = _SECTION_OF_TYPE.get(kind)
                pieces.append(sections.add(special or section, block))
                if kind in _TOOL_CALLS:
                    sections.count("call")
                elif special == "res":
                    sections.count("res")
        turns.append(b"\0".join(pieces))
    return turns


def _packed_fingerprints(
    key: bytes, lists: tuple[list[bytes], ...], turns: list[bytes], reply_content: bytes
) -> bytes:
    """See `Fingerprints` for the layout."""
    messages = [fingerprint(key, turn) for turn in turns]
    prefix = _NOTHING
    if len(messages) > PIECES_MAX:
        prefix = reduce(_extended, messages[:-PIECES_MAX], 0).to_bytes(FINGERPRINT_BYTES)
        messages = messages[-PIECES_MAX:]
    kept = [[fingerprint(key, piece) for piece in pieces[:PIECES_MAX]] if pieces else [] for pieces in lists]
    kept.append(messages)
    head = bytes((SHAPE_VERSION, *map(len, kept)))
    reply = fingerprint(key, reply_content) if reply_content else _NOTHING
    return b"".join((head, reply, prefix, *chain.from_iterable(kept)))


def _last_user_text(messages: Sequence[Message]) -> bytes:
    for message in reversed(messages):
        if message.role != "user":
            continue
        if isinstance(message.content, str):
            return message.content.encode()
        for block in reversed(message.content):
            if "text" in block:
                return bytes(block["text"])
        return b""
    return b""


_THINKING = {"adaptive", "enabled", "disabled", "between_tools"}
_EFFORTS = {"low", "medium", "high", "xhigh", "max"}
_FORMATS = {"json_schema", "text"}


def _settings(fields: Body) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if fields.stop_sequences:
        found["stop"] = len(fields.stop_sequences)
    if fields.thinking:
        found["think"] = _one_of(fields.thinking.get("type"), _THINKING)
        budget = _value(fields.thinking.get("budget_tokens"), int)
        if budget is not None and 0 <= budget <= BUDGET_TOKENS_MAX:
            found["budget"] = budget
    if fields.output_config:
        if effort := fields.output_config.get("effort"):
            found["effort"] = _one_of(effort, _EFFORTS)
        if output_format := _value(fields.output_config.get("format"), dict[str, Raw]):
            found["fmt"] = _one_of(output_format.get("type"), _FORMATS)
    return found


def _value[T](raw: Raw | None, kind: type[T]) -> T | None:
    """None where it is missing or anything else: what the client sent there must never fail a call."""
    try:
        return None if raw is None else msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError:
        return None


def _one_of(raw: Raw | None, known: set[str]) -> str:
    value = _value(raw, str)
    return value if value in known else "other"
