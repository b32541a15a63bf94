"""What any JSON must keep to before it is worth reading: its size in values, its depth, no key twice."""

import json
import re
from typing import Any

import msgspec
from msgspec import Raw

from governance.gateway.request_refused import RequestRefused

NESTING_MAX = 64  # containers inside each other, the body itself included
# `{`, `[`, `,` and `:` outside text, about two a value; real prompts stay far below.
PARTS_MAX = 250_000
_FEW_PARTS_BYTES = PARTS_MAX * 3 // 2  # the densest JSON, `[{},{},{}]`, has two parts in three bytes

_STRING = re.compile(rb'"[^"]*+"?')
_QUOTE = ord('"')

_decode_anything = msgspec.json.Decoder(float_hook=float).decode  # 1e999 is not our concern


def refuse_many_parts(body: bytes) -> None:
    """Before anything is decoded: a small value takes a hundred times its bytes in memory."""
    if len(body) <= _FEW_PARTS_BYTES or _parts(body) <= PARTS_MAX:
        return
    # Each string outside text is a value or a name: with so many of them there are too many parts too.
    outside_text, strings = without_strings(body, 2 * PARTS_MAX)
    if strings == 2 * PARTS_MAX or _parts(outside_text) > PARTS_MAX:
        raise RequestRefused(
            f"The request body holds more than {PARTS_MAX:,} brackets, commas and colons outside text. "
            "Send fewer values, or send them as text."
        )


def _parts(text: bytes) -> int:
    return sum(map(text.count, (b"{", b"[", b",", b":")))


def without_strings(text: bytes, strings_max: int = 0) -> tuple[bytes, int]:
    """JSON text without (so many of) its strings, the last one perhaps unfinished; and how many they were.

    Escapes go first: then a quote is a quote, and everything is a plain search, linear in time and memory.
    """
    return _STRING.subn(b"", without_backslashes(text).replace(b'\\"', b""), strings_max)


def without_backslashes(text: bytes) -> bytes:
    """JSON text without escaped backslashes; any backslash that is left begins an escape."""
    return text.replace(b"\\\\", b"")


def refuse_if_deep(value: Raw, levels_above: int) -> None:
    """Where a value that was left raw, so many containers down, nests too deeply."""
    text = bytes(value)
    levels_max = NESTING_MAX - levels_above
    if text[0] == _QUOTE or text.count(b"{") + text.count(b"[") <= levels_max:
        return
    try:
        if levels(_decode_anything(text)) > levels_max:
            raise too_deep()
    except RecursionError:
        raise too_deep() from None
    except msgspec.DecodeError as error:
        raise not_json(error) from None


def levels(value: Any) -> int:
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


def loads(text: bytes) -> Any:
    """The JSON with every object checked for repeated keys."""
    try:
        return json.loads(text.decode(), object_pairs_hook=_without_repeats)
    except RecursionError:
        raise too_deep() from None
    except ValueError as error:  # an integer of thousands of digits
        raise not_json(error) from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    given = dict(pairs)
    if len(given) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                shown = name[:64].encode(errors="replace").decode()
                raise RequestRefused(f"{shown}: given twice in one object. Send it once.")
            seen.add(name)
    return given


def not_json(error: Exception) -> RequestRefused:
    return RequestRefused(f"The request body is not valid JSON: {error}.")


def too_deep() -> RequestRefused:
    return RequestRefused(f"The request body nests deeper than {NESTING_MAX} levels.")
