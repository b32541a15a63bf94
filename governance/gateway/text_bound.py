"""How many input tokens a request can cost at most, from its bytes alone. Pure; no tokenizer needed.

A byte-level tokenizer makes at most one token of a byte of normalised text, so the bytes of the JSON
body bound its tokens, once two things are mended. NFKC normalisation can grow text (one character to
33 bytes at worst): whatever can grow is counted at its grown size. And media are not text: their
base64 is taken out and a cap per image or page put in. What cannot be known from the body (a URL, a
file id, a tool that the server runs in a loop) counts as the model's whole context window.
"""

import binascii
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, starmap

import msgspec
from msgspec import Raw

from governance.gateway.request import ABSENT, Fields, Media, Request, is_given

BASE_TOKENS = 64  # what surrounds any prompt; the JSON punctuation of each turn covers the turn's own
TOOL_SET_TOKENS = 600  # the instructions that come with the first tool or output format
BUILT_IN_TOOL_TOKENS = 2_000  # a tool that is named, not described: its definition is Anthropic's
IMAGE_TOKENS_MAX = 4_800
OLDER_IMAGE_TOKENS_MAX = 1_600
PAGE_TEXT_TOKENS = 3_000
PDF_PAGES_MAX = 600
PDF_SCAN_BYTES_MAX = 8 * 1024 * 1024

# Models before high-resolution images. Any other name, also an unknown one, gets the higher cap.
_OLDER_MODEL = re.compile(r"claude-(3-|(opus|sonnet|haiku)-4(-[0-6])?(-\d{8})?$)")
_CLIENT_TOOLS = ("bash_", "text_editor_", "computer_", "memory_")
_SERVER_TOOLS = ("web_search_", "web_fetch_")


@dataclass(frozen=True, slots=True)
class InputBound:
    """`tokens_max` is over all `passes_max` sampling passes."""

    tokens_max: int
    passes_max: int
    web_searches_max: int


def input_bound(request: Request, context_window_tokens: int) -> InputBound:
    """The most input tokens that the request can be billed, whatever its text says.

    Where `unbounded_features` names something this is not a bound, only the best figure there is.
    """
    server_tools = [tool for tool in request.fields.tools or () if _is_server_tool(tool)]
    passes, searches = 1, 0
    for tool in server_tools:
        uses = _uses_max(tool) or 0
        passes += uses
        if _tool_type(tool).startswith("web_search_"):
            searches += uses
    tokens = BASE_TOKENS + len(request.body) + _growth_bytes(request) + _tool_tokens(request)
    for media in request.media:
        media_tokens = _media_tokens(media, request.model)
        tokens += context_window_tokens if media_tokens is None else media_tokens
    if server_tools:
        tokens = context_window_tokens  # each pass reads what the tools brought
    tokens = max(0, min(tokens, context_window_tokens))
    return InputBound(tokens * passes, passes, searches)


def unbounded_features(request: Request) -> tuple[str, ...]:
    """What makes the worst case of this request unknowable; refused unless the key opts in."""
    fields = request.fields
    found: list[str] = []
    for tool in fields.tools or ():
        name = _tool_type(tool)
        if name.startswith(("advisor_", "code_execution_")):
            found.append(name.rsplit("_", 1)[0])
        elif name == "mcp_toolset":
            found.append("mcp")
        elif _is_server_tool(tool) and not (name.startswith(_SERVER_TOOLS) and _uses_max(tool)):
            found.append(f"server_tool:{name[:64]}")
    if fields.mcp_servers:
        found.append("mcp")
    if is_given(fields.compaction) or (fields.context_management and _may_compact(fields.context_management)):
        found.append("compaction")
    if is_given(fields.fallbacks):
        found.append("fallbacks")
    if is_given(fields.container):
        found.append("container")
    if is_given(fields.thread):
        found.append("thread")
    if fields.speed is not None and fields.speed != "standard":
        found.append("fast_mode")
    for media in request.media:
        kind = _text(media.source, "type")
        if kind in ("url", "file"):
            found.append(f"{kind}_source")
        elif media.source is not None and kind not in ("base64", "text", "content"):
            found.append("unknown_source")
    return _once(found)


def _once(names: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names)) if len(names) > 1 else tuple(names)


def _may_compact(context_management: Fields) -> bool:
    edits = bytes(context_management.get("edits", ABSENT))
    return b"compact" in edits or b"\\" in edits  # a backslash may spell it


# --- Text: characters that normalisation makes longer -------------------------------------------
def _grown_bytes(character: str) -> int:
    """UTF-8 bytes of the character's compatibility decomposition.

    Decomposed, because recomposition never makes text longer but depends on the neighbours; except
    Hangul syllables, which always come back together.
    """
    if "\uac00" <= character <= "\ud7a3":
        return 3
    return len(unicodedata.normalize("NFKD", character).encode())


# Where decompositions are; the ideographs between have none.
_DECOMPOSABLE = ((0x80, 0x3400), (0xA640, 0xAC00), (0xF900, 0x20000), (0x2F800, 0x2FA20))


def _growing(raw_bytes: Callable[[str], int]) -> dict[str, int]:
    """Character → how many bytes it can gain over the bytes that it takes in the body."""
    table = {}
    for code in chain(*starmap(range, _DECOMPOSABLE)):
        character = chr(code)
        if unicodedata.decomposition(character):
            growth = _grown_bytes(character) - raw_bytes(character)
            if growth > 0:
                table[character] = growth
    return table


_GROWTH_BYTES = _growing(lambda character: len(character.encode()))
_ESCAPED_BYTES = _growing(lambda character: 6 if character < "\U00010000" else 12)
_ESCAPE_GROWTH_BYTES = {b"%04x" % ord(character): growth for character, growth in _ESCAPED_BYTES.items()}
# Above U+FFFF everything is looked up: a class of single characters is only fast below.
_MAY_GROW = re.compile("[" + "".join(c for c in _GROWTH_BYTES if c < "\U00010000") + "\U00010000-\U0010ffff]")
_ESCAPE = re.compile(rb"\\u([0-9a-fA-F]{4})")
_ASCII = bytes(range(128))


def _growth_bytes(request: Request) -> int:
    growth = 0
    if not request.is_ascii:
        others = request.body.translate(None, _ASCII).decode()
        growth = sum(_GROWTH_BYTES.get(character, 0) for character in _MAY_GROW.findall(others))
    if request.has_unicode_escapes:
        # An escaped backslash before a "u" is counted too: never too little.
        for code in _ESCAPE.findall(request.body):
            growth += _ESCAPE_GROWTH_BYTES.get(code.lower(), 0)
    return growth


# --- Tools --------------------------------------------------------------------------------------
def _tool_tokens(request: Request) -> int:
    """Definitions are rendered anew, so their bytes count twice; built-in ones are longer than said."""
    tools, output_config = request.fields.tools, request.fields.output_config
    tokens = 0
    if tools:
        tokens += TOOL_SET_TOKENS
        for tool in tools:
            tokens += sum(map(len, tool.values()))
            if _tool_type(tool) != "custom":
                tokens += BUILT_IN_TOOL_TOKENS
    if output_config and is_given(output_format := output_config.get("format", ABSENT)):
        tokens += TOOL_SET_TOKENS + len(output_format)
    return tokens


def _tool_type(tool: Fields) -> str:
    return _text(tool, "type") or "custom"


def _is_server_tool(tool: Fields) -> bool:
    """A tool that Anthropic runs, in a loop that bills its input again; an unknown one may be."""
    name = _tool_type(tool)
    return name != "custom" and not name.startswith(_CLIENT_TOOLS)


def _uses_max(tool: Fields) -> int | None:
    try:
        uses = msgspec.json.decode(tool.get("max_uses", Raw(b"null")), type=int | None)
    except msgspec.ValidationError:
        return None
    return uses if uses is None or uses > 0 else None


# --- Media --------------------------------------------------------------------------------------
def _media_tokens(media: Media, model: str) -> int | None:
    """Tokens to add to the body's bytes (may be below zero: base64 is no text); None where none can tell."""
    if media.source is None:
        return 0 if media.kind == "search_result" else None  # its source is a plain link
    source_type = _text(media.source, "type")
    if source_type in ("text", "content"):
        return 0
    if source_type != "base64":
        return None
    data = media.source.get("data", ABSENT)
    image_tokens = OLDER_IMAGE_TOKENS_MAX if _OLDER_MODEL.match(model) else IMAGE_TOKENS_MAX
    if media.kind == "image":
        return image_tokens - len(data)
    pages = _pdf_pages(data) if _text(media.source, "media_type") == "application/pdf" else None
    return None if pages is None else pages * (PAGE_TEXT_TOKENS + image_tokens) - len(data)


_PAGE = re.compile(rb"/Type\s*/Page(?![A-Za-z])")
_PAGE_COUNT = re.compile(rb"/Count\s+(\d{1,9})")


def _pdf_pages(data: Raw) -> int | None:
    """Pages of a base64 PDF, or None where a plain look cannot tell (packed, encrypted, too large)."""
    if not 0 < len(data) <= PDF_SCAN_BYTES_MAX:
        return None
    try:
        pdf = binascii.a2b_base64(bytes(data).strip(b'"'), strict_mode=True)
    except binascii.Error:
        return None
    if not pdf.startswith(b"%PDF-") or any(mark in pdf for mark in (b"/ObjStm", b"/Encrypt")):
        return None
    pages = max(len(_PAGE.findall(pdf)), *map(int, _PAGE_COUNT.findall(pdf)), 0)
    return pages if 0 < pages <= PDF_PAGES_MAX else None


def _text(fields: Fields | None, name: str) -> str | None:
    raw = (fields or {}).get(name, ABSENT)
    try:
        return msgspec.json.decode(raw, type=str) if len(raw) else None
    except msgspec.ValidationError:
        return None
