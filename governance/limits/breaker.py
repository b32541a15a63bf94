"""The breaker: a key that spends faster than it may is paused by itself, and somebody is told.

A key's `burn_nanos_per_10_minutes_max` bounds what its calls of the last ten minutes cost: a stolen key stops
there, whatever its budgets still allow. Each gateway worker looks every few seconds (gateway/breaker.py), and
the calls that are made meanwhile pass: budgets are the wall, this is an alarm that acts.

Only a person resumes the key; what it spent before then does not count any more. telling.py writes the mails.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from django.db import IntegrityError, transaction

from governance.core.money import format_usd
from tenants.models import Pause, Tenant
from tenants.pauses import PauseRefused, pause
from tenants.scope import platform_scope

log = logging.getLogger(__name__)

BURN_MINUTES = 10

# A call counts by when it began: its id says that. `$1`: the smallest id of ten minutes ago.
FIND_BURNING = """
WITH capped AS (
    SELECT tenant_id, lineage_id, min(burn_nanos_per_10_minutes_max) AS max_nanos
    FROM tenants_apikey WHERE burn_nanos_per_10_minutes_max IS NOT NULL GROUP BY 1, 2
)
SELECT c.tenant_id, c.lineage_id, c.max_nanos, sum(spent.cost_nanos)::bigint
FROM capped c
JOIN tenants_apikey k ON k.lineage_id = c.lineage_id AND k.tenant_id = c.tenant_id
JOIN LATERAL (
    SELECT cost_nanos FROM calls_call
    WHERE key_id = k.id AND id >= %s AND cost_nanos > 0 AND at > coalesce((
        SELECT max(p.ended_at) FROM tenants_pause p
        WHERE p.tenant_id = c.tenant_id AND p.scope = 'key' AND p.scope_ref = c.lineage_id::text
    ), '-infinity')
) AS spent ON true
WHERE NOT EXISTS (
    SELECT FROM tenants_pause p WHERE p.tenant_id = c.tenant_id AND p.scope = 'key'
      AND p.scope_ref = c.lineage_id::text AND p.ended_at IS NULL
)
GROUP BY 1, 2, 3 HAVING sum(spent.cost_nanos) > c.max_nanos
"""


@dataclass(frozen=True, slots=True)
class Burning:
    """A key (all of its rotations) that spent more in ten minutes than it may. A row of FIND_BURNING."""

    tenant_id: int
    lineage_id: int
    max_nanos: int
    spent_nanos: int

    @property
    def reason(self) -> str:
        """What callers read."""
        return (
            f"its calls of {BURN_MINUTES} minutes cost {format_usd(self.spent_nanos)}, more than the "
            f"{format_usd(self.max_nanos)} that it may spend in that time, so it was paused by itself"
        )


def pause_burning(found: Iterable[Burning]) -> int:
    """Pause those keys; how many were not paused yet. Another worker may be doing the same."""
    paused = 0
    with platform_scope():
        for burning in found:
            try:
                with transaction.atomic():
                    pause(
                        Tenant.objects.get(pk=burning.tenant_id),
                        burning.reason,
                        scope=Pause.Scope.KEY,
                        ref=str(burning.lineage_id),
                        is_automatic=True,
                    )
            except (PauseRefused, IntegrityError):  # somebody was faster
                continue
            paused += 1
            log.error("Key %d was paused: %s.", burning.lineage_id, burning.reason)
    return paused
