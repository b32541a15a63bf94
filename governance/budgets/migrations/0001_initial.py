import django.contrib.postgres.fields
import django.db.models.deletion
import governance.budgets.models
import tenants.validators
from django.db import migrations, models

from tenants.versioning import track_versions


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('tenants', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='Budget',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=120)),
                ('scope', models.CharField(choices=[('tenant', 'Tenant'), ('team', 'Team'), ('key', 'Key'), ('end_user', 'End User'), ('tag', 'Tag'), ('session', 'Session')], max_length=16)),
                ('scope_ref', models.CharField(blank=True, default='', max_length=256)),
                ('each', models.BooleanField(default=False, editable=False)),
                ('models_only', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=128), blank=True, default=list, editable=False)),
                ('period', models.CharField(choices=[('day', 'Day'), ('week', 'Week'), ('month', 'Month'), ('quarter', 'Quarter'), ('year', 'Year'), ('total', 'Total')], max_length=16)),
                ('week_starts_on', models.SmallIntegerField(default=0, editable=False)),
                ('time_zone', models.CharField(default='UTC', max_length=64, validators=[tenants.validators.validate_time_zone])),
                ('limit_nanos', models.BigIntegerField()),
                ('enforcement', models.CharField(choices=[('hard', 'Hard'), ('soft', 'Soft')], default='hard', max_length=8)),
                ('alert_percents', django.contrib.postgres.fields.ArrayField(base_field=models.SmallIntegerField(), blank=True, default=governance.budgets.models._default_alert_percents)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('closed_at', models.DateTimeField(blank=True, null=True)),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to='tenants.tenant')),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('limit_nanos__gte', 0)), name='budget_limit_is_not_negative'), models.UniqueConstraint(condition=models.Q(('closed_at__isnull', True)), fields=('tenant', 'scope', 'scope_ref', 'period', 'enforcement', 'each'), name='one_open_budget_per_scope_and_period')],
            },
        ),
        track_versions("budgets_budget", "tenant_id"),
    ]
