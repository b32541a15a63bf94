"""The tables of tenants, with the rules, guards and version triggers that Django cannot state."""

import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.lookups
import tenants.validators
from django.conf import settings
from django.db import migrations, models

from tenants.versioning import create_version_function, track_versions

# Rules that a constraint cannot say as an expression, because they look inside a value.
CREATE_RULES = """
CREATE FUNCTION exchequer_is_time_zone(name text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN name ~ '^[A-Za-z][A-Za-z0-9_+/-]*$' AND ('epoch'::timestamptz AT TIME ZONE name) IS NOT NULL;
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN false;
END $$;

CREATE FUNCTION exchequer_are_tags(tags jsonb, tags_max int, key_length_max int, value_length_max int)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN jsonb_typeof(tags) = 'object' AND NOT EXISTS (
        SELECT 1 FROM jsonb_each(tags) WITH ORDINALITY AS tag(key, value, position)
        WHERE position > tags_max
           OR jsonb_typeof(value) <> 'string'
           OR length(key) NOT BETWEEN 1 AND key_length_max
           OR length(value #>> '{}') > value_length_max
           OR key || (value #>> '{}') ~ '[\\u0001-\\u001f\\u007f-\\u009f]'
    );
END $$;
"""
DROP_RULES = """
DROP FUNCTION exchequer_are_tags(jsonb, int, int, int);
DROP FUNCTION exchequer_is_time_zone(text);
"""

# A team's key or member is its own tenant's.
CREATE_COMPOSITE_KEYS = """
ALTER TABLE tenants_apikey ADD CONSTRAINT apikey_team_of_its_tenant
    FOREIGN KEY (team_id, tenant_id) REFERENCES tenants_team (id, tenant_id);
ALTER TABLE tenants_membership ADD CONSTRAINT membership_team_of_its_tenant
    FOREIGN KEY (team_id, tenant_id) REFERENCES tenants_team (id, tenant_id) DEFERRABLE INITIALLY DEFERRED;
"""
DROP_COMPOSITE_KEYS = """
ALTER TABLE tenants_membership DROP CONSTRAINT membership_team_of_its_tenant;
ALTER TABLE tenants_apikey DROP CONSTRAINT apikey_team_of_its_tenant;
"""

# Facts name tenants for ever.
CREATE_TENANT_GUARD = """
CREATE FUNCTION exchequer_refuse_tenant_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a tenant is closed, never deleted: set its status to closed'
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER never_deleted_rows BEFORE DELETE ON tenants_tenant
    FOR EACH ROW EXECUTE FUNCTION exchequer_refuse_tenant_delete();
CREATE TRIGGER never_deleted_table BEFORE TRUNCATE ON tenants_tenant
    FOR EACH STATEMENT EXECUTE FUNCTION exchequer_refuse_tenant_delete();
"""
DROP_TENANT_GUARD = """
DROP TRIGGER never_deleted_table ON tenants_tenant;
DROP TRIGGER never_deleted_rows ON tenants_tenant;
DROP FUNCTION exchequer_refuse_tenant_delete();
"""


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        create_version_function(),
        migrations.RunSQL(CREATE_RULES, DROP_RULES),
        migrations.CreateModel(
            name='TenantVersion',
            fields=[
                ('tenant_id', models.BigIntegerField(primary_key=True, serialize=False)),
                ('version', models.BigIntegerField()),
            ],
        ),
        migrations.CreateModel(
            name='Tenant',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=100, unique=True, validators=[tenants.validators.validate_text])),
                ('slug', models.SlugField(max_length=63, unique=True)),
                ('time_zone', models.CharField(default='UTC', help_text="IANA name; days and months of this tenant's budgets begin at midnight there.", max_length=64, validators=[tenants.validators.validate_time_zone])),
                ('status', models.CharField(choices=[('active', 'Active'), ('paused', 'Paused'), ('closed', 'Closed')], default='active', max_length=8)),
                ('status_reason', models.CharField(blank=True, default='', max_length=500, validators=[tenants.validators.validate_text])),
                ('created_at', models.DateTimeField(auto_now_add=True)),
            ],
            options={
                'ordering': ['name'],
                'constraints': [models.CheckConstraint(condition=models.Q(('status__in', ['active', 'paused', 'closed'])), name='tenant_status_known'), models.CheckConstraint(condition=models.Func(models.F('time_zone'), function='exchequer_is_time_zone', output_field=models.BooleanField()), name='tenant_time_zone_known'), models.CheckConstraint(condition=models.Q(models.Q(('name', ''), _negated=True), models.Q(('slug', ''), _negated=True)), name='tenant_is_named'), models.CheckConstraint(condition=models.Q(models.Q(('name__regex', '[\\u0001-\\u001f\\u007f-\\u009f]'), _negated=True), models.Q(('slug__regex', '[\\u0001-\\u001f\\u007f-\\u009f]'), _negated=True), models.Q(('status_reason__regex', '[\\u0001-\\u001f\\u007f-\\u009f]'), _negated=True)), name='tenant_no_control_characters')],
            },
        ),
        migrations.CreateModel(
            name='Team',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=100, validators=[tenants.validators.validate_text])),
                ('slug', models.SlugField(max_length=63)),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='teams', to='tenants.tenant')),
            ],
            options={
                'ordering': ['name'],
            },
        ),
        migrations.CreateModel(
            name='ProviderCredential',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('label', models.CharField(max_length=100, validators=[tenants.validators.validate_text])),
                ('ciphertext', models.BinaryField()),
                ('encryption_key_id', models.CharField(editable=False, max_length=32)),
                ('hint', models.CharField(editable=False, help_text='The last four characters.', max_length=4)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('disabled_at', models.DateTimeField(editable=False, null=True)),
                ('tenant', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='provider_credentials', to='tenants.tenant')),
            ],
        ),
        migrations.CreateModel(
            name='Membership',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('role', models.CharField(choices=[('owner', 'Owner'), ('admin', 'Admin'), ('lead', 'Lead'), ('viewer', 'Viewer')], help_text='Without a team: owner, admin or viewer. With a team: lead or viewer.', max_length=8)),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='memberships', to=settings.AUTH_USER_MODEL)),
                ('team', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='memberships', to='tenants.team')),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='memberships', to='tenants.tenant')),
            ],
        ),
        migrations.CreateModel(
            name='ApiKey',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=100, validators=[tenants.validators.validate_text])),
                ('public_id', models.CharField(editable=False, max_length=8, unique=True)),
                ('digest', models.BinaryField(unique=True)),
                ('pepper_id', models.CharField(editable=False, max_length=32)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('expires_at', models.DateTimeField(blank=True, help_text='Refused from this moment on.', null=True)),
                ('revoked_at', models.DateTimeField(editable=False, null=True)),
                ('revoked_reason', models.CharField(default='', editable=False, max_length=500, validators=[tenants.validators.validate_text])),
                ('default_tags', models.JSONField(blank=True, default=dict, help_text='Tags of every call with this key, such as {"feature": "search"}; a call may add others.', validators=[tenants.validators.validate_tags])),
                ('required_tags', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=64, validators=[tenants.validators.validate_tag_name]), blank=True, default=list, help_text='Names of tags without which a call is refused, separated by commas.', size=20)),
                ('allowed_models', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=128, validators=[tenants.validators.validate_text]), blank=True, default=list, help_text='Model ids that this key may ask for, separated by commas; empty allows every model.', size=100)),
                ('max_output_tokens', models.PositiveIntegerField(blank=True, help_text='The largest max_tokens that a call may ask for; keeps holds small.', null=True)),
                ('unbounded_allowed', models.BooleanField(default=False, help_text='Let calls pass whose worst case has no bound. Such calls can overspend a hard budget.')),
                ('created_by', models.ForeignKey(editable=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('replaced_by', models.OneToOneField(editable=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='replaces', to='tenants.apikey')),
                ('team', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='api_keys', to='tenants.team')),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='api_keys', to='tenants.tenant')),
            ],
            options={
                'verbose_name': 'API key',
                'verbose_name_plural': 'API keys',
            },
        ),
        migrations.AddConstraint(
            model_name='team',
            constraint=models.UniqueConstraint(fields=('tenant', 'name'), name='team_name_once_per_tenant'),
        ),
        migrations.AddConstraint(
            model_name='team',
            constraint=models.UniqueConstraint(fields=('tenant', 'slug'), name='team_slug_once_per_tenant'),
        ),
        migrations.AddConstraint(
            model_name='team',
            constraint=models.UniqueConstraint(fields=('id', 'tenant'), name='team_with_its_tenant'),
        ),
        migrations.AddConstraint(
            model_name='team',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('name', ''), _negated=True), models.Q(('slug', ''), _negated=True)), name='team_is_named'),
        ),
        migrations.AddConstraint(
            model_name='team',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('name__regex', '[\\u0001-\\u001f\\u007f-\\u009f]'), _negated=True), models.Q(('slug__regex', '[\\u0001-\\u001f\\u007f-\\u009f]'), _negated=True)), name='team_no_control_characters'),
        ),
        migrations.AddConstraint(
            model_name='providercredential',
            constraint=models.CheckConstraint(condition=models.Q(('label', ''), _negated=True), name='credential_is_named'),
        ),
        migrations.AddConstraint(
            model_name='providercredential',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('label__regex', '[\\u0001-\\u001f\\u007f-\\u009f]'), _negated=True), models.Q(('hint__regex', '[\\u0001-\\u001f\\u007f-\\u009f]'), _negated=True)), name='credential_no_control_characters'),
        ),
        migrations.AddConstraint(
            model_name='membership',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('role__in', ['owner', 'admin', 'viewer']), ('team', None)), models.Q(('role__in', ['lead', 'viewer']), ('team__isnull', False)), _connector='OR'), name='membership_role_fits_its_reach', violation_error_message='For the whole tenant choose owner, admin or viewer; for a team choose lead or viewer.'),
        ),
        migrations.AddConstraint(
            model_name='membership',
            constraint=models.UniqueConstraint(condition=models.Q(('team', None)), fields=('user', 'tenant'), name='membership_once_per_tenant'),
        ),
        migrations.AddConstraint(
            model_name='membership',
            constraint=models.UniqueConstraint(condition=models.Q(('team__isnull', False)), fields=('user', 'team'), name='membership_once_per_team'),
        ),
        migrations.AddConstraint(
            model_name='apikey',
            constraint=models.CheckConstraint(condition=models.Q(('public_id__regex', '^[0-9A-Za-z]{8}$')), name='apikey_public_id'),
        ),
        migrations.AddConstraint(
            model_name='apikey',
            constraint=models.CheckConstraint(condition=django.db.models.lookups.Exact(models.Func(models.F('digest'), function='octet_length', output_field=models.IntegerField()), models.Value(32)), name='apikey_digest_is_sha256'),
        ),
        migrations.AddConstraint(
            model_name='apikey',
            constraint=models.CheckConstraint(condition=models.Q(('revoked_at__isnull', False), ('revoked_reason', ''), _connector='OR'), name='apikey_reason_if_revoked'),
        ),
        migrations.AddConstraint(
            model_name='apikey',
            constraint=models.CheckConstraint(condition=models.Q(('max_output_tokens', None), ('max_output_tokens__gte', 1), _connector='OR'), name='apikey_output_cap'),
        ),
        migrations.AddConstraint(
            model_name='apikey',
            constraint=models.CheckConstraint(condition=models.Func(models.F('default_tags'), models.Value(20), models.Value(64), models.Value(256), function='exchequer_are_tags', output_field=models.BooleanField()), name='apikey_default_tags_bounded'),
        ),
        migrations.AddConstraint(
            model_name='apikey',
            constraint=models.CheckConstraint(condition=models.Q(django.db.models.lookups.LessThanOrEqual(models.Func(models.F('required_tags'), function='cardinality', output_field=models.IntegerField()), models.Value(20)), django.db.models.lookups.LessThanOrEqual(models.Func(models.F('allowed_models'), function='cardinality', output_field=models.IntegerField()), models.Value(100))), name='apikey_lists_bounded'),
        ),
        migrations.AddConstraint(
            model_name='apikey',
            constraint=models.CheckConstraint(condition=models.Q(('name', ''), _negated=True), name='apikey_is_named'),
        ),
        migrations.AddConstraint(
            model_name='apikey',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('name__regex', '[\\u0001-\\u001f\\u007f-\\u009f]'), _negated=True), models.Q(('revoked_reason__regex', '[\\u0001-\\u001f\\u007f-\\u009f]'), _negated=True)), name='apikey_no_control_characters'),
        ),
        migrations.RunSQL(CREATE_COMPOSITE_KEYS, DROP_COMPOSITE_KEYS),
        migrations.RunSQL(CREATE_TENANT_GUARD, DROP_TENANT_GUARD),
        track_versions("tenants_tenant", "id"),
        track_versions("tenants_team", "tenant_id"),
        track_versions("tenants_apikey", "tenant_id"),
        track_versions("tenants_providercredential", "tenant_id"),
    ]
