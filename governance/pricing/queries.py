"""The SQL that a price book is loaded with, for any driver that takes psycopg's %(name)s parameters.

Columns come in the field order of the value objects in rates.py. A row belongs to load V when it was added
in V or before and not superseded by V.
"""

NEWEST_VERSION = "SELECT max(id) FROM pricing_pricebookversion"

LIST_RATES = """
SELECT model_id, meter, variant, above_prompt_tokens, nanos_per_mtok, us_geo_ppm, effective_from, effective_to
FROM pricing_pricerow
WHERE added_in_id <= %(version)s AND (superseded_in_id IS NULL OR superseded_in_id > %(version)s)
"""

MODEL_FACTS = """
SELECT model_id, aliases, family, status, context_window_tokens, output_tokens_max, batch_output_tokens_max,
       cacheable_prefix_tokens_min, tokenizer, released_on, retires_on
FROM pricing_knownmodel
WHERE added_in_id <= %(version)s AND (superseded_in_id IS NULL OR superseded_in_id > %(version)s)
ORDER BY id
"""

CONTRACT_RATES = """
SELECT model_id, meter, variant, above_prompt_tokens, discount_ppm, nanos_per_mtok,
       effective_from, effective_to
FROM pricing_contractprice
WHERE tenant_id = %(tenant_id)s
"""

REFUSED_NAMES = "SELECT kind, name, reason FROM pricing_refusedname"

BROKEN_BOUNDS = "SELECT model_id, features FROM pricing_brokenbound WHERE cleared_at IS NULL"

# Clients choose these names: none of them can fill the table, or use up the room of another tenant.
SEE_NAME = """
INSERT INTO pricing_seenname (kind, name, tenant_id)
SELECT %(kind)s::varchar, %(name)s::varchar, %(tenant_id)s::bigint
WHERE (SELECT count(*) FROM pricing_seenname WHERE kind = %(kind)s::varchar) < %(of_kind_max)s
  AND (SELECT count(*) FROM pricing_seenname
       WHERE kind = %(kind)s::varchar AND tenant_id = %(tenant_id)s::bigint)
      < %(of_tenant_max)s
ON CONFLICT (kind, name) DO NOTHING
RETURNING id
"""

BREAK_BOUND = """
INSERT INTO pricing_brokenbound
    (model_id, features, tenant_id, attempt_id, bound_nanos, cost_nanos, cleared_because)
VALUES (%(model_id)s, %(features)s, %(tenant_id)s, %(attempt_id)s, %(bound_nanos)s, %(cost_nanos)s, '')
ON CONFLICT (model_id, features) WHERE cleared_at IS NULL DO NOTHING
RETURNING id
"""
