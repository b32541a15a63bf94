"""JSON as the reply, by a format."""

from typing import Any

import pytest

from governance.gateway.request import read_request
from governance.pricing.book import PriceBook
from governance.routing.document import JsonOutput
from tests.gateway.rewrites.bodies import accepted, apply, body, chat, untouched_but

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
FORMAT = {"type": "json_schema", "schema": SCHEMA}


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
    result = apply(request, book, json_output=JsonOutput(SCHEMA))
    assert result.request is request
    assert "not known what claude-someday-9 takes" in result.reasons[0]


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
