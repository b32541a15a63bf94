"""The twenty traps of metering Claude, each with the rule that keeps us out of it and the test that shows it.

  1. output counts of a stream are cumulative
       a_later_total_supersedes_an_earlier_one_and_none_shrinks
  2. the TTL split is in message_start only
       the_ttl_split_of_message_start_prices_a_streams_cache_writes
  3. cache tokens are beside the input
       thinking_is_inside_the_output_and_cache_tokens_beside_the_input
  4. five token classes, five prices
       cache_reads_and_writes_have_each_models_own_price
  5. Haiku 5.5's whole-request threshold
       a_long_prompt_makes_its_own_pass_dearer_and_no_other
  6. compaction, advisor, fallbacks
       every_kind_of_pass_is_billed_at_its_own_model
  7. what was served, not what was asked
       speed_tier_and_place_are_those_that_served
  8. fees of server tools
       a_web_search_has_a_fee_and_a_web_fetch_has_none
  9. a refusal is a 200
       a_refusal_of_the_model_is_charged_as_its_usage_says_and_marked
 10. batches meter from results, at half price
       a_batch_cannot_slip_past_the_budgets, and
       tests/pricing/test_golden_prices.py (the batch columns)
 11. exact ids and aliases, never a prefix
       a_name_that_only_begins_like_a_model_is_not_that_model, and
       tests/pricing/test_book.py
 12. no final usage
       a_stream_without_its_last_totals_is_charged_at_a_bound; departures,
       cuts and error events: tests/gateway/test_departures.py
 13. a retry is a second billed call
       a_retry_is_another_call_with_a_hold_and_a_charge_of_its_own;
       counting is free: tests/gateway/test_sdk.py
 14. how a budget says no
       tests/gateway/test_budget_refusals.py
 15. a body that is not the whole prompt
       what_is_not_in_the_body_has_no_bound, and
       tests/gateway/test_request_bound.py
 16. never the client's credential
       tests/gateway/test_sdk.py (…byte_for_byte_with_our_credential)
 17. never rewrite a conversation
       tests/gateway/test_sdk.py (…reaches_upstream_byte_for_byte…)
 18. prices below a nano-dollar
       a_fraction_of_a_nano_dollar_is_rounded_up_once_a_call
 19. prices change by date
       tests/pricing/test_golden_prices.py (…until_october, …november)
 20. compressed bodies
       the_same_call_costs_the_same_on_every_route

Prices here are written out by hand, in nano-dollars a token, from the price list: Sonnet 5.5 is 2,000 in,
2,500 and 4,000 to write, 100 to read, 10,000 out.
"""

import gzip
import json
from typing import Any

import pytest

from governance.calls.models import Attempt
from tests.gateway.asking import MODEL, assert_refused, post, script
from tests.harness import Account, Stack, make_tenant

LONG_TEXT = {
    "type": "text",
    "text": " ".join(map(str, range(40_000))),
    "cache_control": {"type": "ephemeral", "ttl": "1h"},
}
ASK: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 1_000,
    "messages": [{"role": "user", "content": [LONG_TEXT]}],
}
"""Its worst case covers whatever usage is scripted here: a broken bound would stop other tests' calls."""
STREAM = {**ASK, "stream": True}
IN, WRITE_5M, WRITE_1H, READ, OUT = 2_000, 2_500, 4_000, 100, 10_000
EVERYTHING = {
    "input_tokens": 11,
    "cache_creation_input_tokens": 500,
    "cache_creation": {"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 200},
    "cache_read_input_tokens": 7_000,
    "output_tokens": 40,
}
EVERYTHING_NANOS = 11 * IN + 300 * WRITE_5M + 200 * WRITE_1H + 7_000 * READ + 40 * OUT


def charged(stack: Stack, account: Account, ask: dict[str, Any] | None = None, /, **scripted: Any) -> Attempt:
    """The attempt of one call that the simulator answers as `scripted`."""
    before = len(account.attempts())
    assert post(stack, account, ask or ASK, headers=script(**scripted)).status_code == 200
    account.wait_for_calls(before + 1)
    attempt = account.attempts()[-1]
    (entry,) = [entry for entry in account.entries() if entry.id == attempt.id]
    assert sum(attempt.cost_by_meter.values()) == attempt.cost_nanos or attempt.basis == "full_hold"
    assert entry.amount_nanos == attempt.cost_nanos
    return attempt


@pytest.fixture
def unbounded() -> Account:
    return make_tenant("1000", unbounded_allowed=True)


def test_a_later_total_supersedes_an_earlier_one_and_none_shrinks(stack: Stack, account: Account) -> None:
    """Trap 1."""
    start = {"input_tokens": 7, "cache_read_input_tokens": 100, "output_tokens": 1}
    grown = [{"output_tokens": 5}, {"input_tokens": 90, "cache_read_input_tokens": 300, "output_tokens": 30}]
    attempt = charged(stack, account, STREAM, usage_start=start, usage_delta=grown)
    assert attempt.cost_nanos == 90 * IN + 300 * READ + 30 * OUT
    shrunk = [{"output_tokens": 30}, {"input_tokens": 1, "output_tokens": 3}]
    attempt = charged(stack, account, STREAM, usage_start=start, usage_delta=shrunk)
    assert attempt.cost_nanos == 7 * IN + 100 * READ + 30 * OUT


def test_the_ttl_split_of_message_start_prices_a_streams_cache_writes(stack: Stack, account: Account) -> None:
    """Trap 2, cases D3: the deltas repeat the total and not the split; what they add are 5m writes."""
    attempt = charged(stack, account, STREAM, usage=EVERYTHING)
    assert attempt.cost_nanos == EVERYTHING_NANOS
    start = {**EVERYTHING, "output_tokens": 1}
    later = {"cache_creation_input_tokens": 600, "output_tokens": 40}
    attempt = charged(stack, account, STREAM, usage_start=start, usage_delta=later)
    assert (attempt.cache_creation_5m_tokens, attempt.cache_creation_1h_tokens) == (400, 200)
    assert attempt.cost_nanos == EVERYTHING_NANOS + 100 * WRITE_5M


def test_thinking_is_inside_the_output_and_cache_tokens_beside_the_input(
    stack: Stack, account: Account
) -> None:
    """Trap 3, cases D4, D7, D10: cache reads at their own low price, and nothing counted twice."""
    details = {"output_tokens_details": {"thinking_tokens": 30}}
    attempt = charged(stack, account, usage={**EVERYTHING, **details})
    assert (attempt.input_tokens, attempt.output_tokens) == (11, 40)
    assert attempt.cost_by_meter == {
        "input": 11 * IN,
        "cache_write_5m": 300 * WRITE_5M,
        "cache_write_1h": 200 * WRITE_1H,
        "cache_read": 7_000 * READ,
        "output": 40 * OUT,
    }


@pytest.mark.parametrize(
    ("model", "write_5m", "write_1h", "read"),
    [
        ("claude-opus-5-5", 5_000, 8_000, 200),  # reads are 1/20 of the input price
        ("claude-fable-5-1", 12_500, 20_000, 250),  # 1/40
        ("claude-haiku-5-5", 125, 200, 10),  # 1/10
        ("claude-opus-4-8", 6_250, 10_000, 500),  # 1/10
    ],
)
def test_cache_reads_and_writes_have_each_models_own_price(
    stack: Stack, account: Account, model: str, write_5m: int, write_1h: int, read: int
) -> None:
    """Trap 4, cases D1: five classes priced apart, none derived from another by a ratio."""
    usage = {**EVERYTHING, "input_tokens": 0, "output_tokens": 0}
    attempt = charged(stack, account, {**ASK, "model": model}, usage=usage)
    assert attempt.cost_nanos == 300 * write_5m + 200 * write_1h + 7_000 * read


def test_a_long_prompt_makes_its_own_pass_dearer_and_no_other(stack: Stack, unbounded: Account) -> None:
    """Trap 5: above 100,000 tokens Haiku 5.5 costs five times as much, output too; each pass by itself."""
    haiku = {**ASK, "model": "claude-haiku-5-5"}
    at = charged(stack, unbounded, haiku, usage={"input_tokens": 1, "cache_read_input_tokens": 99_999,
                                                 "output_tokens": 10})  # fmt: skip
    above = charged(stack, unbounded, haiku, usage={"input_tokens": 1, "cache_read_input_tokens": 100_000,
                                                    "output_tokens": 10})  # fmt: skip
    assert at.cost_nanos == 1 * 100 + 99_999 * 10 + 10 * 500
    assert above.cost_nanos == 1 * 500 + 100_000 * 50 + 10 * 2_500
    passes = [
        {"type": "message", "input_tokens": 60_000, "output_tokens": 5},
        {"type": "message", "input_tokens": 70_000, "output_tokens": 5},
    ]
    loop = {"input_tokens": 130_000, "output_tokens": 10, "iterations": passes}
    assert charged(stack, unbounded, haiku, usage=loop).cost_nanos == 130_000 * 100 + 10 * 500


@pytest.mark.parametrize("streamed", [False, True])
def test_every_kind_of_pass_is_billed_at_its_own_model(
    stack: Stack, unbounded: Account, streamed: bool
) -> None:
    """Trap 6, cases D6: the totals leave compaction out, and an advisor or a fallback is another model."""
    passes = [
        {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3_000},
        {"type": "advisor_message", "model": "claude-opus-5-5", "input_tokens": 900, "output_tokens": 80},
        {"type": "fallback_message", "model": "claude-haiku-5-5", "input_tokens": 50, "output_tokens": 20},
        {"type": "message", "input_tokens": 5_000, "output_tokens": 300},
    ]
    usage = {"input_tokens": 5_000, "output_tokens": 300, "iterations": passes}
    ask = {**ASK, "stream": streamed, "compaction": {"type": "auto"}}
    attempt = charged(stack, unbounded, ask, usage=usage)
    sonnet = 185_000 * IN + 3_300 * OUT
    assert attempt.cost_nanos == sonnet + 900 * 4_000 + 80 * 20_000 + 50 * 100 + 20 * 500
    assert (attempt.basis, len(attempt.passes)) == ("exact", 4)


@pytest.mark.parametrize("streamed", [False, True])
def test_speed_tier_and_place_are_those_that_served(stack: Stack, unbounded: Account, streamed: bool) -> None:
    """Trap 7, cases D5: fast was asked and standard served; the US served though nobody asked for it."""
    opus: dict[str, Any] = {**ASK, "model": "claude-opus-5-5", "stream": streamed}
    tokens = {"input_tokens": 1_000, "output_tokens": 100}

    def cost(ask: dict[str, Any], **served: str) -> int:
        return charged(stack, unbounded, ask, usage={**tokens, **served}).cost_nanos

    standard = 1_000 * 4_000 + 100 * 20_000
    assert cost({**opus, "speed": "fast"}, speed="standard") == standard
    assert cost({**opus, "speed": "fast"}, speed="fast") == 2 * standard
    assert cost(opus, inference_geo="us") == standard * 11 // 10
    assert cost({**opus, "inference_geo": "us"}, inference_geo="global") == standard
    assert cost(opus, service_tier="batch") == standard // 2
    assert cost(opus, service_tier="priority") == standard
    assert cost({**opus, "speed": "fast"}, speed="fast", inference_geo="us") == 2 * standard * 11 // 10


def test_a_web_search_has_a_fee_and_a_web_fetch_has_none(stack: Stack, account: Account) -> None:
    """Trap 8, cases D8: a cent a search, wherever it is served."""
    usage = {
        "input_tokens": 100,
        "output_tokens": 10,
        "inference_geo": "us",
        "server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 8},
    }
    tool = {"type": "web_search_20260209", "name": "web_search", "max_uses": 5}
    for streamed in (False, True):
        attempt = charged(stack, account, {**ASK, "tools": [tool], "stream": streamed}, usage=usage)
        assert attempt.cost_by_meter["web_search"] == 30_000_000
        assert attempt.cost_nanos == 30_000_000 + (100 * IN + 10 * OUT) * 11 // 10


@pytest.mark.parametrize("streamed", [False, True])
def test_a_refusal_of_the_model_is_charged_as_its_usage_says_and_marked(
    stack: Stack, account: Account, streamed: bool
) -> None:
    """Trap 9: some refusals are billed and some are not; the row says that it was one, so that it can be
    credited when the invoice says so."""
    attempt = charged(stack, account, {**ASK, "stream": streamed}, stop_reason="refusal", text="",
                      usage={"input_tokens": 40, "output_tokens": 1})  # fmt: skip
    assert (attempt.stop_reason, attempt.basis) == ("refusal", "exact")
    assert attempt.cost_nanos == 40 * IN + 1 * OUT


def test_a_batch_cannot_slip_past_the_budgets(stack: Stack, account: Account) -> None:
    """Trap 10: what a batch spends is not known up front, so there is no way to send one past the ledger."""
    ask = {"requests": [{"custom_id": "a", "params": ASK}]}
    response = post(stack, account, ask, path="/v1/messages/batches")
    assert_refused(response, 404, "not_found_error", "/v1/messages/batches")
    assert not stack.bill(account.tenant.slug)


@pytest.mark.parametrize("name", ["claude-haiku-5", "claude-haiku-5-5-20261007", "claude-haiku-5-5[1m]"])
def test_a_name_that_only_begins_like_a_model_is_not_that_model(
    stack: Stack, account: Account, name: str
) -> None:
    """Trap 11, cases A13: it costs the dearest known price until it has its own, never nothing."""
    attempt = charged(stack, account, model_served=name, usage={"input_tokens": 0, "output_tokens": 10})
    assert attempt.served_model == name
    assert attempt.cost_nanos > 10 * 50_000  # Haiku 5.5 costs 500


def test_a_stream_without_its_last_totals_is_charged_at_a_bound(stack: Stack, account: Account) -> None:
    """Trap 12, cases C3: message_stop came, but no delta had usage. Not the one token of message_start."""
    start = {"input_tokens": 7, "output_tokens": 1}
    attempt = charged(
        stack, account, STREAM, usage_start=start, usage_delta=[{}], deltas=10, text="word " * 50
    )
    assert (attempt.basis, attempt.input_tokens) == ("bounded", 7)
    assert 250 <= attempt.output_tokens <= ASK["max_tokens"]  # 250 characters are at most that many tokens
    told = charged(stack, account, STREAM, usage_start=start, usage_delta=[{"output_tokens": 60}, {}])
    assert (told.basis, told.output_tokens >= 60) == ("bounded", True)


def test_a_stream_without_any_usage_is_charged_in_full(stack: Stack, account: Account) -> None:
    """Trap 12."""
    attempt = charged(stack, account, STREAM, fault="no_usage")
    assert (attempt.basis, attempt.usage_source, attempt.cost_nanos) == (
        "full_hold",
        "none",
        attempt.held_nanos,
    )


@pytest.mark.parametrize("field", ["input_tokens", "cache_read_input_tokens", "output_tokens"])
@pytest.mark.parametrize("value", [-1, "7", 2**63, 1.5])
def test_absurd_usage_in_a_stream_is_charged_in_full_and_relayed(
    stack: Stack, account: Account, field: str, value: Any
) -> None:
    """Absurd counts: never a negative charge, never an overflow, never nothing."""
    absurd = {"output_tokens": 3, field: value}
    attempt = charged(stack, account, STREAM, usage_start={"input_tokens": 7, "output_tokens": 1},
                      usage_delta=absurd)  # fmt: skip
    assert (attempt.basis, attempt.cost_nanos) == ("full_hold", attempt.held_nanos)


def test_a_retry_is_another_call_with_a_hold_and_a_charge_of_its_own(stack: Stack, account: Account) -> None:
    """Trap 13, cases D11: upstream bills each try; ids keep them apart."""
    tag = account.tenant.slug
    for retry in range(2):
        headers = {**script(tag=tag), "x-stainless-retry-count": str(retry)}
        assert post(stack, account, headers=headers).status_code == 200
    account.wait_for_calls(2)
    assert [line["retry_count"] for line in stack.bill(tag)] == ["0", "1"]
    assert len({entry.id for entry in account.entries()}) == 2
    assert [entry.kind for entry in account.entries()] == ["charge", "charge"]


@pytest.mark.parametrize(
    "changes",
    [
        {"thread": {"type": "continue", "id": "thread_1"}},
        {"container": "container_1"},
        {"messages": [{"role": "user", "content": [
            {"type": "document", "source": {"type": "file", "file_id": "file_1"}}]}]},
    ],
    ids=["thread", "container", "file"],
)  # fmt: skip
def test_what_is_not_in_the_body_has_no_bound(
    stack: Stack, account: Account, changes: dict[str, Any]
) -> None:
    """Trap 15: a body that only names the rest of its prompt says nothing about its size."""
    response = post(stack, account, {**ASK, **changes})
    assert_refused(response, 403, "permission_error", "no upper bound")


def test_a_fraction_of_a_nano_dollar_is_rounded_up_once_a_call(stack: Stack, account: Account) -> None:
    """Trap 18: in the US a Haiku 5.5 batch pays 5.5 nano-dollars for a token read from the cache."""
    haiku = {**ASK, "model": "claude-haiku-5-5"}
    usage = {"input_tokens": 0, "output_tokens": 0, "service_tier": "batch", "inference_geo": "us"}
    one = charged(stack, account, haiku, usage={**usage, "cache_read_input_tokens": 1})
    two = charged(stack, account, haiku, usage={**usage, "cache_read_input_tokens": 2})
    assert (one.cost_nanos, two.cost_nanos) == (6, 11)


def test_the_same_call_costs_the_same_on_every_route(stack: Stack, account: Account) -> None:
    """Trap 20, cases D2: JSON or stream, compressed or not, in any number of deltas or passes."""
    passes = [{**EVERYTHING, "type": "message"}]
    zipped = {"content-encoding": "gzip"}
    routes: list[tuple[dict[str, Any], dict[str, Any], dict[str, str]]] = [
        (ASK, {"usage": EVERYTHING}, {}),
        (ASK, {"usage": {**EVERYTHING, "iterations": passes}}, {}),
        (ASK, {"usage": EVERYTHING, "compress": "gzip"}, {}),
        (ASK, {"usage": EVERYTHING, "compress": "deflate"}, {}),
        (ASK, {"usage": EVERYTHING}, zipped),
        (STREAM, {"usage": EVERYTHING, "deltas": 1}, {}),
        (STREAM, {"usage": EVERYTHING, "deltas": 30, "unknown_events": True}, {}),
        (STREAM, {"usage": {**EVERYTHING, "iterations": passes}}, {}),
        (STREAM, {"usage": EVERYTHING, "compress": "gzip"}, zipped),
        (STREAM, {"usage_start": {**EVERYTHING, "output_tokens": 1},
                  "usage_delta": [{"output_tokens": 12}, {"output_tokens": 40}]}, {}),
    ]  # fmt: skip
    for ask, scripted, headers in routes:
        body = json.dumps(ask).encode()
        content = gzip.compress(body) if headers else body
        response = post(stack, account, content, headers={**script(**scripted), **headers})
        assert response.status_code == 200
    account.wait_for_calls(len(routes))
    assert {attempt.cost_nanos for attempt in account.attempts()} == {EVERYTHING_NANOS}
    assert {attempt.basis for attempt in account.attempts()} == {"exact"}
    assert {attempt.served_model for attempt in account.attempts()} == {MODEL}
