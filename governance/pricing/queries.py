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
