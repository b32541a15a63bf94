"""Budgets: who may spend how much, in which window, and whether it is a wall or a warning."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from tenants.models import Tenant
from tenants.scope import TenantScopedManager
from tenants.validators import validate_time_zone

DEFAULT_ALERT_PERCENTS = [50, 75, 90, 95, 100]
SUBJECTS_MAX_DEFAULT = 10_000
SUBJECTS_MAX_MAX = 1_000_000


class Scope(models.TextChoices):
    """What a budget applies to. `scope_ref` names which one.

    tenant     ""
    team, key  the id of the team's row; the lineage of the key
    end_user   the caller's own user, as `metadata.user_id` names it
    tag        "name=value"; only the name where each value has a pot of its own
    session    the conversation, as Claude Code names it
    """

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


class WeekDay(models.IntegerChoices):
    MONDAY = 0
    TUESDAY = 1
    WEDNESDAY = 2
    THURSDAY = 3
    FRIDAY = 4
    SATURDAY = 5
    SUNDAY = 6


class Enforcement(models.TextChoices):
    """A hard budget refuses what does not fit; a soft one only warns."""

    HARD = "hard"
    SOFT = "soft"


def _default_alert_percents() -> list[int]:
    return list(DEFAULT_ALERT_PERCENTS)


class Budget(models.Model):
    """A money limit over a period and a scope. Its live figures are in ledger.BudgetPeriod.

    With `each`, every distinct subject of the scope (each end user, each value of the tag) has the limit for
    itself; calls that name no subject share one pot. `subjects_max` is how many subjects may get a pot in
    one period. `models_only` are model ids and tiers such as "opus", sorted; empty for all. Budgets are
    closed, never deleted: the ledger refers to them for ever.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT)
    name = models.CharField(max_length=120)
    scope = models.CharField(max_length=16, choices=Scope)
    scope_ref = models.CharField(max_length=256, default="", blank=True)
    each = models.BooleanField(default=False)
    subjects_max = models.IntegerField(default=SUBJECTS_MAX_DEFAULT, db_default=SUBJECTS_MAX_DEFAULT)
    models_only = ArrayField(models.CharField(max_length=128), default=list, blank=True)
    period = models.CharField(max_length=16, choices=PeriodKind)
    week_starts_on = models.SmallIntegerField(default=0, choices=WeekDay)
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
            models.CheckConstraint(
                condition=Q(subjects_max__gte=1, subjects_max__lte=SUBJECTS_MAX_MAX),
                name="budget_has_a_cap_on_subjects",
            ),
            models.CheckConstraint(
                condition=Q(week_starts_on__gte=0, week_starts_on__lte=6), name="week_starts_on_a_day"
            ),
            models.UniqueConstraint(
                fields=["tenant", "scope", "scope_ref", "period", "enforcement", "each", "models_only"],
                condition=Q(closed_at__isnull=True),
                name="one_open_budget_per_scope_and_models",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class SubjectCount(models.Model):
    """How many subjects of an `each` budget have a pot in one period. Its row lock makes the cap exact."""

    budget = models.ForeignKey(Budget, on_delete=models.PROTECT)
    starts_at = models.DateTimeField()
    subjects = models.IntegerField(default=0)

    objects = TenantScopedManager("budget__tenant_id")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["budget", "starts_at"], name="one_count_per_period"),
        ]

    def __str__(self) -> str:
        return f"{self.subjects} subjects of budget {self.budget_id}"


class RequestState(models.TextChoices):
    OPEN = "open"
    APPROVED = "approved"
    DENIED = "denied"


class IncreaseRequest(models.Model):
    """Somebody asks for more on a budget; an administrator approves or denies, with a reason.

    `granted` says what an approval did: a top-up, a raise, or a new limit.
    """

    class Granted(models.TextChoices):
        TOP_UP = "top_up", "Top up this period"
        RAISE = "raise", "Raise until a moment"
        LIMIT = "limit", "Raise the limit for good"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT)
    budget = models.ForeignKey(Budget, on_delete=models.PROTECT)
    subject = models.CharField(max_length=256, default="", blank=True)
    amount_nanos = models.BigIntegerField()
    reason = models.CharField(max_length=256)
    asked_by_id = models.BigIntegerField(null=True)
    asked_by_name = models.CharField(max_length=200)
    asked_at = models.DateTimeField(auto_now_add=True)
    state = models.CharField(max_length=16, choices=RequestState, default=RequestState.OPEN)
    granted = models.CharField(max_length=16, choices=Granted, default="", blank=True)
    granted_nanos = models.BigIntegerField(null=True)
    answer = models.CharField(max_length=256, default="", blank=True)
    decided_by_name = models.CharField(max_length=200, default="", blank=True)
    decided_at = models.DateTimeField(null=True)

    objects = TenantScopedManager()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount_nanos__gt=0), name="request_asks_for_more"),
            models.CheckConstraint(
                condition=Q(state=RequestState.OPEN, decided_at__isnull=True)
                | (~Q(state=RequestState.OPEN) & Q(decided_at__isnull=False)),
                name="request_is_decided_once",
            ),
            models.UniqueConstraint(
                fields=["budget", "subject", "asked_by_id"],
                condition=Q(state=RequestState.OPEN),
                name="one_open_request_each",
            ),
        ]
        indexes = [models.Index(fields=["tenant", "-id"], name="request_by_tenant")]

    def __str__(self) -> str:
        return f"{self.asked_by_name} asks for more on {self.budget.name}"
