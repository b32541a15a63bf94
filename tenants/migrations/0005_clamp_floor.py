from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('tenants', '0004_hold_wait'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name='apikey',
            name='clamp_floor_tokens',
            field=models.PositiveIntegerField(blank=True, help_text="A call that does not fit in a budget is made with fewer max_tokens, but not with fewer than this; empty refuses it.", null=True),
        ),
        migrations.AddConstraint(
            model_name='apikey',
            constraint=models.CheckConstraint(condition=models.Q(('clamp_floor_tokens', None), ('clamp_floor_tokens__gte', 1), _connector='OR'), name='apikey_clamp_floor'),
        ),
    ]
