"""A body on its way to being another one: its top-level fields as the client wrote them, and what they say.

Taken apart once, put together once. A field that no rewrite touched keeps its bytes and its place; only white
space between fields goes. Inside a changed field as much as possible stays raw too: messages are cut from and
blocks are added to lists of raw values.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw

from governance.gateway.request import (
    ABSENT,
    Body,
    Fields,
    Message,
    Request,
    is_given,
    read_request,
    value_of,
)

_decode_top = msgspec.json.Decoder(Fields).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_fields = msgspec.json.Decoder(Fields).decode
_decode_messages = msgspec.json.Decoder(list[Message]).decode
_encode = msgspec.json.Encoder().encode
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    field.name: msgspec.json.Decoder(field.type)
    for field in msgspec.structs.fields(Body)
    if field.type is not Raw
}

_SIGNED_TYPES = frozenset({b'"thinking"', b'"redacted_thinking"'})
_BLOCKS_MARK = ord("[")
_TEXT_MARK = ord('"')


class NotDone(msgspec.Struct, frozen=True):
    """A rewrite was not made. `why`: the rest of a sentence that begins with its name."""

    why: str


class Draft(msgspec.Struct, frozen=True):
    """`raw` in the client's order; `fields` is what they say, as `read_request` would read it."""

    raw: Fields
    fields: Body

    def with_field(self, name: str, value: bytes | Raw) -> "Draft":
        """With another value, in the same place, or at the end where the field is new."""
        raw = self.raw | {name: Raw(value)}
        decoder = _DECODERS.get(name)
        decoded = Raw(value) if decoder is None else decoder.decode(value)
        return Draft(raw, msgspec.structs.replace(self.fields, **{name: decoded}))

    def with_value(self, name: str, value: Any) -> "Draft":
        """`value`: anything that becomes JSON."""
        return self.with_field(name, _encode(value))

    def without(self, *names: str) -> "Draft":
        absent = {name: ABSENT if name not in _DECODERS else None for name in names}
        raw = {name: value for name, value in self.raw.items() if name not in absent}
        return Draft(raw, msgspec.structs.replace(self.fields, **absent))

    @property
    def messages(self) -> list[Raw]:
        """Each message as it was written, with whatever else it says beside role and content."""
        return _decode_list(self.raw["messages"])

    def with_messages(self, messages: Iterable[bytes | Raw]) -> "Draft":
        return self.with_field("messages", joined(messages))

    def request(self) -> Request:
        """Read again as if the client had sent it. RequestRefused where it would be refused."""
        return read_request(_encode(self.raw))


def draft_of(request: Request) -> Draft:
    return Draft(_decode_top(request.body), request.fields)


# --- raw JSON -----------------------------------------------------------------------------------
def joined(values: Iterable[bytes | Raw]) -> bytes:
    """The JSON list of these values."""
    return b"[%b]" % b",".join(map(bytes, values))


def as_json(value: Any) -> bytes:
    return _encode(value)


def raw_list(value: bytes | Raw) -> list[Raw]:
    return _decode_list(value)


def with_key(given: bytes | Raw, name: str, value: bytes) -> bytes:
    """The JSON object with one more key or another value of it; the other values keep their bytes."""
    return _encode(_decode_fields(given) | {name: Raw(value)})


def without_key(given: Fields, *names: str) -> Fields:
    return {name: value for name, value in given.items() if name not in names}


def text_block(text: str) -> bytes:
    return _encode({"type": "text", "text": text})


def text_before(text: str, content: bytes | Raw) -> bytes:
    """The content, a string or a list of blocks, with a paragraph put before it."""
    raw = bytes(content)
    if raw[0] == _TEXT_MARK:
        return _encode(f"{text}\n\n")[:-1] + raw[1:]
    return joined([text_block(text), *_decode_list(raw)])


def text_after(content: bytes | Raw, text: str) -> bytes:
    """The content, a string or a list of blocks, with a paragraph put after it."""
    raw = bytes(content)
    if raw[0] == _TEXT_MARK:
        return raw if raw == b'""' and not text else raw[:-1] + _encode(f"\n\n{text}")[1:]
    return joined([*_decode_list(raw), text_block(text)])


# --- what a conversation holds ------------------------------------------------------------------
def is_of_type(block: Fields, types: frozenset[bytes]) -> bool:
    """`types` are JSON strings; a type that is spelled with escapes is read."""
    kind = bytes(block.get("type", ABSENT))
    if kind in types:
        return True
    return b"\\" in kind and _encode(value_of(Raw(kind), str)) in types


def has_block(message: Message, types: frozenset[bytes]) -> bool:
    return not isinstance(message.content, str) and any(is_of_type(b, types) for b in message.content)


def holds_signed_thinking(fields: Body) -> bool:
    """Thinking is signed over everything before it: system, tools and messages cannot change any more."""
    return any(
        is_of_type(block, _SIGNED_TYPES) and (is_given(block.get("signature", ABSENT)) or "data" in block)
        for message in fields.messages
        if not isinstance(message.content, str)
        for block in message.content
    )
