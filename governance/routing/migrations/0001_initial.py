"""Policies, which workers notice like any other setting, and their versions, which nobody changes."""

import django.db.models.deletion
import django.db.models.lookups
import governance.core.clock
import tenants.validators
from django.db import migrations, models

from governance.core.append_only import guard_operations
from tenants.versioning import track_versions

OWN_VERSIONS_ONLY = """
ALTER TABLE routing_routingpolicy ADD CONSTRAINT policy_is_live_in_its_own_version
    FOREIGN KEY (live_id, id) REFERENCES routing_policyversion (id, policy_id);
"""
SHARED_VERSIONS = "ALTER TABLE routing_routingpolicy DROP CONSTRAINT policy_is_live_in_its_own_version;"


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('tenants', '0005_clamp_floor'),
    ]

    operations = [
        migrations.CreateModel(
            name='PolicyVersion',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('number', models.PositiveIntegerField()),
                ('source', models.TextField()),
                ('document', models.JSONField()),
                ('note', models.CharField(blank=True, default='', max_length=300, validators=[tenants.validators.validate_text])),
                ('published_at', models.DateTimeField(default=governance.core.clock.utcnow)),
                ('published_by', models.CharField(max_length=200)),
                ('published_by_user_id', models.BigIntegerField(null=True)),
            ],
            options={
                'ordering': ['-number'],
            },
        ),
        migrations.CreateModel(
            name='RoutingPolicy',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('scope', models.CharField(choices=[('tenant', 'The whole tenant'), ('team', 'One team'), ('key', 'One API key')], max_length=8)),
                ('scope_ref', models.CharField(blank=True, default='', max_length=20)),
                ('name', models.CharField(max_length=100, validators=[tenants.validators.validate_text])),
                ('draft', models.TextField(blank=True, default='')),
                ('enabled', models.BooleanField(default=True, editable=False)),
                ('created_at', models.DateTimeField(default=governance.core.clock.utcnow, editable=False)),
                ('live', models.ForeignKey(editable=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='routing.policyversion')),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to='tenants.tenant')),
            ],
            options={
                'verbose_name': 'policy',
                'verbose_name_plural': 'policies',
            },
        ),
        migrations.AddField(
            model_name='policyversion',
            name='policy',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='versions', to='routing.routingpolicy'),
        ),
        migrations.AddConstraint(
            model_name='routingpolicy',
            constraint=models.UniqueConstraint(fields=('tenant', 'scope', 'scope_ref'), name='policy_once_per_scope', violation_error_message='There is a policy for that already; change that one.'),
        ),
        migrations.AddConstraint(
            model_name='routingpolicy',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('scope', 'tenant'), ('scope_ref', '')), models.Q(('scope__in', ['team', 'key']), ('scope_ref__regex', '^[0-9]+$')), _connector='OR'), name='policy_names_its_scope'),
        ),
        migrations.AddConstraint(
            model_name='routingpolicy',
            constraint=models.CheckConstraint(condition=models.Q(('name', ''), _negated=True), name='policy_is_named'),
        ),
        migrations.AddConstraint(
            model_name='routingpolicy',
            constraint=models.CheckConstraint(condition=django.db.models.lookups.LessThanOrEqual(models.Func(models.F('draft'), function='char_length', output_field=models.IntegerField()), models.Value(100000)), name='policy_draft_length'),
        ),
        migrations.AddConstraint(
            model_name='policyversion',
            constraint=models.UniqueConstraint(fields=('policy', 'number'), name='policy_version_number_once'),
        ),
        migrations.AddConstraint(
            model_name='policyversion',
            constraint=models.UniqueConstraint(fields=('id', 'policy'), name='policy_version_with_its_policy'),
        ),
        migrations.AddConstraint(
            model_name='policyversion',
            constraint=models.CheckConstraint(condition=models.Q(('number__gte', 1)), name='policy_version_number'),
        ),
        migrations.AddConstraint(
            model_name='policyversion',
            constraint=models.CheckConstraint(condition=django.db.models.lookups.LessThanOrEqual(models.Func(models.F('source'), function='char_length', output_field=models.IntegerField()), models.Value(100000)), name='policy_version_length'),
        ),
        migrations.RunSQL(OWN_VERSIONS_ONLY, SHARED_VERSIONS),
        *guard_operations("routing_policyversion"),
        track_versions("routing_routingpolicy", "tenant_id"),
    ]
