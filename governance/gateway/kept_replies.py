"""Replies that a client may ask for again, kept in Valkey for a day under the id of their hold.

Encrypted, and sealed to the tenant, the key and the claim that they belong to: a value that was damaged,
planted or moved opens nowhere, and is as good as none. Losing them loses no money, only the reply.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec

from governance.desk.batch import CLAIM_LIFETIME_SECONDS
from governance.valkey.link import SECONDS_MAX, Declined, Link, ValkeyError
from tenants.secrets import open_reply, seal_reply

log = logging.getLogger(__name__)

KEEP_SECONDS_MAX = 1.0
"""No caller waits for this, only the call's settlement."""


class OutOfReach(Exception):
    """Valkey does not answer, or not in time."""


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """A complete reply as it went to the client."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Reply).decode


class KeptReplies:
    """The replies, and the tasks that are writing some."""

    def __init__(self, link: Link, bytes_max: int) -> None:
        self._link = link
        self._writing: set[asyncio.Task[None]] = set()
        self._troubled = False
        self.bytes_max = bytes_max
        """Of a body; a longer one is not kept."""

    def keep(self, hold_id: UUID, associated: bytes, reply: Reply, then: Callable[[], None]) -> None:
        """Write the reply, then call `then`, whatever became of it: whoever finds the claim settled also
        finds the reply. `associated`: what the reply belongs to, needed to open it again."""
        if len(reply.body) > self.bytes_max:
            return then()
        task = asyncio.create_task(self._keep(hold_id, associated, reply, then))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _keep(self, hold_id: UUID, associated: bytes, reply: Reply, then: Callable[[], None]) -> None:
        try:
            sealed = seal_reply(_encode(reply), associated)
            async with asyncio.timeout(KEEP_SECONDS_MAX):
                await self._link.ask("SET", _name(hold_id), sealed, "EX", CLAIM_LIFETIME_SECONDS)
            self._troubled = False
        except (ValkeyError, TimeoutError) as error:
            self._report(error)
        finally:
            then()

    async def find(self, hold_id: UUID, associated: bytes) -> Reply | None:
        """The reply of that hold; None when it is not there, or not what we wrote. OutOfReach when nobody can
        tell."""
        try:
            async with asyncio.timeout(SECONDS_MAX):
                sealed: Any = await self._link.ask("GET", _name(hold_id))
        except Declined:  # a value of another type: not ours
            return None
        except (ValkeyError, TimeoutError) as error:
            self._report(error)
            raise OutOfReach from error
        plain = open_reply(sealed, associated) if sealed else None
        try:
            return _decode(plain) if plain is not None else None
        except msgspec.DecodeError:  # written by another version of ours
            return None

    async def stop(self) -> None:
        """Wait for what is being written: its settlements come after it."""
        if self._writing:
            await asyncio.wait(self._writing)
        self._link.close()

    def _report(self, error: Exception) -> None:
        if not self._troubled:
            log.warning("Valkey does not keep replies at the moment: %s", str(error).strip() or "time-out")
        self._troubled = True


def _name(hold_id: UUID) -> str:
    return f"exchequer:reply:{hold_id.hex}"
