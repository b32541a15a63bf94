"""From what came back to what it costs: exactly, at a bound, or the whole hold. Pure.

exact      the reply says what was used
bounded    it broke off after message_start: the input is known, the output cannot exceed what passed by
full_hold  nobody can tell; it may have been billed
"""

from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from governance.core.meters import Meter
from governance.core.usage import Pass, Usage, UsageUnreadable, served_passes
from governance.gateway.sse import UNDECODABLE, StreamTap, UnreadableEncoding, unpacked
from governance.ledger.kinds import Basis
from governance.pricing.book import PriceBook

OUTPUT_TOKENS_PER_SECOND_MAX = 500
"""No served model writes faster. Bounds what a block that is held back can have cost."""
UNITS_ABSURD = 100_000_000
"""More of anything than any model takes or gives: such usage is a fault, not a bill."""


class _Reply(msgspec.Struct):
    """What is read of a Message. `content` stays raw: only its fingerprint is kept."""

    model: str = ""
    usage: dict[str, Any] | None = None
    stop_reason: str | None = None
    content: msgspec.Raw = msgspec.Raw()


_decode_reply = msgspec.json.Decoder(_Reply).decode


class Charge(msgspec.Struct, frozen=True):
    """What an attempt is charged, and what is known about it. `why` explains anything but exact."""

    basis: Basis
    cost_nanos: int
    list_nanos: int
    by_meter: dict[Meter, int]
    passes: tuple[Pass, ...]
    usage_source: str
    stop_reason: str | None = None
    unknown_models: tuple[str, ...] = ()
    why: str | None = None


class Promise(msgspec.Struct, frozen=True):
    """What was held, and what the request allows: the frame that every charge stays in."""

    held_nanos: int
    list_nanos: int
    max_tokens: int
    single_pass: bool
    at: datetime
    book: PriceBook
    bound_nanos: int | None = None
    """The worst case that was held at first; None where the request has none."""
    input_tokens_max: int | None = None
    """The input tokens in that worst case, where they were estimated from the body."""

    def full_hold(self, why: str, passes: tuple[Pass, ...] = ()) -> Charge:
        return Charge(Basis.FULL_HOLD, self.held_nanos, self.list_nanos, {}, passes, "none", why=why[:256])

    def rated(self, passes: tuple[Pass, ...], source: str, stop_reason: str | None) -> Charge:
        """The exact cost of passes as served. UsageUnreadable for absurd counts."""
        if max(max(served.usage.units) for served in passes) > UNITS_ABSURD:
            raise UsageUnreadable("usage has a count that no model can reach.")
        cost = self.book.rate(passes, self.at)
        return Charge(
            Basis.EXACT,
            cost.cost_nanos,
            cost.list_nanos,
            cost.by_meter,
            passes,
            source,
            stop_reason,
            cost.unknown_models,
        )

    def message(self, body: bytes, content_encoding: str) -> tuple[Charge, bytes]:
        """The charge for a complete Message, and the raw JSON of its content (b"" when unreadable)."""
        try:
            reply = _decode_reply(unpacked(body, content_encoding))
            passes = served_passes({"model": reply.model, "usage": reply.usage})
            charge = self.rated(passes, "message", reply.stop_reason)
        except (UsageUnreadable, UnreadableEncoding, *UNDECODABLE) as error:
            return self.full_hold(f"usage unreadable: {error}"), b""
        return charge, bytes(reply.content)

    def stream(self, tap: StreamTap, seconds: float) -> Charge:
        """The charge for a stream, complete or not. `seconds`: from sending the request to its end."""
        if tap.unreadable is not None:
            return self.full_hold(f"usage unreadable: {tap.unreadable}")
        if not tap.usage.started:
            return self.full_hold("the stream ended before its message_start event")
        try:
            passes = tap.usage.passes()
            if tap.usage.finished:
                return self.rated(passes, "stream", tap.stop_reason)
            if not self.single_pass or len(passes) > 1:
                return self.full_hold("a stream of several passes broke off", passes)
            return self._bounded(tap, passes[0], seconds)
        except UsageUnreadable as error:
            return self.full_hold(f"usage unreadable: {error}")

    def _bounded(self, tap: StreamTap, served: Pass, seconds: float) -> Charge:
        """Known input, and output of at most a token a byte that passed, plus what it may hide."""
        output = tap.bytes_seen
        if tap.hides_output or not tap.content_bytes:
            output += int(seconds * OUTPUT_TOKENS_PER_SECOND_MAX) + 1
        output = max(served.usage.output_tokens, min(output, self.max_tokens))
        bounded = replace(served, usage=replace(served.usage, output_tokens=output))
        charge = self.rated((bounded,), "bound", tap.stop_reason)
        if charge.cost_nanos > self.held_nanos:
            return self.full_hold("the bound of a broken-off stream is above its hold", (served,))
        return msgspec.structs.replace(
            charge, basis=Basis.BOUNDED, why="the stream broke off before its usage was complete"
        )

    def after_start(self, tap: StreamTap) -> int | None:
        """What the hold can shrink to at message_start: exact input, every allowed output token.

        None where later events may still raise the input, or where usage cannot be read.
        """
        exact = tap.usage.exact_input
        if not self.single_pass or exact is None:
            return None
        try:
            passes = tap.usage.passes()
            if len(passes) > 1:
                return None
            most = Usage(*exact.units[:4], output_tokens=max(self.max_tokens, passes[0].usage.output_tokens))
            charge = self.rated((replace(passes[0], usage=most),), "bound", None)
        except UsageUnreadable:
            return None
        return charge.cost_nanos if charge.cost_nanos < self.held_nanos else None
