"""Limits on calls: taken before money is held, corrected when the call has ended.

Only for keys that have limits. Their headers are in upstream's own format, `anthropic-ratelimit-…`.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from math import ceil
from typing import TYPE_CHECKING

from governance.core.clock import utcnow
from governance.core.usage import Pass, total_usage
from governance.gateway.errors import CallRefused, Refusal
from governance.limits.meter import Meter
from governance.limits.share import Answer
from governance.limits.terms import Check

if TYPE_CHECKING:
    from governance.gateway.exchange import Exchange
    from governance.gateway.responses import Headers

BYTES_PER_TOKEN = 4
"""For the estimate of a request's input; the reply's usage corrects it."""
TOLD = {
    "requests": "requests a minute",
    "input-tokens": "input tokens a minute",
    "output-tokens": "output tokens a minute",
    "concurrent": "calls at once",
    "streams": "open streams at once",
}
_SCOPES = {"key": "This API key", "team": "The team of this API key", "tenant": "This tenant"}


class Taken:
    """What one call took of its limits. `close` gives back what it did not use, once."""

    __slots__ = ("_answer", "_checks", "_closed", "_meter")

    def __init__(self, meter: Meter, checks: Sequence[Check], answer: Answer) -> None:
        self._meter = meter
        self._checks = checks
        self._answer = answer
        self._closed = False

    def close(self, passes: Sequence[Pass] | None = None) -> None:
        """The call has ended. `passes`: its usage where that is known; None for a call that used nothing."""
        if self._closed:
            return
        self._closed = True
        usage = total_usage(passes) if passes else None
        ended = []
        for check in self._checks:
            amount = check.amount
            if check.measure == "input-tokens":
                if usage is not None:  # what was read from the cache does not count, as upstream has it
                    written = usage.cache_creation_5m_tokens + usage.cache_creation_1h_tokens
                    amount = usage.input_tokens + written - check.amount
                else:
                    amount = 0 if passes is not None else -check.amount
            elif check.measure == "output-tokens":
                amount = usage.output_tokens if usage is not None else 0
            elif check.measure == "requests":
                continue
            ended.append(replace(check, amount=amount))
        if ended:
            self._meter.give(ended, self._answer)

    def headers(self) -> "Headers":
        """What is left of each rate, as upstream says it; of several limits on one measure the tightest."""
        return _headers(self._checks, self._answer)


async def take(exchange: "Exchange") -> None:
    """Take the call's share of every limit on its key; `exchange.taken` gives it back. CallRefused: 429."""
    key, request = exchange.key, exchange.request
    facts = key.tenant.book.model(request.model)
    models = {request.model, facts.model_id} if facts is not None else {request.model}
    estimate = len(request.body) // BYTES_PER_TOKEN
    found = [
        (limit, check)
        for limit in key.call_limits
        for check in limit.checks(models=models, input_tokens=estimate, stream=request.stream)
    ]
    if not found:
        return
    checks = [check for _, check in found]
    meter = exchange.gateway.meter
    answer = await meter.take(checks)
    if answer.refused is not None:
        limit, check = found[answer.refused]
        raise CallRefused(_refusal(_SCOPES[limit.scope], limit.model, check, checks, answer))
    exchange.taken = Taken(meter, checks, answer)


def _refusal(who: str, model: str, check: Check, checks: Sequence[Check], answer: Answer) -> Refusal:
    seconds = max(1, ceil(answer.wait_seconds))
    of = f" of {model[:80]}" if model else ""
    waiting = f"in {seconds} s" if check.kind == "rate" else "when one has ended"
    headers = [
        (b"retry-after", b"%d" % seconds),
        (b"retry-after-ms", b"%d" % max(1, ceil(answer.wait_seconds * 1000))),
        (b"x-should-retry", b"true"),
        *_headers(checks, answer),
    ]
    message = f"{who} may have {check.limit:,} {TOLD[check.measure]}{of}, and has them. Try again {waiting}."
    if check.kind == "rate":
        return Refusal(429, "rate_limit_error", "rate_limited", message, headers)
    return Refusal(429, "rate_limit_error", "too_many_at_once", message, headers)


def _headers(checks: Sequence[Check], answer: Answer) -> "Headers":
    tightest: dict[str, int] = {}
    for number, check in enumerate(checks):
        if check.kind == "rate":
            before = tightest.get(check.measure)
            if before is None or answer.left[number] < answer.left[before]:
                tightest[check.measure] = number
    now = utcnow()
    headers = []
    for measure, number in tightest.items():
        full_at = now + timedelta(seconds=ceil(answer.full_seconds[number]))
        name = b"anthropic-ratelimit-" + measure.encode()
        headers += [
            (name + b"-limit", b"%d" % checks[number].limit),
            (name + b"-remaining", b"%d" % answer.left[number]),
            (name + b"-reset", f"{full_at:%Y-%m-%dT%H:%M:%SZ}".encode()),
        ]
    return headers
