"""Prompt-cache accounting by prefix: what a prompt reads, what it writes at 5 minutes and 1 hour, the rest.

As documented: exact prefix match over tools → system → messages; an entry is written at each breakpoint; a
breakpoint looks back over at most 20 positions for an entry; a prefix under the model's minimum is silently
not cached; a read refreshes the entry; an entry can be read once the first reply begins; entries belong to
one workspace (here: one credential) and one model. Time is measured from the start of the request.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec

from governance.simulator.prompt import Segment

LOOKBACK_POSITIONS = 20
TTL_SECONDS = {"5m": 300, "1h": 3600}
ENTRIES_MAX = 100_000


@dataclass(frozen=True, slots=True)
class CacheSplit:
    """Tokens of one prompt; the four add up to its total."""

    uncached: int
    read: int = 0
    write_5m: int = 0
    write_1h: int = 0


@dataclass(slots=True)
class _Entry:
    ttl_seconds: int
    expires_at: float
    readable_at: float


class PromptCache:
    """All cached prefixes of this simulator, in memory, by the digest of scope and prefix."""

    def __init__(self) -> None:
        self._entries: dict[bytes, _Entry] = {}

    def account(
        self, scope: Any, segments: list[Segment], prefix_tokens_min: int, now: float, readable_at: float
    ) -> CacheSplit:
        """Read and write the cache for one request. `scope` is anything JSON that must be equal to share a
        prefix: credential, model, and by level what invalidates it (see `_digests`). Times in seconds."""
        digests = _digests(scope, segments)
        totals: list[int] = []
        for segment in segments:
            totals.append((totals[-1] if totals else 0) + segment.tokens)
        breakpoints = [i for i, segment in enumerate(segments) if segment.ttl]

        hit = self._longest_hit(digests, breakpoints, now)
        read = totals[hit] if hit >= 0 else 0
        written = {"5m": 0, "1h": 0}
        cursor = read
        for i in breakpoints:
            ttl = segments[i].ttl
            assert ttl is not None
            if i <= hit or totals[i] < prefix_tokens_min:
                continue
            written[ttl] += totals[i] - cursor
            cursor = totals[i]
            seconds = TTL_SECONDS[ttl]
            self._entries[digests[i]] = _Entry(seconds, now + seconds, readable_at)
        self._drop_expired(now)
        return CacheSplit(totals[-1] - cursor, read, written["5m"], written["1h"])

    def _longest_hit(self, digests: list[bytes], breakpoints: list[int], now: float) -> int:
        """The index of the last segment of the longest live prefix, or -1; refreshes what it finds."""
        for i in reversed(breakpoints):
            for position in range(i, max(-1, i - LOOKBACK_POSITIONS), -1):
                entry = self._entries.get(digests[position])
                if entry is not None and entry.readable_at <= now < entry.expires_at:
                    entry.expires_at = now + entry.ttl_seconds
                    return position
        return -1

    def _drop_expired(self, now: float) -> None:
        if len(self._entries) <= ENTRIES_MAX:
            return
        self._entries = {key: entry for key, entry in self._entries.items() if now < entry.expires_at}
        if len(self._entries) > ENTRIES_MAX:
            self._entries.clear()


def _digests(scope: dict[str, Any], segments: list[Segment]) -> list[bytes]:
    """The running digest after each segment. `scope[level]` is mixed in where that level begins, so that what
    invalidates one level (tool_choice: messages; speed: system and messages) leaves those before intact."""
    running = hashlib.blake2b(msgspec.json.encode(scope["all"]), digest_size=16)
    levels_to_mix = ["tools", "system", "messages"]
    digests = []
    for segment in segments:
        while levels_to_mix and segment.level in levels_to_mix:
            running.update(msgspec.json.encode(scope.get(levels_to_mix.pop(0))))
        block = {name: value for name, value in segment.block.items() if name != "cache_control"}
        running.update(msgspec.json.encode([segment.level, segment.role, block], order="deterministic"))
        digests.append(running.digest())
    return digests
