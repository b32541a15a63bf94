"""One upstream call for identical requests in flight: who leads, and what became of it.

In one process the leader is known by its Flight. Across processes a lease in Valkey says that somebody leads;
it is renewed while the leader lives, so whoever waits for a dead one goes on within LEASE_SECONDS. Without
Valkey each process has its own leader. Nothing here may be needed: who is in doubt makes the call.
"""

import asyncio
import secrets
from contextvars import Context
from enum import Enum
from functools import partial
from typing import Any

from governance.gateway.lookups import NO_ANSWER, Lookups
from governance.response_cache.entries import Entry, Names
from governance.valkey.link import Link, Part, ValkeyError, ignored

LEASE_SECONDS = 5.0
DECLINED_SECONDS = 60.0
"""So long a request whose answer could not be kept is made without waiting for others like it."""
POLL_SECONDS_MIN, POLL_SECONDS_MAX = 0.02, 0.25
WATCH_SECONDS_MAX = 600.0
_DECLINED = b"-"
_WITHOUT_EXPIRY = -1


class Ended(Enum):
    """How a flight ended without an answer for others."""

    KEPT = "another process has kept the answer"
    DECLINED = "the answer cannot be kept"
    FAILED = "there was no answer"


class Flight:
    """One request that is on its way, or being waited for. `done`: its entry, or how it ended."""

    __slots__ = ("digest", "done", "followers", "leased", "renewal", "seen", "watcher")

    def __init__(self, digest: bytes, seen: bytes | None) -> None:
        self.digest = digest
        self.seen = seen
        """What was there before, and was of no use."""
        self.done: asyncio.Future[Entry | Ended] = asyncio.get_running_loop().create_future()
        self.followers = 0
        self.leased = False
        self.renewal: asyncio.TimerHandle | None = None
        self.watcher: asyncio.Task[None] | None = None


class Flights:
    """The flights of this process."""

    def __init__(self, link: Link, writing: Link, lookups: Lookups, names: Names) -> None:
        self._link = link
        self._writing = writing
        self._lookups = lookups
        self._names = names
        self._token = secrets.token_hex(8)
        self._flights: dict[bytes, Flight] = {}

    def current(self, digest: bytes) -> Flight | None:
        return self._flights.get(digest)

    def begin(self, digest: bytes, seen: bytes | None) -> Flight:
        flight = self._flights[digest] = Flight(digest, seen)
        return flight

    def end(self, flight: Flight, outcome: Entry | Ended, *first: tuple[Part, ...]) -> None:
        """Tell everybody who follows. `first`: commands that other processes are to see carried out before
        the lease goes."""
        if flight.done.done():
            return
        flight.done.set_result(outcome)
        if self._flights.get(flight.digest) is flight:
            del self._flights[flight.digest]
        if flight.renewal is not None:
            flight.renewal.cancel()
        if flight.watcher is not None:
            flight.watcher.cancel()
        commands = list(first)
        if flight.leased:
            name = self._names.lease(flight.digest)
            if outcome is Ended.DECLINED:
                commands.append(("SET", name, _DECLINED, "PX", int(DECLINED_SECONDS * 1000)))
            else:
                commands.append(("DEL", name))
        self.tell(*commands)

    def tell(self, *commands: tuple[Part, ...]) -> None:
        """Have commands carried out if they can be; nobody waits for them."""
        self._writing.tell(*commands)

    async def leads(self, flight: Flight, until: float) -> bool:
        """Whether this process is to make the call; False: another one does, or has. `flight` is ended where
        such a request is not worth waiting for. `until`: of the event loop's time; no answer by then is a
        yes."""
        if self._lookups.away or until <= asyncio.get_running_loop().time():
            return True
        name = self._names.lease(flight.digest)
        asked = self._link.ask_all(
            [
                ("SET", name, self._token, "NX", "PX", int(LEASE_SECONDS * 1000)),
                ("GET", name),
                ("PTTL", name),
                ("GET", self._names.entry(flight.digest)),
            ]
        )
        await self._lookups.in_time(asked, until)
        try:
            taken, holder, lasts_ms, value = [reply.result() for reply in asked]
        except (ValkeyError, asyncio.InvalidStateError):
            asked[0].add_done_callback(partial(self._leased_late, flight))
            return True
        finally:
            for reply in asked[1:]:
                ignored(reply) if reply.done() else reply.cancel()
        if taken is None and not _is_ours(holder, lasts_ms):
            self._renew(flight)  # else all who ask the same would wait for nobody
            flight.leased = True
            return True
        if taken is not None:
            flight.leased = True
            if value is not None and value != flight.seen:  # it came between the look-up and the lease
                self.end(flight, Ended.KEPT)
                return False
            self._renew_later(flight)
            return True
        if holder == _DECLINED:
            self.end(flight, Ended.DECLINED)
            return True
        flight.watcher = asyncio.create_task(self._watch(flight), context=Context())  # for several calls
        return False

    def _leased_late(self, flight: Flight, taken: "asyncio.Future[Any]") -> None:
        """Nobody has waited for the lease, and there it is: it lasts as long as the call."""
        if taken.cancelled() or taken.exception() is not None or taken.result() is None:
            return
        if flight.done.done():
            self.tell(("DEL", self._names.lease(flight.digest)))
        else:
            flight.leased = True
            self._renew_later(flight)

    def _renew_later(self, flight: Flight) -> None:
        loop = asyncio.get_running_loop()
        flight.renewal = loop.call_later(LEASE_SECONDS / 3, self._renew, flight)

    def _renew(self, flight: Flight) -> None:
        self.tell(("SET", self._names.lease(flight.digest), self._token, "PX", int(LEASE_SECONDS * 1000)))
        self._renew_later(flight)

    async def _watch(self, flight: Flight) -> None:
        """Until the leader, which is another process, has kept its answer, gave up, or died."""
        loop = asyncio.get_running_loop()
        until, seconds = loop.time() + WATCH_SECONDS_MAX, POLL_SECONDS_MIN
        entry_name, lease_name = self._names.entry(flight.digest), self._names.lease(flight.digest)
        outcome, silent_seconds = Ended.FAILED, 0.0
        while flight.followers and loop.time() < until:
            await asyncio.sleep(seconds)
            seconds = min(seconds * 1.5, POLL_SECONDS_MAX)
            # Asked for together, so read at one moment: the lease goes after the entry has come.
            asked = self._lookups.get(entry_name), self._lookups.get(lease_name)
            value, holder = await asked[0], await asked[1]
            if NO_ANSWER in (value, holder):  # nobody can tell just now who leads
                silent_seconds += seconds
                if silent_seconds > LEASE_SECONDS:
                    break
                continue
            silent_seconds = 0.0
            if value is not None and value != flight.seen:
                outcome = Ended.KEPT
                break
            if holder is None or holder == _DECLINED:
                outcome = Ended.DECLINED if holder == _DECLINED else Ended.FAILED
                break
        flight.watcher = None  # this very task, which need not be cancelled
        self.end(flight, outcome)


def _is_ours(holder: bytes | None, lasts_ms: int) -> bool:
    """Whether a lease that is there ends as soon as those that we write do."""
    seconds_max = DECLINED_SECONDS if holder == _DECLINED else LEASE_SECONDS
    return holder is None or (lasts_ms != _WITHOUT_EXPIRY and lasts_ms <= seconds_max * 1000)
