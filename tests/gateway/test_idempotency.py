"""An `Idempotency-Key` makes one upstream call, however often it is repeated, and replays its reply."""

import concurrent.futures
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
import redis
from django.conf import settings

from tests.gateway.asking import ASK, HELLO, MODEL, assert_refused, script
from tests.gateway.asking import post as post_once
from tests.harness import Account, Stack, make_tenant, start_stack, wait_until


@pytest.fixture(scope="module")
def pair() -> Iterator[Stack]:
    with start_stack(workers=2) as running:
        yield running


JSON = {"content-type": "application/json", "anthropic-version": "2023-06-01"}


def post(*arguments: Any, **options: Any) -> httpx2.Response:
    """As an SDK does it: again where a busy machine let Valkey miss its 50 ms."""
    for _ in range(20):
        response = post_once(*arguments, **options)
        if response.headers["exchequer-decision"] != "idempotency_reply_out_of_reach":
            break
    return response


def named(key: str, **fields: Any) -> dict[str, str]:
    return {"idempotency-key": key, **(script(**fields) if fields else {})}


def kept_names(account: Account) -> list[bytes]:
    """What Valkey keeps for this tenant's calls."""
    holds = {f"exchequer:reply:{attempt.pk.hex}".encode() for attempt in account.attempts()}
    return [name for name in redis.from_url(settings.REDIS_URL).keys("exchequer:reply:*") if name in holds]


@pytest.mark.parametrize("stream", [False, True])
def test_a_hundred_concurrent_duplicates_over_two_workers_make_one_upstream_call(
    pair: Stack, account: Account, stream: bool
) -> None:
    """trust.md faults 36; cases D11."""
    tag = account.tenant.slug
    headers = named("one-order", tag=tag, latency_ms=700)
    ask = {**ASK, "stream": stream}

    def one(number: int) -> httpx2.Response:
        return post(pair, account, ask, worker=number % 2, headers=headers, seconds=60)

    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        responses = list(pool.map(one, range(100)))
    assert len(pair.bill(tag)) == 1
    assert Counter(response.status_code for response in responses).keys() <= {200, 409}
    bodies = {response.content for response in responses if response.status_code == 200}
    assert len(bodies) == 1
    for response in (response for response in responses if response.status_code == 409):
        assert_refused(
            response, 409, "conflict_error", "again in"
        )  # in flight; or Valkey was too busy to tell
        assert response.headers["retry-after"].isdigit()
        assert response.headers["x-should-retry"] == "true"
    account.wait_for_calls(100)
    assert len(account.entries()) == len(account.attempts()) == 1
    again = post(pair, account, ask, worker=1, headers=headers)
    assert (again.content, again.headers["exchequer-replayed"]) == (bodies.pop(), "true")


def test_the_sdk_gets_the_replay_by_its_own_retries(pair: Stack, account: Account) -> None:
    """trust.md fault 37: a repeated request with a key is one call, and one charge."""
    tag = account.tenant.slug
    first = account.client(pair, 0, default_headers=named("sdk", tag=tag, latency_ms=1200))
    second = account.client(pair, 1, default_headers=named("sdk", tag=tag, latency_ms=1200), max_retries=3)
    ask = {"model": MODEL, "max_tokens": 64, "messages": HELLO}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        one = pool.submit(first.messages.create, **ask)
        wait_until(lambda: bool(account.holds()), 5)
        two = pool.submit(second.messages.create, **ask)
        assert one.result() == two.result()
    assert len(pair.bill(tag)) == 1
    (entry,) = account.entries()
    assert entry.basis == "exact"
    wait_until(lambda: any(call.reason == "replayed" for call in account.calls()), 5)
    costs = {call.reason: call.cost_nanos for call in account.calls()}
    assert set(costs) == {"served", "replayed", "idempotency_key_in_flight"}
    assert (costs["replayed"], costs["served"]) == (0, entry.amount_nanos)


def test_a_json_replay_is_byte_identical_and_costs_nothing(pair: Stack, account: Account) -> None:
    headers = named("json", thinking=200, tag=account.tenant.slug)
    ask = {**ASK, "thinking": {"type": "adaptive"}, "max_tokens": 4000}
    first, second = (post(pair, account, ask, worker=worker, headers=headers) for worker in (0, 1))
    assert second.content == first.content
    assert "exchequer-replayed" not in first.headers
    assert second.headers["exchequer-replayed"] == "true"
    assert second.headers["exchequer-cost-usd"] == "0.00"
    assert second.headers["request-id"] == first.headers["request-id"]
    assert second.headers["exchequer-model"] == first.headers["exchequer-model"]
    assert second.headers["exchequer-call-id"] != first.headers["exchequer-call-id"]
    assert first.headers["exchequer-call-id"] in second.headers["exchequer-decision"]
    calls = account.wait_for_calls(2)
    assert [(call.outcome, call.reason) for call in calls] == [("served", "served"), ("served", "replayed")]
    assert (calls[1].cost_nanos, calls[1].attempts) == (0, 0)
    assert account.period().spent_nanos == calls[0].cost_nanos


def test_a_stream_replay_is_byte_identical_through_the_sdk(pair: Stack, account: Account) -> None:
    """Thinking signatures, pings and unknown events included."""
    fields = {"thinking": 50, "unknown_events": True, "deltas": 7, "tag": account.tenant.slug}
    headers = {**named("stream"), **script(**fields)}
    raw, messages = [], []
    for worker in (0, 1):
        client = account.client(pair, worker, default_headers=headers)
        with client.messages.stream(
            model=MODEL, max_tokens=4000, messages=HELLO, thinking={"type": "adaptive"}
        ) as stream:
            messages.append(stream.get_final_message())
        ask = {**ASK, "stream": True}
        raw.append(post(pair, account, ask, worker=worker, headers={**headers, "idempotency-key": "raw"}))
    assert messages[0] == messages[1]
    assert raw[0].content == raw[1].content
    assert raw[1].headers["content-type"] == raw[0].headers["content-type"]
    assert raw[1].headers["exchequer-replayed"] == "true"
    assert len(pair.bill(account.tenant.slug)) == 2


def test_another_request_under_the_same_key_is_a_422(stack: Stack, account: Account) -> None:
    post(stack, account, headers=named("k"))
    other_body = {**ASK, "max_tokens": 63}
    others = [
        post(stack, account, other_body, headers=named("k")),
        post(stack, account, headers={**named("k"), "anthropic-version": "2026-10-21"}),
        post(stack, account, headers=named("k"), path="/v1/messages?beta=true"),
    ]
    for response in others:
        assert_refused(response, 422, "invalid_request_error", "different request", "new key")
    account.wait_for_calls(4)
    assert len(account.entries()) == 1


def test_a_reply_that_is_gone_is_said_to_be_gone_and_never_called_again(
    stack: Stack, account: Account
) -> None:
    headers = named("k", tag=account.tenant.slug)
    post(stack, account, headers=headers)
    account.wait_for_calls(1)
    (name,) = kept_names(account)
    redis.from_url(settings.REDIS_URL).delete(name)
    response = post(stack, account, headers=headers)
    assert_refused(response, 409, "conflict_error", "was charged", "no longer kept", "new Idempotency-Key")
    assert response.headers["x-should-retry"] == "false"
    assert len(stack.bill(account.tenant.slug)) == 1


def test_two_tenants_with_the_same_key_do_not_meet(stack: Stack, account: Account) -> None:
    other = make_tenant()
    replies = [post(stack, who, headers=named("same")) for who in (account, other)]
    assert [reply.status_code for reply in replies] == [200, 200]
    assert all("exchequer-replayed" not in reply.headers for reply in replies)
    for who in (account, other):
        (call,) = who.wait_for_calls(1)
        assert (call.reason, len(who.entries())) == ("served", 1)


def test_a_call_that_cost_nothing_gives_its_key_back(stack: Stack, account: Account) -> None:
    tag = account.tenant.slug
    error = {"type": "overloaded_error", "times": 1}
    headers = named("k", id=tag, tag=tag, error=error)
    assert post(stack, account, headers=headers).status_code == 529
    assert post(stack, account, headers=headers).status_code == 200
    account.wait_for_calls(2)
    assert [entry.kind for entry in account.entries()] == ["void", "charge"]


def test_a_refused_call_gives_its_key_back(stack: Stack) -> None:
    poor = make_tenant("0.0000001")
    for _ in range(2):
        assert post(stack, poor, headers=named("k")).status_code == 429


@pytest.mark.parametrize("bad", ["", "x" * 256, "two words", "é".encode(), "tab\there"])
def test_a_bad_key_is_a_400_with_a_sentence(stack: Stack, account: Account, bad: str | bytes) -> None:
    headers: dict[str, Any] = {"idempotency-key": bad}
    assert_refused(post(stack, account, headers=headers), 400, "invalid_request_error", "Idempotency-Key")
    assert not account.entries()


def test_two_keys_on_one_request_are_a_400(stack: Stack, account: Account) -> None:
    headers = [("x-api-key", account.key), ("content-type", "application/json")]
    headers += [("idempotency-key", "a"), ("idempotency-key", "a")]
    response = httpx2.post(stack.url + "/v1/messages", json=ASK, headers=headers)
    assert_refused(response, 400, "invalid_request_error", "Idempotency-Key")


def test_the_key_stays_with_us(stack: Stack, account: Account) -> None:
    reply = post(stack, account, headers=named("k", echo=True))
    assert "idempotency" not in reply.text.lower()


def test_a_client_that_left_its_stream_finds_the_reply_when_it_comes_back(
    stack: Stack, account: Account
) -> None:
    """cases C2: with a key, upstream is drained and charged exactly; without one it is closed."""
    tag = account.tenant.slug
    ask = {**ASK, "stream": True}
    headers = named("k", tag=tag, deltas=20, chunk_delay_ms=30)
    with (
        httpx2.Client() as client,
        client.stream(
            "POST",
            stack.url + "/v1/messages",
            content=json.dumps(ask).encode(),
            headers={**JSON, "x-api-key": account.key, **headers},
        ) as leaving,
    ):
        start = next(leaving.iter_raw())
    account.wait_for_calls(1)
    assert account.entries()[0].basis == "exact"
    replay = post(stack, account, ask, headers=headers)
    assert replay.headers["exchequer-replayed"] == "true"
    assert replay.content.startswith(start)
    assert replay.content.endswith(b'{"type":"message_stop"}\n\n')
    assert len(stack.bill(tag)) == 1


def test_a_reply_over_the_limit_is_not_kept(account: Account) -> None:
    with start_stack(env={"EXCHEQUER_KEPT_REPLY_BYTES_MAX": "300"}) as stack:
        for stream in (False, True):
            headers = named(f"k{stream}")
            assert post(stack, account, {**ASK, "stream": stream}, headers=headers).status_code == 200
            account.wait_for_calls(2 * stream + 1)
            response = post(stack, account, {**ASK, "stream": stream}, headers=headers)
            assert_refused(response, 409, "conflict_error", "no longer kept")
    assert not kept_names(account)


# --- Valkey in trouble: trust.md faults 19–22 -----------------------------------------------------


def planted(account: Account, value: bytes | list[bytes]) -> None:
    valkey = redis.from_url(settings.REDIS_URL)
    (name,) = kept_names(account)
    valkey.delete(name)
    if isinstance(value, list):
        valkey.rpush(name, *value)
    else:
        valkey.set(name, value)


def test_a_poisoned_reply_is_never_served(stack: Stack, account: Account) -> None:
    other = make_tenant()
    for who in (account, other):
        post(stack, who, headers=named("same", text=f"for {who.tenant.slug}"))
        who.wait_for_calls(1)
    (theirs,) = kept_names(other)
    valkey = redis.from_url(settings.REDIS_URL)
    foreign = valkey.get(theirs)
    (mine,) = kept_names(account)
    own = valkey.get(mine)
    assert isinstance(foreign, bytes)
    assert isinstance(own, bytes)
    flipped = own[:-1] + bytes([own[-1] ^ 1])
    key_id = own.partition(b":")[0]
    for value in (foreign, b"junk", b"", flipped, own[:10], key_id + b":", [b"a", b"list"]):
        planted(account, value)
        response = post(stack, account, headers=named("same", text=f"for {account.tenant.slug}"))
        assert_refused(response, 409, "conflict_error", "no longer kept")
        assert other.tenant.slug not in response.text
    planted(account, own)
    again = post(stack, account, headers=named("same", text=f"for {account.tenant.slug}"))
    assert again.headers["exchequer-replayed"] == "true"


def test_nothing_of_a_kept_reply_can_be_read_in_valkey(stack: Stack, account: Account) -> None:
    post(stack, account, headers=named("my-own-key", text="a planted sentence"))
    account.wait_for_calls(1)
    (name,) = kept_names(account)
    valkey = redis.from_url(settings.REDIS_URL)
    value = valkey.get(name)
    assert isinstance(value, bytes)
    assert not any(word in value for word in (b"planted", b"my-own-key", b"claude", account.key.encode()))
    assert 86_000 < valkey.ttl(name) <= 86_400


def test_without_valkey_calls_go_on_and_repetitions_are_refused(account: Account) -> None:
    with start_stack(env={"REDIS_URL": "redis://127.0.0.1:1/0"}) as stack:
        for stream in (False, True):
            tag = f"{account.tenant.slug}{stream}"
            headers = named(tag, tag=tag)
            ask = {**ASK, "stream": stream}
            assert post_once(stack, account, ask, headers=headers).status_code == 200
            account.wait_for_calls(2 * stream + 1)
            assert_refused(post_once(stack, account, ask, headers=headers), 409, "conflict_error", "charged")
            assert len(stack.bill(tag)) == 1
    assert [entry.basis for entry in account.entries()] == ["exact", "exact"]


def test_a_valkey_that_does_not_answer_delays_nobody(account: Account) -> None:
    """It takes connections and says nothing, as a stopped one does."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        with start_stack(env={"REDIS_URL": url}) as stack:
            assert post_once(stack, account, headers=named("k")).status_code == 200
            assert account.holds()  # the reply came while it was still being tried to keep it
            account.wait_for_calls(1)
            waited_seconds = []
            for _ in range(3):
                began = time.monotonic()
                assert_refused(
                    post_once(stack, account, headers=named("k")), 409, "conflict_error", "at the moment"
                )
                waited_seconds.append(time.monotonic() - began)
    assert 0.05 <= min(waited_seconds) < 0.5  # 50 ms, and a busy machine


def test_a_claim_whose_worker_was_killed_is_resolved_with_its_hold(account: Account) -> None:
    leases = {"EXCHEQUER_LEASE_HEARTBEAT_SECONDS": "0.2", "EXCHEQUER_LEASE_STALE_SECONDS": "1.5"}
    tag = account.tenant.slug
    headers = named("k", tag=tag, latency_ms=60_000)
    with start_stack(workers=2, env=leases) as stack:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            lost = pool.submit(post, stack, account, headers=headers, seconds=30)
            wait_until(lambda: bool(stack.bill(tag)), 10)
            stack.workers[0].kill()
            with pytest.raises(httpx2.HTTPError):
                lost.result()
        response = post(stack, account, worker=1, headers=headers)
        assert_refused(response, 409, "conflict_error", "in flight")
        wait_until(lambda: not account.holds(), 30)
        response = post(stack, account, worker=1, headers=headers)
        assert_refused(response, 409, "conflict_error", "was charged", "no longer kept")
        assert len(stack.bill(tag)) == 1
    (entry,) = account.entries()
    assert entry.basis == "full_hold"


def test_a_key_is_shared_by_the_rotations_of_an_api_key(stack: Stack, account: Account) -> None:
    from tenants.keys import rotate_key
    from tenants.scope import platform_scope

    first = post(stack, account, headers=named("k"))
    with platform_scope():
        account.issued = rotate_key(account.issued.key, 0)
    second = post(stack, account, headers=named("k"))
    assert (second.content, second.headers["exchequer-replayed"]) == (first.content, "true")


def test_the_sdk_does_not_retry_what_is_gone(stack: Stack, account: Account) -> None:
    client = account.client(stack, default_headers=named("k"), max_retries=3)
    client.messages.create(model=MODEL, max_tokens=64, messages=HELLO)
    account.wait_for_calls(1)
    (name,) = kept_names(account)
    redis.from_url(settings.REDIS_URL).delete(name)
    with pytest.raises(anthropic.ConflictError, match="no longer kept"):
        client.messages.create(model=MODEL, max_tokens=64, messages=HELLO)
    assert len(account.wait_for_calls(2)) == 2
