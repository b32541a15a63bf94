import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models

# Makes the row of one period, once, from the budget as it stands: answers made | there | closed | full.
#
# FOR SHARE waits for a limit that is being changed right now, and makes the change wait for us: the new row
# either has the new terms or is seen by whoever changes them (budgets/limits.py, budgets/adjustments.py).
# The count's row lock makes the cap on subjects exact in any number of processes: what is counted after
# it is held includes every subject that others have given a pot.
OPEN_PERIOD = """
CREATE FUNCTION budgets_open_period(
    of_budget bigint, of_subject text, from_at timestamptz, to_at timestamptz
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    terms budgets_budget;
    raise_nanos bigint := 0;
    raise_until timestamptz;
    counted integer := 0;
BEGIN
    SELECT * INTO terms FROM budgets_budget WHERE id = of_budget AND closed_at IS NULL FOR SHARE;
    IF NOT FOUND THEN
        RETURN 'closed';
    END IF;
    IF of_subject <> '' THEN
        INSERT INTO budgets_subjectcount (budget_id, starts_at, subjects) VALUES (of_budget, from_at, 0)
        ON CONFLICT (budget_id, starts_at) DO NOTHING;
        SELECT subjects INTO counted FROM budgets_subjectcount
        WHERE budget_id = of_budget AND starts_at = from_at FOR UPDATE;
    END IF;
    IF EXISTS (
        SELECT 1 FROM ledger_budgetperiod
        WHERE budget_id = of_budget AND subject = of_subject AND starts_at = from_at
    ) THEN
        RETURN 'there';
    END IF;
    IF of_subject <> '' AND counted >= terms.subjects_max THEN
        RETURN 'full';
    END IF;
    SELECT a.amount_nanos, a.until INTO raise_nanos, raise_until FROM ledger_adjustment a
    WHERE a.budget_id = of_budget AND a.subject = of_subject AND a.kind = 'raise' AND a.until > exchequer_now()
      AND NOT EXISTS (SELECT 1 FROM ledger_adjustment e WHERE e.kind = 'raise_end' AND e.other_id = a.id)
    ORDER BY a.id DESC LIMIT 1;
    INSERT INTO ledger_budgetperiod (tenant_id, budget_id, subject, starts_at, ends_at, limit_nanos,
        ceiling_nanos, spent_nanos, held_nanos, alert_percents, raised_nanos, raised_until)
    VALUES (terms.tenant_id, of_budget, of_subject, from_at, to_at, terms.limit_nanos,
        CASE WHEN terms.enforcement = 'hard' THEN terms.limit_nanos END, 0, 0, terms.alert_percents,
        coalesce(raise_nanos, 0), raise_until)
    ON CONFLICT (budget_id, subject, starts_at) DO NOTHING;
    IF NOT FOUND THEN
        RETURN 'there';
    END IF;
    UPDATE budgets_subjectcount SET subjects = subjects + 1
    WHERE of_subject <> '' AND budget_id = of_budget AND starts_at = from_at;
    RETURN 'made';
END $$;
"""
DROP_OPEN_PERIOD = "DROP FUNCTION budgets_open_period(bigint, text, timestamptz, timestamptz)"


class Migration(migrations.Migration):

    dependencies = [
        ('budgets', '0001_initial'),
        ('ledger', '0002_scopes'),
        ('tenants', '0002_key_lineage'),
    ]

    operations = [
        migrations.CreateModel(
            name='SubjectCount',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('starts_at', models.DateTimeField()),
                ('subjects', models.IntegerField(default=0)),
            ],
        ),
        migrations.RemoveConstraint(
            model_name='budget',
            name='one_open_budget_per_scope_and_period',
        ),
        migrations.AddField(
            model_name='budget',
            name='subjects_max',
            field=models.IntegerField(db_default=10000, default=10000),
        ),
        migrations.AlterField(
            model_name='budget',
            name='each',
            field=models.BooleanField(default=False),
        ),
        migrations.AlterField(
            model_name='budget',
            name='models_only',
            field=django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=128), blank=True, default=list),
        ),
        migrations.AlterField(
            model_name='budget',
            name='week_starts_on',
            field=models.SmallIntegerField(choices=[(0, 'Monday'), (1, 'Tuesday'), (2, 'Wednesday'), (3, 'Thursday'), (4, 'Friday'), (5, 'Saturday'), (6, 'Sunday')], default=0),
        ),
        migrations.AddConstraint(
            model_name='budget',
            constraint=models.CheckConstraint(condition=models.Q(('subjects_max__gte', 1), ('subjects_max__lte', 1000000)), name='budget_has_a_cap_on_subjects'),
        ),
        migrations.AddConstraint(
            model_name='budget',
            constraint=models.CheckConstraint(condition=models.Q(('week_starts_on__gte', 0), ('week_starts_on__lte', 6)), name='week_starts_on_a_day'),
        ),
        migrations.AddConstraint(
            model_name='budget',
            constraint=models.UniqueConstraint(condition=models.Q(('closed_at__isnull', True)), fields=('tenant', 'scope', 'scope_ref', 'period', 'enforcement', 'each', 'models_only'), name='one_open_budget_per_scope_and_models'),
        ),
        migrations.AddField(
            model_name='subjectcount',
            name='budget',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to='budgets.budget'),
        ),
        migrations.AddConstraint(
            model_name='subjectcount',
            constraint=models.UniqueConstraint(fields=('budget', 'starts_at'), name='one_count_per_period'),
        ),
        migrations.RunSQL(OPEN_PERIOD, DROP_OPEN_PERIOD),
    ]
