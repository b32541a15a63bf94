"""Bodies made to hurt: reading, bounding and describing them stays linear, capped, and never fails."""

import contextlib
import json
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from governance.calls.request_facts import request_facts
from governance.gateway.errors import CallRefused
from governance.gateway.json_limits import PARTS_MAX
from governance.gateway.output_cap import capped
from governance.gateway.request import Request, RequestRefused, read_request
from governance.gateway.text_bound import input_bound, unbounded_features

PLACES = {
    "unknown": b'"new_field":%b',
    "thread": b'"thread":%b',
    "effort": b'"output_config":{"effort":%b}',
    "format": b'"output_config":{"format":{"type":"json_schema","schema":%b}}',
    "format type": b'"output_config":{"format":{"type":%b}}',
    "budget": b'"thinking":{"type":"enabled","budget_tokens":%b}',
    "thinking": b'"thinking":{"type":%b}',
    "user": b'"metadata":{"user_id":%b}',
    "tool type": b'"tools":[{"name":"t","type":%b}]',
    "uses": b'"tools":[{"type":"web_search_20250305","name":"w","max_uses":%b}]',
    "schema": b'"tools":[{"name":"t","input_schema":%b}]',
    "cache": b'"cache_control":{"ttl":%b}',
    "edits": b'"context_management":{"edits":%b}',
    "block type": b'"system":[{"type":%b,"source":{"type":"base64"}}]',
    "source type": b'"system":[{"type":"image","source":{"type":%b}}]',
    "source": b'"system":[{"type":"image","source":%b}]',
    "nested": b'"system":[{"type":"x","content":%b}]',
    "nested key": b'"system":[{"type":"x","content":[{"text":"t","new":%b}]}]',
    "text": b'"system":[{"type":"text","text":%b}]',
    "message": b'"messages":[{"role":"user","content":[{"type":"tool_use","input":%b}]}]',
}
VALUES = [
    b"1e999",
    b"-1e999",
    b"9" * 5_000,
    b"9" * 400,
    b"-1",
    b"true",
    b"null",
    b"{}",
    b'"\\ud800"',
    b'{"\\ud800":1}',
    b'{"\\ud800":1,"\\ud800":2}',
    b'{"a":1e999}',
    b'{"a":%b}' % (b"9" * 5_000),
    b"[" * 40 + b"1e999" + b"]" * 40,
    b"[" * 63 + b"]" * 63,
    b"[" * 5_000 + b"]" * 5_000,
    b'[{"a":[' + b"[[" * 30 + b"9" * 5_000 + b"]]" * 30 + b"]}]",
]


def body_with(place: str, value: bytes, pretty: bool = False) -> bytes:
    start = b'{"model":"claude-opus-5-5",' if not pretty else b'{ "model": "claude-opus-5-5",'
    field = PLACES[place] % value
    messages = b"" if place == "message" else b'"messages":[{"role":"user","content":"Hello"}],'
    return start + messages + b'"max_tokens":100,' + field + b"}"


def use(raw: bytes) -> Request | None:
    """Everything that is done with a body before and after the call; None for a refusal that can be told."""
    try:
        request = read_request(raw)
    except RequestRefused as refused:
        refused.sentence.encode()
        return None
    assert input_bound(request, 200_000).tokens_max > 0
    "".join(unbounded_features(request)).encode()
    facts = request_facts(request, b"key")
    json.loads(facts.facts)
    with contextlib.suppress(CallRefused):
        capped(request, 7)
    return request


@pytest.mark.parametrize("pretty", [False, True])
@pytest.mark.parametrize("value", VALUES, ids=lambda value: value[:20].decode())
@pytest.mark.parametrize("place", PLACES)
def test_any_body_that_is_accepted_can_be_bounded_capped_and_described(place, value, pretty):
    use(body_with(place, value, pretty))


odd = st.recursive(
    st.sampled_from(VALUES[:10]) | st.text(max_size=5).map(lambda text: json.dumps(text).encode()),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda parts: b"[" + b",".join(parts) + b"]")
        | st.lists(
            st.tuples(
                st.sampled_from([b"type", b"content", b"source", b"url", b"cache_control", b"x"]), inner
            ),
            max_size=4,
        ).map(lambda pairs: b"{" + b",".join(b'"%b":%b' % pair for pair in pairs) + b"}")
    ),
    max_leaves=12,
)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(place=st.sampled_from(sorted(PLACES)), value=odd, pretty=st.booleans())
@example(place="effort", value=b"1e999", pretty=False)
def test_no_accepted_body_fails_later_whatever_json_it_holds(place, value, pretty):
    use(body_with(place, value, pretty))


@pytest.mark.parametrize("place", ["effort", "format", "format type", "budget", "thinking"])
def test_a_number_out_of_range_in_a_setting_is_left_out_of_the_facts(place):
    request = read_request(body_with(place, b"1e999"))
    facts = json.loads(request_facts(request, b"key").facts)
    assert "budget" not in facts
    assert {facts.get(name) for name in ("effort", "fmt", "think")} <= {
        None,
        "other",
        "enabled",
        "json_schema",
    }


def test_an_integer_of_thousands_of_digits_is_refused():
    with pytest.raises(RequestRefused, match="not valid JSON"):
        read_request(body_with("unknown", b"9" * 5_000))


# --- Linear time ---------------------------------------------------------------------------------
def many_keys(count: int) -> bytes:
    return body_with("unknown", b"{" + b"".join(b'"k%d":1,' % n for n in range(count)) + b'"k0":1}')


def repeats_of_many_keys(count: int) -> bytes:
    keys = b"".join(b'"k%d":1,' % n for n in range(count))
    return body_with("unknown", b"{" + keys + b'"last":1,"last":1}')


def tiny_blocks(count: int) -> bytes:
    return body_with("nested", b"[" + b",".join([b"{}"] * count) + b"]")


def pretty_blocks(count: int) -> bytes:
    return body_with("nested", b"[" + b", ".join([b'{"type": "text"}'] * count) + b"]", pretty=True)


def media(count: int) -> bytes:
    image = b'{"type":"image","source":{"type":"base64","data":"AAAA"}}'
    return body_with("nested", b"[" + b",".join([image] * count) + b"]")


def escapes(count: int) -> bytes:
    return body_with("text", b'"' + b"\\ufdfa" * count + b'"')


def backslashes(count: int) -> bytes:
    return body_with("text", b'"' + b"\\\\" * count + b'\\u0001"')


def unfinished_text(count: int) -> bytes:
    return body_with("text", b'"' + b'\\"' * count)


def growing_characters(count: int) -> bytes:
    return body_with("text", b'"' + "ﷺ".encode() * count + b'"')


def deep_values(count: int) -> bytes:
    return body_with("nested", b"[" + b",".join([b'{"x":' + b"[" * 58 + b"]" * 58 + b"}"] * count) + b"]")


def decoys(count: int) -> bytes:
    calls = b",".join([b'{"max_tokens":100}'] * count)
    return b'{"messages":[{"role":"user","content":[{"x":[%b]}]}],"model":"m","max_tokens":100}' % calls


def server_tools(count: int) -> bytes:
    tools = b",".join(b'{"type":"new_%d"}' % n for n in range(count))
    return b'{"model":"m","max_tokens":100,"messages":[],"tools":[%b]}' % tools


def messages(count: int) -> bytes:
    each = b",".join([b'{"role":"user","content":"x"}'] * count)
    return b'{"model":"m","max_tokens":100,"messages":[%b]}' % each


SHAPES = [
    many_keys,
    repeats_of_many_keys,
    tiny_blocks,
    pretty_blocks,
    media,
    escapes,
    backslashes,
    unfinished_text,
    growing_characters,
    deep_values,
    decoys,
    server_tools,
    messages,
]


def seconds(raw: bytes) -> float:
    def once() -> float:
        started = time.process_time()
        use(raw)
        return time.process_time() - started

    return min(once() for _ in range(3))


@pytest.mark.parametrize("shape", SHAPES)
def test_four_times_the_bytes_take_about_four_times_the_time(shape: Callable[[int], bytes]):
    bytes_each = len(shape(1_001)) - len(shape(1))
    count = 100_000_000 // bytes_each  # 100 KB, as bytes_each is for a thousand
    small, large = seconds(shape(count)), seconds(shape(count * 4))
    assert large < 1
    assert large < 10 * small + 0.01, f"{small * 1e3:.1f} ms, four times the bytes {large * 1e3:.1f} ms"


# --- A cap on values -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("nested", b"[" + b",".join([b"{}"] * (PARTS_MAX // 2)) + b"]"),
        ("unknown", b"[" + b",".join([b"1"] * PARTS_MAX) + b"]"),
        ("unknown", b"[" + b",".join([b'""'] * 3 * PARTS_MAX) + b"]"),
        ("thinking", b'{"x":1' + b',"a":1' * PARTS_MAX + b"}"),
    ],
)
def test_a_body_of_too_many_values_is_refused_before_it_is_decoded(place, value):
    started = time.process_time()
    with pytest.raises(RequestRefused, match="250,000 brackets, commas and colons outside text"):
        read_request(body_with(place, value))
    assert time.process_time() - started < 1


def test_brackets_and_commas_in_text_are_not_counted():
    code = json.dumps('[{"a": 1, "b\\\\": "}"}, ' * (PARTS_MAX // 4)).encode()
    assert read_request(body_with("text", code))


# --- The output cap ------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [b'{"x":%b,"max_tokens":9}', b'{"max_tokens" :\n9,"x":%b}'])
def test_the_cap_lowers_the_top_level_value_whatever_other_keys_are_called(shape):
    decoy = b'{"max_tokens":9,"a":["}]",{"\\"max_tokens":9},"\\\\",{"max_tokens":9}]}'
    rest = b'"model":"m","messages":[{"role":"user","content":"\\"max_tokens\\":9 }}"}],'
    raw = (shape % decoy).replace(b"{", b"{" + rest, 1)
    lowered = capped(read_request(raw), 4)
    assert lowered.max_tokens == 4
    assert json.loads(lowered.body) == json.loads(raw) | {"max_tokens": 4}


def test_a_key_spelled_with_escapes_is_not_lowered_but_refused():
    raw = body_with("thread", b'{"max_tokens":100}').replace(
        b'"max_tokens":100,', b'"max\\u005ftokens":100,', 1
    )
    with pytest.raises(CallRefused) as caught:
        capped(read_request(raw), 7)
    assert caught.value.refusal.reason == "max_tokens_above_cap"
