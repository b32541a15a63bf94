"""Bodies as clients send them, and what must hold for any body after it was rewritten."""

import json
from typing import Any

import msgspec
from hypothesis import strategies as st

from governance.gateway.request import Request, read_request
from governance.gateway.rewrites.rewriting import About, Rewritten, rewritten
from governance.pricing.book import PriceBook
from governance.routing.route import Route
from governance.simulator.catalogue import Model
from governance.simulator.checks import check_body
from governance.simulator.errors import ApiError
from governance.simulator.prompt import Segment, mark_breakpoints, segments_of
from tests.pricing.conftest import TODAY

VERSION = "2023-06-01"
SIGNATURE = "c2lnbmF0dXJl" * 20
ATTRIBUTION = "x-anthropic-billing-header: cc_version=2.1.328; cc_entrypoint=sdk-cli;"


def encoded(fields: dict[str, Any]) -> bytes:
    """Compact, as the SDKs write it; a field that is None is left out."""
    kept = {name: value for name, value in fields.items() if value is not None}
    return json.dumps(kept, separators=(",", ":"), ensure_ascii=False).encode()


def body(**fields: Any) -> bytes:
    hello = [{"role": "user", "content": "Hello"}]
    return encoded({"model": "claude-opus-5", "max_tokens": 1_000, "messages": hello} | fields)


def chat(messages: int, words: int = 40, **fields: Any) -> bytes:
    """A conversation of so many messages; the last is the user's where it is an odd number."""
    said = [
        {"role": "assistant" if i % 2 else "user", "content": f"Message {i}: " + "words " * words}
        for i in range(messages)
    ]
    return body(messages=said, **fields)


def claude_code(*, thinking: bool = True, turns: int = 40, kilobytes: int = 200, **fields: Any) -> bytes:
    """A coding agent in the middle of its work: attribution first, a system message among the messages,
    12 tools (one deferred), cache breakpoints, tool calls with results, adaptive thinking that is signed."""
    cached = {"type": "ephemeral"}
    code = 'def f(x):\n\treturn "é" + x  # code\n' * 10
    result_text = code * max(1, kilobytes * 1024 // max(1, turns) // (len(code) + 60))
    context = [
        {"type": "text", "text": "<system-reminder>Context.</system-reminder>"},
        {"type": "text", "text": "Rename the function everywhere."},
    ]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": context},
        {"role": "system", "content": [{"type": "text", "text": "Today is 2026-11-20. Answer briefly."}]},
    ]
    for turn in range(turns):
        call = f"toolu_{turn:04}"
        content: list[dict[str, Any]] = [
            {"type": "text", "text": f"Step {turn}."},
            {"type": "tool_use", "id": call, "name": "tool_3", "input": {"path": f"/a/{turn}.py"}},
        ]
        if thinking:
            content.insert(0, {"type": "thinking", "thinking": "", "signature": SIGNATURE})
        messages.append({"role": "assistant", "content": content})
        text = {"type": "text", "text": result_text}
        messages.append(
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call, "content": [text]}]}
        )
    messages[-1]["content"][-1]["cache_control"] = cached
    tools: list[dict[str, Any]] = [
        {"name": f"tool_{i}", "description": "Does a thing. " * 30, "input_schema": {"type": "object"}}
        for i in range(12)
    ]
    tools[11]["defer_loading"] = True
    given = {
        "model": "claude-opus-5-5",
        "max_tokens": 128_000,
        "messages": messages,
        "system": [
            {"type": "text", "text": ATTRIBUTION},
            {"type": "text", "text": "You are Claude Code.", "cache_control": cached},
            {"type": "text", "text": "Long instructions. " * 500, "cache_control": cached},
        ],
        "tools": tools,
        "metadata": {"user_id": json.dumps({"device_id": "d", "account_uuid": "", "session_id": "s"})},
        "thinking": {"type": "adaptive", "display": "omitted"},
        "output_config": {"effort": "medium"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "stream": True,
    }
    return encoded(given | fields)


def apply(raw: bytes | Request, book: PriceBook, summary: str | None = None, **route: Any) -> Rewritten:
    """`raw` rewritten by a route of these terms."""
    request = read_request(raw) if isinstance(raw, bytes) else raw
    return rewritten(request, Route(**route), About(book=book, at=TODAY, summary=summary))


def accepted(request: Request) -> tuple[dict[str, Any], Model, list[Segment]]:
    """The body as the simulator reads it; raises what it would answer 400 with."""
    decoded = json.loads(request.body)
    model = check_body(decoded, VERSION)
    segments = segments_of(decoded, model)
    mark_breakpoints(segments, decoded.get("cache_control"))
    assert tool_results_have_their_calls(decoded["messages"])
    return decoded, model, segments


def tool_results_have_their_calls(messages: list[dict[str, Any]]) -> bool:
    calls: set[str] = set()
    for message in messages:
        for block in message["content"] if isinstance(message["content"], list) else ():
            if block["type"] == "tool_use":
                calls.add(block["id"])
            elif block["type"] == "tool_result" and block["tool_use_id"] not in calls:
                return False
    return True


def raw_fields(raw: bytes) -> dict[str, bytes]:
    """Each top-level field's own bytes."""
    found = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    return {name: bytes(value) for name, value in found.items()}


def untouched_but(before: Request, after: Request, *names: str) -> bool:
    """Whether all fields but these have the client's bytes and stand in the client's order."""
    was, now = raw_fields(before.body), raw_fields(after.body)
    return [item for item in was.items() if item[0] not in names] == [
        item for item in now.items() if item[0] not in names
    ]


def thinking_of(request: Request) -> list[Any]:
    """Every block of thinking, as it was written."""
    return [
        block
        for message in json.loads(request.body)["messages"]
        if isinstance(message["content"], list)
        for block in message["content"]
        if block["type"] in ("thinking", "redacted_thinking")
    ]


# --- any body -----------------------------------------------------------------------------------
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
MODELS = ("claude-opus-5-5", "claude-opus-5", "claude-sonnet-5", "claude-haiku-5-5", "claude-haiku-4-5")


@st.composite
def conversations(draw: st.DrawFn, most: int = 40, signed: bool = True) -> list[dict[str, Any]]:
    """Turns with text as a string or as blocks, tool calls with results, system messages, signed thinking."""
    messages: list[dict[str, Any]] = []
    thought = [{"type": "thinking", "thinking": "…", "signature": "c2ln"}]
    if not (signed and draw(st.booleans())):
        thought = []
    wanted = draw(st.integers(0, most))
    while len(messages) < wanted:
        kind = draw(st.sampled_from(["text", "text", "blocks", "tool", "tool", "system"]))
        text = draw(TEXT)
        said: list[dict[str, Any]] = [{"type": "text", "text": text}]
        messages.append({"role": "user", "content": text if kind == "text" else said})
        if kind == "system":
            messages.append({"role": "system", "content": text})
        while kind == "tool":
            call = f"toolu_{len(messages)}"
            use = {"type": "tool_use", "id": call, "name": "look", "input": {}}
            messages.append({"role": "assistant", "content": [*thought, use]})
            result = {"type": "tool_result", "tool_use_id": call, "content": text}
            messages.append({"role": "user", "content": [result]})
            kind = draw(st.sampled_from(["tool", "text"]))
        messages.append({"role": "assistant", "content": [*thought, *said]})
    return [*messages, {"role": "user", "content": draw(TEXT)}]


@st.composite
def bodies(draw: st.DrawFn, signed: bool = True) -> bytes:
    """Bodies that the simulator accepts, compact and spaced, escaped and not."""
    fields: dict[str, Any] = {
        "model": draw(st.sampled_from(MODELS)),
        "max_tokens": draw(st.integers(2_000, 60_000)),
        "messages": draw(conversations(signed=signed)),
        "tools": [{"name": "look", "input_schema": {"type": "object"}}],
    }
    blocks = st.lists(st.builds(lambda text: {"type": "text", "text": text}, TEXT), min_size=1, max_size=3)
    optional: dict[str, st.SearchStrategy[Any]] = {
        "system": st.one_of(st.none(), TEXT, blocks),
        "thinking": st.sampled_from(
            [{"type": "adaptive"}, {"type": "disabled"}, {"type": "enabled", "budget_tokens": 1_024}, None]
        ),
        "output_config": st.sampled_from([{"effort": "max"}, {"effort": "low"}, None]),
        "temperature": st.sampled_from([0.5, None]),
        "stop_sequences": st.sampled_from([["END"], None]),
        "stream": st.sampled_from([True, False, None]),
        "a_new_field": st.sampled_from([{"x": [1]}, None]),
    }
    for name, values in optional.items():
        value = draw(values)
        if value is not None:
            fields[name] = value
    try:
        check_body(fields, VERSION)
    except ApiError:  # a kind of thinking that the model does not have
        del fields["thinking"]
    separators = draw(st.sampled_from([None, (",", ":")]))
    return json.dumps(fields, separators=separators, ensure_ascii=draw(st.booleans())).encode()
