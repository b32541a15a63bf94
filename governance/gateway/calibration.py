"""Is the bound on input tokens above what Claude counts? One probe for each constant of text_bound.py.

`manage.py calibrate` sends the probes to count_tokens, which is free, and compares. Each probe is a request
that is nearly nothing but the one thing that its constant stands for, so that a constant that is too low
shows as a count above the bound, and `spare_tokens` says how much room there is.
"""

import base64
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec

from governance.gateway.request import read_request
from governance.gateway.text_bound import input_bound

PICTURE_SIDE_PIXELS = 2_576
"""More than any model looks at: it is scaled down to the most that one can cost."""
_SCHEMA = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}


@dataclass(frozen=True, slots=True)
class Probe:
    """`constant` is what a count above the bound says is too low. `fields` go to count_tokens as they are."""

    name: str
    constant: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What Claude counted, beside the bound. `refusal` says why it counted nothing."""

    model: str
    probe: Probe
    bound_tokens: int
    counted_tokens: int | None = None
    refusal: str = ""

    @property
    def spare_tokens(self) -> int:
        return self.bound_tokens - (self.counted_tokens or 0)

    @property
    def too_low(self) -> bool:
        return self.counted_tokens is not None and self.spare_tokens < 0


def probes() -> list[Probe]:
    """The same for every model."""
    tool = {"name": "t", "description": "d", "input_schema": _SCHEMA}
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant")] * 100
    return [
        Probe("one word", "BASE_TOKENS", _asking("Hello")),
        Probe("200 turns of a letter", "BASE_TOKENS", {"messages": [*turns, *_user("a")]}),
        Probe("plain text", "a token a byte", _asking("The quick brown fox. " * 500)),
        Probe("digits and signs", "a token a byte", _asking("".join(f"{n};\t{n*n}~|" for n in range(700)))),
        Probe("rare characters", "a token a byte", _asking("ﷺ½ﬃ㍿𝅘𝅥𝅲한글漢字🏴‍☠️" * 200)),
        Probe("a small tool", "TOOL_SET_TOKENS", _asking("Hello", tools=[tool])),
        Probe("40 tools", "tools count twice",
              _asking("Hello", tools=[tool | {"name": f"t{n}"} for n in range(40)])),
        Probe("a tool of Anthropic's", "BUILT_IN_TOOL_TOKENS",
              _asking("Hello", tools=[{"type": "bash_20250124", "name": "bash"}])),
        Probe("an output format", "TOOL_SET_TOKENS",
              _asking("Hello", output_config={"format": {"type": "json_schema", "schema": _SCHEMA}})),
        Probe("a large picture", "IMAGE_TOKENS_MAX, OLDER_IMAGE_TOKENS_MAX", _asking(_picture())),
    ]  # fmt: skip


def compare(
    models: Iterable[str], count: Callable[[str, dict[str, Any]], int | str], windows: Callable[[str], int]
) -> Iterable[Comparison]:
    """Each probe on each model. `count` gives the tokens of a request, or why there are none."""
    for model in models:
        for probe in probes():
            body = msgspec.json.encode({"model": model, "max_tokens": 1, **probe.fields})
            bound = input_bound(read_request(body), windows(model)).tokens_max
            counted = count(model, probe.fields)
            if isinstance(counted, str):
                yield Comparison(model, probe, bound, refusal=counted)
            else:
                yield Comparison(model, probe, bound, counted)


def _user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def _asking(content: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": _user(content), **fields}


@cache
def _picture() -> tuple[dict[str, Any], ...]:
    """A grey square as one PNG block."""
    side = PICTURE_SIDE_PIXELS
    header = struct.pack("!IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x80" * side) * side, 9)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack("!I", len(data)) + name + data + struct.pack("!I", zlib.crc32(name + data))
        for name, data in chunks
    )
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(png).decode()}
    return ({"type": "image", "source": source},)
