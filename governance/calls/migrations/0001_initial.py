from django.db import migrations, models

from governance.core.append_only import guard_operations
from governance.core.partitions import CreatePartitionedModel, partition_operations


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        CreatePartitionedModel(
            name='Attempt',
            fields=[
                ('id', models.UUIDField(primary_key=True, serialize=False)),
                ('at', models.DateTimeField()),
                ('xact', models.BigIntegerField()),
                ('call_id', models.UUIDField()),
                ('tenant_id', models.BigIntegerField()),
                ('key_id', models.BigIntegerField()),
                ('number', models.SmallIntegerField()),
                ('purpose', models.CharField(max_length=16)),
                ('credential_id', models.BigIntegerField(null=True)),
                ('requested_model', models.CharField(max_length=128, null=True)),
                ('served_model', models.CharField(max_length=128, null=True)),
                ('service_tier', models.CharField(max_length=32, null=True)),
                ('speed', models.CharField(max_length=16, null=True)),
                ('inference_geo', models.CharField(max_length=32, null=True)),
                ('input_tokens', models.BigIntegerField(null=True)),
                ('cache_creation_5m_tokens', models.BigIntegerField(null=True)),
                ('cache_creation_1h_tokens', models.BigIntegerField(null=True)),
                ('cache_read_input_tokens', models.BigIntegerField(null=True)),
                ('output_tokens', models.BigIntegerField(null=True)),
                ('web_search_requests', models.BigIntegerField(null=True)),
                ('passes', models.JSONField(null=True)),
                ('usage_source', models.CharField(max_length=16)),
                ('basis', models.CharField(max_length=16, null=True)),
                ('held_nanos', models.BigIntegerField()),
                ('cost_nanos', models.BigIntegerField()),
                ('list_nanos', models.BigIntegerField()),
                ('cost_by_meter', models.JSONField()),
                ('price_version', models.BigIntegerField()),
                ('upstream_status', models.SmallIntegerField(null=True)),
                ('upstream_request_id', models.CharField(max_length=128, null=True)),
                ('stop_reason', models.CharField(max_length=64, null=True)),
                ('error', models.CharField(max_length=256, null=True)),
                ('first_byte_ms', models.IntegerField(null=True)),
                ('duration_ms', models.IntegerField()),
            ],
            options={
                'indexes': [models.Index(fields=['tenant_id', 'id'], name='attempt_by_tenant'), models.Index(fields=['call_id'], name='attempt_by_call')],
            },
        ),
        CreatePartitionedModel(
            name='Call',
            fields=[
                ('id', models.UUIDField(primary_key=True, serialize=False)),
                ('at', models.DateTimeField()),
                ('xact', models.BigIntegerField()),
                ('tenant_id', models.BigIntegerField()),
                ('team_id', models.BigIntegerField(null=True)),
                ('key_id', models.BigIntegerField()),
                ('tags', models.JSONField()),
                ('end_user', models.CharField(max_length=256, null=True)),
                ('session', models.CharField(max_length=256, null=True)),
                ('user_agent', models.CharField(max_length=256, null=True)),
                ('traceparent', models.CharField(max_length=64, null=True)),
                ('endpoint', models.CharField(max_length=32)),
                ('requested_model', models.CharField(max_length=128, null=True)),
                ('served_model', models.CharField(max_length=128, null=True)),
                ('stream', models.BooleanField()),
                ('outcome', models.CharField(choices=[('served', 'served'), ('refused', 'refused by Exchequer'), ('failed', 'failed upstream'), ('cut', 'cut short'), ('swept', 'worker died')], max_length=16)),
                ('status', models.SmallIntegerField()),
                ('reason', models.CharField(max_length=64)),
                ('rule', models.CharField(max_length=128, null=True)),
                ('policy_version', models.BigIntegerField(null=True)),
                ('cache', models.CharField(max_length=16)),
                ('bound', models.CharField(max_length=16, null=True)),
                ('decision', models.JSONField()),
                ('attempts', models.SmallIntegerField()),
                ('held_nanos', models.BigIntegerField()),
                ('cost_nanos', models.BigIntegerField()),
                ('list_nanos', models.BigIntegerField()),
                ('baseline_nanos', models.BigIntegerField(null=True)),
                ('price_version', models.BigIntegerField(null=True)),
                ('facts', models.JSONField()),
                ('fingerprints', models.BinaryField(null=True)),
                ('cache_digest', models.BinaryField(null=True)),
                ('held_ms', models.IntegerField(null=True)),
                ('first_byte_ms', models.IntegerField(null=True)),
                ('duration_ms', models.IntegerField()),
            ],
            options={
                'indexes': [models.Index(fields=['tenant_id', 'id'], name='call_by_tenant'), models.Index(fields=['key_id', 'id'], name='call_by_key')],
            },
        ),
        *guard_operations("calls_call"),
        *guard_operations("calls_attempt"),
        *partition_operations("calls_call"),
        *partition_operations("calls_attempt"),
    ]
