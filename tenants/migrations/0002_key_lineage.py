"""Keys that replace one another share a lineage, which budgets on a key refer to."""

from django.db import migrations, models

FILL_LINEAGE = """
WITH RECURSIVE lineage AS (
    SELECT id, id AS first_id, replaced_by_id FROM tenants_apikey k
    WHERE NOT EXISTS (SELECT 1 FROM tenants_apikey older WHERE older.replaced_by_id = k.id)
    UNION ALL
    SELECT k.id, l.first_id, k.replaced_by_id FROM tenants_apikey k JOIN lineage l ON k.id = l.replaced_by_id
)
UPDATE tenants_apikey k SET lineage_id = l.first_id FROM lineage l WHERE l.id = k.id
"""


class Migration(migrations.Migration):
    atomic = False  # a column cannot be altered while row triggers of the same transaction are pending

    dependencies = [("tenants", "0001_initial")]

    operations = [
        migrations.AddField("apikey", "lineage_id", models.BigIntegerField(null=True, editable=False)),
        migrations.RunSQL(FILL_LINEAGE, migrations.RunSQL.noop),
        migrations.AlterField(
            "apikey",
            "lineage_id",
            models.BigIntegerField(
                editable=False,
                help_text="The id of the first key of its rotations; a budget on one of them is a budget on all.",
            ),
        ),
    ]
