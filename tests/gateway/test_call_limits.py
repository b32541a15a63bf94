"""Limits on calls at the gateway: what is refused, what the headers say, and that nothing stays taken."""

import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import anthropic
import pytest

from governance.desk.models import WorkerLease
from governance.limits.limits import set_limit
from tenants.scope import platform_scope
from tests.gateway.asking import ASK, assert_refused, post, script
from tests.harness import Account, Stack, free_listener, make_tenant, start_stack, wait_until

RATE = "anthropic-ratelimit-requests-"


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Stack]:
    with start_stack(workers=2) as running:
        yield running


def limited(limit_usd: str = "100", *, model: str = "", **measures: int) -> Account:
    """A tenant whose one key has this limit, before any worker knows the key."""
    account = make_tenant(limit_usd)
    with platform_scope():
        set_limit(account.tenant, measures, scope="key", ref=str(account.issued.key.pk), model=model)
    return account


def test_the_limit_is_one_for_all_workers_and_the_headers_count_it_down(two_workers: Stack) -> None:
    """cases A8: replicas share one counter."""
    account = limited(requests_per_minute=4)
    replies = [post(two_workers, account, worker=number % 2) for number in range(4)]
    assert [reply.status_code for reply in replies] == [200] * 4
    assert [reply.headers[f"{RATE}remaining"] for reply in replies] == ["3", "2", "1", "0"]
    assert replies[0].headers[f"{RATE}limit"] == "4"
    reset = datetime.fromisoformat(replies[3].headers[f"{RATE}reset"])
    assert 40 < (reset - datetime.now(UTC)).total_seconds() <= 61
    for worker in range(2):
        refused = post(two_workers, account, worker=worker)
        assert_refused(refused, 429, "rate_limit_error", "4 requests a minute", "Try again in")
        seconds = int(refused.headers["retry-after"])
        assert 1 <= seconds <= 15
        assert f"in {seconds} s" in refused.json()["error"]["message"]
        assert (seconds - 1) * 1000 <= int(refused.headers["retry-after-ms"]) <= seconds * 1000
        assert refused.headers["x-should-retry"] == "true"
        assert refused.headers[f"{RATE}remaining"] == "0"
    calls = account.wait_for_calls(6)
    assert sorted(call.reason for call in calls) == ["rate_limited"] * 2 + ["served"] * 4
    assert account.period().held_nanos == 0


def test_the_sdk_waits_as_long_as_it_is_told_and_is_served(stack: Stack) -> None:
    account = limited(requests_per_minute=12)
    client = account.client(stack, max_retries=2)
    wait_until(lambda: post(stack, account).status_code == 429, 15)
    with pytest.raises(anthropic.RateLimitError):
        account.client(stack).messages.create(**ASK)
    began = time.monotonic()
    assert client.messages.create(**ASK).content
    assert time.monotonic() - began < 10


def test_calls_at_once_are_limited_and_every_end_of_a_call_gives_its_place_back(stack: Stack) -> None:
    account = limited("0.01", concurrent_calls=1)
    slow = threading.Thread(target=post, args=(stack, account), kwargs={"headers": script(latency_ms=1500)})
    slow.start()
    wait_until(lambda: bool(account.holds()), 5)
    assert_refused(post(stack, account), 429, "rate_limit_error", "1 calls at once")
    slow.join()
    ends: list[tuple[Any, dict[str, str], int]] = [
        (None, {}, 200),
        ({**ASK, "max_tokens": 64_000}, {}, 429),  # no money for it
        (None, script(error={"type": "overloaded_error"}), 529),
        ({**ASK, "stream": True}, {}, 200),
        (None, {}, 200),
    ]
    for body, headers, status in ends:
        time.sleep(0.2)  # a place is given back when the call is settled, which no reply waits for
        response = post(stack, account, body, headers=headers)
        assert response.status_code == status, response.text
        assert response.headers["exchequer-decision"] != "too_many_at_once"


def test_open_streams_are_limited_apart_from_other_calls(stack: Stack) -> None:
    account = limited(open_streams=1)
    stream = {**ASK, "stream": True}
    slow = threading.Thread(
        target=post, args=(stack, account, stream), kwargs={"headers": script(deltas=10, chunk_delay_ms=150)}
    )
    slow.start()
    wait_until(lambda: bool(account.holds()), 5)
    assert_refused(post(stack, account, stream), 429, "rate_limit_error", "1 open streams at once")
    assert post(stack, account).status_code == 200
    slow.join()
    time.sleep(0.2)
    assert post(stack, account, stream).status_code == 200


def test_output_tokens_count_as_they_were_used_and_cached_input_does_not(stack: Stack) -> None:
    """Three times an estimate of 3,000 does not fit into 4,000; what was used of it does."""
    account = limited(output_tokens_per_minute=1_000, input_tokens_per_minute=4_000)
    large = {**ASK, "system": "word " * 2_400}
    cached = {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 2_500}
    for number in range(3):
        reply = post(stack, account, large, headers=script(usage=cached))
        assert reply.status_code == 200, reply.text
        account.wait_for_calls(number + 1)
        time.sleep(0.2)
    much = {"input_tokens": 10, "output_tokens": 1_400}
    asked = {**ASK, "max_tokens": 2_000}
    reply = post(stack, account, asked, headers=script(usage=much))
    assert reply.status_code == 200
    assert 900 <= int(reply.headers["anthropic-ratelimit-output-tokens-remaining"]) <= 1_000
    assert 3_800 <= int(reply.headers["anthropic-ratelimit-input-tokens-remaining"]) <= 4_000
    time.sleep(0.3)
    refused = post(stack, account)
    assert_refused(refused, 429, "rate_limit_error", "1,000 output tokens a minute")
    assert 15 <= int(refused.headers["retry-after"]) <= 30
    assert refused.headers["anthropic-ratelimit-output-tokens-remaining"] == "0"


def test_a_limit_on_one_model_counts_that_model_alone(stack: Stack) -> None:
    account = limited(model="claude-haiku-5-5", requests_per_minute=1)
    haiku = {**ASK, "model": "claude-haiku-5-5"}
    assert post(stack, account, haiku).status_code == 200
    assert_refused(post(stack, account, haiku), 429, "rate_limit_error", "of claude-haiku-5-5")
    sonnet = post(stack, account)
    assert sonnet.status_code == 200
    assert f"{RATE}limit" not in sonnet.headers


def test_a_limit_is_in_force_within_a_second_and_so_is_its_end(stack: Stack, account: Account) -> None:
    assert post(stack, account).status_code == 200
    ref = str(account.issued.key.pk)
    with platform_scope():
        row = set_limit(account.tenant, {"requests_per_minute": 1}, scope="key", ref=ref)
    wait_until(lambda: post(stack, account).status_code == 429, 1.5)
    with platform_scope():
        row.delete()
    wait_until(lambda: post(stack, account).status_code == 200, 1)


def test_without_valkey_calls_go_on_within_each_workers_share_and_health_says_so() -> None:
    """cases A5: the degraded mode is on /readyz and in the metrics; the limit is not multiplied."""
    listener = free_listener()  # nobody listens
    nowhere = {"REDIS_URL": f"redis://127.0.0.1:{listener.getsockname()[1]}/0"}
    free, account = make_tenant(), limited(requests_per_minute=60)
    with start_stack(workers=2, env=nowhere) as stack:
        assert post(stack, free).status_code == 200
        assert '"notes":[]' in stack.workers[0].get("/readyz")[1]  # a worker without limits asks for nothing
        assert post(stack, account).status_code == post(stack, account, worker=1).status_code == 200
        time.sleep(0.5)
        for worker in range(2):
            status, body = stack.workers[worker].get("/readyz")
            assert status == 200
            assert "Valkey does not answer" in body
        workers = {WorkerLease.objects.filter(swept_at=None).count()}  # other tests' come and go too
        time.sleep(1)
        statuses: list[int] = []
        for call in range(120):
            workers.add(WorkerLease.objects.filter(swept_at=None).count())
            statuses.append(post(stack, account, worker=call // 60).status_code)
        least, most = 60 / max(workers), 60 / min(workers)
        assert least - 1 <= statuses[:60].count(200) + 1 <= most + 8  # and what refills meanwhile
        assert least - 1 <= statuses[60:].count(200) + 1 <= most + 8
        metrics = stack.workers[0].get("/metrics")[1]
        assert re.search(r"exchequer_call_limits_alone(\{[^}]*\})? 1\.0", metrics)
    listener.close()
