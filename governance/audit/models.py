"""Who changed which rule, when, from where: one immutable row per change."""

from collections.abc import Sequence
from typing import ClassVar

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models

from governance.core.clock import utcnow
from governance.core.ids import uuid7


class AuditEvent(models.Model):
    """One change. Names and labels are copied, so that the event still reads when its target is renamed.

    `tenant_id` is None for what concerns the whole platform. Written by `events.record` only; the
    database refuses UPDATE, DELETE and TRUNCATE.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    at = models.DateTimeField(default=utcnow)
    tenant_id = models.BigIntegerField(null=True)
    actor_user_id = models.BigIntegerField(null=True)
    actor_name = models.CharField(max_length=200)
    ip_address = models.GenericIPAddressField(null=True)
    action = models.CharField(max_length=64)
    target_type = models.CharField(max_length=64)
    target_id = models.CharField(max_length=64)
    target_label = models.CharField(max_length=300)
    before = models.JSONField(null=True, encoder=DjangoJSONEncoder)
    after = models.JSONField(null=True, encoder=DjangoJSONEncoder)

    class Meta:
        ordering: ClassVar[Sequence[str]] = ["-id"]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["tenant_id", "-id"], name="audit_by_tenant"),
            models.Index(fields=["target_type", "target_id", "-id"], name="audit_by_target"),
        ]

    def __str__(self) -> str:
        return f"{self.actor_name}: {self.action} {self.target_label}"
