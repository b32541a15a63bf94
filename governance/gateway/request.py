"""Reading the body of POST /v1/messages: one decode, and no doubt about what it says.

We decide on our reading of the body and Claude on its own, so a body that two parsers could read
differently is refused. The client's bytes themselves go upstream unchanged. `read_request` first
decodes the known shape with msgspec (text stays raw bytes), then encodes the result again and
compares lengths. An encoder never writes more than the client did, so equal lengths prove that
nothing was dropped: no key given twice, no field that the shape does not know. Any other body
(pretty-printed, escaped, with new fields) is read once more, in full, and checked object by object.
"""

import json
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw

NESTING_MAX = 64  # containers inside each other, the body itself included
BLOCK_LEVELS_MAX = 5  # content blocks inside content blocks; the API itself has three
MAX_TOKENS_MAX = 10_000_000  # far above any model's output; keeps worst cases inside 64 bits
MODEL_CHARACTERS_MAX = 256
UNKNOWN_FIELDS_MAX = 16  # names that are kept as labels, each at most 64 characters

ABSENT = Raw(b"")

type CacheTtl = Literal["5m", "1h"] | None

type Fields = dict[str, Raw]
"""A JSON object whose values are left as raw bytes."""


class RequestRefused(Exception):
    """The body cannot be served: a 400 in Anthropic's error envelope.

    `sentence` is the error's message; `param` is the path of the field at fault, or None.
    """

    status = 400
    error_type = "invalid_request_error"

    def __init__(self, sentence: str, param: str | None = None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.param = param


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
_decode_anything = msgspec.json.Decoder(float_hook=float).decode  # 1e999 is not our concern
_encode = msgspec.json.Encoder().encode

_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_QUOTE = ord('"')
# A value sits at most five containers deep and needs two bytes for each further level: under this
# size it cannot be too deep.
_SHORT_BYTES = 2 * (NESTING_MAX - 5)


def read_request(body: bytes) -> Request:
    """The request in `body`; raises RequestRefused with the sentence to answer."""
    fields = _decode(body)
    is_ascii = body.isascii()
    if not is_ascii:
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise RequestRefused(f"The request body is not UTF-8 (byte {error.start}).") from None
    # rfind, because searching for two bytes backwards is a third faster than `in`.
    has_unicode_escapes = b"\\" in body and body.rfind(b"\\u") >= 0
    if has_unicode_escapes and _ESCAPED_NUL.search(body):
        raise RequestRefused("The request body contains a NUL character (\\u0000). Remove it.")
    survey = _Survey()
    unknown_fields: tuple[str, ...] = ()
    if len(_encode(fields)) == len(body):
        _refuse_deep_fields(fields)
    else:
        unknown_fields = _read_in_full(body)
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
    )


def is_given(value: Raw) -> bool:
    """Whether a raw field is there and not null."""
    return len(value) > 0 and bytes(value) != b"null"


def _decode(body: bytes) -> Body:
    try:
        return _decode_body(body)
    except msgspec.ValidationError as error:
        raise _shape_refusal(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestRefused(f"The request body is not valid JSON: {error}.") from None
    except RecursionError:
        raise _too_deep() from None


def _too_deep() -> RequestRefused:
    return RequestRefused(f"The request body nests deeper than {NESTING_MAX} levels.")


_MISSING = re.compile(r"Object missing required field `(\w+)`(?: - at `\$\.?(.*)`)?$")
_WRONG = re.compile(r"(.*) - at `\$\.?(.*)`$")
_EXPECTED = {"str": "string", "int": "integer", "bool": "boolean", "array": "list", "object": "object"}


def _shape_refusal(error: str) -> RequestRefused:
    """msgspec's error in the words of the API: `max_tokens: Field required`."""
    if missing := _MISSING.match(error):
        field, parent = missing.groups()
        path = _path(f"{parent}.{field}" if parent else field)
        return RequestRefused(f"{path}: Field required", path)
    wrong = _WRONG.match(error)
    if wrong is None:
        return RequestRefused("The request body must be a JSON object.")
    problem, path = wrong[1], _path(wrong[2])
    expected = re.match(r"Expected `([^`]+)`, got `(\w+)`", problem)
    if expected is None:  # a range: "Expected `int` >= 0"
        return RequestRefused(f"{path}: {problem}", path)
    names = [_EXPECTED[name] for name in expected[1].split(" | ") if name in _EXPECTED]
    return RequestRefused(f"{path}: Input should be a valid {' or '.join(names)}", path)


def _path(msgspec_path: str) -> str:
    """`messages[0].content` as the API writes it: `messages.0.content`."""
    return msgspec_path.replace("[", ".").replace("]", "").strip(".")


def _user_id(metadata: Fields | None) -> str | None:
    raw = metadata.get("user_id", ABSENT) if metadata else ABSENT
    if not is_given(raw):
        return None
    try:
        return msgspec.json.decode(raw, type=str)
    except msgspec.ValidationError:
        path = "metadata.user_id"
        raise RequestRefused(f"{path}: Input should be a valid string", path) from None


# --- What the blocks say about the price: media and the prompt cache ----------------------------
class _Survey:
    def __init__(self) -> None:
        self.media: list[Media] = []
        self.cache_ttl: CacheTtl = None

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
            if "cache_control" in block:
                self._see_cache_control(block["cache_control"])
            if "source" in block:
                self._see_source(block, level)
            if "content" in block:
                self._read_nested(block["content"], level)

    def _see_cache_control(self, raw: Raw) -> None:
        if not is_given(raw):
            return
        text = bytes(raw)
        # Anything that is not plainly the short lifetime counts as the long one.
        long = b"1h" in text or b"\\" in text
        self.cache_ttl = "1h" if long or self.cache_ttl == "1h" else "5m"

    def _see_source(self, block: Fields, level: int) -> None:
        kind = block_type(block)
        source = block["source"]
        is_object = bytes(source)[:1] == b"{"
        self.media.append(Media(kind, _decode_part(_decode_fields, source) if is_object else None))
        if is_object and (nested := self.media[-1].source):
            self._read_nested(nested.get("content", ABSENT), level)

    def _read_nested(self, content: Raw, level: int) -> None:
        if bytes(content)[:1] != b"[":
            return
        if level == BLOCK_LEVELS_MAX:
            raise RequestRefused(f"Content blocks nest deeper than {BLOCK_LEVELS_MAX} levels.")
        self._read_blocks(_decode_part(_decode_blocks, content), level + 1)


def block_type(block: Fields) -> str:
    """The block's `type`, or "" where it is missing or not a string."""
    raw = block.get("type", ABSENT)
    try:
        return msgspec.json.decode(raw, type=str) if len(raw) else ""
    except msgspec.ValidationError:
        return ""


def _decode_part[T](decode: Callable[[Raw], T], raw: Raw) -> T:
    """A part that was left raw, decoded one level; refused where a key in it is given twice."""
    try:
        part = decode(raw)
    except msgspec.ValidationError as error:
        raise _shape_refusal(str(error)) from None
    if len(_encode(part)) != len(raw):
        json.loads(bytes(raw), object_pairs_hook=_without_repeats)
    return part


# --- A body of the known shape: only raw values can still nest too deeply -----------------------
def _refuse_deep_fields(fields: Body) -> None:
    values = msgspec.structs.astuple(fields)
    raw_values = values[_RAW_FIELDS]
    if raw_values != _NO_RAW_FIELDS:
        for value in raw_values:
            if len(value) >= _SHORT_BYTES:
                _refuse_if_deep(value, levels_above=1)
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
            _refuse_if_deep(value, levels_above)


def _refuse_if_deep(value: Raw, levels_above: int) -> None:
    text = bytes(value)
    levels_max = NESTING_MAX - levels_above
    if text[0] == _QUOTE or text.count(b"{") + text.count(b"[") <= levels_max:
        return
    try:
        if _levels(_decode_anything(text)) > levels_max:
            raise _too_deep()
    except RecursionError:
        raise _too_deep() from None


def _levels(value: Any) -> int:
    """How many containers sit inside each other: 0 for a plain value."""
    count = 0
    layer = [value] if isinstance(value, (dict, list)) else []
    while layer:
        count += 1
        layer = [
            inner
            for outer in layer
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
    return count


# --- Any other body: every object, key by key ---------------------------------------------------
def _read_in_full(body: bytes) -> tuple[str, ...]:
    """Refuses a key given twice and deep nesting anywhere; returns the unknown top-level names."""
    try:
        whole = json.loads(body.decode(), object_pairs_hook=_without_repeats)
    except RecursionError:
        raise _too_deep() from None
    if _levels(whole) > NESTING_MAX:
        raise _too_deep()
    unknown = sorted(whole.keys() - KNOWN_FIELDS)
    for name in unknown:
        known = name.casefold()
        if known in KNOWN_FIELDS:
            raise RequestRefused(f"Spell {name!r} as {known!r}: some readers would take it for that.", known)
    return tuple(name[:64] for name in unknown[:UNKNOWN_FIELDS_MAX])


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    given = dict(pairs)
    if len(given) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in given if names.count(name) > 1)[:64]
        raise RequestRefused(f"{repeated}: given twice in one object. Send it once.", repeated)
    return given
