"""What one gateway process remembers of prompts, to tell which prefix is worth writing to the prompt cache.

Nothing readable is kept: a prefix is a digest keyed by its tenant, which no other tenant can make. All of it
is bounded, and what was longest unused goes first. It is advice and never truth: a process that forgets sends
one more prompt without the cache, and no more.

A *prefix* is what many calls begin with: tools, or tools and system prompt. A *line* is one caller's row of
calls (a key's session, or a key's endpoint); of its last call the pieces are kept, to tell which one changed.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from governance.core.usage import Pass, Usage, total_usage
from governance.pricing.book import PriceBook

PREFIXES_MAX = 5_000
TURNS_MAX = 20_000
LINES_MAX = 2_000
"""Of these at most so many; together, with PIECES_MAX, about 15 MB."""
PIECES_MAX = 32
"""Messages and system blocks that are compared; the first ones."""
SIGHTINGS_MAX = 64
"""Beyond so many the older ones count half: callers change their ways."""
LOOKBACK_MESSAGES = 20
"""As far back as the API looks for an entry."""
UNREAD_MAX = 4
GIVEN_UP_SECONDS = 3_600.0
"""How long a prefix is left alone of which so many entries in a row went unread, though there was time."""
ENTRY_SECONDS = 300.0
CHANGES_MIN = 3
"""A part that changed so often between one line's calls is what keeps its cache from working."""


class Prefix(msgspec.Struct):
    """Sightings: `gaps` between them, `repeats` of these within an entry's lifetime. `turns` that went on
    with a conversation, and how many of those were gone on with again: `continued`. Figures, in tokens and
    nano-dollars, of the `replies` to prompts that we marked."""

    last_at: float | None = None
    gaps: int = 0
    repeats: int = 0
    turns: int = 0
    continued: int = 0
    replies: int = 0
    read_tokens: int = 0
    written_tokens: int = 0
    premium_nanos: int = 0
    saved_nanos: int = 0
    written_at: float | None = None
    unread: int = 0
    given_up_until: float = 0.0


class Worth(msgspec.Struct, frozen=True):
    """Of one reply: tokens read and written, what was paid more for writing them than for plain input, and
    less for reading. The difference of the two is what the prompt cache saved of the call's cost."""

    read_tokens: int
    written_tokens: int
    premium_nanos: int
    saved_nanos: int


class Turn(msgspec.Struct, frozen=True, gc=False):
    at: float
    goes_on: bool


class Pieces(msgspec.Struct, frozen=True):
    """Digests of what a prompt consists of, in the order in which the cache reads it."""

    tools: bytes
    system: tuple[bytes, ...]
    messages: tuple[bytes, ...]


class Line(msgspec.Struct):
    pieces: Pieces
    at: float
    calls: int
    changes: Counter[str]


class Memory:
    """One for a process. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._prefixes: OrderedDict[bytes, Prefix] = OrderedDict()
        self._turns: OrderedDict[bytes, Turn] = OrderedDict()
        self._lines: OrderedDict[bytes, Line] = OrderedDict()

    def prefix(self, digest: bytes) -> Prefix:
        """What is known of it; from now on it is known."""
        return _kept(self._prefixes, digest, Prefix, PREFIXES_MAX)

    def saw(self, digest: bytes, now: float, ttl_seconds: int) -> bool:
        """Whether the prefix was seen within `ttl_seconds`; it is seen now."""
        prefix = self.prefix(digest)
        is_repeat = prefix.last_at is not None and now - prefix.last_at < ttl_seconds
        if prefix.last_at is not None:
            prefix.gaps += 1
            prefix.repeats += is_repeat
            if prefix.gaps > SIGHTINGS_MAX:
                prefix.gaps, prefix.repeats = prefix.gaps // 2, prefix.repeats // 2
        prefix.last_at = now
        return is_repeat

    def saw_turn(self, digest: bytes, turns: Sequence[bytes], now: float, ttl_seconds: int) -> bool:
        """Whether a conversation goes on with one that was seen within `ttl_seconds`. `turns`: what stands
        for it up to and including each of its messages; `digest`: the prefix that it has."""
        known = map(self._turns.get, reversed(turns[-LOOKBACK_MESSAGES - 1 : -1]))
        before = next((turn for turn in known if turn is not None and now - turn.at < ttl_seconds), None)
        if before is not None:
            prefix = self.prefix(digest)
            prefix.turns += 1
            prefix.continued += before.goes_on
            if prefix.turns > SIGHTINGS_MAX:
                prefix.turns, prefix.continued = prefix.turns // 2, prefix.continued // 2
        self._turns[turns[-1]] = Turn(now, before is not None)
        self._turns.move_to_end(turns[-1])
        if len(self._turns) > TURNS_MAX:
            self._turns.popitem(last=False)
        return before is not None

    def learn(
        self,
        digest: bytes,
        passes: tuple[Pass, ...],
        book: PriceBook,
        at: datetime,
        *,
        began: float,
        now: float,
    ) -> "Worth":
        """What the reply to a marked prompt says was read and written, and what that was worth at the prices
        of `at`; the worth of this reply alone is returned. `began`: when the call did."""
        prefix, used = self.prefix(digest), total_usage(passes)
        plain_nanos = book.rate(
            [msgspec.structs.replace(each, usage=each.usage.uncached) for each in passes], at
        ).cost_nanos
        unread_nanos = book.rate([_without_reads(each) for each in passes], at).cost_nanos
        prefix.replies += 1
        worth = Worth(
            used.cache_read_input_tokens,
            used.cache_creation_input_tokens,
            unread_nanos - plain_nanos,
            unread_nanos - book.rate(passes, at).cost_nanos,
        )
        prefix.read_tokens += worth.read_tokens
        prefix.written_tokens += worth.written_tokens
        prefix.premium_nanos += worth.premium_nanos
        prefix.saved_nanos += worth.saved_nanos
        if used.cache_read_input_tokens:
            prefix.unread = 0
        elif used.cache_creation_input_tokens:
            before = prefix.written_at
            if before is not None and before < began < before + ENTRY_SECONDS:
                prefix.unread += 1
            if prefix.unread >= UNREAD_MAX:
                prefix.unread, prefix.given_up_until = 0, now + GIVEN_UP_SECONDS
        if used.cache_creation_input_tokens:
            prefix.written_at = now
        return worth

    def keeps_changing(self, line: bytes, pieces: Pieces, now: float, ttl_seconds: int) -> str | None:
        """Which part of the prompt changed between this call and the line's last, where that is not new and
        both are within an entry's lifetime. Remembers this call's pieces."""
        fresh = Line(pieces, now, 1, Counter())
        known = _kept(self._lines, line, lambda: fresh, LINES_MAX)
        if known is fresh:
            return None
        changed = first_change(known.pieces, pieces) if now - known.at < ttl_seconds else None
        known.calls += 1
        known.pieces, known.at = pieces, now
        if changed is None:
            return None
        known.changes[changed] += 1
        times = known.changes[changed]
        return f"{changed} changed in {times} of {known.calls} calls" if times >= CHANGES_MIN else None


def first_change(before: Pieces, now: Pieces) -> str | None:
    """The first part that is not what it was: tools, system block n, message n (from 1). None where the
    prompt begins with the earlier one, and for a conversation that begins differently: another one."""
    if before.tools != now.tools:
        return "tools"
    if before.system != now.system:
        return f"system block {_first_difference(before.system, now.system) + 1}"
    index = _first_difference(before.messages, now.messages)
    if index == 0 or index >= min(len(before.messages), len(now.messages)):
        return None
    return f"message {index + 1}"


def _first_difference(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def _without_reads(served: Pass) -> Pass:
    fresh, write_5m, write_1h, read, output, searches = served.usage.units
    return msgspec.structs.replace(served, usage=Usage(fresh + read, write_5m, write_1h, 0, output, searches))


def _kept[T](kept: OrderedDict[bytes, T], key: bytes, make: Callable[[], T], most: int) -> T:
    found = kept.get(key)
    if found is None:
        found = kept[key] = make()
        if len(kept) > most:
            kept.popitem(last=False)
    else:
        kept.move_to_end(key)
    return found
