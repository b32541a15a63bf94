import governance.ledger.models
from django.db import migrations, models

from governance.core.append_only import guard_operations


class Migration(migrations.Migration):

    dependencies = [
        ('ledger', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='Adjustment',
            fields=[
                ('id', models.UUIDField(primary_key=True, serialize=False)),
                ('tenant_id', models.BigIntegerField()),
                ('budget_id', models.BigIntegerField()),
                ('subject', models.CharField(blank=True, default='', max_length=256)),
                ('period_id', models.BigIntegerField(null=True)),
                ('kind', models.CharField(choices=[('top_up', 'Top-up'), ('raise', 'Raise'), ('raise_end', 'End of a raise'), ('transfer', 'Transfer')], max_length=16)),
                ('amount_nanos', models.BigIntegerField()),
                ('until', models.DateTimeField(null=True)),
                ('other_id', models.UUIDField(null=True)),
                ('actor_user_id', models.BigIntegerField(null=True)),
                ('actor_name', models.CharField(max_length=200)),
                ('reason', models.CharField(max_length=256)),
                ('at', models.DateTimeField(db_default=governance.ledger.models.DatabaseNow())),
            ],
        ),
        migrations.AddField(
            model_name='budgetperiod',
            name='added_nanos',
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name='budgetperiod',
            name='raised_nanos',
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name='budgetperiod',
            name='raised_until',
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddConstraint(
            model_name='budgetperiod',
            constraint=models.CheckConstraint(condition=models.Q(('raised_nanos__gte', 0)), name='raise_is_not_negative'),
        ),
        migrations.AddIndex(
            model_name='adjustment',
            index=models.Index(fields=['budget_id', 'subject', 'id'], name='adjustment_by_budget'),
        ),
        migrations.AddIndex(
            model_name='adjustment',
            index=models.Index(fields=['tenant_id', 'id'], name='adjustment_by_tenant'),
        ),
        migrations.AddConstraint(
            model_name='adjustment',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('kind', 'top_up'), _negated=True), models.Q(('amount_nanos__gt', 0), ('period_id__isnull', False)), _connector='OR'), name='top_up_adds_to_a_period'),
        ),
        migrations.AddConstraint(
            model_name='adjustment',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('kind', 'raise'), _negated=True), models.Q(('amount_nanos__gt', 0), ('until__isnull', False)), _connector='OR'), name='raise_ends'),
        ),
        migrations.AddConstraint(
            model_name='adjustment',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('kind', 'transfer'), _negated=True), models.Q(('other_id__isnull', False), ('period_id__isnull', False), models.Q(('amount_nanos', 0), _negated=True)), _connector='OR'), name='transfer_has_two_sides'),
        ),
        migrations.AddConstraint(
            model_name='adjustment',
            constraint=models.UniqueConstraint(condition=models.Q(('kind', 'raise_end')), fields=('other_id',), name='raise_ends_once'),
        ),
        *guard_operations("ledger_adjustment"),
    ]
