"""The `anthropic-simulator` header: each field does what README.md says, and nothing else is accepted."""

import base64
import gzip
import hashlib
import json
import re
import time
import zlib
from pathlib import Path
from typing import Any

import anthropic
import pytest

from governance.simulator.launch import RunningSimulator
from governance.simulator.script import Fault, Script, ScriptedError
from tests.simulator.asking import HELLO, body_of, connect, read_all, request_bytes, script_header, scripted

EXACT = {
    "input_tokens": 11,
    "cache_creation_input_tokens": 7,
    "cache_read_input_tokens": 5,
    "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4},
    "output_tokens": 99,
    "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0},
    "service_tier": "priority",
    "inference_geo": "us",
    "speed": "fast",
    "iterations": [{"type": "message", "input_tokens": 11, "output_tokens": 99}],
}


def events(client: anthropic.Anthropic, **script: Any) -> list[dict[str, Any]]:
    """The data of each server-sent event, decoded, as it came over the wire."""
    with client.messages.with_streaming_response.create(
        **HELLO, stream=True, **scripted(**script)
    ) as response:
        return [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ('{"latencyms": 5}', "unknown field `latencyms`"),
        ('{"error": {"type": "api_error", "code": 1}}', "unknown field `code`"),
        ("not json", "is not a script"),
        ('{"latency_ms": -1}', "latency_ms"),
        ('{"error": {"type": "api_error", "times": 2}}', "error.times or error.after but no id"),
        ('{"error": {"type": "surprise_error"}}', "give error.status as well"),
        ('{"fault": "earthquake"}', "is not a script"),
        ('{"fault": {}}', "exactly one fault"),
        ('{"fault": {"garbage_json": true, "no_usage": true}}', "exactly one fault"),
        ('{"raw_body_b64": "%"}', "is not base64"),
    ],
)
def test_a_script_that_is_not_one_is_a_400_with_a_sentence(
    client: anthropic.Anthropic, header: str, sentence: str
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=re.escape(sentence)):
        client.messages.create(**HELLO, extra_headers={"anthropic-simulator": header})


def test_every_field_of_a_script_is_in_the_readme() -> None:
    readme = (Path(__file__).parents[2] / "governance/simulator/README.md").read_text()
    fields = {*Script.__struct_fields__, *ScriptedError.__struct_fields__, *Fault.__struct_fields__}
    assert [
        field for field in sorted(fields) if f"`{field}`" not in readme and f'"{field}"' not in readme
    ] == []


def test_exact_usage_is_reported_and_billed_as_it_stands(
    client: anthropic.Anthropic, simulator: RunningSimulator, tag: str
) -> None:
    message = client.messages.create(**HELLO, **scripted(usage=EXACT, tag=tag))
    assert message.usage.model_dump() | EXACT == message.usage.model_dump()
    assert [charge["usage"] for charge in simulator.charges(tag)] == [EXACT]


def test_exact_usage_of_a_stream_is_split_as_the_api_splits_it(client: anthropic.Anthropic) -> None:
    received = events(client, usage=EXACT)
    start = received[0]["message"]["usage"]
    assert start == {name: value for name, value in EXACT.items() if name != "iterations"} | {
        "output_tokens": 1
    }
    [end] = [event["usage"] for event in received if event["type"] == "message_delta"]
    assert end == {
        name: EXACT[name]
        for name in EXACT
        if name not in ("cache_creation", "service_tier", "inference_geo", "speed")
    }


def test_start_and_end_usage_can_be_given_apart_and_several_times(client: anthropic.Anthropic) -> None:
    deltas = [{"output_tokens": 3}, {"output_tokens": 8, "input_tokens": 40}]
    received = events(client, usage_start={"input_tokens": 2, "output_tokens": 0}, usage_delta=deltas)
    assert received[0]["message"]["usage"] == {"input_tokens": 2, "output_tokens": 0}
    ends = [event for event in received if event["type"] == "message_delta"]
    assert [end["usage"] for end in ends] == deltas
    assert [end["delta"]["stop_reason"] for end in ends] == [None, "end_turn"]


def test_the_bill_can_say_other_than_the_reply(
    client: anthropic.Anthropic, simulator: RunningSimulator, tag: str
) -> None:
    billed = {"input_tokens": 1, "output_tokens": 2}
    client.messages.create(**HELLO, **scripted(billed_usage=billed, tag=tag))
    assert [charge["usage"] for charge in simulator.charges(tag)] == [billed]


def test_the_bound_is_billed_where_asked(
    client: anthropic.Anthropic, simulator: RunningSimulator, tag: str
) -> None:
    message = client.messages.create(**HELLO, **scripted(bill_full_max_tokens=True, tag=tag))
    assert message.usage.output_tokens == HELLO["max_tokens"]
    assert simulator.charges(tag)[0]["usage"]["output_tokens"] == HELLO["max_tokens"]


@pytest.mark.parametrize("model", ["claude-haiku-5-5", "claude-haiku-4-5"])
def test_output_tokens_sets_the_length_of_the_text(client: anthropic.Anthropic, model: str) -> None:
    asked = {**HELLO, "model": model, "max_tokens": 5000}
    for output_tokens in (5, 3000):
        message = client.messages.create(**asked, **scripted(output_tokens=output_tokens))
        assert message.usage.output_tokens == output_tokens
        bytes_per_token = 40 / 13 if model == "claude-haiku-5-5" else 4
        assert len(message.content[0].text.encode()) == int(output_tokens * bytes_per_token)
    again = client.messages.create(**asked, **scripted(output_tokens=3000))
    assert again.content[0].text == message.content[0].text


def test_model_stop_reason_and_unknown_fields_are_as_scripted(client: anthropic.Anthropic) -> None:
    message = client.messages.create(
        **HELLO,
        **scripted(model_served="claude-opus-5", stop_reason="refusal", extra_fields={"mood": "sunny"}),
    )
    assert (message.model, message.stop_reason, message.mood) == ("claude-opus-5", "refusal", "sunny")
    assert message.stop_details.type == "refusal"


def test_unknown_events_are_sent_and_tolerated(client: anthropic.Anthropic) -> None:
    assert [event["type"] for event in events(client, unknown_events=True)].count("from_the_future") == 2
    with client.messages.stream(**HELLO, **scripted(unknown_events=True)) as stream:
        assert stream.get_final_text().startswith("This is the Exchequer simulator")


def test_deltas_and_delays_shape_a_stream_on_the_wire(simulator: RunningSimulator) -> None:
    body = json.dumps({**HELLO, "stream": True}).encode()
    header = script_header(deltas=20, chunk_delay_ms=5, latency_ms=50)
    arrivals: list[float] = []
    received = b""
    with connect(simulator.url) as connection:
        started = time.monotonic()
        connection.sendall(request_bytes(body, header))
        while not received.endswith(b"0\r\n\r\n"):
            received += connection.recv(65536)
            arrivals.append(time.monotonic() - started)
    assert arrivals[0] >= 0.05
    assert arrivals[-1] >= 0.05 + 21 * 0.005
    assert len(arrivals) >= 15  # 22 writes; a busy machine may deliver some of them together
    assert received.count(b"text_delta") == 20


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("compress", "decompress"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)]
)
def test_a_reply_can_come_compressed(
    client: anthropic.Anthropic, simulator: RunningSimulator, streaming: bool, compress: str, decompress: Any
) -> None:
    script = {"compress": compress, "tag": compress}
    with connect(simulator.url) as connection:
        body = json.dumps({**HELLO, "stream": streaming}).encode()
        connection.sendall(request_bytes(body, script_header(**script), "connection: close"))
        received, _ = read_all(connection)
    assert f"content-encoding: {compress}".encode() in received
    assert b"Exch" in decompress(body_of(received))
    with client.messages.stream(**HELLO, **scripted(**script)) as stream:
        assert stream.get_final_text().startswith("This is the")


@pytest.mark.parametrize("streaming", [False, True])
def test_the_bill_knows_the_digest_of_every_reply(
    client: anthropic.Anthropic, simulator: RunningSimulator, tag: str, streaming: bool
) -> None:
    with client.messages.with_streaming_response.create(
        **HELLO, stream=streaming, **scripted(tag=tag)
    ) as response:
        received = b"".join(response.iter_bytes())
    [charge] = simulator.charges(tag)
    assert charge["reply_sha256"] == hashlib.sha256(received).hexdigest()
    assert charge["request_id"] == response.headers["request-id"]


def test_a_raw_body_is_sent_byte_for_byte(simulator: RunningSimulator, tag: str) -> None:
    raw = b'{"id": "msg_1",   "usage":{}, "\\u0065": 1}\n'
    body = json.dumps(HELLO).encode()
    for status, billed in ((200, 1), (503, 1)):  # the second is not billed
        header = script_header(raw_body_b64=base64.b64encode(raw).decode(), raw_status=status, tag=tag)
        with connect(simulator.url) as connection:
            connection.sendall(request_bytes(body, header, "connection: close"))
            received, _ = read_all(connection)
        assert received.startswith(f"HTTP/1.1 {status}".encode())
        assert body_of(received) == raw
        assert len(simulator.charges(tag)) == billed


def test_echo_tells_what_arrived_and_hides_the_credential(client: anthropic.Anthropic) -> None:
    script = scripted(echo=True, headers={"x-extra": "yes"})
    script["extra_headers"]["anthropic-beta"] = "some-beta-2026-01-01"
    raw = client.messages.with_raw_response.create(**HELLO, **script, extra_query={"beta": "true"})
    arrived = json.loads(raw.parse().content[0].text)
    assert (arrived["method"], arrived["path"], arrived["query"]) == ("POST", "/v1/messages", "beta=true")
    assert arrived["headers"]["anthropic-beta"] == "some-beta-2026-01-01"
    assert client.api_key not in json.dumps(arrived)
    assert raw.headers["x-extra"] == "yes"
    assert raw.headers["anthropic-ratelimit-tokens-limit"] == "2400000"


def test_the_seed_changes_the_filler_and_nothing_else(simulator: RunningSimulator) -> None:
    from governance.simulator.app import Request, Simulator

    body = json.dumps({**HELLO, "max_tokens": 500}).encode()
    headers = {
        b"x-api-key": b"k",
        b"anthropic-version": b"2026-10-21",
        b"anthropic-simulator": b'{"output_tokens":400}',
    }
    request = Request("POST", "/v1/messages", "", headers, body)

    def text(seed: str) -> str:
        [reply] = Simulator(seed=seed).answer(request).writes
        return str(json.loads(reply)["content"][0]["text"])

    assert text("a") == text("a")
    assert text("a") != text("b")
    assert len(text("a")) == len(text("b"))
