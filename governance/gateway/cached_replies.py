"""Answers from the response cache: found before the bound is computed, kept after a reply is complete.

    hit     the answer was kept, or has just come for somebody who asked the same: it costs nothing
    miss    the call is made; its answer is kept where it may be
    bypass  it was not looked up: the caller said so, or the request is not one that can be repeated
    off     no rule of a policy has anything kept for this call

Whose call a hit is was settled before: the key, its pauses, models and tags, and what the operator refuses.
It takes no hold, counts in no budget and in no limit on calls, which share out what upstream allows. Whatever
goes wrong with Valkey is a miss, at most 50 ms later.
"""

import asyncio
from collections import defaultdict
from time import monotonic, time
from typing import TYPE_CHECKING

from msgspec.structs import replace

from governance.calls.models import Outcome
from governance.calls.request_facts import RequestFacts
from governance.core.money import nanos_to_usd
from governance.gateway import call_record, cascade, conversations, facts, savings
from governance.gateway.authentication import check_again, check_pauses
from governance.gateway.body import ClientLeft
from governance.gateway.flights import Ended, Flight, Flights
from governance.gateway.keeping import Keeping
from governance.gateway.lookups import Lookups, seconds_left
from governance.gateway.model_list import check_models, models_asked
from governance.gateway.other_model import why_not_allowed
from governance.gateway.relay import own_headers
from governance.gateway.responses import PRIVATE, GatewayResponse
from governance.gateway.waiting import CLIENT_SHARE, LOOK_SECONDS, client_seconds
from governance.response_cache.entries import Entry, Names, opened
from governance.response_cache.key import entry_digest
from governance.response_cache.purges import Purges
from governance.response_cache.replay import NotReplayable, events_of_message, message_of_events
from governance.response_cache.suitable import is_repeatable
from governance.routing.document import Cache
from governance.valkey.link import Link

if TYPE_CHECKING:
    from governance.gateway.exchange import Exchange

DIGEST_IN_THREAD_BYTES = 1024 * 1024
FOLLOW_SECONDS_MAX = 60.0
FOLLOW_TRIES = 3
"""So often a call waits for others like it, when the one that was made for all of them came to nothing."""


class CachedReplies:
    """One per process."""

    def __init__(self, link: Link, writing: Link) -> None:
        """Two connections, so that a long value on its way in delays no look-up."""
        self.names = Names()
        self.counts: defaultdict[str, int] = defaultdict(int)
        """What happened → how often: hit, miss, bypass, followed, kept, and what was in the way."""
        self.lookups = Lookups(link, self.count)
        self.flights = Flights(link, writing, self.lookups, self.names)
        self._links = (link, writing)

    def count(self, what: str) -> None:
        self.counts[what] += 1

    def stop(self) -> None:
        self.lookups.stop()
        for link in self._links:
            link.close()


async def find(exchange: "Exchange") -> GatewayResponse | None:
    """The kept answer to this call; None when it is to be made. Then `exchange.keeping` keeps its answer.

    CallRefused or ClientLeft for a call that has waited for one like it.
    """
    assert exchange.route is not None
    assert exchange.route.cache is not None
    route, terms = exchange.route, exchange.route.cache
    replies, inbound = exchange.gateway.cached_replies, exchange.inbound
    exchange.cache = "bypass"
    exchange.decision["response_cache"] = {"rule": route.cache_rule, "version": route.cache_version_id}
    if inbound.cache_control == "no-store" or not is_repeatable(exchange.request.fields):
        replies.count("bypass")
        return None
    keeping = Keeping(exchange, terms, await _digest(exchange, terms))
    exchange.keeping = keeping
    if inbound.cache_control == "no-cache":
        replies.count("bypass")
        return None
    exchange.cache = "miss"
    entry = await _find(exchange, keeping)
    if entry is not None:
        response = _hit(exchange, entry)
        if response is not None:
            exchange.keeping = None
            replies.count("hit")
            return response
    replies.count("miss")
    return None


async def _digest(exchange: "Exchange", terms: Cache) -> bytes:
    if len(exchange.request.body) > DIGEST_IN_THREAD_BYTES:
        return await asyncio.to_thread(_digest_now, exchange, terms)
    return _digest_now(exchange, terms)


def _digest_now(exchange: "Exchange", terms: Cache) -> bytes:
    key, inbound, route = exchange.key, exchange.inbound, exchange.route
    assert route is not None
    kind, scope_id = terms.scope, key.lineage_id
    if kind == "tenant":
        scope_id = key.tenant.id
    elif kind == "team":
        if key.team_id is None:
            kind = "key"  # keys without a team have nothing in common
        else:
            scope_id = key.team_id
    return entry_digest(
        secret=key.tenant.fingerprint_key,
        tenant_id=key.tenant.id,
        scope_kind=kind,
        scope_id=scope_id,
        model=exchange.request.model,
        version=inbound.version,
        betas=inbound.beta,
        headers=inbound.forward,
        query=exchange.query,
        body=exchange.request.body,
        volatile=terms.volatile,
        also=terms.also,
        account=key.tenant.credential_id,
        ladder=route.cascade if cascade.applies(exchange) else None,
    )


# --- Finding ------------------------------------------------------------------------------------
async def _find(exchange: "Exchange", keeping: Keeping) -> Entry | None:
    """The entry, after waiting for whoever makes the same call; None when this call is to be made."""
    replies = exchange.gateway.cached_replies
    flights, digest = replies.flights, keeping.digest
    until = monotonic() + _patience_seconds(exchange)
    purges, loop = exchange.key.tenant.purges, asyncio.get_running_loop()
    for _ in range(FOLLOW_TRIES):
        value = await replies.lookups.get(replies.names.entry(digest))
        entry = _usable(exchange, keeping, value, purges)
        if entry is not None:
            return entry
        flight = flights.current(digest)
        if flight is None:
            flight = flights.begin(digest, value)
            try:
                leads = await flights.leads(flight, loop.time() + seconds_left())
            except BaseException:
                flights.end(flight, Ended.FAILED)
                raise
            if leads:
                keeping.flight = flight
                return None
        outcome, purges = await _follow(exchange, flight, until)
        if isinstance(outcome, Entry):
            return None if _is_stale(exchange, outcome, keeping.terms, purges) else outcome
        if outcome is None or outcome is Ended.DECLINED:
            return None
    return None


def _usable(exchange: "Exchange", keeping: Keeping, value: bytes | None, purges: Purges) -> Entry | None:
    """The entry in what Valkey had, if this call may be answered with it."""
    if not value:
        return None
    replies = exchange.gateway.cached_replies
    entry = opened(value, keeping.tenant_id, keeping.digest)
    if entry is None:
        replies.count("poisoned")
        return None
    if purges.cover(entry):
        replies.count("purged")
        return None
    return None if _is_stale(exchange, entry, keeping.terms, purges) else entry


def _is_stale(exchange: "Exchange", entry: Entry, terms: Cache, purges: Purges) -> bool:
    age_seconds = time() - entry.stored_at
    limit = exchange.inbound.cache_max_age_seconds
    if age_seconds > (terms.ttl_seconds if limit is None else min(limit, terms.ttl_seconds)):
        exchange.gateway.cached_replies.count("stale")
        return True
    return purges.cover(entry)


def _patience_seconds(exchange: "Exchange") -> float:
    """How long a call waits for one like it: not for more than half of the time that its client waits."""
    seconds = client_seconds(exchange)
    return FOLLOW_SECONDS_MAX if seconds is None else min(FOLLOW_SECONDS_MAX, seconds * CLIENT_SHARE)


async def _follow(exchange: "Exchange", flight: Flight, until: float) -> tuple[Entry | Ended | None, Purges]:
    """What became of the flight; None when it takes too long. And the tenant's purges as of now.

    ClientLeft, and CallRefused when the key may not be used any more.
    """
    exchange.gateway.cached_replies.count("followed")
    key, store = exchange.key, exchange.gateway.store
    leaving = asyncio.ensure_future(exchange.receive())
    flight.followers += 1
    try:
        while True:
            seconds = min(LOOK_SECONDS, until - monotonic())
            if seconds > 0 and not flight.done.done():
                await asyncio.wait(
                    (flight.done, leaving), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
                )
            if leaving.done():
                exchange.gateway.record_departure(exchange)
                raise ClientLeft
            now = await check_again(key, exchange.inbound.credentials, store)
            if now is not key:
                check_pauses(now.pauses, exchange.tags)
                if now.allowed_models and now.allowed_models != key.allowed_models:
                    check_models(now.allowed_models, models_asked(exchange.request))
            if flight.done.done():
                return flight.done.result(), now.tenant.purges
            if monotonic() >= until:
                return None, now.tenant.purges
    finally:
        flight.followers -= 1
        leaving.cancel()


# --- A hit --------------------------------------------------------------------------------------
def _hit(exchange: "Exchange", entry: Entry) -> GatewayResponse | None:
    """The response; None for an entry that cannot be told in the form that is asked for, or is of the second
    step of a cascade, whose model this key may not use."""
    if entry.asked_model != exchange.request.model and why_not_allowed(exchange, entry.asked_model):
        return None
    wants_stream, body = exchange.request.stream, entry.body
    headers = entry.headers
    if wants_stream != entry.is_stream:
        try:
            body = events_of_message(body) if wants_stream else message_of_events(body)
        except NotReplayable:
            exchange.gateway.cached_replies.count("not_replayable")
            return None
        content_type = b"text/event-stream; charset=utf-8" if wants_stream else b"application/json"
        headers = [header for header in headers if header[0].lower() != b"content-type"]
        headers.append((b"content-type", content_type))
    exchange.cache = "hit"
    if exchange.conversation is not None:
        exchange.conversation.answered_by = entry.asked_model
        conversations.answered(exchange)
    paid_nanos = 0 if exchange.earlier is None else exchange.earlier.paid_nanos
    exchange.decision["first_call"] = entry.call_id
    exchange.first_byte_ms = exchange.elapsed_ms()

    def record() -> None:
        _record(exchange, entry)

    return GatewayResponse(
        200,
        [
            *headers,
            *own_headers(exchange),
            *PRIVATE,
            (b"age", b"%d" % max(0, time() - entry.stored_at)),
            (b"content-length", b"%d" % len(body)),
            (b"exchequer-cost-usd", nanos_to_usd(paid_nanos).encode()),
        ],
        body,
        after=record,
    )


def _record(exchange: "Exchange", entry: Entry) -> None:
    """The call's row: it cost nothing, and saved what its answer would have cost today."""
    if entry.facts and exchange.asked is None:
        facts.tell(exchange, RequestFacts(entry.facts, entry.fingerprints), entry.cache_digest)
    asked = exchange.asked_terms or savings.Asked(exchange.requested_model or "", sent_bytes=1)
    asked = replace(asked, injected=exchange.request.cache_ttl is None)
    book = exchange.key.tenant.book
    saved = savings.of_hit(asked, entry.passes, book, exchange.started_at)
    paid_nanos = 0 if exchange.earlier is None else exchange.earlier.paid_nanos
    layers = saved.layers | ({"overhead": -paid_nanos} if paid_nanos else {})
    if layers:
        exchange.decision["savings"] = layers
    call = call_record.of_call(exchange, Outcome.SERVED, 200, "cached")
    call.served_model = entry.served_model
    call.baseline_nanos = saved.baseline_nanos
    call.price_version = book.version
    exchange.gateway.record(call)
