"""Reading the body of POST /v1/messages: one decode, and no doubt about what it says.

We decide on our reading of the body and Claude on its own, so a body that two parsers could read
differently is refused. The client's bytes themselves go upstream unchanged. `read_request` first
decodes the known shape with msgspec (text stays raw bytes), then encodes the result again and
compares lengths. An encoder never writes more than the client did, so equal lengths prove that
nothing was dropped: no key given twice, no field that the shape does not know. Any other body
(pretty-printed, escaped, with new fields) is read once more, in full, and checked object by object.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw

from governance.gateway.json_limits import (
    NESTING_MAX,
    levels,
    loads,
    not_json,
    refuse_if_deep,
    refuse_many_parts,
    too_deep,
    without_backslashes,
)
from governance.gateway.request_refused import RequestRefused as RequestRefused
from governance.gateway.request_refused import shape_refusal

BLOCK_LEVELS_MAX = 5  # content blocks inside content blocks; the API itself has three
MAX_TOKENS_MAX = 10_000_000  # far above any model's output; keeps worst cases inside 64 bits
MODEL_CHARACTERS_MAX = 256
UNKNOWN_FIELDS_MAX = 16  # names that are kept as labels, each at most 64 characters

ABSENT = Raw(b"")

type CacheTtl = Literal["5m", "1h"] | None

type Fields = dict[str, Raw]
"""A JSON object whose values are left as raw bytes."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """One turn: `content` is text, or blocks (`{"type": ..., ...}` with raw values)."""

    role: str
    content: str | list[Fields]


class Body(msgspec.Struct, frozen=True, omit_defaults=True):
    """The fields of a Messages request that we know. Absent and null optional fields are equal."""

    model: Annotated[str, Meta(min_length=1, max_length=MODEL_CHARACTERS_MAX)]
    max_tokens: Annotated[int, Meta(ge=0, le=MAX_TOKENS_MAX)]
    messages: list[Message]
    system: str | list[Fields] | None = None
    tools: list[Fields] | None = None
    stream: bool | None = None
    metadata: Fields | None = None
    thinking: Fields | None = None
    output_config: Fields | None = None
    tool_choice: Fields | None = None
    cache_control: Fields | None = None
    context_management: Fields | None = None
    mcp_servers: list[Fields] | None = None
    stop_sequences: list[str] | None = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    compaction: Raw = ABSENT
    container: Raw = ABSENT
    fallbacks: Raw = ABSENT
    fallback_credit_token: Raw = ABSENT
    thread: Raw = ABSENT
    billing_policy: Raw = ABSENT
    diagnostics: Raw = ABSENT
    safeguards: Raw = ABSENT
    tags: Raw = ABSENT
    temperature: Raw = ABSENT
    top_p: Raw = ABSENT
    top_k: Raw = ABSENT


class Media(msgspec.Struct, frozen=True):
    """An image or a document: the block's `type`, and its `source` where that is an object."""

    kind: str
    source: Fields | None


class Request(msgspec.Struct, frozen=True):
    """A body that was read and accepted. `body` are the client's own bytes.

    `cache_ttl` is the longest prompt-cache lifetime that the body asks for. `unknown_fields` are
    top-level names that we do not know: they pass, and the bound is assumed. `is_ascii` and
    `has_unicode_escapes` say whether the text can grow when it is normalised.
    """

    body: bytes
    fields: Body
    user_id: str | None
    media: tuple[Media, ...]
    cache_ttl: CacheTtl
    unknown_fields: tuple[str, ...]
    is_ascii: bool
    has_unicode_escapes: bool
    inline_tools: tuple[Fields, ...] = ()

    @property
    def tools(self) -> Sequence[Fields]:
        """Every tool that the body defines: in `tools`, and inside messages (`inline_tools`)."""
        declared = self.fields.tools or ()
        return [*declared, *self.inline_tools] if self.inline_tools else declared

    @property
    def model(self) -> str:
        return self.fields.model

    @property
    def max_tokens(self) -> int:
        return self.fields.max_tokens

    @property
    def stream(self) -> bool:
        return bool(self.fields.stream)


KNOWN_FIELDS = frozenset(Body.__struct_fields__)
_RAW_FIELDS = slice(Body.__struct_fields__.index("compaction"), None)
_OBJECT_FIELDS = slice(
    Body.__struct_fields__.index("metadata"), Body.__struct_fields__.index("context_management") + 1
)
_NO_RAW_FIELDS = (ABSENT,) * len(Body.__struct_fields__[_RAW_FIELDS])

_decode_body = msgspec.json.Decoder(Body).decode
_decode_fields = msgspec.json.Decoder(Fields).decode
_decode_blocks = msgspec.json.Decoder(list[Fields]).decode
_encode = msgspec.json.Encoder().encode

_ESCAPED_NUL = b"\\u0000"
# A value sits at most five containers deep and needs two bytes for each further level: under this
# size it cannot be too deep.
_SHORT_BYTES = 2 * (NESTING_MAX - 5)


def read_request(body: bytes) -> Request:
    """The request in `body`; raises RequestRefused with the sentence to answer."""
    refuse_many_parts(body)
    fields = _decode(body)
    is_ascii = body.isascii()
    if not is_ascii:
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise RequestRefused(f"The request body is not UTF-8 (byte {error.start}).") from None
    # rfind, because searching for two bytes backwards is a third faster than `in`.
    has_unicode_escapes = b"\\" in body and body.rfind(b"\\u") >= 0
    if has_unicode_escapes and _ESCAPED_NUL in body and _ESCAPED_NUL in without_backslashes(body):
        raise RequestRefused("The request body contains a NUL character (\\u0000). Remove it.")
    unknown_fields: tuple[str, ...] = ()
    is_known_shape = len(_encode(fields)) == len(body)
    if is_known_shape:
        _refuse_deep_fields(fields)
    else:
        unknown_fields = _read_in_full(body)
    survey = _Survey(was_read_in_full=not is_known_shape)
    survey.read(fields)
    return Request(
        body,
        fields,
        _user_id(fields.metadata),
        tuple(survey.media),
        survey.cache_ttl,
        unknown_fields,
        is_ascii,
        has_unicode_escapes,
        tuple(survey.tools),
    )


def without_content(request: Request) -> Request:
    """The request without what was said in it: for as long as only its terms are asked for."""
    fields = msgspec.structs.replace(request.fields, messages=[], system=None, tools=None)
    return msgspec.structs.replace(request, body=b"", fields=fields, media=())


def value_of[T](raw: Raw, kind: type[T]) -> T | None:
    """The raw value decoded; None where it is missing, null or not of that kind."""
    try:
        return msgspec.json.decode(raw, type=kind) if len(raw) else None
    except msgspec.DecodeError:  # also what only a raw value may hold: 1e999, half a surrogate pair
        return None


def is_given(value: Raw) -> bool:
    """Whether a raw field is there and not null."""
    return len(value) > 0 and bytes(value) != b"null"


def _decode(body: bytes) -> Body:
    try:
        return _decode_body(body)
    except msgspec.ValidationError as error:
        raise shape_refusal(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise not_json(error) from None
    except RecursionError:
        raise too_deep() from None


def _user_id(metadata: Fields | None) -> str | None:
    raw = metadata.get("user_id", ABSENT) if metadata else ABSENT
    if not is_given(raw):
        return None
    user_id = value_of(raw, str)
    if user_id is None:
        path = "metadata.user_id"
        raise RequestRefused(f"{path}: Input should be a valid string")
    return user_id


# --- What the blocks say about the price: media and the prompt cache ----------------------------
_PLAIN_NAMES = frozenset(
    {"type", "text", "id", "name", "tool_use_id", "is_error", "thinking", "signature", "citations"}
)
_TOOL_REFERENCES = frozenset({"tool_reference", "mcp_tool_reference", "mcp_toolset_reference"})
UNREADABLE_TOOL: Fields = {"type": Raw(b'"unreadable"')}
"""A tool of which we cannot tell what it is: dearer than any."""
_TOOL_CALLS = frozenset({b'"tool_use"', b'"server_tool_use"', b'"mcp_tool_use"'})
_NAMES_A_RESULT = frozenset(  # Claude was given these before; their address is not read again
    {
        b'"web_search_result"',
        b'"web_fetch_result"',
        b'"code_execution_output"',
        b'"bash_code_execution_output"',
    }
)
_FAR_AWAY = (b'"source"', b'"url"', b'"file_id"', b"\\u")  # an escape may spell any of the others


class _Survey:
    """Collects from every content block; what it cannot follow counts as the dearest it could be."""

    def __init__(self, *, was_read_in_full: bool) -> None:
        self.media: list[Media] = []
        self.cache_ttl: CacheTtl = None
        self.tools: list[Fields] = []
        self._was_read_in_full = was_read_in_full

    def read(self, fields: Body) -> None:
        if fields.cache_control:
            self._see_cache_control(Raw(_encode(fields.cache_control)))
        for tool in fields.tools or ():
            if "cache_control" in tool:
                self._see_cache_control(tool["cache_control"])
        if fields.system and not isinstance(fields.system, str):
            self._read_blocks(fields.system)
        for message in fields.messages:
            if not isinstance(message.content, str):
                self._read_blocks(message.content)

    def _read_blocks(self, blocks: Iterable[Fields], level: int = 1) -> None:
        for block in blocks:
            for name, value in block.items():
                if name not in _PLAIN_NAMES:
                    self._read_value(block, name, value, level)

    def _read_value(self, block: Fields, name: str, value: Raw, level: int) -> None:
        if name == "content":
            self._read_nested(value, level)
        elif name == "cache_control":
            self._see_cache_control(value)
        elif name == "tool":
            self._see_tool(value)
        elif name == "source":
            self._see_source(block, level)
        elif name == "input" and bytes(block.get("type", ABSENT)) in _TOOL_CALLS:
            pass  # what Claude wrote for a tool
        elif name in ("url", "file_id"):
            if bytes(block.get("type", ABSENT)) not in _NAMES_A_RESULT and is_given(value):
                self.media.append(Media(block_type(block), None))
        else:
            self._see_unknown(block, bytes(value))

    def _see_tool(self, raw: Raw) -> None:
        """A tool that a block of a conversation adds: by reference, or defined there and then."""
        if bytes(raw)[:1] != b"{":
            if is_given(raw):
                self.tools.append(UNREADABLE_TOOL)
            return
        tool = self._decode_part(_decode_fields, raw)
        kind, definition = block_type(tool), tool.get("definition", ABSENT)
        if kind in _TOOL_REFERENCES and not is_given(definition):
            return
        if bytes(definition)[:1] != b"{":
            self.tools.append(UNREADABLE_TOOL)
            return
        defined = self._decode_part(_decode_fields, definition)
        self.tools.append(defined)
        if "cache_control" in defined:
            self._see_cache_control(defined["cache_control"])

    def _see_unknown(self, block: Fields, text: bytes) -> None:
        if text[:1] not in (b"{", b"["):
            return
        if any(mark in text for mark in _FAR_AWAY):
            self.media.append(Media(block_type(block), None))
        if b'"cache_control"' in text or b"\\u" in text:
            self._see_cache_control(Raw(text))

    def _see_cache_control(self, raw: Raw) -> None:
        if not is_given(raw):
            return
        text = bytes(raw)
        # Anything that is not plainly the short lifetime counts as the long one.
        is_short = b"\\" not in text and b"1h" not in text and (b'"ttl"' not in text or b'"5m"' in text)
        if not is_short:
            self.cache_ttl = "1h"
        elif self.cache_ttl is None:
            self.cache_ttl = "5m"

    def _see_source(self, block: Fields, level: int) -> None:
        source = block["source"]
        if bytes(source)[:1] != b"{":
            self.media.append(Media(block_type(block), None))
            return
        inside = self._decode_part(_decode_fields, source)
        self.media.append(Media(block_type(block), inside))
        self._read_nested(inside.get("content", ABSENT), level)

    def _read_nested(self, content: Raw, level: int) -> None:
        first = bytes(content)[:1]
        if first not in (b"[", b"{"):
            return
        if level == BLOCK_LEVELS_MAX:
            raise RequestRefused(f"Content blocks nest deeper than {BLOCK_LEVELS_MAX} levels.")
        if first == b"[":
            self._read_blocks(self._decode_part(_decode_blocks, content), level + 1)
        else:
            self._read_blocks((self._decode_part(_decode_fields, content),), level + 1)

    def _decode_part[T](self, decode: Callable[[Raw], T], raw: Raw) -> T:
        """A part that was left raw, decoded one level; refused where a key in it is given twice."""
        try:
            part = decode(raw)
        except msgspec.ValidationError as error:
            raise shape_refusal(str(error)) from None
        except msgspec.DecodeError as error:
            raise not_json(error) from None
        if not self._was_read_in_full and len(_encode(part)) != len(raw):
            loads(bytes(raw))
        return part


def block_type(block: Fields) -> str:
    """The block's `type`, or "" where it is missing or not a string."""
    return value_of(block.get("type", ABSENT), str) or ""


# --- A body of the known shape: only raw values can still nest too deeply -----------------------
def _refuse_deep_fields(fields: Body) -> None:
    values = msgspec.structs.astuple(fields)
    raw_values = values[_RAW_FIELDS]
    if raw_values != _NO_RAW_FIELDS:
        for value in raw_values:
            if len(value) >= _SHORT_BYTES:
                refuse_if_deep(value, levels_above=1)
    for given in values[_OBJECT_FIELDS]:
        if given:
            _refuse_deep_values(given, levels_above=2)
    for group in (fields.tools, fields.mcp_servers, fields.system):
        if isinstance(group, list):
            for given in group:
                _refuse_deep_values(given, levels_above=3)
    for message in fields.messages:
        if not isinstance(message.content, str):
            for block in message.content:
                _refuse_deep_values(block, levels_above=5)


def _refuse_deep_values(given: Fields, levels_above: int) -> None:
    for value in given.values():
        if len(value) >= _SHORT_BYTES:
            refuse_if_deep(value, levels_above)


# --- Any other body: every object, key by key ---------------------------------------------------
def _read_in_full(body: bytes) -> tuple[str, ...]:
    """Refuses a key given twice and deep nesting anywhere; returns the unknown top-level names."""
    whole = loads(body)
    if levels(whole) > NESTING_MAX:
        raise too_deep()
    unknown = sorted(whole.keys() - KNOWN_FIELDS)
    for name in unknown:
        known = name.casefold()
        if known in KNOWN_FIELDS:
            raise RequestRefused(f"Spell {name!r} as {known!r}: some readers would take it for that.")
    return tuple(name[:64] for name in unknown[:UNKNOWN_FIELDS_MAX])
