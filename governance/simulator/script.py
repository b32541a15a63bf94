"""The `anthropic-simulator` request header: one JSON object that says how this request is to be answered."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from governance.simulator.errors import STATUS_OF_TYPE, invalid

NAME = "anthropic-simulator"
HEADER = NAME.encode()
CACHED_SCRIPTS_MAX = 1024

Milliseconds = Annotated[float, Meta(ge=0, le=3_600_000)]
Tokens = Annotated[int, Meta(ge=0, le=2_000_000)]
Bytes = Annotated[int, Meta(ge=0)]
Usage = dict[str, Any]


class ScriptedError(Struct, frozen=True, forbid_unknown_fields=True):
    """Answer with an error; with `times`, only the first so many tries of this script `id`, with `after` all
    but those."""

    type: str
    status: Annotated[int, Meta(ge=400, le=599)] | None = None
    message: str | None = None
    error_code: str | None = None
    retry_after: str | int | float | None = None
    should_retry: bool | None = None
    headers: dict[str, str] = {}
    times: Annotated[int, Meta(ge=1)] | None = None
    after: Annotated[int, Meta(ge=1)] | None = None


class ToolUse(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    input: dict[str, Any] = {}


class Fault(Struct, frozen=True, forbid_unknown_fields=True):
    """What goes wrong after the request was accepted (and billed). At most one is set."""

    reset_before_headers: bool = False
    reset_before_body: bool = False
    close_after_bytes: Bytes | None = None
    stall_after_bytes: Bytes | None = None
    error_event_after: Annotated[int, Meta(ge=0)] | None = None
    garbage_json: bool = False
    no_usage: bool = False


NamedFault = Literal["reset_before_headers", "reset_before_body", "garbage_json", "no_usage"]


class Script(Struct, frozen=True, forbid_unknown_fields=True):
    """README.md has a table of what each field does. Times are milliseconds unless the name says seconds."""

    id: str | None = None
    tag: str | None = None
    # when
    latency_ms: Milliseconds = 0
    chunk_delay_ms: Milliseconds = 0
    deltas: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    # what
    text: str | None = None
    output_tokens: Tokens | None = None
    thinking: bool | Tokens | Literal["unasked"] = False
    tool_use: bool | ToolUse = False
    model_served: str | None = None
    stop_reason: str | None = None
    extra_fields: dict[str, Any] = {}
    unknown_events: bool = False
    echo: bool = False
    headers: dict[str, str] = {}
    compress: Literal["gzip", "deflate"] | None = None
    raw_body_b64: str | None = None
    raw_status: Annotated[int, Meta(ge=200, le=599)] = 200
    raw_content_type: str | None = None
    # what it costs
    usage: Usage | None = None
    usage_start: Usage | None = None
    usage_delta: Usage | list[Usage] | None = None
    billed_usage: Usage | None = None
    bill_full_max_tokens: bool = False
    cache_clock_offset_s: int = 0
    # what goes wrong
    error: ScriptedError | None = None
    fault: Fault | NamedFault | None = None

    @property
    def fault_set(self) -> Fault:
        """`fault` as an object, whichever way it was written."""
        if isinstance(self.fault, str):
            return Fault(**{self.fault: True})
        return self.fault or _NO_FAULT


_NO_FAULT = Fault()
PLAIN = Script()

_decoder = msgspec.json.Decoder(Script)
_cache: dict[bytes, Script] = {}


def parse_script(header: bytes) -> Script:
    """The script of that header value. A 400 with a sentence for anything that is not one."""
    script = _cache.get(header)
    if script is None:
        script = _decode(header)
        if len(_cache) >= CACHED_SCRIPTS_MAX:
            _cache.clear()
        _cache[header] = script
    return script


def _decode(header: bytes) -> Script:
    try:
        script = _decoder.decode(header)
    except msgspec.DecodeError as error:
        raise invalid(
            f"The {NAME} header is not a script: {error}. See governance/simulator/README.md for its fields."
        ) from None
    if script.error is not None:
        counts = script.error.times is not None or script.error.after is not None
        if counts and script.id is None:
            raise invalid(
                f"The {NAME} header has error.times or error.after but no id; give the script an id to count "
                "its tries."
            )
        if script.error.status is None and script.error.type not in STATUS_OF_TYPE:
            raise invalid(
                f"The {NAME} header has an error.type that is not documented, “{script.error.type}”; "
                "give error.status as well."
            )
    if isinstance(script.fault, Fault):
        given = [getattr(script.fault, name) for name in Fault.__struct_fields__]
        chosen = [value for value in given if value is not None and value is not False]
        if len(chosen) != 1:
            raise invalid(f"The {NAME} header's fault must name exactly one fault; it names {len(chosen)}.")
    return script
