"""A stream that upstream cuts at any byte: relayed up to there, and charged at no less than its bill."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise

import httpx2
import pytest

from governance.core.usage import Pass, Usage
from governance.gateway.charging import Charge, Promise
from governance.gateway.sse import StreamTap
from governance.ledger.kinds import Basis
from governance.pricing.book import PriceBook, compile_book
from governance.pricing.price_file import read_price_file
from tests.gateway.asking import ASK
from tests.gateway.recorded_streams import MODEL, STREAMS, Recorded
from tests.gateway.recorded_upstream import recorded_upstream
from tests.harness import Account, Stack, make_tenant, start_stack
from tests.pricing.conftest import BUNDLED

AT = datetime(2026, 11, 20, tzinfo=UTC)
MAX_TOKENS = 4_000
INPUT_TOKENS_MAX = 20_000
SOURCE = {Basis.EXACT: "stream", Basis.BOUNDED: "bound", Basis.FULL_HOLD: "none"}


@pytest.fixture(scope="module")
def book() -> PriceBook:
    prices = read_price_file(BUNDLED.name, BUNDLED.read_bytes())
    return compile_book(1, prices.rates, prices.models)


def nanos(book: PriceBook, input_tokens: int, output_tokens: int) -> int:
    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    return book.rate((Pass(MODEL, usage),), AT).cost_nanos


def a_promise(book: PriceBook, recorded: Recorded) -> Promise:
    held_nanos = nanos(book, INPUT_TOKENS_MAX, MAX_TOKENS)
    return Promise(held_nanos, held_nanos, MAX_TOKENS, recorded.single_pass, AT, book)


def bills(recorded: Recorded, book: PriceBook) -> Iterator[tuple[int, float]]:
    """For each cut, 0 bytes first: what upstream had billed by then, and when, in seconds since the request.

    An event whose first byte was sent was generated, and so billed, as a whole.
    """
    yield 0, recorded.events[0].seconds
    for event in recorded.events:
        bill_nanos = nanos(book, START_INPUT, event.output_tokens)
        for _ in event.data:
            yield bill_nanos, event.seconds


START_INPUT = 17
"""Billed from the start; what a server's loop adds later is in the last events' own totals."""


def assert_sound(charge: Charge, tap: StreamTap, promise: Promise, bill_nanos: int, at: int) -> None:
    assert bill_nanos <= charge.cost_nanos <= promise.held_nanos, at
    assert (charge.basis is Basis.EXACT) == tap.usage.finished, at
    assert charge.usage_source == SOURCE[charge.basis], at
    assert (charge.why is None) == (charge.basis is Basis.EXACT), at


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_cut_at_any_byte_is_charged_at_no_less_than_was_billed(name: str, book: PriceBook) -> None:
    """trust.md fault 29, cases C1–C3; byte by byte, the hold shrinking as it does in the gateway."""
    recorded = STREAMS[name]
    tap, promise = StreamTap(), a_promise(book, recorded)
    data, bases = recorded.data, set[Basis]()
    for at, (bill_nanos, seconds) in enumerate(bills(recorded, book)):
        if at and tap.feed(data[at - 1 : at]) and (shrunk := promise.after_start(tap)) is not None:
            assert recorded.single_pass
            promise = Promise(shrunk, shrunk, MAX_TOKENS, recorded.single_pass, AT, book)
        charge = promise.stream(tap, seconds)
        assert_sound(charge, tap, promise, bill_nanos, at)
        bases.add(charge.basis)
    ends_well = name != "error_event"
    assert (Basis.EXACT in bases) == ends_well
    assert (Basis.BOUNDED in bases) == recorded.single_pass
    if ends_well:
        assert charge.cost_nanos == nanos(book, recorded.input_tokens, recorded.events[-1].output_tokens) + (
            10_000_000 if name == "web_search" else 0
        )  # one search costs $0.01


@pytest.mark.parametrize("name", STREAMS)
def test_a_cut_is_charged_alike_however_its_bytes_came(name: str, book: PriceBook) -> None:
    """In one piece or event by event: the same is read, and no less than the bill charged."""
    recorded = STREAMS[name]
    data, boundaries = recorded.data, recorded.boundaries
    for at, (bill_nanos, seconds) in enumerate(bills(recorded, book)):
        whole, pieces = StreamTap(), StreamTap()
        whole.feed(data[:at])
        for start, end in pairwise(boundaries):
            if start < at:
                pieces.feed(data[start : min(end, at)])
        promise = a_promise(book, recorded)
        charge = promise.stream(whole, seconds)
        assert charge == promise.stream(pieces, seconds), at
        assert_sound(charge, whole, promise, bill_nanos, at)


def test_a_charge_by_visible_bytes_alone_would_miss_hidden_thinking(book: PriceBook) -> None:
    """The must-fail twin: without the time that passed, a cut in the thinking is charged below its bill."""
    recorded = STREAMS["hidden_thinking"]
    tap, promise = StreamTap(), a_promise(book, recorded)
    missed = 0
    for at, (bill_nanos, _) in enumerate(bills(recorded, book)):
        tap.feed(recorded.data[at - 1 : at] if at else b"")
        missed += promise.stream(tap, seconds=0).cost_nanos < bill_nanos
    assert missed > 100


# --- through the gateway ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cutting() -> Iterator[Stack]:
    with (
        recorded_upstream() as upstream,
        start_stack(simulator=False, env={"ANTHROPIC_BASE_URL": upstream.url}) as stack,
    ):
        yield stack


def received(stack: Stack, account: Account, name: str, at: int) -> tuple[bytes, bool]:
    """What the client got of a stream that was cut at that byte, and whether its end was an orderly one."""
    ask = {**ASK, "stream": True, "max_tokens": MAX_TOKENS}
    if name == "web_search":
        ask["tools"] = [{"type": "web_search_20250305", "name": "web_search", "max_uses": 1}]
    headers = {
        "x-api-key": account.key,
        "content-type": "application/json",
        "anthropic-recorded": f"{name}:{at}:cut",
    }
    got = b""
    with (
        httpx2.Client(timeout=20) as client,
        client.stream("POST", stack.url + "/v1/messages", json=ask, headers=headers) as response,
    ):
        assert response.status_code == 200
        try:
            for chunk in response.iter_raw():
                got += chunk
        except httpx2.RemoteProtocolError:
            return got, False
    return got, True


@pytest.mark.parametrize("name", STREAMS)
def test_a_cut_stream_is_relayed_byte_for_byte_up_to_the_cut(
    cutting: Stack, book: PriceBook, name: str
) -> None:
    """At each end of an event, a byte before and a byte after."""
    account = make_tenant("100000")  # a search that broke off costs its whole hold
    recorded = STREAMS[name]
    boundaries, data = recorded.boundaries, recorded.data
    cuts = sorted({at for end in boundaries for at in (end - 1, end, end + 1) if 0 < at <= len(data)})
    billed = list(bills(recorded, book))
    for number, at in enumerate(cuts):
        got, orderly = received(cutting, account, name, at)
        assert got[:at] == data[:at]
        rest = got[at:]
        if at == len(data) or not rest:
            assert (rest, orderly) == (b"", at == len(data)), at
        else:
            assert at in boundaries  # our own event may only follow a whole one
            assert rest.startswith(b"event: error\ndata: ")
            assert b'"api_error"' in rest
            assert orderly
        account.wait_for_calls(number + 1)
    for at, call, attempt, entry in zip(
        cuts, account.calls(), account.attempts(), account.entries(), strict=True
    ):
        assert (call.stream, attempt.usage_source) == (True, SOURCE[Basis(entry.basis)]), at
        assert entry.amount_nanos <= entry.held_nanos
        if name not in ("hidden_thinking", "tool_use"):  # these took seconds, and here they take none
            assert entry.amount_nanos >= billed[at][0], at
        if entry.basis == "exact":
            assert b"message_delta" in data[:at]
        elif at < len(data):
            assert (call.outcome, call.reason) == ("failed", "upstream_cut") or name == "error_event"
