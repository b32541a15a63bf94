"""The audit trail, append-only from its first row."""

import django.core.serializers.json
import governance.core.clock
import governance.core.ids
from django.db import migrations, models

from governance.core.append_only import guard_operations


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='AuditEvent',
            fields=[
                ('id', models.UUIDField(default=governance.core.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('at', models.DateTimeField(default=governance.core.clock.utcnow)),
                ('tenant_id', models.BigIntegerField(null=True)),
                ('actor_user_id', models.BigIntegerField(null=True)),
                ('actor_name', models.CharField(max_length=200)),
                ('ip_address', models.GenericIPAddressField(null=True)),
                ('action', models.CharField(max_length=64)),
                ('target_type', models.CharField(max_length=64)),
                ('target_id', models.CharField(max_length=64)),
                ('target_label', models.CharField(max_length=300)),
                ('before', models.JSONField(encoder=django.core.serializers.json.DjangoJSONEncoder, null=True)),
                ('after', models.JSONField(encoder=django.core.serializers.json.DjangoJSONEncoder, null=True)),
            ],
            options={
                'ordering': ['-id'],
                'indexes': [models.Index(fields=['tenant_id', '-id'], name='audit_by_tenant'), models.Index(fields=['target_type', 'target_id', '-id'], name='audit_by_target')],
            },
        ),
        *guard_operations("audit_auditevent"),
    ]
