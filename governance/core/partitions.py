"""Facts live in one table a month, by the UUIDv7 id that carries its time.

Partitioning by the id keeps a one-column primary key that is unique everywhere, so "a hold resolves
once" is the key itself. Months are made 13 ahead, at migrate and at every start; the default
partition exists so that a wrong clock loses nothing, and stays empty.
"""

from typing import Any

from django.db import migrations

from governance.core.append_only import PARTITIONED_TABLES

MONTHS_AHEAD = 13

# SECURITY DEFINER: the app role may ask for partitions of these tables and nothing else.
ENSURE_PARTITIONS_SQL = f"""
CREATE OR REPLACE FUNCTION exchequer_ensure_partitions(parent text, months integer DEFAULT {MONTHS_AHEAD})
RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
DECLARE
    made integer := 0;
    month timestamptz;
    child text;
BEGIN
    IF parent NOT IN ({", ".join(f"'{table}'" for table in PARTITIONED_TABLES)}) THEN
        RAISE EXCEPTION '% is not a partitioned fact table', parent;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('exchequer_ensure_partitions'));
    FOR i IN -1 .. months LOOP
        month := (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => i))
            AT TIME ZONE 'UTC';
        child := parent || to_char(month AT TIME ZONE 'UTC', '"_y"YYYY"m"MM');
        CONTINUE WHEN to_regclass('public.' || quote_ident(child)) IS NOT NULL;
        EXECUTE format('CREATE TABLE public.%I PARTITION OF public.%I FOR VALUES FROM (%L) TO (%L)',
            child, parent, exchequer_id_floor(month),
            exchequer_id_floor((month AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC'));
        EXECUTE format('CREATE TRIGGER append_only_table BEFORE TRUNCATE ON public.%I '
            'FOR EACH STATEMENT EXECUTE FUNCTION exchequer_refuse_change()', child);
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;
"""

# The smallest UUIDv7 of an instant; core/ids.py has its Python twin.
ID_FLOOR_SQL = """
CREATE OR REPLACE FUNCTION exchequer_id_floor(instant timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM instant) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;
"""


class CreatePartitionedModel(migrations.CreateModel):
    """CreateModel for a table that is `PARTITION BY RANGE (id)`: the model stays the one description."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        plain = schema_editor.sql_create_table
        schema_editor.sql_create_table = plain + " PARTITION BY RANGE (id)"
        try:
            super().database_forwards(app_label, schema_editor, from_state, to_state)
        finally:
            schema_editor.sql_create_table = plain


def partition_operations(table: str) -> list[migrations.RunSQL]:
    """Migration operations that give a `PARTITION BY RANGE (id)` table its default and monthly partitions."""
    return [
        migrations.RunSQL(ID_FLOOR_SQL + ENSURE_PARTITIONS_SQL, migrations.RunSQL.noop),
        migrations.RunSQL(
            f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT; "
            f"CREATE TRIGGER append_only_table BEFORE TRUNCATE ON {table}_default "
            f"FOR EACH STATEMENT EXECUTE FUNCTION exchequer_refuse_change(); "
            f"SELECT exchequer_ensure_partitions('{table}');",
            migrations.RunSQL.noop,
        ),
    ]
