"""What needs a person: names that nobody knows, and bounds that do not hold.

The call path only notes them here. The gateway's publisher writes them to the database within a second or
two (`persist`), where the first worker to write a name is the one that logs it: one alert a name, however
many workers and restarts there are, and nobody can use up another's.
"""

import logging
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from governance.gateway.operator_rules import model_id
from governance.pricing import queries

if TYPE_CHECKING:
    from governance.gateway.exchange import Exchange

log = logging.getLogger(__name__)

type Kind = Literal["beta", "field", "model"]

NAMES_PER_KIND_MAX = 5_000
NAMES_PER_TENANT_MAX = 50
"""Of each kind. Clients choose these names freely."""
NEAR_PAIRS_MAX = 1_000
BROKEN_WAITING_MAX = 1_000

_SENTENCES: dict[str, str] = {
    "beta": "The beta %r is not known; worst cases with it are assumed.",
    "field": "The body field %r is not known; worst cases with it are assumed.",
    "model": "The model %r has no price; the dearest known is held and charged.",
}


class Alerts:
    """What this process has noted, and what of it is not in the database yet."""

    def __init__(self) -> None:
        self._noted: set[tuple[Kind, str]] = set()
        self._of_kind: Counter[Kind] = Counter()
        self._of_tenant: Counter[tuple[Kind, int]] = Counter()
        self._names: deque[dict[str, Any]] = deque()
        self._broken: deque[dict[str, Any]] = deque(maxlen=BROKEN_WAITING_MAX)
        self._near: set[tuple[str, tuple[str, ...]]] = set()

    def unknown(self, kind: Kind, name: str, tenant_id: int) -> bool:
        """Note that we do not know the name; whether that is news to this process."""
        if (kind, name) in self._noted or self._of_kind[kind] >= NAMES_PER_KIND_MAX:
            return False
        if self._of_tenant[kind, tenant_id] >= NAMES_PER_TENANT_MAX:
            return False
        self._noted.add((kind, name))
        self._of_kind[kind] += 1
        self._of_tenant[kind, tenant_id] += 1
        self._names.append({"kind": kind, "name": _storable(name), "tenant_id": tenant_id})
        return True

    def broken(self, exchange: "Exchange", attempt_id: UUID, bound_nanos: int, cost_nanos: int) -> None:
        """A call cost more than its worst case: its pair of model and features is to be refused."""
        self._broken.append(
            {
                "model_id": model_id(exchange.request.model, exchange.key.tenant.book),
                "features": [_storable(name) for name in exchange.features],
                "tenant_id": exchange.key.tenant.id,
                "attempt_id": attempt_id,
                "bound_nanos": bound_nanos,
                "cost_nanos": cost_nanos,
            }
        )

    def near(self, exchange: "Exchange", tokens: int, tokens_max: int) -> None:
        """A call used nearly all of the input tokens that were held for it: logged once a pair."""
        pair = (exchange.request.model, exchange.features)
        if pair in self._near or len(self._near) >= NEAR_PAIRS_MAX:
            return
        self._near.add(pair)
        log.warning(
            "A call to %s with %s used %d of the %d input tokens that its worst case has. Run manage.py "
            "calibrate.",
            pair[0],
            ", ".join(pair[1]) or "plain text",
            tokens,
            tokens_max,
        )

    @property
    def waiting(self) -> bool:
        """Is there anything to persist?"""
        return bool(self._names or self._broken)

    async def persist(self, connection: Any) -> None:
        """Write what is not in the database yet, and log what nobody had written. `connection`: psycopg,
        async, autocommit. Raises as it does; what is not written stays for the next time."""
        while self._broken:
            broken = self._broken[0]
            if await _wrote(connection, queries.BREAK_BOUND, broken):
                log.error(
                    "A call to %s with %s cost %d nano-dollars, above its worst case of %d. Such calls are "
                    "refused until somebody clears the pair in the console. Attempt %s.",
                    broken["model_id"],
                    ", ".join(broken["features"]) or "plain text",
                    broken["cost_nanos"],
                    broken["bound_nanos"],
                    broken["attempt_id"],
                )
            self._broken.popleft()
        limits = {"of_kind_max": NAMES_PER_KIND_MAX, "of_tenant_max": NAMES_PER_TENANT_MAX}
        while self._names:
            seen = self._names[0]
            if await _wrote(connection, queries.SEE_NAME, seen | limits):
                log.warning(_SENTENCES[seen["kind"]], seen["name"])
            self._names.popleft()


async def _wrote(connection: Any, sql: str, parameters: dict[str, Any]) -> bool:
    cursor = await connection.execute(sql, parameters)
    return await cursor.fetchone() is not None


def _storable(name: str) -> str:
    """The name as PostgreSQL can keep it."""
    return name.replace("\0", "").encode("utf-8", "replace").decode()[:128]
