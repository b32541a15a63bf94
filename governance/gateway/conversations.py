"""Which model a conversation is on: changing it would throw away its prompt cache and its signed thinking.

It is on the model that answered it last, whether a rule chose that one or it came up on the way: a fallback,
the second step of a cascade, a budget without room for another.
A conversation is known by the model that it asks for, the session and the end user that its caller names, and
how it began: its first user message, and from the second turn on the first answer. A session's agents have a
conversation each. Until there is an answer, strangers who begin alike are one. So where such beginnings went
to different models nothing is known of any of them, and their second turns are routed like new ones.
Its model is remembered in Valkey, where every worker sees it move, and in this process, for when Valkey has
forgotten it or is away. Should both have forgotten it, its next turn is routed like a new one.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any

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

UNSURE = "?"
"""Instead of a model: conversations that began so went to different ones."""

_encode = msgspec.json.Encoder().encode


class Conversation:
    """A call's own. `began` and `id` are digests under the tenant's key, 16 bytes each: of its first message,
    and of its first answer too (None in the first turn)."""

    __slots__ = ("answered_by", "began", "id", "is_second_turn")

    def __init__(self, began: bytes, id: bytes | None, *, is_second_turn: bool = False) -> None:
        self.began, self.id, self.is_second_turn = began, id, is_second_turn
        self.answered_by: str | None = None
        """The model that answered the call, once one has."""


class Conversations:
    """Digest → model id."""

    def __init__(self, link: Link, lookups: Lookups) -> None:
        """`link` is for writing."""
        self._link = link
        self._lookups = lookups
        self._models: dict[bytes, tuple[str, float]] = {}
        self._troubled = False
        self._writing: set[asyncio.Task[None]] = set()

    async def model(self, conversation: Conversation) -> str | None:
        """The model that it is on; None in its first turn, where nobody knows, or can say in time."""
        if conversation.id is None:
            return None
        # Only in the second turn is its beginning all that was known of it the turn before.
        digests = [conversation.id, conversation.began][: 1 + conversation.is_second_turn]
        answers = [self._lookups.get(_name(digest), counted=False) for digest in digests]  # in one MGET
        for digest, answer in zip(digests, answers, strict=True):
            model = self._said(digest, await answer)
            if model is not None:
                return None if model == UNSURE else model
        return None

    def _said(self, digest: bytes, name: bytes | None) -> str | None:
        """The model by that name in Valkey, or else in this process."""
        if not name or len(name) > MODEL_BYTES_MAX:
            return self._known(digest, KEEP_SECONDS)
        model = name.decode("ascii", "replace")
        if self._known(digest, KEEP_SECONDS) != model:
            self._keep(digest, model)
        return model

    def _known(self, digest: bytes, seconds: float) -> str | None:
        model, since = self._models.get(digest, ("", 0.0))
        return model if model and monotonic() - since < seconds else None

    def remember(self, conversation: Conversation, model: str, *, moved: bool) -> None:
        """From now on it is on that model. `moved`: a policy or a failure has chosen it. Else its turns go
        there anyhow, and it must only not be taken for one that began alike."""
        began, digest = conversation.began, conversation.id
        if digest is None:
            if not moved:
                self._write(self._differs(began))
            elif self._known(began, KEEP_SECONDS / 2) not in (model, UNSURE):
                self._keep(began, model)
                self._write(self._begins(began, model))
        elif moved and self._known(digest, KEEP_SECONDS / 2) != model:
            self._keep(digest, model)
            self._write(self._link.ask("SET", _name(digest), model, "EX", KEEP_SECONDS))

    async def _begins(self, began: bytes, model: str) -> None:
        """A first turn was moved to that model. Did one that began alike go to another?"""
        name, fresh = _name(began), ("EX", KEEP_SECONDS)
        before = await self._link.ask("SET", name, model, *fresh, "NX", "GET")
        if before == model.encode():
            await self._link.ask("EXPIRE", name, KEEP_SECONDS)
        elif before is not None:
            self._keep(began, UNSURE)
            await self._link.ask("SET", name, UNSURE, *fresh)

    async def _differs(self, began: bytes) -> None:
        """A first turn went where it asked to, which is not remembered. Did one that began alike not?"""
        if began in self._models:
            self._keep(began, UNSURE)
        await self._link.ask("SET", _name(began), UNSURE, "XX", "KEEPTTL")

    def _keep(self, conversation: bytes, model: str) -> None:
        self._models.pop(conversation, None)
        if len(self._models) >= KEPT_MAX:
            del self._models[next(iter(self._models))]
        self._models[conversation] = model, monotonic()

    def _write(self, asking: Awaitable[Any]) -> None:
        task = asyncio.create_task(self._written(asking))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _written(self, asking: Awaitable[Any]) -> None:
        try:
            async with asyncio.timeout(WRITE_SECONDS_MAX):
                await asking
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


def conversation_of(exchange: "Exchange") -> Conversation:
    """Never the same for two tenants or two keys. By what the client sent, before any rewrite."""
    key, asked = exchange.key, exchange.request
    about = _encode((key.lineage_id, exchange.session, exchange.end_user, asked.model))
    hashed = hashlib.sha256(key.tenant.fingerprint_key + about)
    messages = asked.fields.messages
    first = next((turn for turn in messages if turn.role == "user"), None)
    for piece in () if first is None else _pieces(first.content):
        _add(hashed, piece)
    began = hashed.digest()[:16]
    answers = [turn for turn in messages[:-1] if turn.role == "assistant"]  # at the end it is a prefill
    if not answers:
        return Conversation(began, None)
    for piece in _answer_pieces(answers[0].content):
        _add(hashed, piece)
    return Conversation(began, hashed.digest()[:16], is_second_turn=len(answers) == 1)


def _add(hashed: "hashlib._Hash", piece: bytes) -> None:
    hashed.update(b"%d " % len(piece))
    hashed.update(piece[:PIECE_BYTES_MAX])


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


def _answer_pieces(content: str | list[Fields]) -> Iterator[bytes]:
    """Of an answer: its texts, and what its uses of tools are called. Clients may leave its thinking out."""
    for piece in [content] if isinstance(content, str) else content:
        text = piece if isinstance(piece, str) else value_of(piece.get("text", ABSENT), str)
        if text is not None:
            yield text.encode("utf-8", "surrogatepass")
        elif not isinstance(piece, str) and "id" in piece:
            yield bytes(piece["id"])


def answered(exchange: "Exchange") -> None:
    """The call has its answer: where its conversation is to stay on one model, it is the one that gave it."""
    conversation, router = exchange.conversation, exchange.key.router
    if conversation is None or conversation.answered_by is None or router is None:
        return
    model = conversation.answered_by
    moved = router.chooses_models or model != exchange.client_request.model
    exchange.gateway.conversations.remember(conversation, model, moved=moved)
