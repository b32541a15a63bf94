"""Which model a conversation is on: changing it would throw away its prompt cache and its signed thinking.

It is on the model that answered it last, whether a rule chose that one or it came up on the way: a fallback,
the second step of a cascade, a budget without room for another.
A conversation is known by the model that it asks for, the session that its caller names, and how it began:
its first user message. A session's agents have a conversation each.
Its model is remembered in Valkey, where every worker sees it move, and in this process, for when Valkey has
forgotten it or is away. Should both have forgotten it, its next turn is routed like a new one.
"""

import asyncio
import hashlib
import logging
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from governance.gateway.lookups import Lookups
from governance.gateway.request import ABSENT, Fields, value_of
from governance.valkey.link import Link, ValkeyError

if TYPE_CHECKING:
    from governance.gateway.exchange import Exchange

log = logging.getLogger(__name__)

KEPT_MAX = 100_000
"""Conversations in memory, about 20 MB; the longest unused is forgotten first."""
KEEP_SECONDS = 24 * 3600
MODEL_BYTES_MAX = 128
PIECE_BYTES_MAX = 64 * 1024
"""Of each block that a conversation began with; of a longer one its length is looked at too."""
WRITE_SECONDS_MAX = 1.0
"""No caller waits for it."""

_encode = msgspec.json.Encoder().encode


class Conversations:
    """Conversation → model id. Ids are digests under the tenant's own key."""

    def __init__(self, link: Link, lookups: Lookups) -> None:
        """`link` is for writing."""
        self._link = link
        self._lookups = lookups
        self._models: dict[bytes, tuple[str, float]] = {}
        self._troubled = False
        self._writing: set[asyncio.Task[None]] = set()

    async def model(self, conversation: bytes) -> str | None:
        """The model that it is on; None where nobody knows, or nobody can say in time."""
        name = await self._lookups.get(_name(conversation), counted=False)
        known = self._models.get(conversation)
        if not name or len(name) > MODEL_BYTES_MAX:
            return known[0] if known is not None and monotonic() - known[1] < KEEP_SECONDS else None
        model = name.decode("ascii", "replace")
        if known is None or known[0] != model:
            self._keep(conversation, model)
        return model

    def remember(self, conversation: bytes, model: str) -> None:
        """From now on it is on that model."""
        known = self._models.get(conversation)
        if known is not None and known[0] == model and monotonic() - known[1] < KEEP_SECONDS / 2:
            return
        self._keep(conversation, model)
        task = asyncio.create_task(self._write(conversation, model))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    def _keep(self, conversation: bytes, model: str) -> None:
        self._models.pop(conversation, None)
        if len(self._models) >= KEPT_MAX:
            del self._models[next(iter(self._models))]
        self._models[conversation] = model, monotonic()

    async def _write(self, conversation: bytes, model: str) -> None:
        try:
            async with asyncio.timeout(WRITE_SECONDS_MAX):
                await self._link.ask("SET", _name(conversation), model, "EX", KEEP_SECONDS)
            self._troubled = False
        except (ValkeyError, TimeoutError) as error:
            self._report(error)

    async def stop(self) -> None:
        """Wait for what is being written."""
        if self._writing:
            await asyncio.wait(self._writing)
        self._link.close()

    def _report(self, error: Exception) -> None:
        if not self._troubled:
            log.warning(
                "Valkey is out of reach, so each worker knows its own conversations only: %s",
                str(error).strip() or "time-out",
            )
        self._troubled = True


def _name(conversation: bytes) -> str:
    return f"exchequer:conversation:{conversation.hex()}"


def conversation_of(exchange: "Exchange") -> bytes:
    """16 bytes; never the same for two tenants or two keys. By what the client sent, before any rewrite."""
    key, asked = exchange.key, exchange.request
    about = _encode((key.lineage_id, exchange.session, asked.model))
    hashed = hashlib.sha256(key.tenant.fingerprint_key + about)
    first = next((turn for turn in asked.fields.messages if turn.role == "user"), None)
    for piece in () if first is None else _pieces(first.content):
        hashed.update(b"%d " % len(piece))
        hashed.update(piece[:PIECE_BYTES_MAX])
    return hashed.digest()[:16]


def _pieces(content: str | list[Fields]) -> Iterator[bytes]:
    """What is the same in every turn: clients mark the newest message for the prompt cache, and may write a
    text that they mark as a block."""
    if isinstance(content, str):
        yield content.encode("utf-8", "surrogatepass")
        return
    for block in content:
        text = value_of(block.get("text", ABSENT), str)
        if text is not None:
            yield text.encode("utf-8", "surrogatepass")
        else:
            yield _encode({name: raw for name, raw in block.items() if name != "cache_control"})


def answered(exchange: "Exchange") -> None:
    """The model that was asked has answered: where the call's conversation is to stay on one, that is it."""
    if exchange.conversation is None:
        return
    router, model = exchange.key.router, exchange.request.model
    if router is not None and (router.chooses_models or model != exchange.client_request.model):
        exchange.gateway.conversations.remember(exchange.conversation, model)
    # Else it is where its turns go anyhow.
