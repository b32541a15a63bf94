"""What becomes of the answer of a call that was not found in the response cache: kept, where it may be, and
told to whoever waits for it."""

from time import time
from typing import TYPE_CHECKING

from governance.gateway import facts
from governance.gateway.charging import Charge
from governance.gateway.flights import Ended, Flight
from governance.gateway.responses import Headers
from governance.ledger.kinds import Basis
from governance.response_cache.entries import Entry, sealed
from governance.response_cache.replay import NotReplayable, message_of_events
from governance.response_cache.suitable import why_not_kept
from governance.routing.document import Cache

if TYPE_CHECKING:
    from governance.gateway.exchange import Exchange

_OF_ONE_SENDING = frozenset((b"age", b"cache-control", b"content-length", b"vary"))
_PREFIXES_OF_ONE_SENDING = (b"exchequer-", b"anthropic-ratelimit-")


class Keeping:
    """What is to be done with the answer of a call that was not found. `flight`: who waits for it."""

    __slots__ = (
        "_replies",
        "call_id",
        "digest",
        "flight",
        "max_tokens",
        "model",
        "purges_seen",
        "tags",
        "tenant_id",
        "terms",
    )

    def __init__(self, exchange: "Exchange", terms: Cache, digest: bytes) -> None:
        tenant, request = exchange.key.tenant, exchange.request
        self._replies = exchange.gateway.cached_replies
        self.terms = terms
        self.digest = digest
        self.tenant_id = tenant.id
        self.purges_seen = tenant.purges.newest
        self.tags = exchange.tags
        self.call_id = str(exchange.id)
        # What is sent may still be changed, to fit in a budget for instance: then its answer is another one.
        self.model, self.max_tokens = request.model, request.max_tokens
        self.flight: Flight | None = None

    def keep(
        self,
        exchange: "Exchange",
        status: int,
        headers: Headers,
        body: bytes,
        charge: Charge,
        content: bytes | None,
    ) -> None:
        """The answer is complete: keep it where it may be, and tell whoever waits for it. `content`: a
        Message's; None for a stream."""
        is_stream = content is None
        why_not = self._why_not(exchange, status, headers, body, charge, is_stream)
        if why_not is not None:
            return self.decline(exchange, why_not)
        found = facts.told(exchange, content or b"") if exchange.asked is None else None
        entry = Entry(
            stored_at=time(),
            purges_seen=self.purges_seen,
            asked_model=self.model,
            served_model=charge.passes[0].model,
            tags=self.tags,
            is_stream=is_stream,
            headers=[header for header in headers if not _is_of_one_sending(header[0].lower())]
            + [header for header in headers if header[0] == b"exchequer-model"],
            body=body,
            passes=charge.passes,
            cost_nanos=charge.cost_nanos,
            list_nanos=charge.list_nanos,
            call_id=self.call_id,
            facts=found[0].facts if found else "",
            fingerprints=found[0].fingerprints if found else b"",
            cache_digest=found[1] if found else b"",
        )
        value = sealed(entry, self.tenant_id, self.digest)
        name = self._replies.names.entry(self.digest)
        self._replies.count("kept")
        self._end(entry, ("SET", name, value, "EX", self.terms.ttl_seconds))

    def decline(self, exchange: "Exchange", why_not: str) -> None:
        """The answer is complete and cannot be kept; the call's row says why."""
        exchange.decision["response_cache"]["not_kept"] = why_not
        self._replies.count("not_kept")
        self._end(Ended.DECLINED)

    def go_on(self, model: str) -> None:
        """A cascade asks another model: the answer that may be kept is that one's."""
        self.model = model

    def abandon(self) -> None:
        """The call has ended. Where it was not kept by now there is no answer for anybody else."""
        self._end(Ended.FAILED)

    def _end(self, outcome: Entry | Ended, *commands: tuple[str | bytes | int, ...]) -> None:
        flights = self._replies.flights
        if self.flight is not None:
            flights.end(self.flight, outcome, *commands)
            self.flight = None
        else:
            flights.tell(*commands)

    def _why_not(
        self,
        exchange: "Exchange",
        status: int,
        headers: Headers,
        body: bytes,
        charge: Charge,
        is_stream: bool,
    ) -> str | None:
        request = exchange.request
        if (request.model, request.max_tokens) != (self.model, self.max_tokens):
            return "another request was sent"
        if status != 200 or charge.basis is not Basis.EXACT or not charge.passes:
            return "not a complete reply"
        if len(body) > self.terms.reply_bytes_max:
            return "too long"
        if any(name.lower() == b"content-encoding" and value != b"identity" for name, value in headers):
            return "compressed"
        if is_stream:
            try:
                body = message_of_events(body)
            except NotReplayable:
                return "not a stream that we can read"
        return why_not_kept(body, self.terms.also)


def _is_of_one_sending(name: bytes) -> bool:
    """A header that is written anew, or left out, when the reply is sent again."""
    return name in _OF_ONE_SENDING or name.startswith(_PREFIXES_OF_ONE_SENDING)
