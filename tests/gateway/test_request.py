"""Reading a Messages body: what is accepted, what is refused and with which words."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governance.gateway.json_limits import NESTING_MAX
from governance.gateway.request import Request, RequestRefused, read_request

HELLO = {"model": "claude-opus-5-5", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}


def body(**changes: object) -> bytes:
    """HELLO with changes, compact as the SDKs write it; a change to None takes the field away."""
    fields = {name: value for name, value in {**HELLO, **changes}.items() if value is not None}
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def refusal(raw: bytes) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        read_request(raw)
    return caught.value


def read_or_refuse(raw: bytes) -> Request | None:
    with contextlib.suppress(RequestRefused):
        return read_request(raw)
    return None


def both_spellings(raw: bytes) -> list[bytes]:
    """The body as it is, and pretty-printed so that the fast path does not apply."""
    return [raw, raw.replace(b'{"model"', b'{ "model"', 1)]


def test_what_policy_needs_is_read_and_the_bytes_are_the_clients():
    raw = body(stream=True, metadata={"user_id": 'a "b"'}, system="s", thinking={"type": "adaptive"})
    request = read_request(raw)
    assert request.body is raw
    assert (request.model, request.max_tokens, request.stream) == ("claude-opus-5-5", 100, True)
    assert request.user_id == 'a "b"'
    assert request.unknown_fields == ()
    assert request.cache_ttl is None


def test_absent_and_null_optional_fields_are_the_same():
    request = read_request(json.dumps(HELLO | {"stream": None, "metadata": None, "tools": None}).encode())
    assert request.stream is False
    assert request.user_id is None
    assert request.unknown_fields == ()


@pytest.mark.parametrize("field", ["model", "max_tokens", "messages"])
def test_a_missing_field_is_named_as_the_api_names_it(field):
    refused = refusal(body(**{field: None}))
    assert refused.sentence == f"{field}: Field required"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": 5}, "model: Input should be a valid string"),
        ({"max_tokens": "100"}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": True}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": 1.0}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": -1}, "max_tokens: Expected `int` >= 0"),
        ({"max_tokens": 2**63}, "max_tokens: Expected `int` <= 10000000"),
        ({"max_tokens": 10**30}, "max_tokens: Expected `int` <= 10000000"),
        ({"stream": "true"}, "stream: Input should be a valid boolean"),
        ({"messages": {}}, "messages: Input should be a valid list"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
        (
            {"messages": [{"role": "user", "content": 1}]},
            "messages.0.content: Input should be a valid string or list",
        ),
        (
            {"messages": [{"role": "user", "content": ["x"]}]},
            "messages.0.content.0: Input should be a valid object",
        ),
        ({"metadata": {"user_id": 7}}, "metadata.user_id: Input should be a valid string"),
        ({"tools": "all"}, "tools: Input should be a valid list"),
    ],
)
def test_a_wrong_type_is_refused_in_the_words_of_the_api(changes, sentence):
    for raw in both_spellings(body(**changes)):
        assert refusal(raw).sentence == sentence


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"not json",
        body()[:-1],
        body() + b"{}",
        body() + b"\0",
        b"\xef\xbb\xbf" + body(),
        body().decode().encode("utf-16"),
        body(top_k=1).replace(b'"top_k":1', b'"top_k":NaN'),
        body(top_k=1).replace(b'"top_k":1', b'"top_k":-Infinity'),
        body().replace(b"Hello", b"a\0b"),
        body().replace(b"Hello", b"a\\u0000b"),
        body().replace(b"Hello", b"\\\\\\u0000"),
        body().replace(b"Hello", b"a\x01b"),
        body().replace(b"Hello", b"\xff"),
        body().replace(b"Hello", b"\xed\xa0\x80"),
        body().replace(b"Hello", b"\xc0\x80"),
        body().replace(b"Hello", b"\\ud800"),
        body().replace(b"Hello", b"\\udc00\\ud800"),
        body(x="Hello").replace(b'"x":"Hello"', b'"x":"\xff"'),
        body(x="Hello").replace(b'"x":"Hello"', b'"x":"\\ud800!"'),
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(raw):
    assert refusal(raw).sentence


def test_a_backslash_before_u0000_as_text_is_no_nul():
    assert read_request(body().replace(b"Hello", b"\\\\u0000")).has_unicode_escapes


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        (b'"max_tokens":1', "max_tokens"),
        (b'"max\\u005ftokens":1', "max_tokens"),
        (b'"\\u006d\\u0061x_tokens": 1', "max_tokens"),
        (b'"model":"claude-haiku-5-5"', "model"),
        (b'"messages":[]', "messages"),
        (b'"stream":true,"stream":false', "stream"),
        (b'"metadata":{"user_id":"a","user_id":"b"}', "user_id"),
        (b'"cache_control":{"type":"ephemeral","ttl":"1h","ttl":"5m"}', "ttl"),
        (
            b'"tools":[{"type":"web_search_20250305","name":"web_search","max_uses":1,"max_uses":9}]',
            "max_uses",
        ),
        (b'"new_field":1,"new_field":2', "new_field"),
    ],
)
def test_a_key_given_twice_is_refused_however_it_is_spelled(extra, name):
    for raw in (body()[:-1] + b"," + extra + b"}", b"{" + extra + b"," + body()[1:]):
        for spelling in both_spellings(raw):
            refused = refusal(spelling)
            assert refused.sentence == f"{name}: given twice in one object. Send it once."


def test_a_key_given_twice_cannot_hide_behind_text_that_encodes_shorter():
    # 16 escaped slashes are 16 bytes longer than our own spelling of them would be.
    raw = body().replace(b"Hello", b"\\/" * 16)[:-1] + b',"max_tokens":1}'
    assert refusal(raw).sentence.startswith("max_tokens: given twice")


def test_a_key_given_twice_inside_a_source_is_refused():
    image = b'{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA","type":"url"}}'
    raw = body(messages=[{"role": "user", "content": []}]).replace(b"[]", b"[" + image + b"]")
    assert refusal(raw).sentence.startswith("type: given twice")


def test_another_case_of_a_known_field_is_refused():
    assert refusal(body(Max_Tokens=1)).sentence.startswith("Spell 'Max_Tokens' as 'max_tokens'")


def test_unknown_fields_pass_and_are_named():
    request = read_request(body(zeta=1, alpha={"a": [1, 2]}))
    assert request.unknown_fields == ("alpha", "zeta")
    many = read_request(body(**{f"field_{n:03}" + "x" * 100: n for n in range(40)}))
    assert len(many.unknown_fields) == 16
    assert {len(name) for name in many.unknown_fields} == {64}


@pytest.mark.parametrize("kind", ["arrays", "objects"])
@pytest.mark.parametrize(
    ("place", "levels_above"),
    [
        (lambda deep: {"new_field": deep}, 1),
        (lambda deep: {"thread": deep}, 1),
        (lambda deep: {"metadata": {"new": deep}}, 2),
        (lambda deep: {"thinking": {"x": deep}}, 2),
        (lambda deep: {"tools": [{"name": "t", "input_schema": deep}]}, 3),
        (lambda deep: {"system": [{"type": "text", "text": deep}]}, 3),
        (lambda deep: {"messages": [{"role": "user", "content": [{"type": "x", "new": deep}]}]}, 5),
        (lambda deep: {"messages": [{"role": "user", "content": "x", "new": deep}]}, 3),
    ],
)
def test_nesting_deeper_than_64_is_refused_wherever_it_is(place, levels_above, kind):
    def nested(levels):
        value = "x" * 200
        for _ in range(levels):
            value = [value] if kind == "arrays" else {"a": value}
        return value

    fits = NESTING_MAX - levels_above
    for raw in both_spellings(body(**place(nested(fits)))):
        assert read_request(raw)
    for raw in both_spellings(body(**place(nested(fits + 1)))):
        assert "nests deeper than 64 levels" in refusal(raw).sentence


@pytest.mark.parametrize("levels", [65, 3_000, 100_000])
def test_deep_nesting_never_exhausts_the_stack(levels):
    for opened, closed in ((b"[", b"]"), (b'{"a":', b"}")):
        deep = opened * levels + b"1" + closed * levels
        for raw in both_spellings(body(thread=1).replace(b'"thread":1', b'"thread":' + deep)):
            assert "deep" in refusal(raw).sentence


def test_brackets_inside_text_are_no_nesting():
    code = "[" * 500 + "{" * 500
    assert read_request(body(messages=[{"role": "user", "content": [{"type": "text", "text": code}]}]))
    tool_use = {"type": "tool_use", "id": "t", "name": "Write", "input": {"content": code}}
    assert read_request(body(messages=[{"role": "assistant", "content": [tool_use]}]))


@pytest.mark.parametrize(
    ("changes", "ttl"),
    [
        ({}, None),
        ({"cache_control": {"type": "ephemeral"}}, "5m"),
        ({"cache_control": {"type": "ephemeral", "ttl": "1h"}}, "1h"),
        ({"system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}]}, "5m"),
        ({"tools": [{"name": "t", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]}, "1h"),
        ({"system": [{"type": "text", "text": "s", "cache_control": None}]}, None),
    ],
)
def test_the_longest_cache_lifetime_asked_for_is_known(changes, ttl):
    for raw in both_spellings(body(**changes)):
        assert read_request(raw).cache_ttl == ttl


def test_a_cache_breakpoint_inside_a_tool_result_counts():
    nested = {"type": "text", "text": "t", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [nested]}
    assert read_request(body(messages=[{"role": "user", "content": [result]}])).cache_ttl == "1h"


def test_media_are_found_wherever_they_are():
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [image]}
    inside = {"type": "document", "source": {"type": "content", "content": [image]}}
    link = {"type": "search_result", "source": "https://example.org", "title": "t", "content": []}
    for raw in both_spellings(body(messages=[{"role": "user", "content": [image, result, inside, link]}])):
        media = read_request(raw).media
        assert [item.kind for item in media] == ["image", "image", "document", "image", "search_result"]
        assert media[-1].source is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, derandomize=True)
@given(
    extra=st.dictionaries(st.text(min_size=1), json_values, max_size=4),
    block=st.dictionaries(st.sampled_from(["text", "input", "new"]), json_values),
    separators=st.sampled_from([(",", ":"), (", ", ": ")]),
    ascii_only=st.booleans(),
)
def test_any_json_is_read_or_refused_but_never_fails(extra, block, separators, ascii_only):
    fields = extra | HELLO | {"messages": [{"role": "user", "content": [block]}]}
    raw = json.dumps(fields, separators=separators, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    request = read_or_refuse(raw)
    if request is None:
        return
    assert json.loads(raw.decode())["max_tokens"] == request.max_tokens
    assert set(request.unknown_fields) == {name[:64] for name in extra.keys() - set(HELLO)}


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.data())
def test_a_damaged_body_is_read_or_refused_but_never_fails(data):
    raw = bytearray(body(system=[{"type": "text", "text": 'é\\ "x"'}], stream=True))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    read_or_refuse(bytes(raw))
