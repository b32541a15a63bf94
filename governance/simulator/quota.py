"""Requests a minute, counted as the Claude API counts them: a bucket for each credential and model that fills
continuously. Only with `--requests-per-minute`; otherwise the rate-limit headers are constants."""

import math
import time
from collections.abc import Callable

from governance.simulator.errors import ApiError

Headers = tuple[tuple[str, str], ...]


class RequestQuota:
    """`burst` requests at once, then so many a minute."""

    def __init__(
        self, requests_per_minute: int, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = requests_per_minute
        self._burst = burst
        self._clock = clock
        self._levels: dict[tuple[str, str], tuple[float, float]] = {}

    def take(self, key: str, model: str) -> Headers:
        """One request; the headers of its reply. ApiError 429, with retry-after, where none is left."""
        now = self._clock()
        level, at = self._levels.get((key, model), (float(self._burst), now))
        level = min(float(self._burst), level + (now - at) * self._limit / 60)
        self._levels[key, model] = (level - 1 if level >= 1 else level, now)
        if level < 1:
            seconds = math.ceil((1 - level) * 60 / self._limit)
            raise ApiError(
                "rate_limit_error",
                f"This request would exceed your organization's rate limit of {self._limit} requests per "
                "minute.",
                headers=(("retry-after", str(seconds)), *self._headers(0)),
            )
        return self._headers(int(level - 1))

    def _headers(self, remaining: int) -> Headers:
        name = "anthropic-ratelimit-requests"
        return ((f"{name}-limit", str(self._limit)), (f"{name}-remaining", str(remaining)))
