"""Moving a limit without changing the budget: top-ups, raises for a while, transfers between two budgets.

Each leaves a row that is never changed (ledger.Adjustment) with who and why, and an audit event. Figures of
the period row move in the same transaction, under the locks that admission takes: budgets by id first,
then period rows by id.

    top-up     adds to one period: prepaid money on a total budget, a little more this month on another
    raise      allows more until a moment. Admission compares that moment with the database's clock, so a
               raise ends although no process does anything
    transfer   takes from one period what nobody has spent or holds, and adds it to another
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection, transaction
from django.db.models import BigIntegerField, Exists, F, OuterRef, QuerySet
from django.db.models.expressions import RawSQL

from governance.audit import events
from governance.audit.events import SYSTEM, Actor
from governance.budgets.limits import refresh_limits
from governance.budgets.models import Budget
from governance.budgets.subjects import SUBJECT_NAMES, subject_text
from governance.budgets.terms import OPEN_PERIOD
from governance.core.ids import uuid7
from governance.core.money import NANOS_MAX, format_usd
from governance.core.periods import period_at
from governance.ledger.kinds import EntryKind
from governance.ledger.models import Adjustment, AdjustmentKind, BudgetPeriod, DatabaseNow, LedgerEntry
from tenants.scope import tenant_scope

RAISE_DAYS_MAX = 366


class AdjustmentRefused(ValueError):
    """A limit that cannot be moved so; the text says why and what to do."""


def top_up(
    budget: Budget, *, amount_nanos: int, reason: str, subject: str = "", actor: Actor | None = None
) -> Adjustment:
    """Add to the limit of the budget's current period. `subject`: whose pot, where each has one."""
    _check(amount_nanos, reason)
    with transaction.atomic(), tenant_scope(budget.tenant_id):
        [budget] = _lock([budget])
        row_id = _current_row(budget, subject)
        [row] = BudgetPeriod.objects.select_for_update(no_key=True).filter(pk=row_id)
        _add(budget, row, amount_nanos)
        fact = _fact(AdjustmentKind.TOP_UP, budget, row, amount_nanos, reason, actor)
        fact.save(force_insert=True)
        _record("budget.top_up", fact, budget, actor)
    return fact


def raise_limit(
    budget: Budget,
    *,
    amount_nanos: int,
    until: datetime,
    reason: str,
    subject: str = "",
    actor: Actor | None = None,
) -> Adjustment:
    """Allow so much more until that moment, in the current period and in those that begin before it.

    One raise at a time: `end_raise` first. Money spent under a raise stays spent when it has ended.
    """
    _check(amount_nanos, reason)
    with transaction.atomic(), tenant_scope(budget.tenant_id):
        [budget] = _lock([budget])
        subject = _subject(budget, subject)
        now = _now()
        if not now < until <= now + timedelta(days=RAISE_DAYS_MAX):
            raise AdjustmentRefused(
                f"A raise ends at a moment that is to come, within {RAISE_DAYS_MAX} days. For more money "
                "without an end, change the limit."
            )
        running = active_raises(budget).filter(subject=subject).first()
        if running is not None:
            raise AdjustmentRefused(
                f"This budget is raised already, by {format_usd(running.amount_nanos)} until "
                f"{running.until:%Y-%m-%d %H:%M} UTC. End that raise first."
            )
        fact = _fact(AdjustmentKind.RAISE, budget, None, amount_nanos, reason, actor, subject)
        fact.until = until
        fact.save(force_insert=True)
        _locked_live_rows(budget, subject).update(raised_nanos=amount_nanos, raised_until=until)
        _record("budget.raise", fact, budget, actor)
    return fact


def end_raise(budget: Budget, *, reason: str, subject: str = "", actor: Actor | None = None) -> Adjustment:
    """End the running raise now, before its time."""
    _check(1, reason)
    with transaction.atomic(), tenant_scope(budget.tenant_id):
        [budget] = _lock([budget])
        subject = _subject(budget, subject)
        running = active_raises(budget).filter(subject=subject).first()
        if running is None:
            raise AdjustmentRefused("No raise is running on this budget.")
        fact = _fact(AdjustmentKind.RAISE_END, budget, None, -running.amount_nanos, reason, actor, subject)
        fact.other_id = running.pk
        fact.save(force_insert=True)
        _locked_live_rows(budget, subject).update(raised_nanos=0, raised_until=None)
        _record("budget.raise_end", fact, budget, actor)
    return fact


def transfer(
    source: Budget,
    target: Budget,
    *,
    amount_nanos: int,
    reason: str,
    source_subject: str = "",
    target_subject: str = "",
    actor: Actor | None = None,
) -> tuple[Adjustment, Adjustment]:
    """Move so much of the source's current limit to the target's → (what gave, what got).

    The source gives only what is neither spent nor held, so it is never above its limit afterwards. Two
    linked ledger entries say the same.
    """
    _check(amount_nanos, reason)
    if source.tenant_id != target.tenant_id:
        raise AdjustmentRefused("Money is transferred between two budgets of one tenant.")
    with transaction.atomic(), tenant_scope(source.tenant_id):
        locked = {budget.pk: budget for budget in _lock([source, target])}
        source, target = locked[source.pk], locked[target.pk]
        ids = [_current_row(source, source_subject), _current_row(target, target_subject)]
        if ids[0] == ids[1]:
            raise AdjustmentRefused("Choose another budget to transfer to; this is the same one.")
        rows = BudgetPeriod.objects.select_for_update(no_key=True).filter(pk__in=ids).order_by("pk")
        by_id = {row.pk: row for row in rows}
        giving, getting = by_id[ids[0]], by_id[ids[1]]
        left = giving.limit_nanos - giving.spent_nanos - giving.held_nanos
        if amount_nanos > left:
            raise AdjustmentRefused(
                f"“{source.name}” can give {format_usd(max(left, 0))}: of {format_usd(giving.limit_nanos)}, "
                f"{format_usd(giving.spent_nanos)} are spent and {format_usd(giving.held_nanos)} held for "
                "calls in flight. Transfer less."
            )
        _add(source, giving, -amount_nanos)
        _add(target, getting, amount_nanos)
        gave = _fact(AdjustmentKind.TRANSFER, source, giving, -amount_nanos, reason, actor)
        got = _fact(AdjustmentKind.TRANSFER, target, getting, amount_nanos, reason, actor)
        gave.other_id, got.other_id = got.pk, gave.pk
        for fact, budget in ((gave, source), (got, target)):
            fact.save(force_insert=True)
            _ledger_entry(fact, transfer_id=gave.pk).save(force_insert=True)
            _record("budget.transfer", fact, budget, actor)
    return gave, got


def active_raises(budget: Budget) -> "QuerySet[Adjustment]":
    """Raises of this budget that have not ended, by the database's clock."""
    ended = Adjustment.objects.filter(kind=AdjustmentKind.RAISE_END, other_id=OuterRef("pk"))
    running = Adjustment.objects.filter(
        budget_id=budget.pk, kind=AdjustmentKind.RAISE, until__gt=DatabaseNow()
    )
    return running.filter(~Exists(ended)).order_by("-pk")


# --- Parts -------------------------------------------------------------------------------------------
def _check(amount_nanos: int, reason: str) -> None:
    if not 0 < amount_nanos <= NANOS_MAX:
        raise AdjustmentRefused("The amount must be above zero.")
    if not reason.strip():
        raise AdjustmentRefused("Say why: the reason stays in the history of the budget.")
    if len(reason) > 256:
        raise AdjustmentRefused("The reason is longer than 256 characters; say it in fewer.")


def _lock(budgets: Sequence[Budget]) -> list[Budget]:
    """These budgets as they stand, locked in order of id. AdjustmentRefused where one is closed."""
    wanted = {budget.pk for budget in budgets}
    found = Budget.objects.select_for_update().filter(pk__in=wanted, closed_at=None).order_by("pk")
    rows = list(found)
    if len(rows) != len(wanted):
        raise AdjustmentRefused("This budget is closed: its limit no longer moves.")
    return rows


def _subject(budget: Budget, subject: str) -> str:
    if subject and not budget.each:
        raise AdjustmentRefused("This budget has one pot for all; leave the subject out.")
    return subject_text(subject)


def _now() -> datetime:
    with connection.cursor() as cursor:
        cursor.execute("SELECT exchequer_now()")
        now: datetime = cursor.fetchone()[0]
    return now


def _current_row(budget: Budget, subject: str) -> int:
    """The id of the subject's period row of now, made where no call has made it yet."""
    subject = _subject(budget, subject)
    with connection.cursor() as cursor:
        period = period_at(_now(), budget.period, budget.time_zone, budget.week_starts_on)
        cursor.execute(OPEN_PERIOD, [budget.pk, subject, period.starts_at, period.ends_at])
        if cursor.fetchone()[0] == "full":
            raise AdjustmentRefused(
                f"{budget.subjects_max:,} {SUBJECT_NAMES[budget.scope]}s have a pot in this period, which is "
                "as many as the budget allows. Let it have more first."
            )
    row = BudgetPeriod.objects.get(budget_id=budget.pk, subject=subject, starts_at=period.starts_at)
    return int(row.pk)


def _locked_live_rows(budget: Budget, subject: str) -> "QuerySet[BudgetPeriod]":
    rows = BudgetPeriod.objects.filter(
        budget_id=budget.pk, subject=subject, ends_at__gt=DatabaseNow()
    ).order_by("pk")
    ids = list(rows.select_for_update(no_key=True).values_list("pk", flat=True))
    return BudgetPeriod.objects.filter(pk__in=ids)


def _add(budget: Budget, row: BudgetPeriod, amount_nanos: int) -> None:
    """Move a locked row's limit."""
    if budget.limit_nanos + row.added_nanos + amount_nanos > NANOS_MAX:
        raise AdjustmentRefused("That is more money than a limit can hold.")
    rows = BudgetPeriod.objects.filter(pk=row.pk)
    rows.update(added_nanos=F("added_nanos") + amount_nanos)
    refresh_limits(rows, budget)


def _fact(
    kind: str,
    budget: Budget,
    row: BudgetPeriod | None,
    amount_nanos: int,
    reason: str,
    actor: Actor | None,
    subject: str = "",
) -> Adjustment:
    who = actor or SYSTEM
    return Adjustment(
        id=uuid7(),
        tenant_id=budget.tenant_id,
        budget_id=budget.pk,
        subject=row.subject if row else subject,
        period_id=row.pk if row else None,
        kind=kind,
        amount_nanos=amount_nanos,
        actor_user_id=who.user_id,
        actor_name=who.name[:200],
        reason=reason.strip(),
    )


def _ledger_entry(fact: Adjustment, *, transfer_id: UUID) -> LedgerEntry:
    """One side of a transfer. Both sides have the transfer's id where other entries have their call's."""
    return LedgerEntry(
        id=fact.pk,
        kind=EntryKind.TRANSFER,
        tenant_id=fact.tenant_id,
        call_id=transfer_id,
        period_ids=[fact.period_id],
        amount_nanos=fact.amount_nanos,
        held_nanos=0,
        list_nanos=0,
        price_version=0,
        reason=fact.reason,
        at=DatabaseNow(),
        xact=RawSQL("pg_current_xact_id()::text::bigint", [], BigIntegerField()),
    )


def _record(action: str, fact: Adjustment, budget: Budget, actor: Actor | None) -> None:
    facts: dict[str, object] = {"amount": format_usd(fact.amount_nanos), "reason": fact.reason}
    if fact.subject:
        facts["subject"] = fact.subject
    if fact.until is not None:
        facts["until"] = fact.until
    events.record(actor, budget.tenant_id, action, budget, after=facts)
