"""max_tokens and stop sequences."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from governance.gateway.request import read_request
from governance.gateway.rewrites.rewriting import About, rewritten
from governance.pricing.book import PriceBook
from governance.routing.route import Route
from tests.gateway.rewrites.bodies import accepted, apply, bodies, body, untouched_but
from tests.pricing.conftest import TODAY


def with_budget(budget: int, max_tokens: int) -> bytes:
    thinking = {"type": "enabled", "budget_tokens": budget}
    return body(model="claude-haiku-4-5", thinking=thinking, max_tokens=max_tokens)


def test_a_cap_lowers_and_never_raises(book: PriceBook) -> None:
    lowered = apply(body(max_tokens=900), book, max_tokens_cap=300)
    assert (lowered.request.max_tokens, lowered.names) == (300, ("max-tokens",))
    assert untouched_but(read_request(body(max_tokens=900)), lowered.request, "max_tokens")
    request = read_request(body(max_tokens=200))
    assert apply(request, book, max_tokens_cap=300).request is request


def test_a_set_value_replaces_what_is_asked_within_what_the_key_and_the_model_allow(book: PriceBook) -> None:
    assert apply(body(max_tokens=10), book, max_tokens_set=700).request.max_tokens == 700
    assert apply(body(), book, max_tokens_set=999_999).request.max_tokens == 128_000
    about = About(book=book, at=TODAY, max_output_tokens=500)
    request = read_request(body(max_tokens=10))
    assert rewritten(request, Route(max_tokens_set=700), about).request.max_tokens == 500


def test_a_cap_below_a_thinking_budget_counts_for_the_answer_after_it(book: PriceBook) -> None:
    assert apply(with_budget(2_000, 9_000), book, max_tokens_cap=500).request.max_tokens == 2_500
    assert apply(with_budget(2_000, 2_100), book, max_tokens_cap=500).request.max_tokens == 2_100
    assert apply(with_budget(2_000, 2_100), book, max_tokens_set=500).request.max_tokens == 2_500


@given(
    budget=st.integers(1_024, 20_000),
    more=st.integers(1, 20_000),
    tokens=st.integers(1, 30_000),
    term=st.sampled_from(["max_tokens_set", "max_tokens_cap"]),
)
def test_max_tokens_never_falls_to_a_thinking_budget(
    book: PriceBook, budget: int, more: int, tokens: int, term: str
) -> None:
    result = apply(with_budget(budget, budget + more), book, **{term: tokens})
    accepted(result.request)
    assert budget < result.request.max_tokens <= max(budget + more, tokens, budget + tokens)
    assert apply(result.request, book, **{term: tokens}).request is result.request


def test_a_key_that_allows_less_than_the_thinking_budget_is_not_overruled(book: PriceBook) -> None:
    request = read_request(with_budget(2_000, 2_100))
    about = About(book=book, at=TODAY, max_output_tokens=1_500)
    result = rewritten(request, Route(max_tokens_set=1_000), about)
    assert result.request is request
    assert "2,000 tokens" in result.reasons[0]


def test_a_request_for_no_output_at_all_stays_one(book: PriceBook) -> None:
    request = read_request(body(max_tokens=0))
    assert apply(request, book, max_tokens_set=100).request is request


def test_the_clients_stop_sequences_stay_in_front(book: PriceBook) -> None:
    result = apply(body(stop_sequences=["A", "B"]), book, stop_sequences=("B", "C", "\n"))
    assert json.loads(result.request.body)["stop_sequences"] == ["A", "B", "C"]
    assert result.header == "stop-sequences"
    assert apply(result.request, book, stop_sequences=("C",)).request is result.request
    assert apply(body(), book, stop_sequences=("C",)).request.fields.stop_sequences == ["C"]


@settings(max_examples=50)
@given(raw=bodies(), cap=st.integers(1, 70_000))
def test_any_body_is_accepted_with_its_output_limited(book: PriceBook, raw: bytes, cap: int) -> None:
    before = read_request(raw)
    result = apply(before, book, max_tokens_cap=cap, stop_sequences=("STOP",))
    accepted(result.request)
    assert untouched_but(before, result.request, "max_tokens", "stop_sequences")
    assert result.request.max_tokens <= before.max_tokens
    assert apply(result.request, book, max_tokens_cap=cap, stop_sequences=("STOP",)).request is result.request
