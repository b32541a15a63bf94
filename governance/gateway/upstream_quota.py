"""Upstream's own rate limits, shared fairly: when what a credential may still ask of a model runs short, its
calls take turns, interactive ones first, then tenant by tenant.

Upstream tells by its replies how much is left (`anthropic-ratelimit-*`), or that nothing is (429 with
`retry-after`). As long as there is plenty nobody is counted: `short` is empty, and a call asks no more. Each
worker keeps this by itself; what other workers use is in the figures of every reply.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING
from uuid import UUID

from governance.gateway.body import ClientLeft
from governance.gateway.errors import CallRefused, Refusal, retry_after
from governance.gateway.inbound import LATENCY_CLASSES
from governance.gateway.key_rules import changed_meanwhile
from governance.gateway.waiting import LOOK_SECONDS, seconds_left

if TYPE_CHECKING:
    from governance.gateway.charging import Promise
    from governance.gateway.exchange import Exchange
    from governance.upstream.connection import Reply

SHORT_PERCENT = 10
"""Of a limit: less than that is left, and calls begin to take turns."""
ACCEPTED_SECONDS = 1.0
"""A refusal for lack of quota comes at once; who has not heard by then is being answered."""
WINDOW_FIRST, WINDOW_WIDE = 1, 64
"""After a refusal so many calls at once try whether it goes on; each one accepted doubles that."""
TICK_SECONDS = 0.05
WAITERS_OF_TENANT_MAX = 1000
QUOTAS_MAX = 1000
"""Models are named by callers; upstream refuses unknown ones, but not for lack of quota."""
TOO_MANY_REQUESTS = 429

type Credential = int | None
type Key = tuple[Credential, str]
"""A credential's row (None: the operator's) and the model that is asked for."""

_REMAINING = "anthropic-ratelimit-requests-remaining"
_MEASURES = tuple(
    (f"anthropic-ratelimit-{name}-limit", f"anthropic-ratelimit-{name}-remaining")
    for name in ("requests", "input-tokens", "output-tokens")
)


@dataclass(slots=True)
class Level:
    """What is left of one limit a minute, as last heard; it fills up as time goes."""

    limit: int
    remaining: float
    heard_at: float

    def at(self, now: float) -> float:
        return min(self.limit, self.remaining + (now - self.heard_at) * self.limit / 60)


class Turn:
    """A call's place in the line of its tenant; `future` is done when it is its turn."""

    __slots__ = ("call_id", "future")

    def __init__(self, call_id: UUID) -> None:
        self.call_id = call_id
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Quota:
    """What one credential may still ask of one model, and who waits for it. `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._levels: dict[str, Level] = {}
        self._closed_until = 0.0
        self._window: int | None = None
        self._unanswered: dict[UUID, float] = {}
        # Class → tenants in the order of their turns → their calls in the order of arrival.
        self._lines: dict[str, dict[int, deque[Turn]]] = {name: {} for name in LATENCY_CLASSES}
        self._ticking = False

    @property
    def waiters(self) -> int:
        return sum(len(line) for lines in self._lines.values() for line in lines.values())

    @property
    def plenty(self) -> bool:
        """Nobody needs to take turns any more."""
        now = self._clock()
        return (
            now >= self._closed_until
            and (self._window is None or self._window > WINDOW_WIDE)
            and not any(self._lines.values())
            and not any(level.at(now) * 100 < level.limit * SHORT_PERCENT for level in self._levels.values())
        )

    def seconds_closed(self) -> float:
        """How long upstream said that nothing more would be answered."""
        return max(0.0, self._closed_until - self._clock())

    # --- what upstream says ------------------------------------------------------------------------
    def heard(self, call_id: UUID | None, status: int, headers: Mapping[str, str]) -> None:
        """The headers of a reply, to a call that had its turn or to another."""
        now = self._clock()
        for limit_name, remaining_name in _MEASURES:
            with suppress(KeyError, ValueError):
                limit, remaining = int(headers[limit_name]), float(int(headers[remaining_name]))
                before = self._levels.get(limit_name)
                if before is not None and before.limit == limit:  # replies overtake each other
                    remaining = min(remaining, before.at(now))
                self._levels[limit_name] = Level(max(limit, 1), max(remaining, 0.0), now)
        if status == TOO_MANY_REQUESTS:
            self._unanswered.pop(call_id, None) if call_id else None
            seconds = seconds_of(headers)
            if seconds is not None and says_short(status, headers):
                self._closed_until = max(self._closed_until, now + seconds)
                self._window = WINDOW_FIRST
        elif call_id is not None and self._unanswered.pop(call_id, None) is not None:
            self._accepted()
        self.let_through()

    def ended(self, call_id: UUID) -> None:
        """A call that had its turn has ended, heard of or not."""
        if self._unanswered.pop(call_id, None) is not None:
            self.let_through()

    def _accepted(self) -> None:
        if self._window is not None:
            self._window = min(self._window * 2, WINDOW_WIDE * 2)

    # --- who may go --------------------------------------------------------------------------------
    def enter(self, call_id: UUID, tenant_id: int, latency: str) -> Turn | None:
        """Its place in line; None where its tenant has too many there. The turn may have come already."""
        line = self._lines[latency].setdefault(tenant_id, deque())
        if len(line) >= WAITERS_OF_TENANT_MAX:
            return None
        turn = Turn(call_id)
        line.append(turn)
        self.let_through()
        return turn

    def leave(self, turn: Turn, tenant_id: int, latency: str) -> None:
        """Out of line, if it is still there."""
        line = self._lines[latency].get(tenant_id)
        if line is not None and turn in line:
            line.remove(turn)
            if not line:
                del self._lines[latency][tenant_id]

    def let_through(self) -> None:
        """Give turns as long as there is quota, and look again soon where somebody still waits."""
        now = self._clock()
        for call_id, sent_at in list(self._unanswered.items()):
            if now - sent_at >= ACCEPTED_SECONDS:
                del self._unanswered[call_id]
                self._accepted()
        while self._may_go(now) and (turn := self._next()) is not None:
            self._unanswered[turn.call_id] = now
            turn.future.set_result(None)
        if not self._ticking and any(self._lines.values()):
            self._ticking = True
            asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def _may_go(self, now: float) -> bool:
        out = len(self._unanswered)
        if now < self._closed_until or (self._window is not None and out >= self._window):
            return False
        requests, *tokens = (self._levels.get(limit_name) for limit_name, _ in _MEASURES)
        if requests is not None and requests.at(now) < out + 1:
            return False
        # How many tokens a call will count for is not known before: something must be left, no more.
        return all(level is None or level.at(now) >= 1 for level in tokens)

    def _next(self) -> Turn | None:
        """The next call: of the most urgent class, of the tenant whose turn it is."""
        for lines in self._lines.values():
            while lines:
                tenant_id, line = next(iter(lines.items()))
                del lines[tenant_id]  # its next turn comes after everybody else's
                turn = line.popleft()
                if line:
                    lines[tenant_id] = line
                if not turn.future.done():
                    return turn
        return None

    def _tick(self) -> None:
        self._ticking = False
        self.let_through()


class Quotas:
    """The quotas of a process that are short. `short` is empty as long as there is plenty of each."""

    def __init__(self) -> None:
        self.short: dict[Key, Quota] = {}

    @property
    def waiters(self) -> int:
        return sum(quota.waiters for quota in self.short.values())

    def heard(self, exchange: "Exchange", reply: "Reply") -> None:
        """Upstream answered a call. Plenty costs a look at six headers."""
        headers, status = reply.headers, reply.status
        key = _key(exchange) if self.short else None
        quota = self.short.get(key) if key is not None else None
        if quota is None:
            if not says_short(status, headers) or len(self.short) >= QUOTAS_MAX:
                return
            quota = self.short[key or _key(exchange)] = Quota()
        quota.heard(exchange.id, status, headers)

    async def wait(self, exchange: "Exchange") -> "Promise | None":
        """Until it is this call's turn. Its worst case anew, where settings changed meanwhile.

        CallRefused when its turn does not come in the time that its key lets it wait, or when it may not be
        made any more; ClientLeft.
        """
        key = _key(exchange)
        quota = self.short.get(key)
        if quota is None:
            return None
        if quota.plenty:
            del self.short[key]
            return None
        tenant_id, latency = exchange.key.tenant.id, exchange.inbound.latency
        seconds, began = seconds_left(exchange), monotonic()
        turn = (
            None if quota.seconds_closed() > max(seconds, 0) else quota.enter(exchange.id, tenant_id, latency)
        )
        if turn is None:
            raise CallRefused(_refusal(exchange, quota, 0))
        exchange.quota = quota
        if turn.future.done():
            return None
        try:
            return await _turn_of(exchange, turn, seconds)
        except TimeoutError:
            raise CallRefused(_refusal(exchange, quota, monotonic() - began)) from None
        except ClientLeft:
            exchange.gateway.record_departure(exchange)
            raise
        finally:
            quota.leave(turn, tenant_id, latency)
            exchange.decision["upstream_waited_ms"] = int((monotonic() - began) * 1000)


async def _turn_of(exchange: "Exchange", turn: Turn, seconds: float) -> "Promise | None":
    """TimeoutError when it does not come."""
    until = monotonic() + seconds
    promise = None
    leaving = asyncio.ensure_future(exchange.receive())
    try:
        while not turn.future.done():
            left = until - monotonic()
            if left <= 0:
                raise TimeoutError
            await asyncio.wait(
                (turn.future, leaving), timeout=min(left, LOOK_SECONDS), return_when=asyncio.FIRST_COMPLETED
            )
            if leaving.done():
                raise ClientLeft
            promise = await changed_meanwhile(exchange) or promise
        return promise
    finally:
        turn.future.cancel()
        leaving.cancel()


def _key(exchange: "Exchange") -> Key:
    return exchange.key.tenant.credential_id, exchange.request.model


def says_short(status: int, headers: Mapping[str, str]) -> bool:
    """Whether a reply says that little or nothing is left. A 429 whose own figures say plenty is about that
    call (a long context, fast mode), and one without `retry-after` about money: neither is everybody's."""
    if _REMAINING not in headers:
        return status == TOO_MANY_REQUESTS and seconds_of(headers) is not None
    try:
        for limit_name, remaining_name in _MEASURES:
            limit, remaining = headers.get(limit_name), headers.get(remaining_name)
            if limit and remaining and int(remaining) * 100 < int(limit) * SHORT_PERCENT:
                return True
    except ValueError:  # no figures that we know
        pass
    return False


def seconds_of(headers: Mapping[str, str]) -> float | None:
    """`retry-after` in seconds, where it is a sound number."""
    try:
        seconds = float(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return seconds if 0 <= seconds <= 24 * 3600 else None


def _refusal(exchange: "Exchange", quota: Quota, waited_seconds: float) -> Refusal:
    closed = quota.seconds_closed()
    seconds = max(1, ceil(closed))
    waited = f" It waited {waited_seconds:.1f} s for its turn." if waited_seconds >= 0.1 else ""
    return Refusal(
        TOO_MANY_REQUESTS,
        "rate_limit_error",
        "upstream_quota",
        f"The Claude API's own rate limit for {exchange.request.model[:100]} is used up, not a limit of "
        f"Exchequer: calls take turns, interactive ones first.{waited} Nothing was sent or charged. Try "
        f"again in {seconds} s.",
        retry_after(seconds),
    )
