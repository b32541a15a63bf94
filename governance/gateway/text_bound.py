"""How many input tokens a request can cost at most, from its bytes alone. Pure; no tokenizer needed.

A byte-level tokenizer makes at most one token of a byte of normalised text, so the bytes of the JSON
body bound its tokens, once two things are mended. NFKC normalisation can grow text (one character to
33 bytes at worst): whatever can grow is counted at its grown size. And media are not text: an image's
base64 is taken out and a cap put in. What cannot be known from the body (a PDF, whose pages are packed, a
URL, a file id, a tool that the server runs in a loop) counts as the model's whole context window.
"""

import re
import unicodedata
from collections.abc import Callable
from itertools import chain, starmap

import msgspec

from governance.gateway.request import ABSENT, Fields, Media, Request, is_given, value_of

BASE_TOKENS = 64  # what surrounds any prompt; the JSON punctuation of each turn covers the turn's own
TOOL_SET_TOKENS = 600  # the instructions that come with the first tool or output format
BUILT_IN_TOOL_TOKENS = 2_000  # a tool that is named, not described: its definition is Anthropic's
IMAGE_TOKENS_MAX = 4_800
OLDER_IMAGE_TOKENS_MAX = 1_600
FEATURES_MAX = 16  # that are told; a client could send any number

# Models before high-resolution images. Any other name, also an unknown one, gets the higher cap.
_OLDER_MODEL = re.compile(r"claude-(3-|(opus|sonnet|haiku)-4(-[0-6])?(-\d{8})?$)")
_CLIENT_TOOL = re.compile(r"(bash|text_editor|computer|memory)_\d{8}")
_LIMITED_TOOL = re.compile(r"web_(search|fetch)_\d{8}")


class InputBound(msgspec.Struct, frozen=True, gc=False):
    """`tokens_max` is over all `passes_max` sampling passes."""

    tokens_max: int
    passes_max: int
    web_searches_max: int


def input_bound(request: Request, context_window_tokens: int) -> InputBound:
    """The most input tokens that the request can be billed, whatever its text says.

    Where `unbounded_features` names something this is not a bound, only the best figure there is.
    """
    server_tools = [tool for tool in request.tools if _is_server_tool(tool)]
    passes, searches = 1, 0
    for tool in server_tools:
        uses = _uses_max(tool) or 0
        passes += uses
        if _tool_type(tool).startswith("web_search_"):
            searches += uses
    tokens = BASE_TOKENS + len(request.body) + _tool_tokens(request)
    for media in request.media:
        media_tokens = _media_tokens(media, request.model)
        tokens += context_window_tokens if media_tokens is None else media_tokens
    if tokens < context_window_tokens:  # else growth changes nothing, and may take long to count
        tokens += _growth_bytes(request, context_window_tokens)
    if server_tools:
        tokens = context_window_tokens  # each pass reads what the tools brought
    tokens = max(0, min(tokens, context_window_tokens))
    return InputBound(tokens * passes, passes, searches)


def unbounded_features(request: Request) -> tuple[str, ...]:
    """What makes the worst case of this request unknowable; refused unless the key opts in."""
    fields = request.fields
    found: list[str] = []
    for tool in request.tools:
        name = _tool_type(tool)
        if name.startswith(("advisor_", "code_execution_")):
            found.append(name.rsplit("_", 1)[0][:64])
        elif name == "mcp_toolset":
            found.append("mcp")
        elif _is_server_tool(tool) and not (_LIMITED_TOOL.fullmatch(name) and _uses_max(tool)):
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
        elif kind not in ("base64", "text", "content") and not _is_link(media):
            found.append("unknown_source")
    return _once(found)


def _once(names: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))[:FEATURES_MAX] if len(names) > 1 else tuple(names)


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
_UTF8_BYTES_MAX = 4  # of a character


def _growth_bytes(request: Request, enough: int) -> int:
    """What normalisation can add; `enough` or more where there is so much to look at that it may be media."""
    growth = 0
    if not request.is_ascii:
        others = request.body.translate(None, _ASCII)
        if len(others) > _UTF8_BYTES_MAX * enough:
            return enough
        growth = sum(_GROWTH_BYTES.get(character, 0) for character in _MAY_GROW.findall(others.decode()))
    if request.has_unicode_escapes:
        if request.body.count(b"\\u") > enough:
            return enough
        # An escaped backslash before a "u" is counted too: never too little.
        for code in _ESCAPE.findall(request.body):
            growth += _ESCAPE_GROWTH_BYTES.get(code.lower(), 0)
    return growth


# --- Tools --------------------------------------------------------------------------------------
def _tool_tokens(request: Request) -> int:
    """Definitions are rendered anew, so their bytes count twice; built-in ones are longer than said."""
    tools, output_config = request.tools, request.fields.output_config
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
    return name != "custom" and not _CLIENT_TOOL.fullmatch(name)


def _uses_max(tool: Fields) -> int | None:
    uses = value_of(tool.get("max_uses", ABSENT), int)
    return uses if uses and uses > 0 else None


# --- Media --------------------------------------------------------------------------------------
def _media_tokens(media: Media, model: str) -> int | None:
    """Tokens to add to the body's bytes: below zero for an image, because its base64 is no text.

    None: as many as the context window holds. A PDF can hide any number of pages, and of words on them.
    """
    source_type = _text(media.source, "type")
    if source_type in ("text", "content") or _is_link(media):
        return 0
    if source_type == "base64" and media.kind == "image" and media.source is not None:
        image_tokens = OLDER_IMAGE_TOKENS_MAX if _OLDER_MODEL.match(model) else IMAGE_TOKENS_MAX
        return image_tokens - len(media.source.get("data", ABSENT))
    return None


def _is_link(media: Media) -> bool:
    """A search result's source is the link that the client shows for it; its text is in the body."""
    return media.source is None and media.kind == "search_result"


def _text(fields: Fields | None, name: str) -> str | None:
    return value_of(fields.get(name, ABSENT), str) if fields else None
