"""Summaries of what history windows took away, kept sealed in Valkey for a day, so that all workers send the
same one: another wording would be another prompt to the prompt cache."""

import asyncio
import logging
from collections import OrderedDict
from time import monotonic

from governance.valkey.link import SECONDS_MAX, Link, ValkeyError
from tenants.secrets import open_reply, seal_reply

log = logging.getLogger(__name__)

KEEP_SECONDS = 24 * 3600
FAILED_SECONDS = 300.0
"""No other try meanwhile: a try that fails may have been billed."""
FAILED_KEPT_MAX = 1_000
NEAR_KEPT_MAX = 500
"""Summaries in this process, about 2 MB: without Valkey each turn would pay for its own and wait for it."""


class Summaries:
    """Digest → summary. A digest is of everything that the summary is made from, keyed with its tenant's own
    key; a value opens for its own digest only."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._troubled = False
        self._near: OrderedDict[bytes, str] = OrderedDict()
        self._failed: OrderedDict[bytes, float] = OrderedDict()

    def failed(self, digest: bytes) -> None:
        """There was no summary to be had."""
        self._failed[digest] = monotonic()
        if len(self._failed) > FAILED_KEPT_MAX:
            self._failed.popitem(last=False)

    def failed_lately(self, digest: bytes) -> bool:
        at = self._failed.get(digest)
        return at is not None and monotonic() - at < FAILED_SECONDS

    async def find(self, digest: bytes) -> str | None:
        """The summary; None where there is none, or nobody can say in time."""
        near = self._near.get(digest)
        if near is not None:
            return near
        sealed = await self._ask("GET", _name(digest))
        plain = open_reply(sealed, digest) if isinstance(sealed, bytes) else None
        return None if plain is None else self._keep_near(digest, plain.decode(errors="replace"))

    async def keep(self, digest: bytes, summary: str) -> str:
        """Keep it, unless another worker has just kept one; the one that is to be used is returned."""
        sealed = seal_reply(summary.encode(errors="replace"), digest)
        kept = await self._ask("SET", _name(digest), sealed, "EX", KEEP_SECONDS, "NX")
        if kept is not None or self._troubled:  # the call waits no second time for a Valkey that is silent
            return self._keep_near(digest, summary)
        return await self.find(digest) or self._keep_near(digest, summary)

    def _keep_near(self, digest: bytes, summary: str) -> str:
        self._near[digest] = summary
        if len(self._near) > NEAR_KEPT_MAX:
            self._near.popitem(last=False)
        return summary

    async def _ask(self, *command: bytes | str | int) -> object:
        try:
            async with asyncio.timeout(SECONDS_MAX):
                answer: object = await self._link.ask(*command)
        except (ValkeyError, TimeoutError) as error:
            if not self._troubled:
                log.warning("Valkey keeps no summaries at the moment: %s", str(error).strip() or "time-out")
            self._troubled = True
            return None
        self._troubled = False
        return answer

    def stop(self) -> None:
        self._link.close()


def _name(digest: bytes) -> str:
    return f"exchequer:summary:{digest.hex()}"
