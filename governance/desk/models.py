"""Which gateway workers are alive. A worker's open holds are swept when its lease is."""

from django.db import models


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
