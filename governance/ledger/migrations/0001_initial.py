import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.expressions
import governance.ledger.models
from django.db import migrations, models

from governance.core.append_only import guard_operations
from governance.core.clock import DATABASE_CLOCK_SQL
from governance.core.partitions import CreatePartitionedModel, partition_operations


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.RunSQL(DATABASE_CLOCK_SQL, migrations.RunSQL.noop),
        migrations.CreateModel(
            name='BudgetPeriod',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('tenant_id', models.BigIntegerField()),
                ('budget_id', models.BigIntegerField()),
                ('subject', models.CharField(blank=True, default='', max_length=256)),
                ('starts_at', models.DateTimeField()),
                ('ends_at', models.DateTimeField()),
                ('limit_nanos', models.BigIntegerField()),
                ('ceiling_nanos', models.BigIntegerField(blank=True, null=True)),
                ('spent_nanos', models.BigIntegerField(default=0)),
                ('held_nanos', models.BigIntegerField(default=0)),
                ('alert_percents', django.contrib.postgres.fields.ArrayField(base_field=models.SmallIntegerField(), blank=True, default=list)),
            ],
            options={
                'indexes': [models.Index(fields=['tenant_id', 'ends_at'], name='period_by_tenant')],
                'constraints': [models.UniqueConstraint(fields=('budget_id', 'subject', 'starts_at'), name='one_row_per_period'), models.CheckConstraint(condition=models.Q(('spent_nanos__gte', 0)), name='spent_is_not_negative'), models.CheckConstraint(condition=models.Q(('held_nanos__gte', 0)), name='held_is_not_negative'), models.CheckConstraint(condition=models.Q(('limit_nanos__gte', 0)), name='limit_is_not_negative'), models.CheckConstraint(condition=models.Q(('starts_at__lt', models.F('ends_at'))), name='period_is_not_empty'), models.CheckConstraint(condition=models.Q(('ceiling_nanos__isnull', True), ('ceiling_nanos__gte', django.db.models.expressions.CombinedExpression(models.F('spent_nanos'), '+', models.F('held_nanos'))), _connector='OR'), name='hard_budget_is_never_overspent')],
            },
        ),
        migrations.CreateModel(
            name='Hold',
            fields=[
                ('id', models.UUIDField(primary_key=True, serialize=False)),
                ('tenant_id', models.BigIntegerField()),
                ('period_ids', django.contrib.postgres.fields.ArrayField(base_field=models.BigIntegerField())),
                ('amount_nanos', models.BigIntegerField()),
                ('price_version', models.BigIntegerField()),
                ('lease_id', models.BigIntegerField()),
                ('placed_at', models.DateTimeField(db_default=governance.ledger.models.DatabaseNow())),
                ('memo', models.JSONField()),
            ],
            options={
                'indexes': [models.Index(fields=['lease_id'], name='hold_by_lease'), models.Index(fields=['tenant_id'], name='hold_by_tenant')],
                'constraints': [models.CheckConstraint(condition=models.Q(('amount_nanos__gte', 0)), name='hold_is_not_negative')],
            },
        ),
        CreatePartitionedModel(
            name='LedgerEntry',
            fields=[
                ('id', models.UUIDField(primary_key=True, serialize=False)),
                ('kind', models.CharField(choices=[('charge', 'Charge'), ('void', 'Void'), ('credit', 'Credit'), ('correction', 'Correction'), ('overrun', 'Overrun'), ('transfer', 'Transfer')], max_length=16)),
                ('basis', models.CharField(choices=[('exact', 'Exact'), ('bounded', 'Bounded'), ('full_hold', 'Full Hold')], max_length=16, null=True)),
                ('tenant_id', models.BigIntegerField()),
                ('key_id', models.BigIntegerField(null=True)),
                ('call_id', models.UUIDField()),
                ('period_ids', django.contrib.postgres.fields.ArrayField(base_field=models.BigIntegerField())),
                ('amount_nanos', models.BigIntegerField()),
                ('held_nanos', models.BigIntegerField()),
                ('list_nanos', models.BigIntegerField()),
                ('price_version', models.BigIntegerField()),
                ('corrects_id', models.UUIDField(null=True)),
                ('reason', models.CharField(max_length=256)),
                ('at', models.DateTimeField()),
                ('xact', models.BigIntegerField()),
            ],
            options={
                'verbose_name_plural': 'ledger entries',
                'indexes': [models.Index(fields=['tenant_id', 'id'], name='entry_by_tenant'), models.Index(fields=['call_id'], name='entry_by_call')],
                'constraints': [models.CheckConstraint(condition=models.Q(models.Q(('kind', 'charge'), _negated=True), models.Q(('amount_nanos__gte', 0), ('basis__isnull', False)), _connector='OR'), name='charge_is_not_negative'), models.CheckConstraint(condition=models.Q(models.Q(('kind', 'void'), _negated=True), ('amount_nanos', 0), _connector='OR'), name='void_moves_no_money'), models.CheckConstraint(condition=models.Q(models.Q(('kind', 'credit'), _negated=True), ('amount_nanos__lte', 0), _connector='OR'), name='credit_gives_back'), models.CheckConstraint(condition=models.Q(models.Q(('kind', 'overrun'), _negated=True), models.Q(('amount_nanos__gt', 0), ('period_ids__len', 0)), _connector='OR'), name='overrun_has_no_legs')],
            },
        ),
        migrations.CreateModel(
            name='ThresholdCrossing',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('budget_id', models.BigIntegerField()),
                ('tenant_id', models.BigIntegerField()),
                ('percent', models.SmallIntegerField()),
                ('spent_nanos', models.BigIntegerField()),
                ('limit_nanos', models.BigIntegerField()),
                ('at', models.DateTimeField(db_default=governance.ledger.models.DatabaseNow())),
                ('period', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.DO_NOTHING, to='ledger.budgetperiod')),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('period', 'percent'), name='one_crossing_per_threshold')],
            },
        ),
        *guard_operations("ledger_ledgerentry"),
        *guard_operations("ledger_thresholdcrossing"),
        *partition_operations("ledger_ledgerentry"),
        migrations.RunSQL(
            # Every hold and charge of a budget updates one row: room on the page keeps those updates
            # within it (HOT), and vacuum comes early, so that the hot rows never get slow to find.
            "ALTER TABLE ledger_budgetperiod SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01,"
            " autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);"
            "ALTER TABLE ledger_hold SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01,"
            " autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);"
            "ALTER TABLE ledger_hold ADD CONSTRAINT memo_is_small CHECK (octet_length(memo::text) <= 2048);",
            migrations.RunSQL.noop,
        ),
    ]
