"""What happened: one immutable row per client request, one per upstream try. No prompt text.

Rows are written by the desk only, from the records of `calls/records.py`, in the transaction that
moves the money. Both tables are partitioned by month of their id. `xact` is the writing transaction,
so that readers can stop below the oldest one still running.
"""

from django.db import models

from tenants.scope import TenantScopedManager


class Outcome(models.TextChoices):
    """How a client's request ended, as it was billed and told."""

    SERVED = "served", "served"
    REFUSED = "refused", "refused by Exchequer"
    FAILED = "failed", "failed upstream"
    CUT = "cut", "cut short"
    SWEPT = "swept", "worker died"


class Call(models.Model):
    """One client request: who asked for what, what was decided and why, what it cost."""

    id = models.UUIDField(primary_key=True)
    at = models.DateTimeField()
    xact = models.BigIntegerField()
    tenant_id = models.BigIntegerField()
    team_id = models.BigIntegerField(null=True)
    key_id = models.BigIntegerField()
    tags = models.JSONField()
    end_user = models.CharField(max_length=256, null=True)
    session = models.CharField(max_length=256, null=True)
    user_agent = models.CharField(max_length=256, null=True)
    traceparent = models.CharField(max_length=64, null=True)
    endpoint = models.CharField(max_length=32)
    requested_model = models.CharField(max_length=128, null=True)
    served_model = models.CharField(max_length=128, null=True)
    stream = models.BooleanField()
    # the decision
    outcome = models.CharField(max_length=16, choices=Outcome)
    status = models.SmallIntegerField()
    reason = models.CharField(max_length=64)
    rule = models.CharField(max_length=128, null=True)
    policy_version = models.BigIntegerField(null=True)
    cache = models.CharField(max_length=16)
    bound = models.CharField(max_length=16, null=True)
    decision = models.JSONField()
    # the money, in nano-dollars
    attempts = models.SmallIntegerField()
    held_nanos = models.BigIntegerField()
    cost_nanos = models.BigIntegerField()
    list_nanos = models.BigIntegerField()
    baseline_nanos = models.BigIntegerField(null=True)
    price_version = models.BigIntegerField(null=True)
    # the shape of the request, for later advice: see calls/request_facts.py
    facts = models.JSONField()
    fingerprints = models.BinaryField(null=True)
    cache_digest = models.BinaryField(null=True)
    # timings, since the request's headers were read
    held_ms = models.IntegerField(null=True)
    first_byte_ms = models.IntegerField(null=True)
    duration_ms = models.IntegerField()

    objects = TenantScopedManager()

    class Meta:
        indexes = [
            models.Index(fields=["tenant_id", "id"], name="call_by_tenant"),
            models.Index(fields=["key_id", "id"], name="call_by_key"),
        ]

    def __str__(self) -> str:
        return f"call {self.pk}"


class Attempt(models.Model):
    """One try upstream. It has the id of its hold and of the ledger entry that resolved it."""

    id = models.UUIDField(primary_key=True)
    at = models.DateTimeField()
    xact = models.BigIntegerField()
    call_id = models.UUIDField()
    tenant_id = models.BigIntegerField()
    key_id = models.BigIntegerField()
    number = models.SmallIntegerField()
    purpose = models.CharField(max_length=16)
    credential_id = models.BigIntegerField(null=True)
    requested_model = models.CharField(max_length=128, null=True)
    served_model = models.CharField(max_length=128, null=True)
    service_tier = models.CharField(max_length=32, null=True)
    speed = models.CharField(max_length=16, null=True)
    inference_geo = models.CharField(max_length=32, null=True)
    # usage as served; with several passes the sum, and each pass in `passes`
    input_tokens = models.BigIntegerField(null=True)
    cache_creation_5m_tokens = models.BigIntegerField(null=True)
    cache_creation_1h_tokens = models.BigIntegerField(null=True)
    cache_read_input_tokens = models.BigIntegerField(null=True)
    output_tokens = models.BigIntegerField(null=True)
    web_search_requests = models.BigIntegerField(null=True)
    passes = models.JSONField(null=True)
    usage_source = models.CharField(max_length=16)
    # the money, in nano-dollars
    basis = models.CharField(max_length=16, null=True)
    held_nanos = models.BigIntegerField()
    # the worst case that was computed; NULL where the request had none
    bound_nanos = models.BigIntegerField(null=True)
    cost_nanos = models.BigIntegerField()
    list_nanos = models.BigIntegerField()
    cost_by_meter = models.JSONField()
    price_version = models.BigIntegerField()
    # what upstream said
    upstream_status = models.SmallIntegerField(null=True)
    upstream_request_id = models.CharField(max_length=128, null=True)
    stop_reason = models.CharField(max_length=64, null=True)
    error = models.CharField(max_length=256, null=True)
    first_byte_ms = models.IntegerField(null=True)
    duration_ms = models.IntegerField()

    objects = TenantScopedManager()

    class Meta:
        indexes = [
            models.Index(fields=["tenant_id", "id"], name="attempt_by_tenant"),
            models.Index(fields=["call_id"], name="attempt_by_call"),
        ]

    def __str__(self) -> str:
        return f"attempt {self.pk}"
