"""Which gateway workers are alive, and which calls their clients may not make twice.

A worker's open holds are swept when its lease is.
"""

from django.db import models

from tenants.scope import TenantScopedManager


class WorkerLease(models.Model):
    """One desk's claim to be alive, and the receipt of its newest batch.

    Each batch writes its number here in its own transaction. After a lost connection the number says
    whether that batch was committed; raising `epoch` makes sure that it cannot be from now on.
    """

    worker = models.CharField(max_length=128)
    epoch = models.BigIntegerField(default=0)
    batch = models.BigIntegerField(default=0)
    started_at = models.DateTimeField()
    heartbeat_at = models.DateTimeField()
    swept_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"lease {self.pk} of {self.worker}"


class IdempotencyClaim(models.Model):
    """The one call that was made under an `Idempotency-Key`: taken in the transaction that commits its hold.

    While the hold is open the call is in flight; when it is gone without the claim, the call was charged. A
    void deletes the claim in its own transaction, so that the client may try again. The key's lineage counts,
    not the key: a retry may come after a rotation.
    """

    hold_id = models.UUIDField(primary_key=True)
    tenant_id = models.BigIntegerField()
    lineage_id = models.BigIntegerField()
    idempotency_key = models.CharField(max_length=255)
    body_digest = models.BinaryField()
    call_id = models.UUIDField()
    placed_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    objects = TenantScopedManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["tenant_id", "lineage_id", "idempotency_key"], name="one_claim_per_idempotency_key"
            ),
        ]
        indexes = [models.Index(fields=["expires_at"], name="claim_by_expiry")]

    def __str__(self) -> str:
        return f"claim of call {self.call_id}"
