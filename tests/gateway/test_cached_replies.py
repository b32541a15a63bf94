"""Kept answers: the same bytes, for the same caller only, and never a delay or a foreign byte."""

import asyncio
import concurrent.futures
import json
import socket
import statistics
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import httpx2
import pytest
import redis
from django.conf import settings
from django.core.cache import caches

from governance.response_cache.models import Kind
from governance.response_cache.purges import purge
from tenants.keys import issue_key
from tenants.models import Team
from tenants.scope import platform_scope
from tests.chaos_proxy import ChaosProxy, in_thread
from tests.gateway.asking import ASK, HELLO, MODEL, assert_refused, post, script
from tests.gateway.policies import govern
from tests.harness import Account, Stack, make_tenant, start_stack, wait_until

TERMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tenant": {"scope": "tenant"},
    "team": {"scope": "team"},
    "key": {"scope": "key"},
    "thinking": {"also": ["thinking"]},
    "everything": {"also": ["thinking", "tool_use"]},
    "metadata": {"volatile": ["metadata"]},
    "second": {"ttl_seconds": 1},
    "short": {"reply_bytes_max": 2_500},
}
"""A call's tag `cache` chooses its terms."""


def governed(limit_usd: str = "100") -> Account:
    """A tenant whose policy keeps the answers of calls that are tagged for it."""
    account = make_tenant(limit_usd)
    rules = [
        {"name": name, "when": {"tags": {"cache": name}}, "then": {"cache": {"ttl_seconds": 600} | terms}}
        for name, terms in TERMS.items()
    ]
    govern(account, json.dumps({"rules": rules}))
    return account


@pytest.fixture
def account() -> Account:
    return governed()


@pytest.fixture(scope="module")
def pair() -> Iterator[Stack]:
    with start_stack(workers=2) as running:
        yield running


def cached(terms: str = "plain", extra: str = "") -> dict[str, str]:
    """The header that gives a call these terms."""
    return {"exchequer-tags": f"cache={terms},{extra}".rstrip(",")}


def ask(
    stack: Stack, who: Account | str, content: Any = None, *, headers: dict[str, str], worker: int = 0
) -> httpx2.Response:
    """A call, again where a busy machine let Valkey miss its 50 ms."""
    account = None if isinstance(who, str) else who
    keys = {"x-api-key": who} if isinstance(who, str) else {}
    return post(stack, account, content, headers={**headers, **keys}, worker=worker)


def told(reply: httpx2.Response) -> str:
    assert reply.status_code == 200, reply.text
    return reply.headers["exchequer-cache"]


def until_hit(
    stack: Stack, who: Account | str, content: Any = None, *, headers: dict[str, str], worker: int = 0
) -> httpx2.Response:
    """The hit that comes once the first answer is kept; a busy machine may need a moment for that."""
    for _ in range(20):
        reply = ask(stack, who, content, headers=headers, worker=worker)
        if told(reply) == "hit":
            return reply
        time.sleep(0.05)
    raise AssertionError("The answer is not found in the cache.")


def missed(stack: Stack) -> int:
    """How many look-ups Valkey did not answer within 50 ms."""
    lines = "\n".join(worker.get("/metrics")[1] for worker in stack.workers).splitlines()
    found = [line for line in lines if line.startswith('exchequer_response_cache_total{result="late"}')]
    return sum(int(float(line.rpartition(" ")[2])) for line in found)


def is_found(stack: Stack, who: Account | str, content: Any = None, *, headers: dict[str, str]) -> bool:
    """Whether it is a hit; a call that a busy machine's Valkey did not answer in time is taken for one."""
    late = missed(stack)
    return told(ask(stack, who, content, headers=headers)) == "hit" or missed(stack) > late


# --- What a hit is --------------------------------------------------------------------------------
@pytest.mark.parametrize("stream", [False, True])
def test_a_hit_is_byte_identical_costs_nothing_and_says_what_it_saved(
    pair: Stack, account: Account, stream: bool
) -> None:
    """cases H5."""
    headers = {
        **cached("thinking"),
        **script(thinking=200, tag=account.tenant.slug, unknown_events=True),
    }
    content = {**ASK, "max_tokens": 4000, "thinking": {"type": "adaptive"}, "stream": stream}
    first = ask(pair, account, content, headers=headers)
    assert told(first) == "miss"
    assert b"signature" in first.content
    account.wait_for_calls(1)
    second = until_hit(pair, account, content, headers=headers, worker=1)
    assert second.content == first.content
    for name in ("content-type", "request-id", "exchequer-model"):
        assert second.headers[name] == first.headers[name]
    assert second.headers["exchequer-cost-usd"] == "0.00"
    assert second.headers["exchequer-call-id"] != first.headers["exchequer-call-id"]
    assert first.headers["exchequer-call-id"] in second.headers["exchequer-decision"]
    assert int(second.headers["age"]) < 60
    bill = pair.bill(account.tenant.slug)
    made, *_, found = account.wait_for_calls(1 + len(bill))
    assert (made.cache, made.outcome, made.reason) == ("miss", "served", "served")
    assert (found.cache, found.outcome, found.reason) == ("hit", "served", "cached")
    assert (found.cost_nanos, found.held_nanos, found.attempts) == (0, 0, 0)
    assert found.decision["savings"] == {"response_cache": made.cost_nanos}
    assert found.baseline_nanos == made.cost_nanos
    assert (found.served_model, found.stream) == (made.served_model, stream)
    assert (found.facts, bytes(found.fingerprints)) == (made.facts, bytes(made.fingerprints))
    assert account.period().spent_nanos == sum(call.cost_nanos for call in account.calls())
    assert len(account.entries()) == len(bill)


def test_a_hit_is_compared_with_the_whole_prompt_as_its_miss_was(pair: Stack) -> None:
    """What a rule took out of the prompt is in the baseline of both; the hit owes all of it to the cache."""
    account = make_tenant()
    then = "{system: {text: Be brief., mode: replace}, cache: {ttl_seconds: 600}}"
    govern(account, f"rules: [{{name: a rule, then: {then}}}]")
    content = {**ASK, "model": "claude-haiku-4-5", "system": "Be polite, and never rude to anybody. " * 200}
    ask(pair, account, content, headers={})
    until_hit(pair, account, content, headers={})
    missed, *_, hit = account.wait_for_calls(2)
    assert set(missed.decision["savings"]) == {"trimming"}
    assert hit.baseline_nanos == missed.baseline_nanos > 3 * missed.cost_nanos
    assert hit.decision["savings"] == {"response_cache": hit.baseline_nanos}


def test_a_hit_does_not_claim_what_its_client_saves_by_marking_the_prompt(
    pair: Stack, account: Account
) -> None:
    rules = {"type": "text", "text": f"{account.tenant.slug} " + "Answer by these rules. " * 400}
    content = {**ASK, "system": [{**rules, "cache_control": {"type": "ephemeral"}}]}
    ask(pair, account, content, headers=cached())
    until_hit(pair, account, content, headers=cached())
    missed, *_, hit = account.wait_for_calls(2)
    premium = missed.decision["savings"]
    assert set(premium) == {"client_cache"}
    assert hit.baseline_nanos == missed.baseline_nanos
    assert hit.decision["savings"] == premium | {"response_cache": missed.cost_nanos}


def test_a_call_says_which_rule_keeps_answers(pair: Stack) -> None:
    """docs/policies/faq-cache.yaml has two rules for it: one that keeps, and one that chooses the model."""
    account = make_tenant()
    govern(
        account,
        """
        rules:
          - {name: An hour, then: {cache: {ttl_seconds: 3600}}}
          - {name: To Haiku, then: {route: {tier: haiku}}}
        """,
    )
    ask(pair, account, headers={})
    until_hit(pair, account, headers={})
    for call in account.wait_for_calls(2):
        assert call.rule == "To Haiku"
        assert call.decision["response_cache"] == {"rule": "An hour", "version": call.policy_version}


def test_the_sdk_reads_the_same_message_from_every_form(pair: Stack, account: Account) -> None:
    """Kept from JSON and from a stream, replayed as either: one Message, with its signatures and usage."""
    asked = {"model": MODEL, "max_tokens": 4000, "messages": HELLO, "thinking": {"type": "adaptive"}}
    for kept_from in ("json", "stream"):
        headers = {
            **cached("everything"),
            **script(thinking=60, tool_use={"name": "look", "input": {"q": "é", "n": 1.50}}, text=kept_from),
        }
        client = account.client(pair, default_headers=headers)

        def streamed() -> Any:
            with client.messages.stream(**asked) as stream:  # noqa: B023
                return stream.get_final_message()

        def whole() -> Any:
            return client.messages.create(**asked)  # noqa: B023

        first = whole() if kept_from == "json" else streamed()
        raw = {**asked, "stream": kept_from != "json"}
        until_hit(pair, account, raw, headers=headers)
        for read in (whole, streamed, whole, streamed):
            again = read()
            assert again.to_dict() == first.to_dict()
    wait_until(lambda: [call.reason for call in account.calls()].count("cached") >= 10, 10)


def test_ours_may_not_be_kept_by_anybody_in_between(pair: Stack) -> None:
    """cases H4: what is answered to a key is for that key alone."""
    account = make_tenant()
    govern(
        account,
        """
        rules:
          - {name: Said, when: {tags: {kind: answer}}, then: {answer: {text: Hi.}}}
          - {name: Refused, when: {tags: {kind: deny}}, then: {deny: Not this.}}
          - {name: Kept, then: {cache: {ttl_seconds: 600}}}
        """,
    )
    answer, deny = ({"exchequer-tags": f"kind={kind}"} for kind in ("answer", "deny"))
    dry = {"exchequer-dry-run": "true"}
    once = {"idempotency-key": account.tenant.slug, "exchequer-cache-control": "no-store"}
    for headers in ({}, once):
        ask(pair, account, headers=headers)
    account.wait_for_calls(2)
    answers = {
        "a hit": (200, until_hit(pair, account, headers={})),
        "a replay": (200, post(pair, account, headers=once)),
        "a template": (200, post(pair, account, headers=answer)),
        "a template's stream": (200, post(pair, account, {**ASK, "stream": True}, headers=answer)),
        "a dry run": (200, post(pair, account, headers=dry)),
        "a template's dry run": (200, post(pair, account, headers=answer | dry)),
        "usage": (200, post(pair, account, method="GET", path="/api/oauth/usage")),
        "a policy's refusal": (400, post(pair, account, headers=deny)),
        "a body that does not read": (400, post(pair, account, b"{")),
        "a key that nobody has": (401, post(pair, None, headers={"x-api-key": "nobody's"})),
        "a path that there is not": (404, post(pair, account, path="/v1/nothing")),
        "a method that there is not": (405, post(pair, account, method="DELETE")),
    }
    for what, (status, response) in answers.items():
        assert response.status_code == status, what
        assert response.headers["cache-control"] == "private, no-store", what
        assert response.headers["vary"] == "authorization, x-api-key", what
    assert answers["a replay"][1].headers["exchequer-replayed"] == "true"


# --- Whose it is ----------------------------------------------------------------------------------
@pytest.mark.parametrize("scope", ["tenant", "team", "key"])
def test_two_tenants_never_share_a_reply(pair: Stack, scope: str) -> None:
    """cases H3: the same prompt, byte for byte, from two tenants."""
    alice, bob = governed(), governed()
    headers = cached(scope)
    texts = {}
    for who in (alice, bob):
        said = {**headers, **script(text="the same")}
        texts[who.tenant.slug] = ask(pair, who, headers=said)
        assert told(texts[who.tenant.slug]) == "miss"
        until_hit(pair, who, headers=said)
    first, second = texts.values()
    assert json.loads(first.content)["id"] != json.loads(second.content)["id"]


def test_a_scope_is_shared_by_those_who_are_in_it(pair: Stack, account: Account) -> None:
    with platform_scope():
        search = Team.objects.create(tenant=account.tenant, name="search", slug="search")
        here = [issue_key(account.tenant, f"search {n}", team=search).text for n in range(2)]
        other = issue_key(account.tenant, "no team").text
    expected = {"key": [], "team": [here[1]], "tenant": [here[1], other]}
    for scope, sharers in expected.items():
        headers = {**cached(scope), **script(text=scope)}
        ask(pair, here[0], headers=headers)
        until_hit(pair, here[0], headers=headers)
        for key in (here[1], other):
            if key in sharers:
                assert is_found(pair, key, headers=headers), scope
            else:
                assert told(ask(pair, key, headers=headers)) == "miss", scope


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"stream": True}, True),
        ({"metadata": {"user_id": "somebody else"}}, True),
        ({"max_tokens": 65}, False),
        ({"messages": [{"role": "user", "content": "hello"}]}, False),
        ({"messages": [{"role": "user", "content": "Hello "}]}, False),
        ({"model": "claude-opus-5-5"}, False),
        ({"from_the_future": 1}, False),
    ],
)
def test_what_makes_a_difference(pair: Stack, account: Account, change: dict[str, Any], same: bool) -> None:
    headers = cached("metadata")
    ask(pair, account, headers=headers)
    until_hit(pair, account, headers=headers)
    if same:
        assert is_found(pair, account, {**ASK, **change}, headers=headers)
    else:
        assert told(ask(pair, account, {**ASK, **change}, headers=headers)) == "miss"


@pytest.mark.parametrize("header", ["anthropic-version", "anthropic-beta", "anthropic-workspace-id"])
def test_headers_that_change_the_answer_make_a_difference(pair: Stack, account: Account, header: str) -> None:
    headers = cached()
    ask(pair, account, headers=headers)
    until_hit(pair, account, headers=headers)
    other = {"anthropic-version": "2026-10-21", "anthropic-beta": "effort-2025-11-24"}.get(header, "w")
    assert told(ask(pair, account, headers={**headers, header: other})) == "miss"


# --- What is never kept ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"stop_reason": "refusal"}, "stop reason refusal"),
        ({"stop_reason": "max_tokens"}, "stop reason max_tokens"),
        ({"stop_reason": "model_context_window_exceeded"}, "stop reason model_context_window_exceeded"),
        ({"stop_reason": "pause_turn"}, "stop reason pause_turn"),
        ({"tool_use": {"name": "look", "input": {}}, "text": "x"}, "tool use"),
        ({"thinking": 50}, "thinking"),
        ({"fault": "no_usage"}, "not a complete reply"),
        ({"compress": "gzip"}, "compressed"),
        ({"text": "x" * 3_000}, "too long"),
        ({"error": {"type": "overloaded_error"}}, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_never_kept_and_the_row_says_why(
    pair: Stack, account: Account, fields: dict[str, Any], why: str | None, stream: bool
) -> None:
    headers = {**cached("short"), **script(**fields)}
    content = {**ASK, "stream": stream, "max_tokens": 4000, "thinking": {"type": "adaptive"}}
    for _ in range(2):
        reply = ask(pair, account, content, headers=headers)
        assert reply.headers["exchequer-cache"] == "miss"
    for call in account.wait_for_calls(2):
        assert call.decision["response_cache"].get("not_kept") == why
    assert len(account.entries()) == 2


def test_a_stream_that_broke_is_not_kept(pair: Stack, account: Account) -> None:
    headers = {**cached(), **script(deltas=5, fault={"error_event_after": 2})}
    for _ in range(2):
        assert told(ask(pair, account, {**ASK, "stream": True}, headers=headers)) == "miss"
    account.wait_for_calls(2)


@pytest.mark.parametrize(
    "field",
    [{"container": "c_1"}, {"thread": {"type": "create"}}, {"max_tokens": 0}],
)
def test_what_refers_to_more_than_itself_is_not_looked_up(
    pair: Stack, account: Account, field: dict[str, Any]
) -> None:
    with platform_scope():
        account.issued.key.unbounded_allowed = True
        account.issued.key.save()
    for _ in range(2):
        reply = ask(pair, account, {**ASK, **field}, headers=cached())
        assert reply.headers["exchequer-cache"] == "bypass"


# --- What the caller may say ----------------------------------------------------------------------
def test_the_caller_may_say_how_old_an_answer_may_be(pair: Stack, account: Account) -> None:
    headers = cached()

    def said(value: str) -> httpx2.Response:
        return ask(pair, account, headers={**headers, "exchequer-cache-control": value})

    assert told(said("no-store")) == "bypass"
    first = ask(pair, account, headers=headers)
    assert told(first) == "miss", "what was made with no-store was not kept"
    hit = until_hit(pair, account, headers=headers)
    assert hit.content == first.content
    assert is_found(pair, account, headers={**headers, "exchequer-cache-control": "max-age=600"})
    fresh = said("no-cache")
    assert told(fresh) == "bypass"
    assert fresh.content != first.content
    wait_until(lambda: ask(pair, account, headers=headers).content == fresh.content, 5)
    time.sleep(1.1)
    assert told(said("max-age=1")) == "miss"


@pytest.mark.parametrize(
    "value", ["", "private", "max-age", "max-age=-1", "max-age=1.5", "no-cache, max-age=1"]
)
def test_a_cache_control_that_we_do_not_know_is_a_400(pair: Stack, account: Account, value: str) -> None:
    reply = ask(pair, account, headers={"exchequer-cache-control": value})
    assert_refused(reply, 400, "invalid_request_error", "exchequer-cache-control", "max-age=SECONDS")


def test_a_call_without_a_rule_is_off(pair: Stack, account: Account) -> None:
    for _ in range(2):
        assert told(ask(pair, account, headers={})) == "off"
    assert {call.cache for call in account.wait_for_calls(2)} == {"off"}


def test_an_entry_ends_with_its_time(pair: Stack, account: Account) -> None:
    headers = cached("second")
    ask(pair, account, headers=headers)
    until_hit(pair, account, headers=headers)
    time.sleep(1.2)
    assert told(ask(pair, account, headers=headers)) == "miss"


# --- A hit passes what any call passes -------------------------------------------------------------
def test_a_hit_is_refused_like_any_other_call(pair: Stack, account: Account) -> None:
    from tenants.pauses import pause

    headers = cached("tenant", "feature=search")
    ask(pair, account, headers=headers)
    until_hit(pair, account, headers=headers)
    with platform_scope():
        narrow = issue_key(account.tenant, "narrow", allowed_models=["claude-haiku-5-5"]).text
        pause(account.tenant, "Stop it.", scope="tag", ref="feature=search")
    assert_refused(ask(pair, narrow, headers=cached("tenant")), 403, "permission_error", "model")
    wait_until(lambda: ask(pair, account, headers=headers).status_code == 403, 2)


# --- Purge ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "value"), [(Kind.TENANT, ""), (Kind.TAG, "feature=search"), (Kind.MODEL, MODEL)]
)
def test_what_was_purged_is_a_miss_within_a_second_in_every_worker(
    pair: Stack, account: Account, kind: str, value: str
) -> None:
    headers = cached("plain", "feature=search")
    first = ask(pair, account, headers=headers)
    for worker in (0, 1):
        until_hit(pair, account, headers=headers, worker=worker)
    with platform_scope():
        purge(account.tenant, kind, value)
    time.sleep(1)
    for worker in (0, 1):
        assert ask(pair, account, headers=headers, worker=worker).content != first.content
    until_hit(pair, account, headers=headers)


def test_what_was_not_purged_stays(pair: Stack, account: Account) -> None:
    headers = cached("plain", "feature=search")
    ask(pair, account, headers=headers)
    kept = until_hit(pair, account, headers=headers)
    with platform_scope():
        purge(account.tenant, Kind.TAG, "feature=faq")
        purge(account.tenant, Kind.MODEL, "claude-opus-5-5")
        purge(make_tenant().tenant, Kind.TENANT)
    time.sleep(1)
    late = missed(pair)
    assert until_hit(pair, account, headers=headers).content == kept.content or missed(pair) > late


def test_a_reply_that_was_on_its_way_when_it_was_purged_is_purged(pair: Stack, account: Account) -> None:
    headers = {**cached(), **script(latency_ms=1500)}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, pair, account, headers=headers)
        wait_until(lambda: bool(account.holds()), 5)
        with platform_scope():
            purge(account.tenant, Kind.TENANT)
        assert told(first.result()) == "miss"
    account.wait_for_calls(1)
    assert told(ask(pair, account, headers=headers)) == "miss"


# --- One call for all who ask the same --------------------------------------------------------------
def together(
    stack: Stack, account: Account, count: int, headers: dict[str, str], workers: int = 2
) -> list[httpx2.Response]:
    def one(number: int) -> httpx2.Response:
        content = {**ASK, "stream": number % 4 == 0}
        return ask(stack, account, content, headers=headers, worker=number % workers)

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_a_hundred_identical_calls_at_once_are_one_upstream_call(pair: Stack, account: Account) -> None:
    """Over two workers. Without the cache each of them is one."""
    tag = account.tenant.slug
    slow = script(tag=tag, latency_ms=300)
    assert len(together(pair, account, 10, slow)) == len(pair.bill(tag)) == 10, "there is something to share"
    for attempt in range(3):
        late = missed(pair)
        headers = {**cached(), **script(tag=f"{tag}-{attempt}", latency_ms=1000)}
        replies = together(pair, account, 100, headers)
        states = [told(reply) for reply in replies]
        made = len(pair.bill(f"{tag}-{attempt}"))
        assert made == states.count("miss")
        assert made == 1 or missed(pair) > late, "more only where a busy machine let Valkey miss its 50 ms"
        if made == 1:
            break
    assert states.count("hit") == 100 - made >= 90
    whole = [reply.content for reply in replies if reply.headers["content-type"] == "application/json"]
    assert len(set(whole)) <= made
    account.wait_for_calls(110)
    assert len(account.entries()) == len(account.attempts())


@pytest.mark.parametrize("fields", [{"stop_reason": "max_tokens"}, {"text": "x" * 3_000}])
def test_those_who_wait_for_an_answer_that_cannot_be_kept_go_on_by_themselves(
    pair: Stack, account: Account, fields: dict[str, Any]
) -> None:
    tag = account.tenant.slug
    headers = {**cached("short"), **script(tag=tag, latency_ms=300, **fields)}
    replies = together(pair, account, 8, headers)
    assert {told(reply) for reply in replies} == {"miss"}
    assert len(pair.bill(tag)) == 8
    began = time.monotonic()
    together(pair, account, 8, headers)
    assert time.monotonic() - began < 2, "and the next time nobody waits"


def test_when_the_leading_worker_dies_the_next_goes_on(account: Account) -> None:
    tag = account.tenant.slug
    with start_stack(workers=2) as stack, concurrent.futures.ThreadPoolExecutor(2) as pool:
        headers = {**cached(), **script(tag=tag, latency_ms=30_000)}

        def lead() -> None:
            with pytest.raises(httpx2.HTTPError):
                ask(stack, account, headers=headers, worker=0)

        leading = pool.submit(lead)
        wait_until(lambda: bool(account.holds()), 5)
        following = pool.submit(ask, stack, account, headers=headers, worker=1)
        time.sleep(0.5)
        assert len(account.holds()) == 1, "it waits for the other worker's answer"
        stack.workers[0].kill()
        leading.result()
        took = wait_until(lambda: len(account.holds()) == 2, 15)
        assert took < 8, "5 seconds of the lease, and a busy machine"
        stack.workers[1].kill()
        with pytest.raises(httpx2.HTTPError):
            following.result()


def test_a_follower_who_leaves_is_dropped(pair: Stack, account: Account) -> None:
    tag = account.tenant.slug
    headers = {**cached(), **script(tag=tag, latency_ms=1500)}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        leading = pool.submit(ask, pair, account, headers=headers)
        wait_until(lambda: bool(account.holds()), 5)
        with pytest.raises(httpx2.TimeoutException):
            post(pair, account, headers=headers, seconds=0.3)
        left = wait_until(lambda: any(call.reason == "left_waiting" for call in account.calls()), 1.2)
        assert left < 1.2
        assert told(leading.result()) == "miss"
    assert len(pair.bill(tag)) == 1


# --- Valkey in trouble ----------------------------------------------------------------------------
def test_a_poisoned_entry_is_never_served(pair: Stack) -> None:
    alice, bob = governed(), governed()
    valkey = redis.from_url(settings.REDIS_URL)
    names = {}
    for who in (alice, bob):
        before = set(valkey.keys("exchequer:response:*"))
        headers = {**cached(), **script(text=f"for {who.tenant.slug}")}
        ask(pair, who, headers=headers)
        until_hit(pair, who, headers=headers)
        (names[who.tenant.slug],) = set(valkey.keys("exchequer:response:*")) - before
    mine, theirs = names[alice.tenant.slug], names[bob.tenant.slug]
    own, foreign = valkey.get(mine), valkey.get(theirs)
    assert isinstance(own, bytes)
    assert isinstance(foreign, bytes)
    assert b"for" not in own
    assert b"claude" not in own
    headers = {**cached(), **script(text=f"for {alice.tenant.slug}")}
    flipped = own[:-1] + bytes([own[-1] ^ 1])
    for value in (foreign, b"junk", b"", flipped, own[:20]):
        valkey.set(mine, value)
        reply = ask(pair, alice, headers=headers)
        assert told(reply) == "miss"
        assert bob.tenant.slug not in reply.text
    valkey.delete(mine)
    valkey.rpush(mine, "a", "list")
    assert told(ask(pair, alice, headers=headers)) == "miss"
    valkey.delete(mine)
    valkey.set(mine, own)
    assert is_found(pair, alice, headers=headers)
    assert 'result="poisoned"' in pair.workers[0].get("/metrics")[1]


# A Valkey that is not there, and one that says nothing.
def test_a_valkey_that_says_nothing_delays_one_call_and_that_by_no_more_than_50_ms(account: Account) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        with start_stack(env={"REDIS_URL": url}) as stack:
            plain = min(seconds_of(stack, account, {}) for _ in range(5))
            with_cache = sorted(seconds_of(stack, account, cached()) for _ in range(12))
            # A busy machine adds its own.
            assert with_cache[6] < plain + 0.05 + 0.15
            ready = stack.workers[0].get("/readyz")
            assert ready[0] == 200
            assert "without kept answers" in ready[1]
            metrics = stack.workers[0].get("/metrics")[1]
            assert 'exchequer_response_cache_total{result="away"} 11.0' in metrics
            assert missed(stack) == 1
            together(stack, account, 4, cached(), workers=1)
    assert {call.outcome for call in account.wait_for_calls(21)} == {"served"}


def seconds_of(stack: Stack, account: Account, headers: dict[str, str]) -> float:
    began = time.monotonic()
    assert ask(stack, account, headers=headers).status_code == 200
    return time.monotonic() - began


def test_a_slow_valkey_delays_a_call_by_no_more_than_50_ms_whatever_is_looked_up() -> None:
    """A later turn looks up its conversation, its answer and who else asks the same."""
    account, numbers = make_tenant(), count()
    govern(account, "rules: [{name: a rule, then: {route: {tier: haiku}, cache: {ttl_seconds: 60}}}]")

    def turn() -> float:
        messages = [
            *HELLO,
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": f"Number {next(numbers)}?"},
        ]
        time.sleep(0.15)  # so that a probe may have been answered since the last one
        began = time.monotonic()
        assert told(post(stack, account, {**ASK, "messages": messages})) == "miss"
        return time.monotonic() - began

    proxy = ChaosProxy(settings.REDIS_URL)
    with in_thread(proxy), start_stack(env={"REDIS_URL": proxy.url}) as stack:
        turn()
        quick = statistics.median(turn() for _ in range(11))
        proxy.to_client.latency_seconds = 0.04  # each answer is in time
        assert statistics.median(turn() for _ in range(11)) < quick + 0.05 + 0.03
        proxy.to_client.latency_seconds = 10.0  # and now there is none
        assert max(turn() for _ in range(5)) < quick + 0.05 + 0.15


def test_a_slow_valkey_is_a_miss_and_a_broken_one_gives_no_foreign_byte(account: Account) -> None:
    """Through a proxy: 200 ms late, in crumbs, cut in the middle of a value, gone; and well again."""
    proxy = ChaosProxy(settings.REDIS_URL)
    with in_thread(proxy), start_stack(env={"REDIS_URL": proxy.url}) as stack:
        first = ask(stack, account, headers=cached())
        until_hit(stack, account, headers=cached())
        proxy.to_client.latency_seconds = 0.2
        for _ in range(3):
            reply = ask(stack, account, headers=cached())
            assert told(reply) == "miss"
            assert set(reply.json()) == set(first.json())
        proxy.to_client.latency_seconds = 0.0
        for crumbs, cut in ((7, None), (0, 300), (0, 30)):
            proxy.to_client.trickle_bytes, proxy.to_client.cut_after_bytes = crumbs, cut
            proxy.cut_all()
            for _ in range(3):
                reply = ask(stack, account, headers=cached())
                assert set(reply.json()) == set(first.json()), reply.text
        proxy.to_client.trickle_bytes, proxy.to_client.cut_after_bytes = 0, None
        asyncio.run_coroutine_threadsafe(proxy.stop(), proxy._loop).result(5)
        proxy.cut_all()
        for _ in range(3):
            assert set(ask(stack, account, headers=cached()).json()) == set(first.json())
        asyncio.run_coroutine_threadsafe(proxy.start(), proxy._loop).result(5)
        time.sleep(0.6)
        until_hit(stack, account, headers=cached())


def test_the_console_reaches_an_entry_under_the_same_name(pair: Stack, account: Account) -> None:
    """As django-redis names it, and without unpickling anything."""
    valkey = redis.from_url(settings.REDIS_URL)
    before = set(valkey.keys("exchequer:response:*"))
    ask(pair, account, headers=cached())
    until_hit(pair, account, headers=cached())
    (name,) = set(valkey.keys("exchequer:response:*")) - before
    digest = name.decode().rpartition(":")[2]
    assert caches["responses"].get(digest) == valkey.get(name)
    assert 500 < caches["responses"].ttl(digest) <= 600
    caches["responses"].delete(digest)
    assert told(ask(pair, account, headers=cached())) == "miss"


def test_an_entry_that_was_evicted_is_a_miss(pair: Stack, account: Account) -> None:
    headers = cached()
    ask(pair, account, headers=headers)
    until_hit(pair, account, headers=headers)
    valkey = redis.from_url(settings.REDIS_URL)
    valkey.delete(*valkey.keys("exchequer:response:*"))
    assert told(ask(pair, account, headers=headers)) == "miss"
