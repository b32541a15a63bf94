from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('tenants', '0006_as_asked'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name='apikey',
            name='burn_nanos_per_10_minutes_max',
            field=models.BigIntegerField(blank=True, help_text='A key whose calls of the last ten minutes cost more is paused by itself, until a person resumes it; empty never pauses.', null=True),
        ),
        migrations.AddField(
            model_name='pause',
            name='is_automatic',
            field=models.BooleanField(db_default=False, default=False, editable=False, help_text='Nobody paused it; it spent too fast.'),
        ),
        migrations.AddField(
            model_name='pause',
            name='told_at',
            field=models.DateTimeField(editable=False, help_text="When an automatic pause was mailed to the tenant's people.", null=True),
        ),
        migrations.AddIndex(
            model_name='apikey',
            index=models.Index(condition=models.Q(('burn_nanos_per_10_minutes_max__isnull', False)), fields=['lineage_id'], name='apikey_with_a_burn_limit'),
        ),
        migrations.AddConstraint(
            model_name='apikey',
            constraint=models.CheckConstraint(condition=models.Q(('burn_nanos_per_10_minutes_max', None), ('burn_nanos_per_10_minutes_max__gte', 1), _connector='OR'), name='apikey_burn'),
        ),
    ]
