"""Who makes the call for all that ask the same, by the lease in Valkey."""

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from django.conf import settings

from governance.gateway.flights import DECLINED_SECONDS, LEASE_SECONDS, Ended, Flight, Flights
from governance.gateway.lookups import Lookups
from governance.response_cache.entries import Names
from governance.valkey.link import Link
from tests.chaos_proxy import ChaosProxy


@dataclass
class Worker:
    """One process's flights, and a way to look at Valkey."""

    link: Link
    flights: Flights
    names: Names
    digest: bytes

    async def leads(self) -> tuple[bool, Flight]:
        flight = self.flights.begin(self.digest, None)
        flight.followers = 1
        return await self.flights.leads(flight, asyncio.get_running_loop().time() + 1), flight

    async def lasts_ms(self) -> int:
        return int(await self.link.ask("PTTL", self.names.lease(self.digest)))


@pytest.fixture
def worker() -> Iterator[Worker]:
    link, names = Link(settings.REDIS_URL), Names()
    lookups = Lookups(link, lambda what: None)
    yield Worker(link, Flights(link, link, lookups, names), names, secrets.token_bytes(16))
    lookups.stop()


@pytest.mark.parametrize(
    ("holder", "expiry"),
    [
        ("another worker", ()),
        ("another worker", ("PX", int(LEASE_SECONDS * 1000) + 60_000)),
        ("-", ()),
        ("-", ("PX", int(DECLINED_SECONDS * 1000) + 60_000)),
    ],
)
async def test_nobody_waits_for_a_lease_that_none_of_us_has_written(
    worker: Worker, holder: str, expiry: tuple[str | int, ...]
) -> None:
    """Ours end within seconds; a planted one would keep followers waiting for a minute, each time."""
    await worker.link.ask("SET", worker.names.lease(worker.digest), holder, *expiry)
    leads, flight = await worker.leads()
    assert leads
    assert not flight.done.done(), "others may follow"
    assert 0 < await worker.lasts_ms() <= LEASE_SECONDS * 1000
    worker.flights.end(flight, Ended.FAILED)
    assert await worker.lasts_ms() == -2, "the lease went with its flight"
    worker.link.close()


async def test_a_lease_of_another_worker_is_waited_for(worker: Worker) -> None:
    await worker.link.ask("SET", worker.names.lease(worker.digest), "another worker", "PX", 4_000)
    leads, flight = await worker.leads()
    assert not leads
    await worker.link.ask("DEL", worker.names.lease(worker.digest))
    assert await asyncio.wait_for(flight.done, 2) is Ended.FAILED
    worker.link.close()


async def test_a_lease_that_came_too_late_to_be_waited_for_goes_with_its_flight(worker: Worker) -> None:
    """Else whoever asks the same within five seconds would wait for nobody."""
    proxy = ChaosProxy(settings.REDIS_URL)
    await proxy.start()
    slow = Link(proxy.url)
    await slow.ask("PING")
    proxy.to_client.latency_seconds = 0.02
    flights = Flights(slow, slow, Lookups(slow, lambda what: None), worker.names)
    for ends_first in (True, False):
        flight = flights.begin(worker.digest, None)
        assert await flights.leads(flight, asyncio.get_running_loop().time() + 0.005)
        assert not flight.leased
        assert 0 < await worker.lasts_ms() <= LEASE_SECONDS * 1000
        if ends_first:
            flights.end(flight, Ended.FAILED)
        await asyncio.sleep(0.1)
        if not ends_first:
            assert flight.leased
            flights.end(flight, Ended.FAILED)
            await asyncio.sleep(0.1)
        assert await worker.lasts_ms() == -2
    slow.close()
    await proxy.stop()
    proxy.cut_all()
    worker.link.close()
