"""Summaries of what history windows took away, kept sealed in Valkey for a day, so that all workers send the
same one: another wording would be another prompt to the prompt cache."""

import asyncio
from collections import OrderedDict
from time import monotonic

from governance.gateway.lookups import Lookups, seconds_left
from governance.valkey.link import Link, ValkeyError
from tenants.secrets import open_reply, seal_reply

KEEP_SECONDS = 24 * 3600
FAILED_SECONDS = 300.0
"""No other try meanwhile: a try that fails may have been billed."""
FAILED_KEPT_MAX = 1_000
NEAR_KEPT_MAX = 500
"""Summaries in this process, about 2 MB: without Valkey each turn would pay for its own and wait for it."""


class Summaries:
    """Digest → summary. A digest is of everything that the summary is made from, keyed with its tenant's own
    key; a value opens for its own digest only."""

    def __init__(self, link: Link, lookups: Lookups) -> None:
        """`link` is for writing."""
        self._link = link
        self._lookups = lookups
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
        sealed = await self._lookups.get(_name(digest), counted=False)
        plain = open_reply(sealed, digest) if sealed else None
        return None if plain is None else self._keep_near(digest, plain.decode(errors="replace"))

    async def keep(self, digest: bytes, summary: str) -> str:
        """Keep it, unless another worker has just kept one; the one that is to be used is returned."""
        if self._lookups.away:  # the call waits no second time for a Valkey that is silent
            return self._keep_near(digest, summary)
        sealed = seal_reply(summary.encode(errors="replace"), digest)
        try:
            async with asyncio.timeout(seconds_left()):
                kept = await self._link.ask("SET", _name(digest), sealed, "EX", KEEP_SECONDS, "NX")
        except (ValkeyError, TimeoutError):
            return self._keep_near(digest, summary)
        found = await self.find(digest) if kept is None else None
        return found or self._keep_near(digest, summary)

    def _keep_near(self, digest: bytes, summary: str) -> str:
        self._near[digest] = summary
        if len(self._near) > NEAR_KEPT_MAX:
            self._near.popitem(last=False)
        return summary

    def stop(self) -> None:
        self._link.close()


def _name(digest: bytes) -> str:
    return f"exchequer:summary:{digest.hex()}"
