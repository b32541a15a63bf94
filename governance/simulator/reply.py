"""What the simulator says: content, stop reason and usage of a reply, the same for the same request."""

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from governance.simulator.caching import CacheSplit
from governance.simulator.catalogue import Model
from governance.simulator.samples import sample
from governance.simulator.script import Script, ToolUse
from governance.simulator.signing import signature
from governance.simulator.tokens import bytes_of_tokens, tokens_of_block, tokens_of_bytes

ECHO_CHARACTERS_MAX = 200
_ONE_WORD = re.compile(r"[Aa]nswer with one word: ([\w, ]+) or (\w+)")
_ONE_NUMBER = re.compile(r"[Aa]nswer with a whole number from (\d+) to (\d+)")
THINKING_TOKENS = 32
FILLER = (
    "This sentence is filler from the simulator, so that the reply is as long as the script asked for. "
    "No model wrote it and nothing in it is true or false. "
    "It costs what a reply of this length would cost, and it comes in as many pieces as one would. "
    "A gateway should pass it on byte for byte, count what it cost, and think no more of it. "
)


@dataclass(frozen=True, slots=True)
class Reply:
    """One finished reply. `usage` is what a JSON reply reports; `billed_usage` is what the bill says."""

    message_id: str
    model: str
    content: list[dict[str, Any]]
    stop_reason: str
    stop_sequence: str | None
    usage: dict[str, Any]
    billed_usage: dict[str, Any]

    def message(self) -> dict[str, Any]:
        """The body of the JSON reply, in the API's order of fields."""
        return {
            "model": self.model,
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "content": self.content,
            "stop_reason": self.stop_reason,
            "stop_sequence": self.stop_sequence,
            "stop_details": stop_details(self.stop_reason),
            "usage": self.usage,
        }


def stop_details(stop_reason: str) -> dict[str, Any] | None:
    """Only a refusal has details."""
    return {"type": "refusal", "category": None, "explanation": None} if stop_reason == "refusal" else None


def make_reply(
    body: dict[str, Any], model: Model, script: Script, split: CacheSplit, message_id: str, seed: bytes
) -> Reply:
    """The reply to a checked body. `seed` decides filler, ids of tool calls and signatures."""
    room = body["max_tokens"]
    content: list[dict[str, Any]] = []
    thinking_tokens = min(_thinking_tokens(body, model, script), room)
    if thinking_tokens:
        content.append(_thinking_block(body, model, thinking_tokens, seed))
    room -= thinking_tokens

    stop_reason, stop_sequence = "end_turn", None
    text, cut_at = _stop_at(_text(body, model, script, seed), body.get("stop_sequences"))
    if cut_at is not None:
        stop_reason, stop_sequence = "stop_sequence", cut_at
    text_tokens = script.output_tokens
    if text_tokens is None:
        text_tokens = tokens_of_bytes(len(text.encode()), model.tokenizer)
    if text_tokens > room:
        text = _shorten(text, bytes_of_tokens(room, model.tokenizer))
        text_tokens, stop_reason, stop_sequence = room, "max_tokens", None
    if text:
        content.append({"type": "text", "text": text})
    room -= text_tokens

    tool = _tool_call(body, script)
    if tool is not None and stop_reason == "end_turn":
        block = {
            "type": "tool_use",
            "id": f"toolu_01{seed.hex()[:22]}",
            "name": tool.name,
            "input": tool.input,
        }
        tool_tokens = tokens_of_block(block, model.tokenizer)
        content.append(block)
        text_tokens += min(tool_tokens, room)
        stop_reason = "tool_use"
    if body["max_tokens"] == 0:
        stop_reason = "max_tokens"

    output_tokens = body["max_tokens"] if script.bill_full_max_tokens else text_tokens + thinking_tokens
    usage = script.usage or _usage(body, model, split, output_tokens, thinking_tokens)
    return Reply(
        message_id,
        script.model_served or model.id,
        content,
        script.stop_reason or stop_reason,
        stop_sequence,
        usage,
        script.billed_usage or usage,
    )


def _usage(
    body: dict[str, Any], model: Model, split: CacheSplit, output_tokens: int, thinking_tokens: int
) -> dict[str, Any]:
    """All fields that the API documents for a Message."""
    usage: dict[str, Any] = {
        "input_tokens": split.uncached,
        "cache_creation_input_tokens": split.write_5m + split.write_1h,
        "cache_read_input_tokens": split.read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": split.write_5m,
            "ephemeral_1h_input_tokens": split.write_1h,
        },
        "output_tokens": output_tokens,
        "output_tokens_details": {"thinking_tokens": thinking_tokens} if thinking_tokens else None,
        "server_tool_use": None,
        "service_tier": "standard",
        "inference_geo": (body.get("inference_geo") or "global") if model.geo else "not_available",
    }
    if model.fast:
        usage["speed"] = body.get("speed") or "standard"
    return usage


def _text(body: dict[str, Any], model: Model, script: Script, seed: bytes) -> str:
    """The text before it is cut to max_tokens; as long as `output_tokens` says where that is scripted."""
    if script.text is not None:
        text = script.text
    elif (body.get("output_config") or {}).get("format"):
        text = msgspec.json.encode(sample(body["output_config"]["format"].get("schema"))).decode()
    else:
        said = last_words(body["messages"])
        system = str(body.get("system") or "")
        words, numbers = _ONE_WORD.search(system), _ONE_NUMBER.search(system)
        if words:
            text = _one_of([*re.split(r",\s*", words[1]), words[2]], said)
        elif numbers:
            text = _one_of([numbers[2], numbers[1], "hm"], said)
        else:
            text = f"This is the Exchequer simulator, not Claude. You said: “{said}”"
    if script.output_tokens is None:
        return text
    size = bytes_of_tokens(script.output_tokens, model.tokenizer)
    missing = size - len(text.encode())
    if missing > 0:
        text += _filler(missing, seed)
    return _shorten(text, size)


def _one_of(choices: list[str], said: str) -> str:
    """A question for a word or a number is answered by length: the first choice for a short text, the
    second for one that is cut here, the last for a text that asks nothing."""
    if "?" not in said and "." not in said:
        return choices[-1]
    return choices[min(len(said) > ECHO_CHARACTERS_MAX, len(choices) - 1)]


def last_words(messages: list[dict[str, Any]]) -> str:
    """The last text that the user, or a tool, said: its first 200 characters."""
    content = messages[-1]["content"]
    while isinstance(content, list):
        last = content[-1] if content else None
        if not isinstance(last, dict):
            break
        content = last.get("text") if last.get("type") == "text" else last.get("content")
    content = content if isinstance(content, str) else ""
    return content if len(content) <= ECHO_CHARACTERS_MAX else content[:ECHO_CHARACTERS_MAX] + "…"


def _filler(size: int, seed: bytes) -> str:
    words = FILLER.split()
    start = seed[0] % len(words)
    rotated = " " + " ".join(words[start:] + words[:start])
    return (rotated * (size // len(rotated) + 1))[:size]


def _shorten(text: str, size: int) -> str:
    """At most `size` bytes of UTF-8, never half a character."""
    return text.encode()[:size].decode(errors="ignore")


def _stop_at(text: str, stop_sequences: Any) -> tuple[str, str | None]:
    found = [(text.index(stop), stop) for stop in stop_sequences or () if stop and stop in text]
    if not found:
        return text, None
    at, stop = min(found)
    return text[:at], stop


def _thinking_tokens(body: dict[str, Any], model: Model, script: Script) -> int:
    thinking = body.get("thinking") or {}
    if script.thinking == "unasked" and not thinking:
        return THINKING_TOKENS if model.thinks_unasked else 0
    if script.thinking is not False and script.thinking != "unasked":
        return THINKING_TOKENS if script.thinking is True else script.thinking
    return THINKING_TOKENS if thinking.get("type") in ("adaptive", "enabled") else 0


def _thinking_block(body: dict[str, Any], model: Model, tokens: int, seed: bytes) -> dict[str, Any]:
    """Its text is left out unless the request asks for a summary: the default of the newer models."""
    thinking = body.get("thinking") or {}
    default = "summarized" if thinking.get("type") == "enabled" else "omitted"
    shown = thinking.get("display", default) != "omitted"
    text = _filler(bytes_of_tokens(tokens, model.tokenizer), seed).strip() if shown else ""
    return {"type": "thinking", "thinking": text, "signature": signature(body, model.id, seed)}


def _tool_call(body: dict[str, Any], script: Script) -> ToolUse | None:
    """The call that the script or a forced tool_choice asks for."""
    if isinstance(script.tool_use, ToolUse):
        return script.tool_use
    tools = [tool for tool in body.get("tools") or () if "input_schema" in tool]
    choice = body.get("tool_choice") or {}
    if choice.get("type") == "tool":
        tools = [tool for tool in tools if tool["name"] == choice["name"]]
    elif choice.get("type") != "any" and not script.tool_use:
        return None
    return ToolUse(tools[0]["name"], sample(tools[0]["input_schema"])) if tools else None
