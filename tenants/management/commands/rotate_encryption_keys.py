"""Move stored secrets to the newest encryption key, and say which older ones are still needed."""

from typing import Any

from django.conf import settings
from django.db.models import Q
from django.db.models.functions import Now

from tenants.credentials import reencrypt_all
from tenants.management.base import PlatformCommand
from tenants.models import ApiKey
from tenants.secrets import encryption_keys, key_peppers


class Command(PlatformCommand):
    help = "Encrypt every provider credential under the newest key; safe to run again."

    def work(self, **options: Any) -> str:
        changed = reencrypt_all()
        lines = [f"{changed} credentials now use encryption key “{encryption_keys()[0].id}”."]
        if len(settings.ENCRYPTION_KEYS) > 1:
            lines.append("The older entries of EXCHEQUER_ENCRYPTION_KEYS can be removed.")
        live = ApiKey.objects.filter(Q(expires_at=None) | Q(expires_at__gt=Now()), revoked_at=None)
        for pepper in key_peppers()[1:]:
            count = live.filter(pepper_id=pepper.id).count()
            lines.append(f"Pepper “{pepper.id}” is still needed by {count} live API keys.")
        return "\n".join(lines)
