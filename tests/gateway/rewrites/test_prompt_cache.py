"""Marks for the prompt cache: only where they pay, never where the client chose, and measured (cases I5)."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governance.core.meters import Meter
from governance.core.usage import Pass, Usage
from governance.gateway.request import Request, read_request
from governance.gateway.rewrites.prompt_cache import Caller
from governance.gateway.rewrites.prompt_cache_memory import (
    CHANGES_MIN,
    LINES_MAX,
    PREFIXES_MAX,
    TURNS_MAX,
    UNREAD_MAX,
    Memory,
)
from governance.gateway.rewrites.rewriting import Rewritten, marked
from governance.pricing.book import PriceBook
from governance.pricing.rates import ContractRate
from governance.routing.document import PromptCache as Terms
from governance.simulator.caching import PromptCache
from tests.gateway.rewrites.bodies import (
    SIGNATURE,
    accepted,
    bodies,
    body,
    chat,
    claude_code,
    thinking_of,
    untouched_but,
)
from tests.pricing.conftest import TODAY

RULES = "Answer by these rules. " * 400  # 9,200 bytes
TOOLS = [{"name": "look", "description": "Looks. " * 500, "input_schema": {"type": "object"}}]
THOUGHT = {"type": "thinking", "thinking": "", "signature": SIGNATURE}
FIVE, HOUR = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}


@dataclass
class Sender:
    """One gateway process whose rule marks prompts, with the simulator's prompt cache behind it."""

    book: PriceBook
    terms: Terms = field(default_factory=Terms)
    memory: Memory = field(default_factory=Memory)
    upstream: PromptCache = field(default_factory=PromptCache)
    tenant: bytes = b"tenant a"
    now: float = 1_000.0
    cost_nanos: int = 0
    unmarked_nanos: int = 0

    def send(self, raw: bytes, after_seconds: float = 10.0, line: str = "faq") -> Rewritten:
        self.now += after_seconds
        caller = Caller(self.memory, self.tenant, line, self.now)
        result = marked(read_request(raw), self.terms, self.book, TODAY, caller)
        self._answer(result)
        return result

    def _answer(self, result: Rewritten) -> None:
        _, model, segments = accepted(result.request)
        least = model.cache_prefix_tokens_min
        split = self.upstream.account({"all": [model.id]}, segments, least, self.now, self.now)
        usage = Usage(split.uncached, split.write_5m, split.write_1h, split.read, 20)
        passes = (Pass(model.id, usage),)
        self.cost_nanos += self.book.rate(passes, TODAY).cost_nanos
        plain = Pass(model.id, Usage(usage.prompt_tokens, output_tokens=20))
        self.unmarked_nanos += self.book.rate([plain], TODAY).cost_nanos
        if result.prompt_prefix is not None:
            self.memory.learn(
                result.prompt_prefix, passes, self.book, TODAY, began=self.now, now=self.now + 1
            )


def question(number: int, system: Any = RULES, **fields: Any) -> bytes:
    return body(system=system, messages=[{"role": "user", "content": f"Question {number}?"}], **fields)


def test_a_prompt_that_comes_again_is_marked_and_costs_less(book: PriceBook) -> None:
    """cases I5: a client without cache_control; 20 calls, 2,300 tokens in common."""
    sender = Sender(book)
    headers = [sender.send(question(number)).header for number in range(20)]
    assert headers == ["", *["prompt-cache(1)"] * 19]
    assert sender.cost_nanos < 0.3 * sender.unmarked_nanos


def test_what_was_paid_and_saved_is_what_the_replies_say(book: PriceBook) -> None:
    """cases I5: a measured saving."""
    sender = Sender(book)
    prefix = [sender.send(question(number)).prompt_prefix for number in range(12)][-1]
    assert prefix is not None
    figures = sender.memory.prefix(prefix)
    assert figures.replies == 11
    assert figures.read_tokens == 10 * figures.written_tokens > 0
    assert figures.premium_nanos > 0
    assert figures.saved_nanos - figures.premium_nanos == sender.unmarked_nanos - sender.cost_nanos


def test_only_the_marked_block_changes_and_the_text_stays(book: PriceBook) -> None:
    sender = Sender(book)
    for system in (RULES, [{"type": "text", "text": "First."}, {"type": "text", "text": RULES}]):
        sender.send(question(1, system))
        before = read_request(question(2, system))
        after = sender.send(before.body).request
        assert untouched_but(before, after, "system")
        blocks = json.loads(after.body)["system"]
        assert blocks[-1] == {"type": "text", "text": RULES, "cache_control": FIVE}
        assert len(blocks) == (1 if system is RULES else 2)


def test_tools_are_marked_where_the_system_prompt_is_another_each_time(book: PriceBook) -> None:
    sender = Sender(book)
    results = [sender.send(question(n, f"It is minute {n}.", tools=TOOLS)) for n in range(6)]
    decoded = json.loads(results[-1].request.body)
    assert decoded["tools"][-1]["cache_control"] == FIVE
    assert decoded["system"] == "It is minute 5."
    assert sender.cost_nanos < 0.5 * sender.unmarked_nanos


def test_the_clients_own_breakpoints_are_its_explicit_choice(book: PriceBook) -> None:
    sender = Sender(book)
    own = [{"type": "text", "text": RULES, "cache_control": HOUR}]
    for raw in (question(1, own), question(1, cache_control=FIVE), claude_code(turns=3)):
        for _ in range(3):
            request = read_request(raw)
            result = sender.send(raw)
            assert result.request.body == request.body
            assert result.reasons == ("prompt-cache: the client marks its own prompt",)


@pytest.mark.parametrize(
    ("raw", "gap_seconds", "reason"),
    [
        (question(1, "Be kind."), 10, "too short"),
        (question(1), 400, "seen within 5m"),
        (question(1, model="claude-someday-9"), 10, "not known"),
        (question(1, model="claude-haiku-4-5"), 10, "too short"),  # 4,096 tokens at least
    ],
)
def test_a_prompt_is_not_marked_in_vain(book: PriceBook, raw: bytes, gap_seconds: float, reason: str) -> None:
    memory = Memory()
    for number in range(4):
        caller = Caller(memory, b"t", "faq", 1_000.0 + number * gap_seconds)
        result = marked(read_request(raw), Terms(), book, TODAY, caller)
        assert result.names == ()
    assert reason in result.reasons[0]


def test_an_entry_for_an_hour_must_come_again_more_often(book: PriceBook) -> None:
    """Writing for an hour costs twice the input price, for five minutes 1.25 times: more than half of the
    calls must read it, or more than a fifth."""

    def marks(ttl: Any, gaps: list[float]) -> int:
        sender = Sender(book, Terms(ttl=ttl))
        return sum(bool(sender.send(question(n), gap).names) for n, gap in enumerate([0, *gaps]))

    assert marks("5m", [100, 100, 4_000, 4_000] * 12) > 20
    assert marks("1h", [100, 4_000, 4_000] * 12) < 4
    assert marks("1h", [1_000] * 12) == 12
    assert marks("5m", [1_000] * 12) == 0


def test_the_tenants_own_prices_decide(book: PriceBook) -> None:
    def own(meter: Meter, nanos_per_mtok: int) -> ContractRate:
        since = datetime(2026, 1, 1, tzinfo=UTC)
        return ContractRate("claude-opus-5", meter, "standard", 0, None, nanos_per_mtok, since, None)

    dear = book.with_contract([own("cache_read", 5_000_000_000), own("input", 5_000_000_000)])
    sender = Sender(dear)
    assert not any(sender.send(question(number)).names for number in range(5))


def test_a_prompt_of_the_dear_kind_is_marked_at_its_own_price(book: PriceBook) -> None:
    """Haiku 5.5 costs five times as much above 100,000 tokens: the saving does, too."""
    sender = Sender(book)
    long = "Words of many a document. " * 16_000
    prefix = [sender.send(question(n, long, model="claude-haiku-5-5")).prompt_prefix for n in range(4)][-1]
    assert prefix is not None
    figures = sender.memory.prefix(prefix)
    tokens = figures.read_tokens // 2
    assert tokens > 100_000
    assert figures.saved_nanos == figures.read_tokens * (500 - 50)
    assert figures.premium_nanos == tokens * (625 - 500)


def test_a_conversation_is_marked_once_it_is_known_to_go_on(book: PriceBook) -> None:
    sender = Sender(book)
    headers = [sender.send(chat(2 * turn + 1, 200), line="s1").header for turn in range(12)]
    assert headers[:2] == ["", ""]
    assert set(headers[3:]) == {"prompt-cache(1)"}
    assert sender.cost_nanos < 0.5 * sender.unmarked_nanos
    last = json.loads(sender.send(chat(25, 200)).request.body)
    assert last["cache_control"] == FIVE
    assert "cache_control" not in json.dumps(last["messages"])


def test_conversations_of_two_turns_are_never_marked_at_their_end(book: PriceBook) -> None:
    sender = Sender(book)
    for number in range(20):
        for turns in (1, 3):
            said = json.loads(chat(turns, 300))["messages"]
            said[0]["content"] = f"Conversation {number}. {said[0]['content']}"
            assert sender.send(body(messages=said)).names == ()


def test_the_whole_of_a_conversation_with_rules_costs_less(book: PriceBook) -> None:
    sender = Sender(book)
    raws = [chat(2 * turn + 1, 200, system=RULES, tools=TOOLS) for turn in range(15)]
    results = [sender.send(raw) for raw in raws]
    assert results[-1].header == "prompt-cache(2)"
    assert sender.cost_nanos < 0.4 * sender.unmarked_nanos


def test_two_tenants_never_learn_of_each_other(book: PriceBook) -> None:
    sender = Sender(book)
    sender.send(question(1))
    sender.send(question(2))
    other = Sender(book, memory=sender.memory, tenant=b"tenant b")
    assert other.send(question(3)).names == ()


def test_what_goes_unread_though_there_was_time_is_given_up_for_an_hour(book: PriceBook) -> None:
    """As where calls go to another workspace each time."""
    sender = Sender(book)
    marks = 0
    for number in range(20):
        sender.upstream = PromptCache()
        marks += bool(sender.send(question(number)).names)
    assert marks == UNREAD_MAX + 1
    assert "was not read again" in sender.send(question(99)).reasons[0]
    sender.send(question(100), after_seconds=3_500)
    assert sender.send(question(101)).names == ("prompt-cache(1)",)


def test_many_calls_at_once_are_no_proof_that_nothing_is_read(book: PriceBook) -> None:
    memory = Memory()
    passes = (Pass("claude-opus-5", Usage(10, 3_000)),)
    for _ in range(20):  # all began before the first was answered
        memory.learn(b"p", passes, book, TODAY, began=1.0, now=2.0)
    assert memory.prefix(b"p").given_up_until == 0.0


def test_signed_thinking_keeps_its_bytes_and_its_system_prompt_its_form(book: PriceBook) -> None:
    sender = Sender(book)
    said = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [THOUGHT, {"type": "text", "text": "Hello."}]},
        {"role": "user", "content": "Go on."},
    ]
    for _ in range(3):
        before = read_request(body(model="claude-opus-5-5", system=RULES, tools=TOOLS, messages=said))
        result = sender.send(before.body)
    assert result.names == ("prompt-cache(1)",)
    assert untouched_but(before, result.request, "tools")
    assert thinking_of(result.request) == thinking_of(before)


@settings(max_examples=40)
@given(raws=st.lists(bodies(), min_size=1, max_size=2), ttl=st.sampled_from(["5m", "1h"]))
def test_any_body_is_accepted_with_marks(book: PriceBook, raws: list[bytes], ttl: Any) -> None:
    sender = Sender(book, Terms(ttl=ttl))
    for raw in raws * 4:
        fields = json.loads(raw)
        fields["tools"] = TOOLS
        before = read_request(json.dumps(fields).encode())
        after: Request = sender.send(before.body).request
        assert untouched_but(before, after, "system", "tools", "cache_control")
        assert json.loads(after.body)["messages"] == fields["messages"]


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        (lambda n: question(n, tools=[{**TOOLS[0], "name": f"look_{n}"}]), "tools"),
        (lambda n: question(n, [{"type": "text", "text": RULES}, {"type": "text", "text": f"{n}"}]),
         "system block 2"),
        (lambda n: question(n, f"It is {n} o'clock. {RULES}"), "system block 1"),
        (lambda n: chat(21, 40).replace(b"Message 4:", b"Message 4, call %d:" % n), "message 5"),
    ],
)  # fmt: skip
def test_the_part_that_keeps_changing_is_named(book: PriceBook, changed: Any, part: str) -> None:
    sender = Sender(book)
    for number in range(CHANGES_MIN):
        assert not any("changed" in reason for reason in sender.send(changed(number)).reasons)
    reasons = sender.send(changed(CHANGES_MIN)).reasons
    assert f"prompt-cache: {part} changed in 3 of 4 calls" in reasons


def test_a_conversation_that_goes_on_and_another_one_are_no_change(book: PriceBook) -> None:
    sender = Sender(book)
    for turn in range(8):
        assert not any("changed" in why for why in sender.send(chat(2 * turn + 1, 10)).reasons)
        assert not any("changed" in why for why in sender.send(question(turn, None)).reasons)


def test_what_is_remembered_is_bounded(book: PriceBook) -> None:
    sender = Sender(book)
    for number in range(max(PREFIXES_MAX, LINES_MAX, TURNS_MAX) + 10):
        name = b"%d" % number
        sender.memory.prefix(name)
        sender.memory.saw_turn(b"p", [name], 1.0, 300)
        if number < LINES_MAX + 10:
            sender.send(question(number, f"{number}"), line=f"{number}")
    memory = sender.memory
    assert (len(memory._prefixes), len(memory._turns), len(memory._lines)) == (
        PREFIXES_MAX,
        TURNS_MAX,
        LINES_MAX,
    )
