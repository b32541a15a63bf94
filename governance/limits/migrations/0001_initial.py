"""Limits on calls, which workers notice like any other setting."""

import django.db.models.deletion
import tenants.validators
from django.db import migrations, models

from tenants.versioning import track_versions


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('tenants', '0003_pauses'),
    ]

    operations = [
        migrations.CreateModel(
            name='CallLimit',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('scope', models.CharField(choices=[('tenant', 'The whole tenant'), ('team', 'One team'), ('key', 'One API key')], max_length=8)),
                ('scope_ref', models.CharField(blank=True, default='', max_length=20)),
                ('model', models.CharField(blank=True, default='', help_text='The id of one model; empty for all of them together.', max_length=128, validators=[tenants.validators.validate_text])),
                ('requests_per_minute', models.PositiveIntegerField(blank=True, null=True)),
                ('input_tokens_per_minute', models.PositiveIntegerField(blank=True, help_text='Tokens read from the prompt cache do not count.', null=True)),
                ('output_tokens_per_minute', models.PositiveIntegerField(blank=True, null=True)),
                ('concurrent_calls', models.PositiveIntegerField(blank=True, null=True)),
                ('open_streams', models.PositiveIntegerField(blank=True, null=True)),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to='tenants.tenant')),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('tenant', 'scope', 'scope_ref', 'model'), name='call_limit_once_per_scope_and_model', violation_error_message='There is such a limit already; change that one.'), models.CheckConstraint(condition=models.Q(models.Q(('scope', 'tenant'), ('scope_ref', '')), models.Q(('scope__in', ['team', 'key']), ('scope_ref__regex', '^[0-9]+$')), _connector='OR'), name='call_limit_names_its_scope'), models.CheckConstraint(condition=models.Q(('requests_per_minute__isnull', False), ('input_tokens_per_minute__isnull', False), ('output_tokens_per_minute__isnull', False), ('concurrent_calls__isnull', False), ('open_streams__isnull', False), _connector='OR'), name='call_limit_limits_something', violation_error_message='Limit at least one thing.'), models.CheckConstraint(condition=models.Q(('requests_per_minute', None), ('requests_per_minute__range', (1, 1000000000)), _connector='OR'), name='call_limit_requests_per_minute', violation_error_message='A limit is one or more; to stop all calls, pause.'), models.CheckConstraint(condition=models.Q(('input_tokens_per_minute', None), ('input_tokens_per_minute__range', (1, 1000000000)), _connector='OR'), name='call_limit_input_tokens_per_minute', violation_error_message='A limit is one or more; to stop all calls, pause.'), models.CheckConstraint(condition=models.Q(('output_tokens_per_minute', None), ('output_tokens_per_minute__range', (1, 1000000000)), _connector='OR'), name='call_limit_output_tokens_per_minute', violation_error_message='A limit is one or more; to stop all calls, pause.'), models.CheckConstraint(condition=models.Q(('concurrent_calls', None), ('concurrent_calls__range', (1, 1000000000)), _connector='OR'), name='call_limit_concurrent_calls', violation_error_message='A limit is one or more; to stop all calls, pause.'), models.CheckConstraint(condition=models.Q(('open_streams', None), ('open_streams__range', (1, 1000000000)), _connector='OR'), name='call_limit_open_streams', violation_error_message='A limit is one or more; to stop all calls, pause.')],
            },
        ),
        track_versions("limits_calllimit", "tenant_id"),
    ]
