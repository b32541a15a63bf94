"""Event streams in the API's own form, and what upstream had done by each of their events.

`output_tokens` is the truth that no cut stream tells: how much had been generated, and is billed, once the
event began to be sent; `seconds` is when. Text and thinking count one token a byte, the most there can be.
What upstream writes before it sends (hidden thinking, a tool's values) came at 300 tokens a second.
"""

import json
from typing import Any, NamedTuple


class Sent(NamedTuple):
    data: bytes
    output_tokens: int
    seconds: float


class Recorded(NamedTuple):
    """`single_pass`: as the request's classification says; `input_tokens` as billed in the end."""

    events: tuple[Sent, ...]
    single_pass: bool
    input_tokens: int

    @property
    def data(self) -> bytes:
        return b"".join(event.data for event in self.events)

    @property
    def boundaries(self) -> list[int]:
        """Where each event ends, and 0."""
        ends = [0]
        for event in self.events:
            ends.append(ends[-1] + len(event.data))
        return ends


MODEL = "claude-sonnet-5-5"
START_USAGE = {
    "input_tokens": 17,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 1,
    "service_tier": "standard",
    "inference_geo": "global",
}
TOKENS_PER_SECOND = 300


class _Recorder:
    def __init__(self, ending: str = "\n") -> None:
        self._ending = ending
        self.events: list[Sent] = []
        self.tokens = 1
        self.seconds = 0.4
        self.index = -1

    def send(self, name: str, **data: Any) -> None:
        text = f"event: {name}\ndata: {json.dumps({'type': name, **data}, ensure_ascii=False)}\n\n"
        self.events.append(Sent(text.replace("\n", self._ending).encode(), self.tokens, self.seconds))

    def start(self, **usage: Any) -> None:
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": []}
        self.send("message_start", message={**message, "usage": {**START_USAGE, **usage}})

    def block(self, kind: str, **fields: Any) -> None:
        self.index += 1
        self.send("content_block_start", index=self.index, content_block={"type": kind, **fields})

    def delta(self, kind: str, field: str, text: str) -> None:
        self.generate(len(text.encode()))
        self.send("content_block_delta", index=self.index, delta={"type": kind, field: text})

    def generate(self, tokens: int) -> None:
        """Upstream writes, and need not send."""
        self.tokens += tokens
        self.seconds += tokens / TOKENS_PER_SECOND

    def stop_block(self) -> None:
        self.send("content_block_stop", index=self.index)

    def ping(self) -> None:
        self.send("ping")

    def end(self, reason: str = "end_turn", **usage: Any) -> None:
        totals = {"output_tokens": self.tokens, **usage}
        self.send("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=totals)
        self.send("message_stop")

    def text(self, *parts: str) -> None:
        self.block("text", text="")
        for part in parts:
            self.delta("text_delta", "text", part)
        self.stop_block()

    def recorded(self, *, single_pass: bool = True, input_tokens: int = 17) -> Recorded:
        return Recorded(tuple(self.events), single_pass, input_tokens)


def plain(ending: str = "\n") -> Recorded:
    one = _Recorder(ending)
    one.start()
    one.ping()
    one.text("Hello", ", wörld", " – “event: message_delta”", ' data: {"type":"error"}', " 数字", "\n\n", "!")
    one.end()
    return one.recorded()


def thinking() -> Recorded:
    one = _Recorder()
    one.start()
    one.block("thinking", thinking="", signature="")
    for part in ("Let me see", ": the user says hello", ", so I say hello too."):
        one.delta("thinking_delta", "thinking", part)
    one.send("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "EqQBCgIYAhIM"})
    one.stop_block()
    one.text("Hello", " you")
    one.end()
    return one.recorded()


def hidden_thinking() -> Recorded:
    """Nothing is sent while 1,500 tokens are thought; then one that may not even be shown encrypted."""
    one = _Recorder()
    one.start()
    one.block("thinking", thinking="", signature="")
    one.generate(700)
    one.ping()
    one.generate(800)
    one.send("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "EqQBCgIYAhIM"})
    one.stop_block()
    one.generate(200)
    one.block("redacted_thinking", data="x" * 40)
    one.stop_block()
    one.text("Hello", " you")
    one.end(output_tokens_details={"thinking_tokens": 1_700})
    return one.recorded()


def tool_use() -> Recorded:
    """A value is written whole before any of it is sent."""
    one = _Recorder()
    one.start()
    one.text("I'll write", " the file.")
    one.block("tool_use", id="toolu_1", name="write_file", input={})
    one.delta("input_json_delta", "partial_json", "")
    one.delta("input_json_delta", "partial_json", '{"path": "a.py"')
    one.ping()
    one.delta("input_json_delta", "partial_json", ', "text": "' + "x = 1\\n" * 300 + '"}')
    one.stop_block()
    one.end("tool_use")
    return one.recorded()


def web_search() -> Recorded:
    """A server's loop: its input grows, and the totals are told at the end only."""
    one = _Recorder()
    one.start()
    one.block("server_tool_use", id="srvtoolu_1", name="web_search", input={})
    one.delta("input_json_delta", "partial_json", '{"query": "weather"}')
    one.stop_block()
    found = [{"type": "web_search_result", "url": "https://example.com", "encrypted_content": "E" * 400}]
    one.block("web_search_tool_result", tool_use_id="srvtoolu_1", content=found)
    one.stop_block()
    one.text("It is", " sunny.")
    first = {"type": "message", "input_tokens": 17, "output_tokens": 21}
    second = {"type": "message", "input_tokens": 900, "output_tokens": one.tokens - 21}
    one.send("message_delta", delta={"stop_reason": None}, usage={"input_tokens": 17, "output_tokens": 21})
    one.end(input_tokens=917, iterations=[first, second], server_tool_use={"web_search_requests": 1})
    return one.recorded(single_pass=False, input_tokens=917)


def error_event() -> Recorded:
    one = _Recorder()
    one.start()
    one.block("text", text="")
    one.delta("text_delta", "text", "Hello")
    one.ping()
    one.delta("text_delta", "text", " there")
    one.ping()
    error = {"type": "overloaded_error", "message": "Overloaded"}
    one.send("error", error=error, request_id="req_1")
    return one.recorded()


STREAMS: dict[str, Recorded] = {
    "plain": plain(),
    "plain_crlf": plain("\r\n"),
    "thinking": thinking(),
    "hidden_thinking": hidden_thinking(),
    "tool_use": tool_use(),
    "web_search": web_search(),
    "error_event": error_event(),
}
