"""The bound on input tokens: never below what a byte-level tokenizer could make of the text."""

import base64
import json
import sys
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from governance.gateway.request import read_request
from governance.gateway.text_bound import (
    _DECOMPOSABLE,
    BASE_TOKENS,
    BUILT_IN_TOOL_TOKENS,
    TOOL_SET_TOKENS,
    input_bound,
    unbounded_features,
)

WINDOW = 1_000_000


def body(*, ascii_only=False, separators=(",", ":"), model="claude-opus-5-5", **changes) -> bytes:
    fields = {"model": model, "max_tokens": 10, "messages": [{"role": "user", "content": "Hello"}]} | changes
    return json.dumps(fields, separators=separators, ensure_ascii=ascii_only).encode()


def user(*blocks) -> list:
    return [{"role": "user", "content": list(blocks)}]


def bound(window=WINDOW, **changes):
    return input_bound(read_request(body(**changes)), window)


def features(**changes) -> tuple[str, ...]:
    return unbounded_features(read_request(body(**changes)))


# --- The text ------------------------------------------------------------------------------------
def all_strings(value) -> list[str]:
    match value:
        case str():
            return [value]
        case dict():
            return [text for pair in value.items() for part in pair for text in all_strings(part)]
        case list():
            return [text for part in value for text in all_strings(part)]
    return []


def naive_tokens(raw: bytes) -> int:
    """Decode everything, normalise everything, count bytes: slow and plainly right."""
    return sum(
        max(len(text.encode()), len(unicodedata.normalize("NFKC", text).encode()))
        for text in all_strings(json.loads(raw))
    )


# Half of the characters are such that grow, combine or reorder, the other half anything.
growing = st.sampled_from(
    "\ufdfa\ufdfb\u3300\u33aa\u2057\u1f82\u00f6\u0323\u0308\u0345\u1e9b\uac01\u11a8\u01c4½ﬃが🄐𝅘𝅥𝅲é→"
)
texts = st.text(growing | st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


@settings(deadline=None, derandomize=True, max_examples=400)
@given(
    texts=st.lists(texts, min_size=1, max_size=6),
    ascii_only=st.booleans(),
    separators=st.sampled_from([(",", ":"), (", ", ": ")]),
)
@example(texts=["\ufdfa" * 1000], ascii_only=True, separators=(",", ":"))
@example(texts=["\ufdfa" * 1000], ascii_only=False, separators=(",", ":"))
@example(texts=["o\u0308\u0323" * 500, "\u00f6\u0323" * 500], ascii_only=False, separators=(",", ":"))
def test_the_bound_is_never_below_the_bytes_of_the_normalised_text(texts, ascii_only, separators):
    blocks = [{"type": "text", "text": text} for text in texts]
    input_value = {"type": "tool_use", "id": "t", "name": "n", "input": {text: text for text in texts}}
    raw = body(
        ascii_only=ascii_only,
        separators=separators,
        system=texts[0],
        messages=[*user(*blocks), {"role": "assistant", "content": [input_value]}],
    )
    assert input_bound(read_request(raw), 10**9).tokens_max >= naive_tokens(raw)


def test_every_character_that_can_grow_is_known():
    ranges = [range(*pair) for pair in _DECOMPOSABLE]
    hangul = range(0xAC00, 0xD7A4)
    missed = [
        code
        for code in range(0x80, sys.maxunicode + 1)
        if unicodedata.decomposition(chr(code)) and code not in hangul and not any(code in r for r in ranges)
    ]
    assert missed == []


def test_recomposition_never_makes_text_longer():
    for code in range(0x80, sys.maxunicode + 1):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            assert len(chr(code).encode()) <= sum(len(chr(int(part, 16)).encode()) for part in parts)


def test_plain_text_costs_its_bytes_and_little_more():
    raw = body(messages=user({"type": "text", "text": "word " * 10_000}))
    assert input_bound(read_request(raw), WINDOW).tokens_max == len(raw) + BASE_TOKENS


def test_nothing_costs_more_than_the_context_window():
    assert bound(window=200_000, messages=user({"type": "text", "text": "x" * 300_000})).tokens_max == 200_000


# --- Media ---------------------------------------------------------------------------------------
def image(data_bytes: int) -> dict:
    data = base64.b64encode(b"i" * data_bytes).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}


def pdf(content: bytes) -> dict:
    data = base64.b64encode(b"%PDF-1.7\n" + content).decode()
    return {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": data}}


@pytest.mark.parametrize(
    ("model", "cap"),
    [
        ("claude-opus-5-5", 4_800),
        ("claude-opus-4-7", 4_800),
        ("claude-opus-4-6", 1_600),
        ("claude-sonnet-4-5-20250929", 1_600),
        ("claude-haiku-4-5", 1_600),
        ("claude-opus-4-20250514", 1_600),
        ("claude-3-haiku-20240307", 1_600),
        ("something-new", 4_800),
    ],
)
def test_an_image_costs_the_cap_of_its_model_and_not_its_base64(model, cap):
    one = bound(model=model, messages=user(image(90_000)))
    assert cap < one.tokens_max < cap + 400
    nested = {"type": "tool_result", "tool_use_id": "t", "content": [image(90_000), image(90_000)]}
    assert 2 * cap < bound(model=model, messages=user(nested)).tokens_max < 2 * cap + 600


@pytest.mark.parametrize(
    "content", [b"/Type /Page", b"/Type%x\n/Page " * 500 + b"/Count 4", b"/ObjStm", b"", b"x" * 900_000]
)
def test_a_pdf_costs_the_context_window_because_no_count_of_its_pages_is_sure(content):
    assert bound(messages=user(pdf(content))).tokens_max == WINDOW
    assert features(messages=user(pdf(content))) == ()


def fetched(document: dict) -> dict:
    """What the API gave for a fetched page: its content is one object, not a list."""
    result = {"type": "web_fetch_result", "url": "https://example.org", "content": document}
    return {"type": "web_fetch_tool_result", "tool_use_id": "t", "content": result}


AN_HOUR = {"type": "ephemeral", "ttl": "1h"}
LINKED = {"type": "document", "source": {"type": "url", "url": "https://example.org/x.pdf"}}


@pytest.mark.parametrize(
    ("block", "feature"),
    [
        (fetched(LINKED), "url_source"),
        ({"type": "tool_result", "tool_use_id": "t", "content": [fetched(LINKED)]}, "url_source"),
        ({"type": "document", "source": {"type": "content", "content": LINKED}}, "url_source"),
        ({"type": "video", "url": "https://example.org/x.mp4"}, "unknown_source"),
        ({"type": "container_upload", "file_id": "file_1"}, "unknown_source"),
        ({"type": "video", "source": "https://example.org/x.mp4"}, "unknown_source"),
        ({"type": "new", "parts": [{"media": LINKED}]}, "unknown_source"),
        ({"type": "new", "input": {"media": LINKED}}, "unknown_source"),
    ],
)
def test_a_document_far_away_is_found_wherever_a_block_holds_it(block, feature):
    assert features(messages=user(block)) == (feature,)
    assert bound(messages=user(block)).tokens_max == WINDOW


def test_a_pdf_inside_a_fetched_page_costs_the_context_window():
    assert bound(messages=user(fetched(pdf(b"x")))).tokens_max == WINDOW


@pytest.mark.parametrize(
    "block",
    [
        fetched({"type": "document", "source": {"type": "text", "data": "t"}, "cache_control": AN_HOUR}),
        fetched({"type": "document", "source": {"type": "content", "content": [{"cache_control": AN_HOUR}]}}),
        {"type": "new", "parts": [{"cache_control": AN_HOUR}]},
        {"type": "text", "text": "t", "cache_control": {"type": "ephemeral", "ttl": "24h"}},
    ],
)
def test_a_long_cache_lifetime_is_found_wherever_a_block_holds_it(block):
    assert read_request(body(messages=user(block))).cache_ttl == "1h"


def test_results_that_the_api_gave_cost_their_text():
    text = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "t"}}
    search = {"type": "web_search_result", "url": "https://example.org", "encrypted_content": "x"}
    cited = {"type": "web_search_result_location", "url": "https://example.org", "cited_text": "x"}
    blocks = [
        fetched(text),
        {"type": "web_search_tool_result", "tool_use_id": "t", "content": [search]},
        {"type": "text", "text": "t", "citations": [cited]},
        {
            "type": "tool_use",
            "id": "t",
            "name": "n",
            "input": {"url": "u", "source": {"cache_control": "1h"}},
        },
        {"type": "server_tool_use", "id": "t", "name": "web_fetch", "input": {"url": "https://example.org"}},
        {
            "type": "search_result",
            "source": "https://example.org",
            "title": "t",
            "content": [{"type": "text"}],
        },
    ]
    raw = body(messages=user(*blocks))
    assert unbounded_features(read_request(raw)) == ()
    assert input_bound(read_request(raw), WINDOW).tokens_max == len(raw) + BASE_TOKENS
    assert read_request(raw).cache_ttl is None


@pytest.mark.parametrize(
    ("source", "feature"),
    [
        ({"type": "url", "url": "https://example.org/x.png"}, "url_source"),
        ({"type": "file", "file_id": "file_1"}, "file_source"),
        ({"type": "new", "x": 1}, "unknown_source"),
    ],
)
def test_what_is_not_in_the_body_costs_the_context_window_and_is_unbounded(source, feature):
    messages = user({"type": "document", "source": source})
    assert bound(messages=messages).tokens_max == WINDOW
    assert features(messages=messages) == (feature,)


# --- Tools and features --------------------------------------------------------------------------
def test_tool_definitions_count_twice():
    tool = {"name": "t", "description": "d" * 1_000, "input_schema": {"type": "object"}}
    raw = body(tools=[tool])
    over = input_bound(read_request(raw), WINDOW).tokens_max - len(raw)
    assert over >= TOOL_SET_TOKENS + 1_000


def test_a_built_in_tool_costs_more_than_its_name():
    raw = body(tools=[{"type": "bash_20250124", "name": "bash"}])
    assert input_bound(read_request(raw), WINDOW).tokens_max > len(raw) + BUILT_IN_TOOL_TOKENS
    assert unbounded_features(read_request(raw)) == ()


def test_a_server_tool_reads_the_whole_window_once_more_for_each_use():
    found = bound(tools=[{"type": "web_search_20250305", "name": "web_search", "max_uses": 4}])
    assert (found.tokens_max, found.passes_max, found.web_searches_max) == (5 * WINDOW, 5, 4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ()),
        ({"tools": [{"name": "t", "input_schema": {}}, {"type": "custom", "name": "u"}]}, ()),
        ({"tools": [{"type": "web_search_20250305", "name": "w", "max_uses": 3}]}, ()),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, ("server_tool:web_search_20250305",)),
        ({"tools": [{"type": "web_search_20250305", "max_uses": 0}]}, ("server_tool:web_search_20250305",)),
        ({"tools": [{"type": "web_search_20250305", "max_uses": "3"}]}, ("server_tool:web_search_20250305",)),
        (
            {"tools": [{"type": "bash_code_execution_1", "max_uses": 3}]},
            ("server_tool:bash_code_execution_1",),
        ),
        ({"tools": [{"type": "web_search_loop_1", "max_uses": 3}]}, ("server_tool:web_search_loop_1",)),
        ({"tools": [{"type": "brand_new_20270101", "max_uses": 3}]}, ("server_tool:brand_new_20270101",)),
        ({"tools": [{"type": "code_execution_20260209"}]}, ("code_execution",)),
        ({"tools": [{"type": "advisor_20260301", "model": "claude-opus-5-5"}]}, ("advisor",)),
        ({"tools": [{"type": "mcp_toolset"}], "mcp_servers": [{"url": "https://m"}]}, ("mcp",)),
        ({"mcp_servers": []}, ()),
        ({"compaction": {"type": "auto"}}, ("compaction",)),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, ("compaction",)),
        ({"context_management": {"edits": [{"type": "clear_thinking_20251015"}]}}, ()),
        ({"fallbacks": "default"}, ("fallbacks",)),
        ({"fallbacks": None}, ()),
        ({"container": "c_1"}, ("container",)),
        ({"thread": {"type": "create"}}, ("thread",)),
        ({"speed": "fast"}, ("fast_mode",)),
        ({"speed": "standard"}, ()),
    ],
)
def test_features_without_a_worst_case_are_named(changes, expected):
    assert features(**changes) == expected


def added(tool: dict | None) -> dict:
    """A block that adds a tool in the middle of a conversation."""
    return {"type": "tool_addition", "tool": tool}


SEARCH = {"type": "web_search_20260318", "name": "web_search"}


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        ({"type": "tool_reference", "name": "t"}, ()),
        ({"type": "mcp_toolset_reference", "server_name": "s"}, ()),
        ({"type": "tool_definition", "definition": {"name": "t", "input_schema": {}}}, ()),
        ({"type": "tool_definition", "definition": SEARCH | {"max_uses": 2}}, ()),
        ({"type": "tool_definition", "definition": SEARCH}, ("server_tool:web_search_20260318",)),
        ({"type": "tool_reference", "definition": SEARCH}, ("server_tool:web_search_20260318",)),
        ({"type": "tool_definition", "definition": {"type": "mcp_toolset"}}, ("mcp",)),
        ({"type": "tool_definition", "definition": {"type": "advisor_20260301"}}, ("advisor",)),
        ({"type": "tool_definition", "definition": [SEARCH]}, ("server_tool:unreadable",)),
        ({"type": "new_kind"}, ("server_tool:unreadable",)),
        ([SEARCH], ("server_tool:unreadable",)),
        (None, ()),
    ],
)
def test_a_tool_that_a_message_defines_counts_like_any_other(tool, expected):
    """Beta inline-tools-2026-09-15: what `tools` holds may stand in a block of any message."""
    messages = [*user({"type": "text", "text": "Hi"}), {"role": "system", "content": [added(tool)]}]
    assert features(messages=messages) == expected


def test_the_uses_of_a_tool_that_a_message_defines_are_held():
    definition = {"type": "tool_definition", "definition": SEARCH | {"max_uses": 4, "cache_control": AN_HOUR}}
    messages = [{"role": "system", "content": [added(definition)]}]
    found = bound(messages=messages)
    assert (found.tokens_max, found.passes_max, found.web_searches_max) == (5 * WINDOW, 5, 4)
    assert read_request(body(messages=messages)).cache_ttl == "1h"


def test_at_most_sixteen_features_are_named():
    assert len(features(tools=[{"type": f"new_{number}"} for number in range(300)])) == 16


def test_a_coding_session_with_a_tool_that_is_loaded_later_is_bounded():
    schema = {"type": "object", "properties": {"url": {"type": "string"}, "file_id": {"type": "string"}}}
    tools = [{"name": f"tool_{number}", "description": "d", "input_schema": schema} for number in range(12)]
    tools[11] |= {"defer_loading": True}
    cached = {"cache_control": {"type": "ephemeral"}}
    raw = body(
        max_tokens=128_000,
        tools=tools,
        system=[{"type": "text", "text": "You are"}, {"type": "text", "text": "an agent.", **cached}],
        messages=user({"type": "text", "text": "Fix it", **cached}),
        thinking={"type": "adaptive"},
        output_config={"effort": "medium"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        metadata={"user_id": '{"device_id":"d"}'},
        stream=True,
    )
    request = read_request(raw)
    assert unbounded_features(request) == ()
    assert request.unknown_fields == ()
    assert request.cache_ttl == "5m"
    assert input_bound(request, WINDOW).tokens_max < 2 * len(raw) + BASE_TOKENS + TOOL_SET_TOKENS
