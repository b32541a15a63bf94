"""Limits on calls: how many, how large and how many at once. They protect quotas, not money: see budgets."""

from django.db import models
from django.db.models import Q

from tenants.models import Tenant
from tenants.scope import TenantScopedManager
from tenants.validators import MODEL_LENGTH_MAX, validate_text

LIMIT_MAX = 1_000_000_000


class Scope(models.TextChoices):
    """Whose calls are counted together. `scope_ref` names which one."""

    TENANT = "tenant", "The whole tenant"
    TEAM = "team", "One team"
    KEY = "key", "One API key"


class CallLimit(models.Model):
    """What the calls of a tenant, team or key may be, of all models together or of one.

    `scope_ref` is the team's id, the key's lineage, "" for the tenant. `model` "" is every model. A measure
    that is null is not limited. The rows are settings, so they can be deleted; nothing refers to them.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT)
    scope = models.CharField(max_length=8, choices=Scope)
    scope_ref = models.CharField(max_length=20, default="", blank=True)
    model = models.CharField(
        max_length=MODEL_LENGTH_MAX,
        default="",
        blank=True,
        validators=[validate_text],
        help_text="The id of one model; empty for all of them together.",
    )
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True)
    input_tokens_per_minute = models.PositiveIntegerField(
        null=True, blank=True, help_text="Tokens read from the prompt cache do not count."
    )
    output_tokens_per_minute = models.PositiveIntegerField(null=True, blank=True)
    concurrent_calls = models.PositiveIntegerField(null=True, blank=True)
    open_streams = models.PositiveIntegerField(null=True, blank=True)

    objects = TenantScopedManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "scope", "scope_ref", "model"],
                name="call_limit_once_per_scope_and_model",
                violation_error_message="There is such a limit already; change that one.",
            ),
            models.CheckConstraint(
                condition=Q(scope="tenant", scope_ref="")
                | Q(scope__in=["team", "key"], scope_ref__regex="^[0-9]+$"),
                name="call_limit_names_its_scope",
            ),
            models.CheckConstraint(
                condition=Q(requests_per_minute__isnull=False)
                | Q(input_tokens_per_minute__isnull=False)
                | Q(output_tokens_per_minute__isnull=False)
                | Q(concurrent_calls__isnull=False)
                | Q(open_streams__isnull=False),
                name="call_limit_limits_something",
                violation_error_message="Limit at least one thing.",
            ),
            *(
                models.CheckConstraint(
                    condition=Q(**{measure: None}) | Q(**{f"{measure}__range": (1, LIMIT_MAX)}),
                    name=f"call_limit_{measure}",
                    violation_error_message="A limit is one or more; to stop all calls, pause.",
                )
                for measure in (
                    "requests_per_minute",
                    "input_tokens_per_minute",
                    "output_tokens_per_minute",
                    "concurrent_calls",
                    "open_streams",
                )
            ),
        ]

    def __str__(self) -> str:
        of = f" {self.scope_ref}" if self.scope_ref else ""
        return f"limit of {self.scope}{of}{f', {self.model}' if self.model else ''}"
