"""What a tenant or one key has spent, read from facts: the figures of `manage.py ledger_sum`."""

import json
from typing import Any

from django.db import connection

# Facts only, in one snapshot; credits and corrections are negative amounts, overruns are the operator's.
_SUMS = """
SELECT
    (SELECT coalesce(sum(amount_nanos), 0)::bigint FROM ledger_ledgerentry
     WHERE tenant_id = %(tenant)s AND kind NOT IN ('overrun', 'transfer')
       AND (%(key)s::bigint IS NULL OR key_id = %(key)s)),
    (SELECT coalesce(sum(amount_nanos), 0)::bigint FROM ledger_hold
     WHERE tenant_id = %(tenant)s AND (%(key)s::bigint IS NULL OR (memo ->> 'key')::bigint = %(key)s)),
    (SELECT count(*) FROM calls_call
     WHERE tenant_id = %(tenant)s AND (%(key)s::bigint IS NULL OR key_id = %(key)s)),
    (SELECT coalesce(jsonb_object_agg(meter, nanos), '{}') FROM (
        SELECT meter, sum(nanos::bigint)::bigint AS nanos
        FROM calls_attempt, jsonb_each_text(cost_by_meter) AS cost(meter, nanos)
        WHERE tenant_id = %(tenant)s AND (%(key)s::bigint IS NULL OR key_id = %(key)s)
        GROUP BY meter
    ) AS per_meter)
"""


def ledger_sums(tenant_id: int, key_id: int | None = None) -> dict[str, Any]:
    """{"spent_nanos", "held_nanos", "calls", "by_meter": {meter: nanos}} of a tenant, or of one key."""
    with connection.cursor() as cursor:
        cursor.execute(_SUMS, {"tenant": tenant_id, "key": key_id})
        spent_nanos, held_nanos, calls, by_meter = cursor.fetchone()
    return {
        "spent_nanos": spent_nanos,
        "held_nanos": held_nanos,
        "calls": calls,
        "by_meter": json.loads(by_meter),
    }
