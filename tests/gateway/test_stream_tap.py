"""The tap reads usage off a stream however its bytes are cut, and never fails on what it reads."""

import gzip
import random
import zlib

import pytest

from governance.gateway.sse import StreamTap


def event(name: str, data: str) -> bytes:
    return f"event: {name}\ndata: {data}\n\n".encode()


DELTA = (
    '{"type":"content_block_delta","index":0,'
    '"delta":{"type":"text_delta","text":"an error? event: message_delta NUMBER"}}'
)
STREAM = b"".join(
    (
        event(
            "message_start",
            '{"type":"message_start","message":{"model":"claude-sonnet-5-5","usage":{"input_tokens":17,"output_tokens":1}}}',
        ),
        event(
            "content_block_start", '{"type":"content_block_start","index":0,"content_block":{"type":"text"}}'
        ),
        event("ping", '{"type":"ping"}'),
        *(event("content_block_delta", DELTA.replace("NUMBER", str(n))) for n in range(5)),
        event("brand_new", '{"type":"brand_new"}'),
        event(
            "message_delta",
            '{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":42}}',
        ),
        event("message_stop", '{"type":"message_stop"}'),
    )
)


def assert_read(tap: StreamTap) -> None:
    (served,) = tap.usage.passes()
    assert tap.unreadable is None
    assert tap.error is None
    assert (served.model, served.usage.input_tokens, served.usage.output_tokens) == (
        "claude-sonnet-5-5",
        17,
        42,
    )
    assert (tap.stopped, tap.stop_reason, tap.between_events) == (True, "end_turn", True)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 10_000])
def test_events_are_read_whatever_the_chunks(ending: bytes, size: int) -> None:
    stream = STREAM.replace(b"\n", ending)
    tap = StreamTap()
    starts = [tap.feed(stream[at : at + size]) for at in range(0, len(stream), size)]
    assert starts.count(True) == 1
    assert_read(tap)


def test_events_are_read_at_any_two_cuts() -> None:
    cuts = random.Random(7)
    for _ in range(300):
        first, second = sorted(cuts.sample(range(len(STREAM)), 2))
        tap = StreamTap()
        for part in (STREAM[:first], STREAM[first:second], STREAM[second:]):
            tap.feed(part)
        assert_read(tap)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("size", [1, 5, 10_000])
def test_compressed_events_are_read(encoding: str, size: int) -> None:
    packed = gzip.compress(STREAM) if encoding == "gzip" else zlib.compress(STREAM)
    tap = StreamTap(encoding)
    for at in range(0, len(packed), size):
        tap.feed(packed[at : at + size])
    assert (tap.stopped, tap.usage.passes()[0].usage.output_tokens) == (True, 42)


@pytest.mark.parametrize(
    ("encoding", "junk"),
    [
        ("", b"event: message_start\ndata: {broken\n\n"),
        ("", b"event: message_delta\ndata: []\n\n"),
        ("gzip", b"not gzip"),
        ("br", b"\x0b\x02"),
    ],
)
def test_what_cannot_be_read_is_said_and_never_raised(encoding: str, junk: bytes) -> None:
    tap = StreamTap(encoding)
    tap.feed(junk)
    tap.feed(STREAM)
    assert tap.unreadable


def test_an_error_event_is_noticed() -> None:
    tap = StreamTap()
    tap.feed(event("error", '{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'))
    assert tap.error == "overloaded_error"


def test_content_is_counted_at_no_less_than_its_bytes() -> None:
    tap = StreamTap()
    for at in range(0, len(STREAM), 11):
        tap.feed(STREAM[at : at + 11])
    assert tap.content_bytes >= len(b"an error? event: message_delta 0") * 5
    assert not tap.hides_output
    tap.feed(event("content_block_start", '{"content_block":{"type":"thinking","thinking":""}}'))
    assert tap.hides_output


@pytest.mark.parametrize("kind", ["tool_use", "server_tool_use"])
def test_a_tools_input_may_be_generated_long_before_it_is_sent(kind: str) -> None:
    tap = StreamTap()
    tap.feed(event("content_block_start", f'{{"content_block":{{"type":"{kind}","name":"search"}}}}'))
    assert tap.hides_output


def test_half_an_event_counts_as_content() -> None:
    tap = StreamTap()
    tap.feed(event("content_block_delta", DELTA)[:-2] + b"x" * 5000)
    assert tap.bytes_seen > 5000


def test_half_an_event_is_no_place_for_an_event_of_ours() -> None:
    tap = StreamTap()
    tap.feed(STREAM[:40])
    assert not tap.between_events
