"""The pause switch: which calls are refused for a reason that somebody gave."""

import django.db.models.deletion
import tenants.validators
from django.conf import settings
from django.db import migrations, models

from tenants.versioning import track_versions


class Migration(migrations.Migration):

    dependencies = [
        ('tenants', '0002_key_lineage'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='Pause',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('scope', models.CharField(choices=[('tenant', 'The whole tenant'), ('team', 'One team'), ('key', 'One API key'), ('tag', 'One tag value')], max_length=8)),
                ('scope_ref', models.CharField(blank=True, default='', max_length=321, validators=[tenants.validators.validate_text])),
                ('reason', models.CharField(help_text='Callers read it in the refusal, so say why, and what they should do.', max_length=300, validators=[tenants.validators.validate_text])),
                ('began_at', models.DateTimeField(auto_now_add=True)),
                ('ended_at', models.DateTimeField(editable=False, null=True)),
                ('began_by', models.ForeignKey(editable=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='pauses', to='tenants.tenant')),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(models.Q(('scope', 'tenant'), ('scope_ref', '')), models.Q(('scope__in', ['team', 'key']), ('scope_ref__regex', '^[0-9]+$')), models.Q(('scope', 'tag'), ('scope_ref__regex', '^[^=]+=.')), _connector='OR'), name='pause_names_what_it_pauses'), models.UniqueConstraint(condition=models.Q(('ended_at', None)), fields=('tenant', 'scope', 'scope_ref'), name='pause_open_once_per_scope'), models.CheckConstraint(condition=models.Q(('reason', ''), _negated=True), name='pause_has_a_reason'), models.CheckConstraint(condition=models.Q(models.Q(('scope_ref__regex', '[\\u0001-\\u001f\\u007f-\\u009f]'), _negated=True), models.Q(('reason__regex', '[\\u0001-\\u001f\\u007f-\\u009f]'), _negated=True)), name='pause_no_control_characters')],
            },
        ),
        track_versions("tenants_pause", "tenant_id"),
    ]
