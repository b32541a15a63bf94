"""Counting calls in Valkey: one script, one round trip for all that wait at the moment.

A rate is a bucket of one minute's worth that refills evenly, as the Claude API's own: so in any stretch of t
minutes at most limit × (t + 1) pass; the burst is one minute's worth. A bucket is one number, the moment at
which it is full again (GCRA). A count is a hash of workers; what a dead worker had counts until its sign of
life expires. Nothing here is money, so all of it may be lost.

Without Valkey each worker keeps an equal share of every limit by itself (`share.py`).
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from governance.limits.share import Answer, Share
from governance.limits.terms import Check
from governance.valkey.link import Link, Part

log = logging.getLogger(__name__)

PREFIX = "exchequer:limit:"
ROUND_TRIP_SECONDS_MAX = 0.25
"""Only a Valkey that hangs is found by this, once an outage. With 50 ms a busy machine takes a busy process
for an outage, and what its share then lets through comes on top of what was counted."""
CONNECT_SECONDS_MAX = 1.0
BATCH_MAX = 128
ALIVE_SECONDS = 15.0
PROBE_SECONDS = 1.0

DAY_MICROSECONDS = 86_400_000_000
# What somebody else wrote under our names is no figure: it is forgotten, and counting begins anew. No debt of
# ours lasts a day.
_FULL_AT = f"""
local function full_at(key, now)
  local kept = redis.pcall('GET', key)
  if type(kept) == 'table' then redis.call('DEL', key) return 0 end
  local at = tonumber(kept or '0')
  if at and at >= 0 and at < now + {DAY_MICROSECONDS} then return at end
  return 0
end
"""
TAKE = (
    _FULL_AT
    + """
-- KEYS: counters. ARGV: prefix, worker, then (kind, limit, amount) for each key.
-- → refused key's number or 0, then (left, µs until full, µs to wait) for each key. All or nothing.
local window = 60000000
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local answer, after, refused, longest = {0}, {}, 0, 0
for i, key in ipairs(KEYS) do
  local kind, limit, amount = ARGV[3 * i], tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2])
  local left, full, wait = 0, 0, 0
  if kind == 'rate' then
    local before = math.max(full_at(key, now), now)
    after[i] = before + math.ceil(amount * window / limit)
    wait = after[i] - now - window
    full = after[i] - now
    if wait > 0 then full = before - now end
    left = math.max(0, math.floor((window - full) * limit / window))
  else
    local busy = 0
    local fields = redis.pcall('HGETALL', key)
    if fields.err then redis.call('DEL', key) end
    for f = 1, #fields, 2 do
      local of_worker = tonumber(fields[f + 1])
      if of_worker and redis.call('EXISTS', ARGV[1] .. 'alive:' .. fields[f]) == 1 then
        busy = busy + of_worker
      else
        redis.call('HDEL', key, fields[f])
      end
    end
    if busy + amount > limit then wait = 1000000 end
    left = math.max(0, limit - busy - amount)
  end
  if wait > longest then refused, longest = i, wait end
  answer[3 * i - 1], answer[3 * i], answer[3 * i + 1] = left, full, wait
end
if refused > 0 then
  answer[1] = refused
  return answer
end
for i, key in ipairs(KEYS) do
  if after[i] then
    redis.call('SET', key, string.format('%.0f', after[i]), 'PX', math.ceil((after[i] - now) / 1000) + 1000)
  else
    redis.call('HINCRBY', key, ARGV[2], ARGV[3 * i + 2])
    redis.call('EXPIRE', key, 86400)
  end
end
return answer
"""
)
GIVE = (
    _FULL_AT
    + """
-- KEYS: counters. ARGV: worker, then (kind, limit, amount): what was used beyond what was taken, may be < 0;
-- of a count, how many end.
local window = 60000000
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
for i, key in ipairs(KEYS) do
  local kind, limit, amount = ARGV[3 * i - 1], tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
  if kind == 'rate' then
    local before = math.max(full_at(key, now), now)
    local full = before + math.ceil(amount * window / limit)
    if full > now then
      redis.call('SET', key, string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000) + 1000)
    else
      redis.call('DEL', key)
    end
  else
    local busy = redis.pcall('HINCRBY', key, ARGV[1], -amount)
    if type(busy) == 'table' then
      redis.call('DEL', key)
    elseif busy <= 0 then
      redis.call('HDEL', key, ARGV[1])
    end
  end
end
return 1
"""
)

type Job = tuple[Sequence[Check], asyncio.Future[Answer] | None]


class Meter:
    """The counters as one process sees them. It connects on first use: a worker without limits has none.

    `live_workers` tells how many processes share the limits while Valkey is away.
    """

    def __init__(
        self,
        redis_url: str,
        live_workers: Callable[[], Awaitable[int]],
        round_trip_seconds_max: float = ROUND_TRIP_SECONDS_MAX,
    ) -> None:
        self._redis_url = redis_url
        self._round_trip_seconds_max = round_trip_seconds_max
        self._live_workers = live_workers
        self._worker = secrets.token_hex(8)
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._link: Link | None = None
        self._scripts: list[bytes] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._alive_until = 0.0
        self.share = Share()
        self.shared = True
        """False while limits are kept by each worker alone."""

    async def take(self, checks: Sequence[Check]) -> Answer:
        """Take all of them, or none."""
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._run(), name="call limits"),
                asyncio.create_task(self._keep_alive(), name="call limits, alive"),
            ]
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait((checks, answer))
        return await answer

    def give(self, checks: Sequence[Check], answer: Answer) -> None:
        """Correct what `take` took and end its counts: `amount` as in GIVE. Nobody waits for it."""
        if answer.worker is None:
            self.share.give(checks)
        elif answer.worker == self._worker:  # else that worker is taken for dead, and its counts for nothing
            self._jobs.put_nowait((checks, None))

    async def stop(self) -> None:
        """Forget this process's counts, then close."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._link is not None:
            with suppress(Exception):
                async with asyncio.timeout(CONNECT_SECONDS_MAX):
                    await self._link.ask("DEL", f"{PREFIX}alive:{self._worker}")
            self._link.close()

    # --- the loop ---------------------------------------------------------------------------------
    async def _run(self) -> None:
        while True:
            jobs = [await self._jobs.get()]
            while not self._jobs.empty() and len(jobs) < BATCH_MAX:
                jobs.append(self._jobs.get_nowait())
            replies = await self._exchange(jobs) if self.shared else None
            if replies is None and self.shared:
                self._fall_back()
            answers = iter(replies or ())
            for checks, future in jobs:
                reply = next(answers, None)
                if future is None:
                    continue
                answer = self.share.take(checks) if reply is None else Answer.of_reply(reply, self._worker)
                if not future.done():
                    future.set_result(answer)
                elif answer.refused is None:  # its caller has left
                    self.give(_undone(checks), answer)

    def _fall_back(self) -> None:
        log.error("Call limits: Valkey does not answer; each worker keeps an equal share by itself.")
        self.shared = False
        # What was counted under the old name is forgotten when its sign of life expires.
        self._worker, self._alive_until = secrets.token_hex(8), 0.0

    async def _keep_alive(self) -> None:
        """Know how many workers there are, come back to Valkey, and show that this worker lives."""
        while True:
            with suppress(Exception):  # the database may be away as well
                self.share.workers = max(1, await self._live_workers())
            if self.shared:
                self._jobs.put_nowait(((), None))
            elif await self._connect():
                log.warning("Call limits are counted in Valkey again.")
                self.shared = True
            await asyncio.sleep(ALIVE_SECONDS / 3 if self.shared else PROBE_SECONDS)

    async def _exchange(self, jobs: Sequence[Job]) -> list[list[int]] | None:
        """One round trip; None when it fails or takes too long."""
        if self._link is None and not await self._connect():
            return None
        trip = asyncio.ensure_future(self._send(jobs))
        began = monotonic()
        seconds_max = self._round_trip_seconds_max
        await asyncio.wait({trip}, timeout=seconds_max)
        if not trip.done() and monotonic() - began > 1.5 * seconds_max:
            # It was this process that was busy: the answer may be there, unread.
            await asyncio.wait({trip}, timeout=seconds_max)
        if not trip.done():
            trip.cancel()
            await asyncio.wait({trip})
        if not trip.cancelled() and (error := trip.exception()) is None:
            return trip.result()
        log.error("Call limits: %s", "no answer in time" if trip.cancelled() else repr(error))
        self._disconnect()  # what it would say next is not ours
        return None

    async def _connect(self) -> bool:
        self._link = Link(self._redis_url)
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                self._scripts = [await self._link.ask("SCRIPT", "LOAD", script) for script in (TAKE, GIVE)]
        except Exception:
            self._disconnect()
            return False
        return True

    def _disconnect(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    async def _send(self, jobs: Sequence[Job]) -> list[list[int]]:
        """The replies of `jobs`, in their order."""
        take, give = self._scripts
        now = monotonic()
        renews = now >= self._alive_until
        commands: list[tuple[Part, ...]] = []
        if renews:
            commands.append(("SET", f"{PREFIX}alive:{self._worker}", 1, "PX", int(ALIVE_SECONDS * 1000)))
        for checks, future in jobs:
            keys = [PREFIX + check.key for check in checks]
            arguments = [part for check in checks for part in (check.kind, check.limit, check.amount)]
            if future is None:
                commands.append(("EVALSHA", give, len(keys), *keys, self._worker, *arguments))
            else:
                commands.append(("EVALSHA", take, len(keys), *keys, PREFIX, self._worker, *arguments))
        assert self._link is not None
        replies: list[Any] = await asyncio.gather(*self._link.ask_all(commands))
        if renews:
            self._alive_until = now + ALIVE_SECONDS / 3
        return replies[1:] if renews else replies


def _undone(checks: Sequence[Check]) -> list[Check]:
    """What gives back all that these checks took."""
    return [
        check
        if check.kind == "count"
        else Check(check.key, check.measure, "rate", check.limit, -check.amount)
        for check in checks
    ]
