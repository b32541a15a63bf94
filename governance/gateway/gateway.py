"""What one gateway process is made of, how it starts, and how it stops without losing a call."""

import asyncio
import logging
import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg

from governance.budgets.periods import PeriodRows
from governance.calls.models import Outcome
from governance.calls.records import CallRecord
from governance.core.money import NANOS_PER_USD
from governance.desk.desk import Desk
from governance.desk.items import Settlement
from governance.desk.sweeper import Sweeper
from governance.gateway import call_record
from governance.gateway.alerts import Alerts
from governance.gateway.body import BodyBudget
from governance.gateway.breaker import Breaker
from governance.gateway.budget_use import BudgetUse
from governance.gateway.cached_replies import CachedReplies
from governance.gateway.conversations import Conversations
from governance.gateway.earlier import Earlier
from governance.gateway.errors import Refusal, envelope
from governance.gateway.exchange import Exchange
from governance.gateway.kept_replies import KeptReplies
from governance.gateway.labels import Labels
from governance.gateway.metrics import Metrics
from governance.gateway.responses import GatewayResponse
from governance.gateway.rewrites.prompt_cache_memory import Memory
from governance.gateway.snapshot import SnapshotStore
from governance.gateway.summaries import Summaries
from governance.gateway.upstream_quota import Quotas
from governance.gateway.usage_report import UsageReports
from governance.limits.meter import Meter
from governance.upstream.client import Upstream
from governance.valkey.link import Link

log = logging.getLogger(__name__)

PUBLISH_SECONDS = 1.0
BREAKER_SECONDS = 2.0
STOP_GRACE_SECONDS = 10.0
LIVE_WORKERS = "SELECT count(*) FROM desk_workerlease WHERE swept_at IS NULL"
OPEN_HOLDS = """
SELECT count(*), coalesce(sum(amount_nanos), 0),
       coalesce(extract(epoch FROM exchequer_now() - min(placed_at)), 0)::float8
FROM ledger_hold
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """Operator settings that the call path checks."""

    body_bytes_max: int
    body_seconds_max: float
    settle_backlog_max: int


class Gateway:
    """One per process; made by `from_settings`, alive between `start` and `stop`."""

    def __init__(
        self,
        *,
        desk: Desk,
        sweeper: Sweeper,
        store: SnapshotStore,
        upstream: Upstream,
        kept_replies: KeptReplies,
        cached_replies: CachedReplies,
        body_budget: BodyBudget,
        limits: Limits,
        redis_url: str,
    ) -> None:
        self.desk = desk
        self.sweeper = sweeper
        self.store = store
        self.upstream = upstream
        self.kept_replies = kept_replies
        self.cached_replies = cached_replies
        self.conversations = Conversations(Link(redis_url), cached_replies.lookups)
        self.summaries = Summaries(Link(redis_url), cached_replies.lookups)
        self.labels = Labels(Link(redis_url), cached_replies.lookups)
        self.body_budget = body_budget
        self.limits = limits
        self.periods = PeriodRows()
        self.quotas = Quotas()
        self.usage_reports = UsageReports(store)
        self.budget_use = BudgetUse()
        self.prompt_memory = Memory()
        self.meter = Meter(redis_url, self._live_workers)
        self.metrics = Metrics()
        self.alerts = Alerts()
        self.breaker = Breaker(store, BREAKER_SECONDS)
        self.unended: dict[UUID, Earlier] = {}
        self._publisher: asyncio.Task[None] | None = None

    @classmethod
    def from_settings(cls, settings: Any) -> "Gateway":
        """A gateway of these Django settings, not started yet."""
        key = settings.ANTHROPIC_API_KEY
        desk = Desk(
            settings.DATABASE_URL,
            f"{socket.gethostname()}:{os.getpid()}",
            on_fatal=_exit_worker,
            transaction_timeout_seconds=settings.DESK_TRANSACTION_TIMEOUT_SECONDS,
            lock_timeout_seconds=settings.DESK_LOCK_TIMEOUT_SECONDS,
            waiters_max=settings.GATEWAY_WAITERS_MAX,
            waiters_of_tenant_max=settings.GATEWAY_WAITERS_PER_TENANT_MAX,
        )
        return cls(
            desk=desk,
            sweeper=Sweeper(
                desk,
                settings.DATABASE_URL,
                heartbeat_seconds=settings.LEASE_HEARTBEAT_SECONDS,
                stale_seconds=settings.LEASE_STALE_SECONDS,
            ),
            store=SnapshotStore(settings.DATABASE_URL, (("x-api-key", key),) if key else ()),
            upstream=Upstream(
                settings.ANTHROPIC_BASE_URL,
                total_seconds_max=settings.GATEWAY_UPSTREAM_SECONDS_MAX,
                idle_seconds_max=settings.GATEWAY_STREAM_IDLE_SECONDS_MAX,
            ),
            kept_replies=KeptReplies(Link(settings.REDIS_URL), settings.GATEWAY_KEPT_REPLY_BYTES_MAX),
            cached_replies=CachedReplies(Link(settings.REDIS_URL), Link(settings.REDIS_URL)),
            body_budget=BodyBudget(
                settings.GATEWAY_BODY_BYTES_IN_FLIGHT_MAX, settings.GATEWAY_BODY_BYTES_PER_TENANT_MAX
            ),
            limits=Limits(
                settings.GATEWAY_BODY_BYTES_MAX,
                settings.GATEWAY_BODY_SECONDS_MAX,
                settings.GATEWAY_SETTLE_BACKLOG_MAX,
            ),
            redis_url=settings.REDIS_URL,
        )

    # --- life -------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Connect everything. Raises, with a sentence, when the database or the prices are not there."""
        await self.store.start()
        await self.desk.start()
        self.sweeper.start()
        self.breaker.start()
        self._publisher = asyncio.create_task(self._publish(), name="metrics")

    async def stop(self) -> None:
        """Called when every reply has left: write what is queued, then close. The ledger goes last."""
        if self._publisher:
            self._publisher.cancel()
        await self._persist_alerts()
        await self.breaker.stop()
        await self.sweeper.stop()
        await self.upstream.stop()
        await self.meter.stop()
        await self.store.stop()
        await self.kept_replies.stop()
        await self.conversations.stop()
        self.summaries.stop()
        self.labels.stop()
        self.cached_replies.stop()
        await self.desk.stop(STOP_GRACE_SECONDS)
        self.metrics.publish(self._gauges(), self.cached_replies.counts)

    @property
    def trouble(self) -> list[str]:
        """Why this worker should get no calls; empty when it is ready."""
        why = []
        if not self.desk.healthy:
            why.append("The ledger cannot be written.")
        if not self.store.fresh:
            why.append("Settings cannot be compared with the database.")
        return why

    @property
    def notes(self) -> list[str]:
        """What works less well than it should, while calls go on."""
        notes = []
        if not self.meter.shared:
            notes.append(
                "Valkey does not answer: each worker keeps an equal share of every limit on calls by itself."
            )
        if self.cached_replies.lookups.away:
            notes.append("Valkey does not answer, or not within 50 ms: calls are made without kept answers.")
        return notes

    async def _live_workers(self) -> int:
        async with self.store.connection() as connection:
            row = await (await connection.execute(LIVE_WORKERS)).fetchone()
        return int(row[0]) if row else 1

    # --- what the call path hands over --------------------------------------------------------------
    def refuse(self, exchange: Exchange, refusal: Refusal) -> GatewayResponse:
        """Count the refusal, record it where the tenant is known, and put it in the envelope. Once money was
        held the call is its attempt's to count and to record, unless that has ended and waits: earlier.py."""
        if exchange.held_ms is not None and exchange.id not in self.unended:
            return envelope(refusal, str(exchange.id))
        if exchange.is_dry_run:
            return envelope(refusal, str(exchange.id))
        self.metrics.calls[Outcome.REFUSED, refusal.reason] += 1
        if exchange.authenticated:
            self._record(call_record.of_call(exchange, Outcome.REFUSED, refusal.status, refusal.reason))
        return envelope(refusal, str(exchange.id))

    def record(self, call: CallRecord) -> None:
        """Count and record a call that ends without an attempt of its own, and was not refused."""
        self.metrics.calls[call.outcome, call.reason] += 1
        self._record(call)

    def record_departure(self, exchange: Exchange) -> None:
        """A caller left while it waited and nothing was held; asgi.py counts it."""
        self._record(call_record.of_call(exchange, Outcome.CUT, 499, "left_waiting"))

    def _record(self, call: CallRecord) -> None:
        """Write the row of a call that took no hold; or whose newest attempt, a classifier's for instance,
        has ended and waits to be settled: then the row comes with it, and has what that cost."""
        if self.unended and call.id in self.unended:
            self.unended[call.id].end_with(call)
        else:
            self._watch(self.desk.record(call))

    def settle(self, settlement: Settlement, call: CallRecord | None) -> "asyncio.Future[bool]":
        """Put an attempt's settlement on the desk; where it ends a call that is not counted yet, count it."""
        settled = self.desk.settle(settlement)
        self._watch(settled)
        if call is not None:
            self.metrics.calls[call.outcome, call.reason] += 1
        return settled

    def _watch(self, written: "asyncio.Future[bool]") -> None:
        written.add_done_callback(_log_unwritten)

    # --- figures ------------------------------------------------------------------------------------
    async def _publish(self) -> None:
        while True:
            await asyncio.sleep(PUBLISH_SECONDS)
            self.metrics.publish(self._gauges(), self.cached_replies.counts)
            await self._persist_alerts()

    async def _persist_alerts(self) -> None:
        if not self.alerts.waiting:
            return
        try:
            async with self.store.connection() as connection:
                await self.alerts.persist(connection)
        except (psycopg.Error, TimeoutError) as error:
            log.warning("Alerts could not be written and will be again: %s", str(error).strip() or "time-out")

    def _gauges(self) -> dict[str, float]:
        return {
            "desk_queue": self.desk.queue_depth,
            "desk_unsettled": self.desk.unsettled,
            "hold_waiters": self.desk.waiters,
            "upstream_quota_waiters": self.quotas.waiters,
            "desk_batch_size": self.desk.newest_batch_size,
            "call_records_dropped": self.desk.records_dropped,
            "desk_healthy": float(self.desk.healthy),
            "call_limits_alone": float(not self.meter.shared),
            "request_body_bytes": self.body_budget.in_flight,
        }

    async def exposition(self) -> bytes:
        """Everything for Prometheus. The holds are counted in the database, over all workers."""
        gauges = self._gauges()
        with suppress(psycopg.Error, TimeoutError):  # desk_healthy says it
            async with self.store.connection() as connection:
                row = await (await connection.execute(OPEN_HOLDS)).fetchone()
                assert row is not None
                gauges["open_holds"] = row[0]
                gauges["held_dollars"] = float(row[1]) / NANOS_PER_USD
                gauges["oldest_hold_seconds"] = row[2]
        self.metrics.publish(gauges, self.cached_replies.counts)
        return self.metrics.exposition()


def _log_unwritten(written: "asyncio.Future[bool]") -> None:
    if not written.cancelled() and (error := written.exception()) is not None:
        log.error("A call could not be written: %s", error)


def _exit_worker(error: BaseException) -> None:
    """The desk is broken for good: leave, so that whoever supervises starts a sound worker."""
    log.critical("The desk failed; this worker exits: %s", error)
    os.kill(os.getpid(), signal.SIGTERM)
