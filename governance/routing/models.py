"""Policies and their published versions. Changed through policies.py only, which also audits.

A policy is what holds for one tenant, team or key: its draft is a text that anybody with the right may edit;
what calls are served by is `live`, one of its versions. A version is written once. Rolling back moves `live`.
"""

from django.db import models
from django.db.models import F, Func, Q, Value
from django.db.models.lookups import LessThanOrEqual

from governance.core.clock import utcnow
from tenants.models import Tenant
from tenants.scope import TenantScopedManager
from tenants.validators import validate_text

SOURCE_LENGTH_MAX = 100_000
"""Characters of a policy's text; two hundred rules fit several times."""


class Scope(models.TextChoices):
    """Whose calls a policy is for. `scope_ref` names which one."""

    TENANT = "tenant", "The whole tenant"
    TEAM = "team", "One team"
    KEY = "key", "One API key"


def _no_longer_than(column: str, characters_max: int) -> LessThanOrEqual:
    length = Func(F(column), function="char_length", output_field=models.IntegerField())
    return LessThanOrEqual(length, Value(characters_max))


class RoutingPolicy(models.Model):
    """Rules for a tenant, team or key. `scope_ref` is the team's id, the key's lineage, "" for the tenant.

    Without `live`, or not `enabled`, it changes no call. It is never deleted: its versions are facts.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT)
    scope = models.CharField(max_length=8, choices=Scope)
    scope_ref = models.CharField(max_length=20, default="", blank=True)
    name = models.CharField(max_length=100, validators=[validate_text])
    draft = models.TextField(default="", blank=True)
    live = models.ForeignKey(
        "PolicyVersion", on_delete=models.PROTECT, null=True, editable=False, related_name="+"
    )
    enabled = models.BooleanField(default=True, editable=False)
    created_at = models.DateTimeField(default=utcnow, editable=False)

    objects = TenantScopedManager()

    class Meta:
        verbose_name = "policy"
        verbose_name_plural = "policies"
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "scope", "scope_ref"],
                name="policy_once_per_scope",
                violation_error_message="There is a policy for that already; change that one.",
            ),
            models.CheckConstraint(
                condition=Q(scope="tenant", scope_ref="")
                | Q(scope__in=["team", "key"], scope_ref__regex="^[0-9]+$"),
                name="policy_names_its_scope",
            ),
            models.CheckConstraint(condition=~Q(name=""), name="policy_is_named"),
            models.CheckConstraint(
                condition=_no_longer_than("draft", SOURCE_LENGTH_MAX), name="policy_draft_length"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def in_force(self) -> bool:
        return self.enabled and self.live_id is not None


class PolicyVersion(models.Model):
    """What was published once, and by whom: the text and what it was read as. Immutable.

    `document` is document.Policy as JSON, so that workers need no reader of YAML. Names are copied, so that
    a version still reads when its publisher's account is gone.
    """

    policy = models.ForeignKey(RoutingPolicy, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    source = models.TextField()
    document = models.JSONField()
    note = models.CharField(max_length=300, default="", blank=True, validators=[validate_text])
    published_at = models.DateTimeField(default=utcnow)
    published_by = models.CharField(max_length=200)
    published_by_user_id = models.BigIntegerField(null=True)

    objects = TenantScopedManager("policy__tenant_id")

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["policy", "number"], name="policy_version_number_once"),
            # What `live` points at, so that a policy is served by its own versions only.
            models.UniqueConstraint(fields=["id", "policy"], name="policy_version_with_its_policy"),
            models.CheckConstraint(condition=Q(number__gte=1), name="policy_version_number"),
            models.CheckConstraint(
                condition=_no_longer_than("source", SOURCE_LENGTH_MAX), name="policy_version_length"
            ),
        ]

    def __str__(self) -> str:
        return f"version {self.number}"
