"""A limit on calls as the call path knows it: frozen, with no database behind it."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

type Kind = Literal["rate", "count"]

LOAD_LIMITS = """
SELECT id, scope, scope_ref, model, requests_per_minute, input_tokens_per_minute, output_tokens_per_minute,
       concurrent_calls, open_streams
FROM limits_calllimit WHERE tenant_id = %s ORDER BY id
"""
"""Rows for LimitTerms, in its order; for any connection."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is limited: so many a minute (`rate`), or so many at once (`count`).

    `key` names its counter; `amount` is what a call takes of it. With an amount of 0 a call passes as long
    as no debt is left.
    """

    key: str
    measure: str
    kind: Kind
    limit: int
    amount: int


@dataclass(frozen=True, slots=True)
class LimitTerms:
    """What the calls of a scope may be. None is unlimited."""

    id: int
    scope: str
    scope_ref: str
    model: str
    requests_per_minute: int | None
    input_tokens_per_minute: int | None
    output_tokens_per_minute: int | None
    concurrent_calls: int | None
    open_streams: int | None

    def checks(self, *, models: Collection[str], input_tokens: int, stream: bool) -> list[Check]:
        """What a call of one of these model names must pass. `input_tokens` is an estimate."""
        if self.model and self.model not in models:
            return []
        found = [
            self._check("requests", "rate", self.requests_per_minute, 1),
            # A call larger than a whole minute's worth waits for a full bucket, not for ever.
            self._check(
                "input-tokens",
                "rate",
                self.input_tokens_per_minute,
                min(input_tokens, self.input_tokens_per_minute or 0),
            ),
            self._check("output-tokens", "rate", self.output_tokens_per_minute, 0),
            self._check("concurrent", "count", self.concurrent_calls, 1),
            self._check("streams", "count", self.open_streams if stream else None, 1),
        ]
        return [check for check in found if check is not None]

    def _check(self, measure: str, kind: Kind, limit: int | None, amount: int) -> Check | None:
        return None if limit is None else Check(f"{self.id}:{measure}", measure, kind, limit, amount)


def reaching(limits: Iterable[LimitTerms], *, team_id: int | None, lineage_id: int) -> tuple[LimitTerms, ...]:
    """Those of a tenant's limits that a key's calls are counted in."""
    refs = {("tenant", ""), ("team", str(team_id)), ("key", str(lineage_id))}
    return tuple(limit for limit in limits if (limit.scope, limit.scope_ref) in refs)
