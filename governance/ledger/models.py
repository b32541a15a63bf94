"""The money: what is held, what was charged, and how much of each budget period is left.

BudgetPeriod is the one mutable truth, changed only under its row lock: what is spent and held by the desk,
the limit by budgets/limits.py. Hold rows are open promises and disappear when resolved. LedgerEntry and
ThresholdCrossing are facts.
"""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q

from governance.ledger.kinds import Basis, EntryKind
from tenants.scope import TenantScopedManager


class DatabaseNow(models.Func):
    """`exchequer_now()`: the only clock that decides about money."""

    function = "exchequer_now"
    output_field = models.DateTimeField()


def limit_now() -> models.expressions.Combinable:
    """For queries of BudgetPeriod: the limit that admission compares with right now."""
    raised = models.Case(
        models.When(raised_until__gt=DatabaseNow(), then=F("raised_nanos")),
        default=0,
        output_field=models.BigIntegerField(),
    )
    return F("limit_nanos") + raised


class BudgetPeriod(models.Model):
    """One window of one budget, for one subject. The period is in the key, so nothing is ever reset.

    Amounts are nano-dollars. `ceiling_nanos` is NULL for a soft budget. For a hard one the database
    itself refuses any row with spent + held above it; it equals the limit except right after a limit
    was lowered below what is already spent and held. Admission tests the limit, not the ceiling.

    `limit_nanos` is the budget's limit and `added_nanos`, which is the sum of the row's top-ups and
    transfers. Until `raised_until`, by the database's clock, admission allows `raised_nanos` more: a raise
    ends although nobody does anything.
    """

    tenant_id = models.BigIntegerField()
    budget_id = models.BigIntegerField()
    subject = models.CharField(max_length=256, default="", blank=True)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    limit_nanos = models.BigIntegerField()
    ceiling_nanos = models.BigIntegerField(null=True, blank=True)
    spent_nanos = models.BigIntegerField(default=0)
    held_nanos = models.BigIntegerField(default=0)
    alert_percents = ArrayField(models.SmallIntegerField(), default=list, blank=True)
    added_nanos = models.BigIntegerField(default=0, db_default=0)
    raised_nanos = models.BigIntegerField(default=0, db_default=0)
    raised_until = models.DateTimeField(null=True, blank=True)
    # Front tickets, one a process: the oldest call of each that waits for room here (desk/room.py). Written
    # by desk_admit_3 only: {lease id: [since, amount, void from]}, in microseconds and nano-dollars.
    fronts = models.JSONField(null=True, editable=False)

    objects = TenantScopedManager()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(raised_nanos__gte=0), name="raise_is_not_negative"),
            models.UniqueConstraint(fields=["budget_id", "subject", "starts_at"], name="one_row_per_period"),
            models.CheckConstraint(condition=Q(spent_nanos__gte=0), name="spent_is_not_negative"),
            models.CheckConstraint(condition=Q(held_nanos__gte=0), name="held_is_not_negative"),
            models.CheckConstraint(condition=Q(limit_nanos__gte=0), name="limit_is_not_negative"),
            models.CheckConstraint(condition=Q(starts_at__lt=F("ends_at")), name="period_is_not_empty"),
            models.CheckConstraint(
                condition=Q(ceiling_nanos__isnull=True)
                | Q(ceiling_nanos__gte=F("spent_nanos") + F("held_nanos")),
                name="hard_budget_is_never_overspent",
            ),
        ]
        indexes = [models.Index(fields=["tenant_id", "ends_at"], name="period_by_tenant")]

    def __str__(self) -> str:
        return f"period {self.pk} of budget {self.budget_id}"

    @property
    def left_nanos(self) -> int:
        """What is neither spent nor held, without a raise; negative after the limit was lowered."""
        return self.limit_nanos - self.spent_nanos - self.held_nanos


class Hold(models.Model):
    """Money promised to one attempt before its first byte goes upstream. Open holds only.

    `memo` is what the sweeper needs to write the call and the attempt when the worker is gone.
    """

    id = models.UUIDField(primary_key=True)
    tenant_id = models.BigIntegerField()
    period_ids = ArrayField(models.BigIntegerField())
    amount_nanos = models.BigIntegerField()
    price_version = models.BigIntegerField()
    lease_id = models.BigIntegerField()
    placed_at = models.DateTimeField(db_default=DatabaseNow())
    memo = models.JSONField()

    objects = TenantScopedManager()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount_nanos__gte=0), name="hold_is_not_negative"),
        ]
        indexes = [
            models.Index(fields=["lease_id"], name="hold_by_lease"),
            models.Index(fields=["tenant_id"], name="hold_by_tenant"),
        ]

    def __str__(self) -> str:
        return f"hold {self.pk}"


class LedgerEntry(models.Model):
    """One immutable fact about money. Its legs are the budget periods it was charged to.

    The entry that resolves a hold has the hold's id: "a hold resolves once" is this primary key.
    An overrun has no legs: it is the operator's, not a tenant's. A credit or a correction names its charge in
    `corrects_id` and has the same legs; a trigger sees to it that no more is taken back than was charged
    (migration 0004). `xact` is the writing transaction:
    readers that page through facts stop below the oldest one still running, so no late commit is missed.
    """

    id = models.UUIDField(primary_key=True)
    kind = models.CharField(max_length=16, choices=EntryKind)
    basis = models.CharField(max_length=16, choices=Basis, null=True)
    tenant_id = models.BigIntegerField()
    key_id = models.BigIntegerField(null=True)
    call_id = models.UUIDField()
    period_ids = ArrayField(models.BigIntegerField())
    amount_nanos = models.BigIntegerField()
    held_nanos = models.BigIntegerField()
    list_nanos = models.BigIntegerField()
    price_version = models.BigIntegerField()
    corrects_id = models.UUIDField(null=True)
    reason = models.CharField(max_length=256)
    at = models.DateTimeField()
    xact = models.BigIntegerField()

    objects = TenantScopedManager()

    class Meta:
        verbose_name_plural = "ledger entries"
        constraints = [
            models.CheckConstraint(
                condition=~Q(kind=EntryKind.CHARGE) | Q(amount_nanos__gte=0, basis__isnull=False),
                name="charge_is_not_negative",
            ),
            models.CheckConstraint(
                condition=~Q(kind=EntryKind.VOID) | Q(amount_nanos=0), name="void_moves_no_money"
            ),
            models.CheckConstraint(
                condition=~Q(kind=EntryKind.CREDIT) | Q(amount_nanos__lte=0), name="credit_gives_back"
            ),
            models.CheckConstraint(
                condition=~Q(kind=EntryKind.OVERRUN) | ~Q(amount_nanos=0) & Q(period_ids__len=0),
                name="overrun_has_no_legs",
            ),
        ]
        indexes = [
            models.Index(fields=["tenant_id", "id"], name="entry_by_tenant"),
            models.Index(fields=["call_id"], name="entry_by_call"),
            models.Index(
                fields=["corrects_id"], condition=Q(corrects_id__isnull=False), name="entry_by_corrected"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}"


class AdjustmentKind(models.TextChoices):
    """What moved a limit: for the rest of a period (top-up, transfer), or for a while (raise)."""

    TOP_UP = "top_up", "Top-up"
    RAISE = "raise", "Raise"
    RAISE_END = "raise_end", "End of a raise"
    TRANSFER = "transfer", "Transfer"


class Adjustment(models.Model):
    """One immutable fact about a limit: how much, who and why.

    A top-up and a transfer change one period row: `period_id`. The two rows of a transfer name each other in
    `other_id`; the giving one is below zero. A raise is on a budget's subject until `until`, whatever periods
    begin meanwhile; its end before that time names it in `other_id`.
    """

    id = models.UUIDField(primary_key=True)
    tenant_id = models.BigIntegerField()
    budget_id = models.BigIntegerField()
    subject = models.CharField(max_length=256, default="", blank=True)
    period_id = models.BigIntegerField(null=True)
    kind = models.CharField(max_length=16, choices=AdjustmentKind)
    amount_nanos = models.BigIntegerField()
    until = models.DateTimeField(null=True)
    other_id = models.UUIDField(null=True)
    actor_user_id = models.BigIntegerField(null=True)
    actor_name = models.CharField(max_length=200)
    reason = models.CharField(max_length=256)
    at = models.DateTimeField(db_default=DatabaseNow())

    objects = TenantScopedManager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=~Q(kind=AdjustmentKind.TOP_UP) | Q(amount_nanos__gt=0, period_id__isnull=False),
                name="top_up_adds_to_a_period",
            ),
            models.CheckConstraint(
                condition=~Q(kind=AdjustmentKind.RAISE) | Q(amount_nanos__gt=0, until__isnull=False),
                name="raise_ends",
            ),
            models.CheckConstraint(
                condition=~Q(kind=AdjustmentKind.TRANSFER)
                | (Q(period_id__isnull=False, other_id__isnull=False) & ~Q(amount_nanos=0)),
                name="transfer_has_two_sides",
            ),
            models.UniqueConstraint(
                fields=["other_id"], condition=Q(kind=AdjustmentKind.RAISE_END), name="raise_ends_once"
            ),
        ]
        indexes = [
            models.Index(fields=["budget_id", "subject", "id"], name="adjustment_by_budget"),
            models.Index(fields=["tenant_id", "id"], name="adjustment_by_tenant"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}"


class ThresholdCrossing(models.Model):
    """Spending passed a percentage of a limit. Written in the transaction that crossed; once per period."""

    period = models.ForeignKey(BudgetPeriod, on_delete=models.DO_NOTHING, db_constraint=False)
    budget_id = models.BigIntegerField()
    tenant_id = models.BigIntegerField()
    percent = models.SmallIntegerField()
    spent_nanos = models.BigIntegerField()
    limit_nanos = models.BigIntegerField()
    at = models.DateTimeField(db_default=DatabaseNow())

    objects = TenantScopedManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["period", "percent"], name="one_crossing_per_threshold"),
        ]

    def __str__(self) -> str:
        return f"{self.percent} % of budget {self.budget_id}"
