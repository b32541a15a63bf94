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

from governance.gateway.conversations import Conversations
from governance.gateway.lookups import NO_ANSWER, Lookups
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
        assert await conversations.model(b"first") is None
        assert monotonic() - began > 0.045, "there is something to wait for"
        assert lookups.away
        for _ in range(3):
            assert at_once(conversations.model(b"second")) is None
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
