"""A Valkey that does not answer in time: one call waits for it, whatever is looked up, and then nobody does
until it answers again."""

import asyncio
import secrets
import socket
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from time import monotonic
from typing import Any

import pytest
from django.conf import settings

from governance.gateway.conversations import Conversation, Conversations
from governance.gateway.lookups import NO_ANSWER, Lookups, begin_call, seconds_left
from governance.gateway.summaries import Summaries
from governance.valkey.link import Link
from tests.chaos_proxy import ChaosProxy


@pytest.fixture
async def proxy() -> AsyncIterator[ChaosProxy]:
    made = ChaosProxy(settings.REDIS_URL)
    await made.start()
    yield made
    await made.stop()
    made.cut_all()
    await asyncio.sleep(0)


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What it returns without waiting for anything."""
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    return ended.value.value


async def test_after_one_time_out_nothing_that_is_looked_up_is_waited_for() -> None:
    counts: Counter[str] = Counter()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        link = Link(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        lookups = Lookups(link, lambda what: counts.update((what,)))
        conversations, summaries = Conversations(link, lookups), Summaries(link, lookups)
        began = monotonic()
        assert await conversations.model(Conversation((b"first",), b"second")) is None
        assert monotonic() - began > 0.045, "there is something to wait for"
        assert lookups.away
        for _ in range(3):
            assert at_once(conversations.model(Conversation((b"second",), b"third"))) is None
            assert at_once(summaries.find(b"third")) is None
            assert at_once(summaries.keep(secrets.token_bytes(16), "Ducks.")) == "Ducks."
            assert lookups.get("fourth").done()
            await asyncio.sleep(0.05)  # and probes that are not answered make no difference
        assert counts == {"away": 3}, "a conversation is nothing of the response cache's"
        lookups.stop()
        link.close()


async def test_who_waits_to_be_asked_for_when_it_goes_away_waits_no_longer(proxy: ChaosProxy) -> None:
    link = Link(proxy.url)
    lookups = Lookups(link, lambda what: None)
    assert await lookups.get("warm") is None
    proxy.to_client.latency_seconds = 10.0
    flying = lookups.get("one")
    await asyncio.sleep(0.03)
    gathering = lookups.get("another")
    assert await flying == NO_ANSWER
    await asyncio.sleep(0)
    assert gathering.done(), "it would have waited another 30 ms"
    lookups.stop()
    link.close()


async def test_it_is_back_once_a_probe_is_answered_in_time_and_not_when_one_comes_late(
    proxy: ChaosProxy,
) -> None:
    link = Link(proxy.url)
    lookups = Lookups(link, lambda what: None)
    name = f"test:{secrets.token_hex(8)}"
    await link.ask("SET", name, "kept", "EX", 60)
    proxy.to_client.latency_seconds = 0.15
    assert await lookups.get(name) == NO_ANSWER
    await asyncio.sleep(0.6)  # a few probes, each answered 150 ms late
    assert lookups.away
    proxy.to_client.latency_seconds = 0.0
    async with asyncio.timeout(5):
        while lookups.away:
            await asyncio.sleep(0.01)
    assert await lookups.get(name) == b"kept"
    lookups.stop()
    link.close()


async def test_a_call_waits_for_all_its_look_ups_no_longer_than_for_one(proxy: ChaosProxy) -> None:
    counts: Counter[str] = Counter()
    link = Link(proxy.url)
    lookups = Lookups(link, lambda what: counts.update((what,)))
    assert await lookups.get("warm") is None
    proxy.to_client.latency_seconds = 0.03

    async def call() -> tuple[list[bytes | None], float]:
        begin_call()
        began = monotonic()
        found = [await lookups.get(name) for name in ("one", "another", "a third")]
        return found, monotonic() - began

    for _ in range(2):  # and the next call has all its time again
        found, seconds = await asyncio.create_task(call())
        assert found == [None, NO_ANSWER, NO_ANSWER]
        assert 0.045 < seconds < 0.085
    assert counts == {"late": 4}
    assert not lookups.away, "it answers in time, whoever asks for one thing only"
    await asyncio.sleep(0.1)
    assert await lookups.get("nobody's call") is None
    lookups.stop()
    link.close()


async def test_what_a_call_looks_up_at_the_same_time_is_waited_for_once(proxy: ChaosProxy) -> None:
    link = Link(proxy.url)
    lookups = Lookups(link, lambda what: None)
    assert await lookups.get("warm") is None
    proxy.to_client.latency_seconds = 0.02

    async def call() -> float:
        begin_call()
        assert await asyncio.gather(*map(lookups.get, ("one", "another", "a third"))) == [None] * 3
        return seconds_left()

    assert 0.0 < await asyncio.create_task(call()) < 0.031
    assert seconds_left() == 0.05, "what is nobody's call has all the time"
    lookups.stop()
    link.close()
