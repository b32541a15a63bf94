"""One client request on its way through the gateway: what is known of it so far."""

import asyncio
import re
from collections.abc import Callable
from copy import copy
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import UUID

from governance.calls.request_facts import RequestFacts
from governance.core.clock import utcnow
from governance.core.ids import uuid7
from governance.desk.items import Claim
from governance.gateway.body import Receive, decoded, read_body
from governance.gateway.features import features_of
from governance.gateway.inbound import Inbound, read_headers
from governance.gateway.request import Request, without_content
from governance.gateway.snapshot import KeySnapshot
from governance.gateway.user_id import TEXT_LENGTH_MAX, end_user_of, session_of

if TYPE_CHECKING:
    from governance.gateway.conversations import Conversation
    from governance.gateway.earlier import Earlier
    from governance.gateway.gateway import Gateway
    from governance.gateway.keeping import Keeping
    from governance.gateway.rate_limits import Taken
    from governance.gateway.savings import Asked
    from governance.gateway.upstream_quota import Quota
    from governance.routing.route import Route

VISIBLE = bytes(code if 32 <= code < 127 else ord("?") for code in range(256))
"""A line break in the name of a model would begin another header."""
PLAIN = "".join(char for char in map(chr, range(32, 127)) if char not in "%;")
_is_plain = re.compile(f"[{re.escape(PLAIN)}]*").fullmatch


class Exchange:
    """Made when a request's headers are there, dropped when its call is settled.

    Filled in by the pipeline from top to bottom. `client_left` may become True at any await.
    """

    __slots__ = (
        "_features",
        "_key",
        "_request",
        "asked",
        "asked_terms",
        "body",
        "body_bytes_taken",
        "bound",
        "cache",
        "claim",
        "client_left",
        "conversation",
        "decision",
        "earlier",
        "early_facts",
        "endpoint",
        "first_byte_ms",
        "gateway",
        "held_ms",
        "id",
        "inbound",
        "keeping",
        "method",
        "on_leave",
        "path",
        "prompt_prefix",
        "query",
        "quota",
        "receive",
        "route",
        "started_at",
        "started_monotonic",
        "tags",
        "taken",
    )

    def __init__(self, gateway: "Gateway", scope: Any, receive: Receive) -> None:
        self.gateway = gateway
        self.receive = receive
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: str = scope["query_string"].decode("ascii", "replace")
        self.id: UUID = uuid7()
        self.started_at: datetime = utcnow()
        self.started_monotonic = monotonic()
        self.inbound = Inbound()
        self.endpoint = self.path[:32]
        self._key: KeySnapshot | None = None
        self.body = b""
        self.body_bytes_taken = 0
        self._request: Request | None = None
        self.asked: Request | None = None
        """What the client sent, where a policy changed it: `request` is what goes upstream."""
        self.asked_terms: Asked | None = None
        self._features: tuple[str, ...] | None = None
        self.tags: dict[str, str] = {}
        self.decision: dict[str, Any] = {}
        self.bound: str | None = None
        self.claim: Claim | None = None
        self.held_ms: int | None = None
        self.first_byte_ms: int | None = None
        self.early_facts: asyncio.Future[tuple[RequestFacts, bytes]] | None = None
        self.client_left = False
        self.on_leave: Callable[[], None] | None = None
        self.taken: Taken | None = None
        self.quota: Quota | None = None
        self.route: Route | None = None
        self.conversation: Conversation | None = None
        """Where it is to stay on one model: conversations.py."""
        self.prompt_prefix: tuple[str, bytes] | None = None
        self.earlier: Earlier | None = None
        self.cache = "off"
        """What the response cache did: off, bypass, miss or hit (cached_replies.py)."""
        self.keeping: Keeping | None = None

    def aside(self, request: Request) -> "Exchange":
        """The same call with a request of ours, which the client does not see: to classify, to summarise, to
        judge. It has a bound and decisions of its own, and nothing to give back; whose call it is, and what
        was asked, stays the client's to say."""
        aside = copy(self)
        aside.asked = self.client_request
        aside._request, aside._features, aside.asked_terms = request, None, None
        aside.body, aside.body_bytes_taken, aside.decision = request.body, 0, {}
        aside.bound = aside.taken = aside.on_leave = aside.early_facts = aside.route = None
        return aside

    def read_headers(self, scope: Any) -> None:
        """CallRefused for headers that cannot be read."""
        self.inbound = read_headers(scope["headers"])

    async def read_body(self) -> None:
        """Read, cap and decompress the body of an authenticated caller."""
        gateway = self.gateway
        limits = gateway.limits
        raw = await read_body(
            self.receive,
            self.inbound.content_length,
            bytes_max=limits.body_bytes_max,
            seconds_max=limits.body_seconds_max,
            take=self._take,
        )
        self.body = decoded(raw, self.inbound.content_encoding, bytes_max=limits.body_bytes_max)
        if len(self.body) > self.body_bytes_taken:
            self._take(len(self.body) - self.body_bytes_taken)

    def _take(self, size: int) -> None:
        self.gateway.body_budget.take(self.key.tenant.id, size)
        self.body_bytes_taken += size

    def release(self) -> None:
        """Give back what the request's body took, and forget whoever was to be told that the client leaves:
        a call that refers to itself would stay in memory until the garbage collector finds it.
        """
        self.on_leave = None
        if self.earlier is not None:
            self.earlier.forget()
        if self.taken is not None and self.held_ms is None:  # refused or gone before money was held
            self.taken.close()
        if self.quota is not None:
            self.quota.ended(self.id)
        if self.keeping is not None:
            self.keeping.abandon()
            self.keeping = None
        self._give_back()

    def forget_request(self) -> None:
        """Free the request's body; what is still asked of `request` stays."""
        self.body = b""
        self.inbound.forward = []
        if self._request is not None:
            self._features = self.features
            self._request = without_content(self._request)
            self.asked = self.asked and without_content(self.asked)
        self._give_back()

    def _give_back(self) -> None:
        if self.body_bytes_taken:
            self.gateway.body_budget.give_back(self.key.tenant.id, self.body_bytes_taken)
            self.body_bytes_taken = 0

    @property
    def is_dry_run(self) -> bool:
        """Its caller only wants to know what would become of it: whatever that is, it is no call."""
        return self.inbound.dry_run and self.path == "/v1/messages"

    @property
    def authenticated(self) -> bool:
        """Is it known whose call this is? Then `key` is there, though it may be a revoked one."""
        return self._key is not None

    @property
    def key(self) -> KeySnapshot:
        assert self._key is not None
        return self._key

    @key.setter
    def key(self, key: KeySnapshot) -> None:
        self._key = key

    @property
    def parsed(self) -> bool:
        """Was the body read and accepted? Then `request` is there."""
        return self._request is not None

    @property
    def request(self) -> Request:
        assert self._request is not None
        return self._request

    @request.setter
    def request(self, request: Request) -> None:
        self._request = request

    @property
    def client_request(self) -> Request:
        """What the client sent, once it was read."""
        return self.asked or self.request

    @property
    def features(self) -> tuple[str, ...]:
        """What the request uses beyond plain text, while it is known and after it was forgotten."""
        if self._features is None:
            return features_of(self.request, self.inbound.beta)
        return self._features

    def elapsed_ms(self) -> int:
        """Since the request's headers were read."""
        return int((monotonic() - self.started_monotonic) * 1000)

    def leave(self) -> None:
        """The client is gone."""
        self.client_left = True
        if self.on_leave is not None:
            self.on_leave()

    @property
    def requested_model(self) -> str | None:
        """What the client asked for, once its body was read."""
        return self.client_request.model[:128] if self.parsed else None

    @property
    def end_user(self) -> str | None:
        """The caller's own user, as the body's metadata names it; as much of it as is recorded."""
        end_user = end_user_of(self.client_request.user_id) if self.parsed else None
        return end_user and end_user[:TEXT_LENGTH_MAX]

    @property
    def session(self) -> str | None:
        """The conversation that the call belongs to, where the client says so. A main agent and its
        sub-agents name the same one."""
        session = self.inbound.session or (session_of(self.client_request.user_id) if self.parsed else None)
        return session and session[:TEXT_LENGTH_MAX]

    @property
    def decision_header(self) -> bytes:
        """The header `exchequer-decision`: what was decided beside letting the call pass. Of names as people
        write them nothing is lost: what no header holds, “;” and “%” are percent-encoded."""
        if not self.decision:
            return b"allowed"
        told = [
            f"{name}={value}"
            if isinstance(value, int) or _is_plain(value)
            else f"{name}={quote(value, PLAIN, errors='replace')}"
            for name, value in self.decision.items()
            if isinstance(value, int | str)
        ]
        return "; ".join(("allowed", *told)).encode()
