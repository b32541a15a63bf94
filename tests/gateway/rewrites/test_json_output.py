"""JSON as the reply: by a format, and by a reply that has begun where a model takes only that."""

import json
from typing import Any

import pytest

from governance.gateway.request import read_request
from governance.gateway.rewrites.draft import Draft, NotDone, draft_of
from governance.gateway.rewrites.json_output import PREFILL, json_output
from governance.pricing.book import PriceBook
from governance.routing.document import JsonOutput
from tests.gateway.rewrites.bodies import accepted, apply, body, chat, untouched_but

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
FORMAT = {"type": "json_schema", "schema": SCHEMA}
TOOL = {"name": "a", "input_schema": {}}


def test_a_format_is_asked_for_beside_what_the_client_configured(book: PriceBook) -> None:
    before = read_request(body(output_config={"effort": "low"}))
    result = apply(before, book, json_output=JsonOutput(SCHEMA))
    decoded, _, _ = accepted(result.request)
    assert decoded["output_config"] == {"effort": "low", "format": FORMAT}
    assert result.header == "json-output"
    assert untouched_but(before, result.request, "output_config")


def test_the_clients_own_format_stays(book: PriceBook) -> None:
    request = read_request(body(output_config={"format": {"type": "text"}}))
    result = apply(request, book, json_output=JsonOutput(SCHEMA))
    assert result.request is request
    assert "a format of its own" in result.reasons[0]


def test_a_model_that_nobody_knows_is_asked_for_nothing(book: PriceBook) -> None:
    request = read_request(body(model="claude-someday-9"))
    assert apply(request, book, json_output=JsonOutput(SCHEMA)).request is request


def begun(raw: bytes) -> Draft | NotDone:
    return json_output(draft_of(read_request(raw)), SCHEMA, takes_format=False, takes_prefill=True)


def test_a_model_without_formats_is_told_the_schema_and_its_reply_begun() -> None:
    draft = begun(body(model="claude-haiku-4-5", system="Be kind."))
    assert isinstance(draft, Draft)
    decoded, _, _ = accepted(draft.request())
    assert decoded["messages"][-1] == {"role": "assistant", "content": PREFILL}
    assert decoded["system"].startswith("Be kind.\n\n")
    assert json.loads(decoded["system"].split("\n")[-1]) == SCHEMA


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [TOOL]},
        {"stream": True},
        {"thinking": {"type": "enabled", "budget_tokens": 1_024}, "max_tokens": 3_000},
    ],
)
def test_no_reply_is_begun_with_tools_a_stream_or_thinking(fields: dict[str, Any]) -> None:
    assert isinstance(begun(body(model="claude-haiku-4-5", **fields)), NotDone)


def test_a_reply_that_the_client_has_begun_stays_as_it_is(book: PriceBook) -> None:
    request = read_request(chat(2, model="claude-haiku-4-5"))
    result = apply(request, book, json_output=JsonOutput(SCHEMA))
    assert result.request is request
    assert "begun the reply itself" in result.reasons[0]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"max_tokens": 0}, "no output"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "document",
                                "source": {"type": "text", "media_type": "text/plain", "data": "A."},
                                "citations": {"enabled": True},
                            }
                        ],
                    }
                ]
            },
            "no citations",
        ),
    ],
)
def test_no_format_is_asked_for_where_upstream_would_refuse_it(
    book: PriceBook, fields: dict[str, Any], reason: str
) -> None:
    request = read_request(body(**fields))
    result = apply(request, book, json_output=JsonOutput(SCHEMA))
    assert result.request is request
    assert reason in result.reasons[0]
