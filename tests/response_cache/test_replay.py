"""Events of a Message and the Message of events, as the official SDK reads them."""

import json
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message

from governance.response_cache.replay import NotReplayable, events_of_message, message_of_events
from governance.response_cache.suitable import why_not_kept
from governance.simulator.stream import event

USAGE = {
    "input_tokens": 12,
    "output_tokens": 345,
    "cache_creation_input_tokens": 7,
    "cache_read_input_tokens": 0,
    "cache_creation": {"ephemeral_5m_input_tokens": 7, "ephemeral_1h_input_tokens": 0},
    "service_tier": "standard",
    "inference_geo": "us",
    "server_tool_use": None,
    "output_tokens_details": {"thinking_tokens": 9},
}
CONTENT: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "Hm. ünïcode \n", "signature": "EqQB+/=="},
    {"type": "redacted_thinking", "data": "abc=="},
    {"type": "thinking", "thinking": "", "signature": "only this"},
    {"type": "text", "text": "Sëe “this”: \u2028 \\n", "citations": None},
    {
        "type": "text",
        "text": "cited",
        "citations": [
            {
                "type": "char_location",
                "cited_text": "c",
                "document_index": 0,
                "document_title": None,
                "start_char_index": 0,
                "end_char_index": 1,
                "file_id": None,
            }
        ],
    },
    {
        "type": "tool_use",
        "id": "t1",
        "name": "look",
        "input": {"q": "é", "n": 1.50, "big": 12345678901234567},
    },
    {"type": "tool_use", "id": "t2", "name": "nothing", "input": {}},
    {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "x"}},
    {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
]
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-5-5",
    "content": CONTENT,
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "stop_details": None,
    "container": None,
    "usage": USAGE,
    "from_the_future": {"a": [1, 2.0]},
}


def accumulated(events: bytes) -> dict[str, Any]:
    """What the SDK makes of a stream."""
    snapshot, buffers = None, {}
    for block in events.split(b"\n\n")[:-1]:
        name, data = block.split(b"\n")
        payload = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + payload["type"].encode()
        if payload["type"] != "message_stop" and payload["type"] != "ping":
            snapshot = accumulate_event(event=payload, current_snapshot=snapshot, json_bufs=buffers)
    assert snapshot is not None
    return snapshot.to_dict()


def test_the_sdk_makes_the_same_message_of_our_events() -> None:
    """cases H5: thinking and its signatures included."""
    events = events_of_message(json.dumps(MESSAGE).encode())
    assert accumulated(events) == Message.construct(**MESSAGE).to_dict()
    assert events.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')


def test_there_and_back_is_the_same_message() -> None:
    body = json.dumps(MESSAGE).encode()
    assert json.loads(message_of_events(events_of_message(body))) == MESSAGE


def test_numbers_keep_their_spelling() -> None:
    body = (
        b'{"type":"message","content":[{"type":"tool_use","id":"t","name":"n","input":{"x":1.50,"y":1E3}}],'
    )
    body += b'"stop_reason":"tool_use","usage":{"input_tokens":1,"output_tokens":1}}'
    assert b'{\\"x\\":1.50,\\"y\\":1E3}' in events_of_message(body)
    assert b'{"x":1.50,"y":1E3}' in message_of_events(events_of_message(body))


def stream(*events: tuple[str, dict[str, Any]]) -> bytes:
    return b"".join(event(name, data)[1] for name, data in events)


START = ("message_start", {"message": {**MESSAGE, "content": [], "stop_reason": None, "usage": USAGE}})
TEXT = ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}})
HI = ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "Hi"}})
END = (
    "message_delta",
    {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 400, "input_tokens": None}},
)
STOP: tuple[str, dict[str, Any]] = ("message_stop", {})


def test_pings_unknown_events_and_carriage_returns_are_passed_over() -> None:
    events = stream(START, TEXT, ("ping", {}), HI, ("from_the_future", {"x": 1}), HI, END, STOP)
    for spelled in (events, events.replace(b"\n", b"\r\n")):
        told = json.loads(message_of_events(spelled))
        assert told["content"] == [{"type": "text", "text": "HiHi"}]
        assert told["usage"] == {**USAGE, "output_tokens": 400}
        assert told["stop_reason"] == "end_turn"


@pytest.mark.parametrize(
    "events",
    [
        stream(START, TEXT, HI, END),
        stream(TEXT, HI, END, STOP),
        stream(START, HI, END, STOP),
        stream(START, TEXT, ("error", {"error": {"type": "overloaded_error"}}), STOP),
        stream(START, TEXT, ("content_block_delta", {"index": 0, "delta": {"type": "new_delta"}}), END, STOP),
        stream(START, ("content_block_start", {"index": 3, "content_block": {"type": "text"}}), END, STOP),
        stream(START, TEXT, HI, END, STOP).replace(b'"text_delta"', b'"text_del'),
        b"",
    ],
)
def test_a_stream_that_is_not_whole_tells_no_message(events: bytes) -> None:
    with pytest.raises(NotReplayable):
        message_of_events(events)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"usage":{},"content":[{}]}', b"\xff"])
def test_what_is_no_message_has_no_events(body: bytes) -> None:
    with pytest.raises(NotReplayable):
        events_of_message(body)


@pytest.mark.parametrize(
    ("change", "also", "why"),
    [
        ({"content": [{"type": "text", "text": "x"}]}, (), None),
        ({}, (), "tool use"),
        ({}, ("tool_use",), "thinking"),
        ({}, ("tool_use", "thinking"), None),
        ({"stop_reason": "tool_use", "content": [{"type": "text"}]}, (), "tool use"),
        ({"stop_reason": "refusal"}, ("tool_use", "thinking"), "stop reason refusal"),
        ({"stop_reason": "max_tokens"}, ("tool_use", "thinking"), "stop reason max_tokens"),
        ({"stop_reason": None}, ("tool_use", "thinking"), "stop reason unknown"),
        ({"stop_reason": "a\x00b"}, (), "stop reason unknown"),
        ({"content": []}, (), "no content"),
        ({"content": [{"type": "hologram"}]}, (), "a block of type hologram"),
        ({"container": {"id": "c"}, "content": [{"type": "text"}]}, (), "a container"),
        ({"type": "error"}, (), "no content"),
    ],
)
def test_which_replies_may_be_kept(change: dict[str, Any], also: tuple[str, ...], why: str | None) -> None:
    assert why_not_kept(json.dumps({**MESSAGE, **change}).encode(), also) == why
