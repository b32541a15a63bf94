"""Which model a conversation is on: changing it would throw away its prompt cache and its signed thinking.

It is on the model that answered it last, whether a rule chose that one or it came up on the way: a fallback,
the second step of a cascade, a budget without room for another.
A turn is known by the key, the end user that its caller names, the model that it asks for, and what was said
before it: all messages up to the last answer, so examples at the head of a prompt make none. Where its caller
names a session, how it began will do, the first message and the first answer: agents change what they have
sent. A session's agents have a conversation each. Who has said the same so far cannot be told apart; so where
such calls went to different models nothing is known of any, and each is routed like a new one.
Its model is remembered in Valkey, where every worker sees it move, and in this process, for when Valkey has
forgotten it or is away. Should both have forgotten it, its next turn is routed like a new one.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw

from governance.gateway.lookups import Lookups
from governance.gateway.request import ABSENT, Fields, Message, block_type, value_of
from governance.valkey.link import Link, ValkeyError

if TYPE_CHECKING:
    from governance.gateway.exchange import Exchange

log = logging.getLogger(__name__)

KEPT_MAX = 100_000
"""Conversations in memory, about 20 MB; the longest unused is forgotten first."""
KEEP_SECONDS = 24 * 3600
MODEL_BYTES_MAX = 128
PIECE_BYTES_MAX = 64 * 1024
"""Of each text; of a longer one its length is looked at too."""
END_BYTES = 4 * 1024
"""Of anything else, an image for one: of its beginning and of its end, and its length."""
WRITE_SECONDS_MAX = 1.0
"""No caller waits for it."""

UNSURE = "?"
"""Instead of a model: calls that had said the same went to different ones."""
_THINKING = ("thinking", "redacted_thinking")

_encode = msgspec.json.Encoder().encode


class Conversation:
    """A call's own. Digests under the tenant's key, 16 bytes each:

    before    under which its model may have been remembered by the turn before; () in the first turn
    now       under which the next turn will look for it
    is_named  `now` is of a session that was answered: no stranger's
    """

    __slots__ = ("answered_by", "before", "is_named", "now")

    def __init__(self, before: tuple[bytes, ...], now: bytes, *, is_named: bool = False) -> None:
        self.before, self.now, self.is_named = before, now, is_named
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
        answers = [self._lookups.get(_name(digest), counted=False) for digest in conversation.before]
        for digest, answer in zip(conversation.before, answers, strict=True):  # all in one MGET
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
        now = conversation.now
        known = self._known(now, KEEP_SECONDS / 2)
        if not moved:
            if not conversation.before:
                self._write(self._differs(now))
        elif conversation.is_named:
            if known != model:
                self._keep(now, model)
                self._write(self._link.ask("SET", _name(now), model, "EX", KEEP_SECONDS))
        elif known not in (model, UNSURE):
            self._keep(now, UNSURE if known is not None else model)
            self._write(self._goes_on(now, model))

    async def _goes_on(self, now: bytes, model: str) -> None:
        """A call was moved to that model. Did one that had said the same go to another?"""
        name, fresh = _name(now), ("EX", KEEP_SECONDS)
        before = await self._link.ask("SET", name, model, *fresh, "NX", "GET")
        if before == model.encode():
            await self._link.ask("EXPIRE", name, KEEP_SECONDS)
        elif before is not None:
            self._keep(now, UNSURE)
            await self._link.ask("SET", name, UNSURE, *fresh)

    async def _differs(self, now: bytes) -> None:
        """A first turn went where it asked to, which is not remembered. Did one that began alike not?"""
        if now in self._models:
            self._keep(now, UNSURE)
        await self._link.ask("SET", _name(now), UNSURE, "XX", "KEEPTTL")

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
    key, asked, session = exchange.key, exchange.request, exchange.session
    about = _encode((key.lineage_id, session, exchange.end_user, asked.model))
    hashed = hashlib.sha256(key.tenant.fingerprint_key + about)
    messages = asked.fields.messages
    if messages and messages[-1].role == "assistant":
        messages = messages[:-1]  # the beginning of the reply, no answer yet
    answers = [place for place, message in enumerate(messages) if message.role == "assistant"]
    if session is not None:
        return _of_session(hashed, messages, answers)
    if not answers:
        return Conversation((), _digest(hashed, messages))
    before = _digest(hashed, messages[: answers[-1]])
    return Conversation((before,), _digest(hashed, messages[answers[-1] :]))


def _of_session(hashed: "hashlib._Hash", messages: Sequence[Message], answers: Sequence[int]) -> Conversation:
    first = next((place for place, message in enumerate(messages) if message.role == "user"), 0)
    began = _digest(hashed, messages[first : first + 1])
    if not answers:
        return Conversation((), began)
    now = _digest(hashed, messages[answers[0] : answers[0] + 1])
    # Only in the second turn its beginning was all that was known of it the turn before.
    return Conversation((now, began) if len(answers) == 1 else (now,), now, is_named=True)


def _digest(hashed: "hashlib._Hash", messages: Iterable[Message]) -> bytes:
    """Of these messages after those before; what is the same whenever they are sent again."""
    for message in messages:
        hashed.update(message.role.encode())
        for piece in _pieces(message.content):
            hashed.update(b"%d " % len(piece))
            hashed.update(piece[:PIECE_BYTES_MAX])
    return hashed.digest()[:16]


def _pieces(content: str | list[Fields]) -> Iterator[bytes]:
    """Clients mark the newest message for the prompt cache, may write a text that they mark as a block, leave
    thinking out later, and empty old results of tools."""
    if isinstance(content, str):
        yield content.encode("utf-8", "surrogatepass")
        return
    for block in content:
        text = value_of(block.get("text", ABSENT), str)
        if text is not None:
            yield text.encode("utf-8", "surrogatepass")
        elif "tool_use_id" in block:
            yield bytes(block["tool_use_id"])
        elif block_type(block) not in _THINKING:
            yield b"".join([_ends(raw) for name, raw in block.items() if name != "cache_control"])


def _ends(raw: Raw) -> bytes:
    view = memoryview(raw)
    size = len(view)
    return (
        bytes(view)
        if size <= 2 * END_BYTES
        else b"%d" % size + bytes(view[:END_BYTES]) + bytes(view[-END_BYTES:])
    )


def answered(exchange: "Exchange") -> None:
    """The call has its answer: where its conversation is to stay on one model, it is the one that gave it."""
    conversation, router = exchange.conversation, exchange.key.router
    if conversation is None or conversation.answered_by is None or router is None:
        return
    model = conversation.answered_by
    moved = router.chooses_models or model != exchange.client_request.model
    exchange.gateway.conversations.remember(conversation, model, moved=moved)
