"""No bounded request is billed more than its hold, whatever the bill looks like within what the API promises.

The requests are made at random from everything that has a bound; the bills are the worst that an adversary
can make of them: one token a byte of normalised text (and never less than the simulator counts), split over
the cache in any way the request allows, served at any speed, tier and place, all of max_tokens written in
every pass that the tools allow.
"""

import json
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governance.core.usage import Pass, Usage
from governance.gateway.bound import worst_case
from governance.gateway.request import read_request
from governance.gateway.text_bound import unbounded_features
from governance.pricing.book import PriceBook
from governance.simulator.catalogue import find_model
from governance.simulator.prompt import segments_of
from tests.gateway.test_request_bound import body, image, texts, user
from tests.pricing.conftest import book as book  # the bundled prices

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MODELS = ["claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5", "claude-fable-5-1", "claude-opus-4-6"]
IMAGE_TOKENS = {False: 1_568, True: 4_784}  # what the documentation says a picture can cost
MESSAGE_TOKENS, TOOL_SET_TOKENS = 3, 346
FETCH = {"type": "web_fetch_20260318", "name": "web_fetch"}
SEARCH = {"type": "web_search_20260318", "name": "web_search"}
TTLS = [None, {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}]


@st.composite
def requests(draw: Any) -> dict[str, Any]:
    """Fields of a request that has a bound."""
    cached = draw(st.sampled_from(TTLS))
    marks = {"cache_control": cached} if cached else {}
    written = [text * draw(st.sampled_from([1, 200])) for text in draw(st.lists(texts, max_size=3))]
    blocks: list[Any] = [{"type": "text", "text": text, **marks} for text in written]
    blocks += [image(30)] * draw(st.integers(0, 2))
    fields: dict[str, Any] = {
        "model": draw(st.sampled_from(MODELS)),
        "max_tokens": draw(st.sampled_from([0, 1, 64, 4_000, 128_000])),
        "messages": user(*blocks, {"type": "text", "text": "Hello"}),
    }
    tools: list[Any] = []
    if draw(st.booleans()):
        tools.append({"name": "t", "description": draw(texts), "input_schema": {"type": "object"}})
    if draw(st.integers(0, 3)) == 0:
        tools.append(draw(st.sampled_from([FETCH, SEARCH])) | {"max_uses": draw(st.integers(1, 5))})
    if tools:
        fields["tools"] = tools
    if draw(st.booleans()):
        fields["system"] = draw(texts)
    if (geo := draw(st.sampled_from([None, "us", "global"]))) is not None:
        fields["inference_geo"] = geo
    return fields


def text_bytes(value: Any) -> int:
    """Bytes of every string that a model reads, normalised or not, whichever is more; no base64."""
    if isinstance(value, str):
        return max(len(value.encode()), len(unicodedata.normalize("NFKC", value).encode()))
    if isinstance(value, dict):
        parts = (pair for pair in value.items() if pair[0] != "data")
        return sum(text_bytes(name) + text_bytes(part) for name, part in parts)
    return sum(map(text_bytes, value)) if isinstance(value, list) else 0


def most_input_tokens(fields: dict[str, Any]) -> int:
    prompt = {name: fields.get(name) for name in ("system", "messages", "tools")}
    images = sum(block["type"] == "image" for block in fields["messages"][0]["content"])
    high_resolution = fields["model"] != "claude-opus-4-6"
    adversary = (
        text_bytes(prompt)
        + images * IMAGE_TOKENS[high_resolution]
        + MESSAGE_TOKENS
        + TOOL_SET_TOKENS * bool(fields.get("tools"))
    )
    simulated = sum(part.tokens for part in segments_of(fields, find_model(fields["model"])))
    return max(adversary, simulated)


def bills(data: Any, fields: dict[str, Any], cache_ttl: str | None, window: int) -> Iterator[Pass]:
    """The passes of one bill."""
    uses = sum(tool.get("max_uses", 0) for tool in fields.get("tools", ()))
    searches = sum(tool.get("max_uses", 0) for tool in fields.get("tools", ()) if "search" in tool["name"])
    own = most_input_tokens(fields)
    geos = [fields["inference_geo"]] if "inference_geo" in fields else ["us", "global", "not_available"]
    for number in range(data.draw(st.integers(1, 1 + uses))):
        # A server tool brings text of its own; nothing is longer than the window.
        total = data.draw(st.sampled_from([own, own // 2, window])) if uses else own
        left = min(total, window)
        meters = [0, 0, 0, 0]
        allowed = (
            [0, 3] if cache_ttl is None and not uses else [0, 1, 3] if cache_ttl != "1h" else [0, 1, 2, 3]
        )
        meters[data.draw(st.sampled_from(allowed))] += left // 3
        meters[data.draw(st.sampled_from(allowed))] += left - left // 3
        yield Pass(
            fields["model"],
            Usage(*meters, fields["max_tokens"], searches if number == 0 else 0),
            "standard",
            data.draw(st.sampled_from(["standard", "priority", "batch"])),
            data.draw(st.sampled_from(geos)),
        )


@settings(max_examples=2_000, derandomize=True, deadline=None)
@given(fields=requests(), ascii_only=st.booleans(), data=st.data())
def test_no_bill_of_a_bounded_request_is_above_its_hold(
    book: PriceBook, fields: dict[str, Any], ascii_only: bool, data: Any
) -> None:
    raw = body(**fields, ascii_only=ascii_only)
    request = read_request(raw)
    assert unbounded_features(request) == ()
    tenant = SimpleNamespace(id=1, upstream_headers=(("x-api-key", "k"),), book=book, list_book=book)
    exchange: Any = SimpleNamespace(
        key=SimpleNamespace(tenant=tenant, unbounded_allowed=False),
        request=request,
        inbound=SimpleNamespace(beta=[]),
        gateway=SimpleNamespace(alerts=SimpleNamespace(unknown=lambda *_: False)),
        started_at=NOW,
        bound=None,
    )
    promise = worst_case(exchange)
    assert exchange.bound == "bounded"
    facts = book.model(fields["model"])
    assert facts is not None
    passes = tuple(bills(data, json.loads(raw), request.cache_ttl, facts.context_window_tokens))
    assert book.rate(passes, NOW).cost_nanos <= promise.held_nanos == promise.bound_nanos


@pytest.mark.parametrize(
    ("model", "told"), [("claude-sonnet-4-5-20250929", "2026-11-30"), ("claude-sonnet-5-5", None)]
)
def test_a_call_to_a_model_that_is_about_to_retire_says_when(
    book: PriceBook, model: str, told: str | None
) -> None:
    tenant = SimpleNamespace(id=1, upstream_headers=(("x-api-key", "k"),), book=book, list_book=book)
    exchange: Any = SimpleNamespace(
        key=SimpleNamespace(tenant=tenant, unbounded_allowed=False),
        request=read_request(body(model=model, max_tokens=5, messages=[{"role": "user", "content": "Hi"}])),
        inbound=SimpleNamespace(beta=[]),
        gateway=SimpleNamespace(alerts=SimpleNamespace(unknown=lambda *_: False)),
        started_at=NOW,
        bound=None,
        decision={},
    )
    worst_case(exchange)
    assert exchange.decision.get("model_retires") == told
