"""Which ids of keys there are, as far as a process knows without their rows: whoever guesses keys does not
have the database asked each time, and keeps no key that exists from being found."""

from time import monotonic

MISSING_KEPT_MAX = 10_000
MISSING_SECONDS = 5.0
MISSED_PER_SECOND_MAX = 50
"""So many look-ups a second may find nothing; beyond it only keys that exist are looked up."""
EXISTING_KEPT_MAX = 50_000
"""Ids of keys that are known to exist, about 5 MB; the newest count."""
LOAD_NEW_IDS = """
SELECT id, public_id FROM (
    SELECT id, public_id FROM tenants_apikey WHERE id > %s ORDER BY id DESC LIMIT 50000
) AS newest ORDER BY id
"""


class KeyIds:
    """`newest` is the row of the newest key that was seen, for LOAD_NEW_IDS."""

    def __init__(self) -> None:
        self.newest = 0
        self._missing: dict[str, float] = {}
        self._existing: dict[str, None] = {}
        self._misses_left, self._counted_at = float(MISSED_PER_SECOND_MAX), monotonic()

    def is_missing(self, public_id: str) -> bool:
        """It was looked up a moment ago, and there was none."""
        until = self._missing.get(public_id)
        return until is not None and monotonic() < until

    def exists(self, public_id: str) -> bool:
        """It was seen; False where nobody knows."""
        return public_id in self._existing

    def may_miss(self) -> bool:
        """Whether one more look-up may find nothing: a token bucket that fills with time."""
        now = monotonic()
        refilled = self._misses_left + (now - self._counted_at) * MISSED_PER_SECOND_MAX
        self._misses_left, self._counted_at = min(refilled, float(MISSED_PER_SECOND_MAX)), now
        return self._misses_left >= 1

    def found(self, public_id: str) -> None:
        if public_id not in self._existing and len(self._existing) >= EXISTING_KEPT_MAX:
            del self._existing[next(iter(self._existing))]
        self._existing[public_id] = None
        self._missing.pop(public_id, None)

    def missed(self, public_id: str) -> None:
        self._misses_left = max(0.0, self._misses_left - 1)
        if len(self._missing) >= MISSING_KEPT_MAX:
            del self._missing[next(iter(self._missing))]
        self._missing[public_id] = monotonic() + MISSING_SECONDS
