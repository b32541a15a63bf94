"""Budgets: who may spend how much, in which window, and whether it is a wall or a warning."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from tenants.models import Tenant
from tenants.scope import TenantScopedManager
from tenants.validators import validate_time_zone

DEFAULT_ALERT_PERCENTS = [50, 75, 90, 95, 100]


class Scope(models.TextChoices):
    """What a budget applies to. `scope_ref` names which one."""

    TENANT = "tenant"
    TEAM = "team"
    KEY = "key"
    END_USER = "end_user"
    TAG = "tag"
    SESSION = "session"


class PeriodKind(models.TextChoices):
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"
    TOTAL = "total"


class Enforcement(models.TextChoices):
    """A hard budget refuses what does not fit; a soft one only warns."""

    HARD = "hard"
    SOFT = "soft"


def _default_alert_percents() -> list[int]:
    return list(DEFAULT_ALERT_PERCENTS)


class Budget(models.Model):
    """A money limit over a period and a scope. Its live figures are in ledger.BudgetPeriod.

    `scope_ref` is the id of the team or key, "" for the tenant. Budgets are closed, never deleted:
    the ledger refers to them for ever.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT)
    name = models.CharField(max_length=120)
    scope = models.CharField(max_length=16, choices=Scope)
    scope_ref = models.CharField(max_length=256, default="", blank=True)
    each = models.BooleanField(default=False, editable=False)
    models_only = ArrayField(models.CharField(max_length=128), default=list, blank=True, editable=False)
    period = models.CharField(max_length=16, choices=PeriodKind)
    week_starts_on = models.SmallIntegerField(default=0, editable=False)
    time_zone = models.CharField(max_length=64, default="UTC", validators=[validate_time_zone])
    limit_nanos = models.BigIntegerField()
    enforcement = models.CharField(max_length=8, choices=Enforcement, default=Enforcement.HARD)
    alert_percents = ArrayField(models.SmallIntegerField(), default=_default_alert_percents, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    closed_at = models.DateTimeField(null=True, blank=True)

    objects = TenantScopedManager()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(limit_nanos__gte=0), name="budget_limit_is_not_negative"),
            models.UniqueConstraint(
                fields=["tenant", "scope", "scope_ref", "period", "enforcement", "each"],
                condition=Q(closed_at__isnull=True),
                name="one_open_budget_per_scope_and_period",
            ),
        ]

    def __str__(self) -> str:
        return self.name
