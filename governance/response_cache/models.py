"""What was purged from the response cache. Entries themselves are in Valkey."""

from django.conf import settings
from django.db import models
from django.db.models import Q

from tenants.models import Tenant
from tenants.scope import TenantScopedManager
from tenants.validators import validate_text

VALUE_LENGTH_MAX = 384


class Kind(models.TextChoices):
    TENANT = "tenant", "Everything"
    TAG = "tag", "Calls with one tag value"
    MODEL = "model", "Answers of one model"


class CachePurge(models.Model):
    """From now on no kept answer that it covers is given again. `value`: "name=value" of a tag, the id of a
    model, "" for everything. A row outlives every entry that it covers; then it is dropped (purges.py)."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT)
    kind = models.CharField(max_length=8, choices=Kind)
    value = models.CharField(max_length=VALUE_LENGTH_MAX, default="", blank=True, validators=[validate_text])
    at = models.DateTimeField(auto_now_add=True)
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, editable=False, related_name="+"
    )

    objects = TenantScopedManager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(kind="tenant", value="")
                | Q(kind="tag", value__regex="^[^=]+=.")
                | (Q(kind="model") & ~Q(value="")),
                name="cache_purge_says_what",
            ),
        ]

    def __str__(self) -> str:
        return f"purge of {self.value or 'everything'}"
