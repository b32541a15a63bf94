"""Beneath a budget's form: its periods (or pots), and what moved its limit."""

from typing import Any
from urllib.parse import urlencode

from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import QueryDict
from django.urls import reverse

from governance.budgets.adjustments import active_raises
from governance.budgets.models import Budget, IncreaseRequest, RequestState
from governance.budgets.subjects import subject_text
from governance.console.access import Access
from governance.console.budget_figures import names_of, visible_budgets
from governance.console.budget_forms import subject_of
from governance.console.display import Bar, bar_html, when, window_text
from governance.core.money import format_usd
from governance.ledger.models import Adjustment, BudgetPeriod, limit_now

PERIODS_SHOWN = 24
ADJUSTMENTS_SHOWN = 20


def budget_context(access: Access, budget: Budget, query: QueryDict) -> dict[str, Any]:
    """What templates/console/budget_periods.html names. `query` may ask for older rows (`before`) and, of a
    budget on each, for one subject (`subject`)."""
    subject = str(query.get("subject", "")).strip()
    rows, older = _page(_periods(budget, subject), str(query.get("before", "")), subject)
    names = names_of((budget.scope, row.subject) for row in rows)
    return {
        "each": budget.each,
        "subject": subject,
        "periods": [period_row(row, budget, names) for row in rows],
        "older": older,
        "adjustments": adjustment_rows(access, budget),
        "raises": [
            f"{row.subject + ': ' if row.subject else ''}raised by {format_usd(row.amount_nanos)} until "
            f"{when(row.until)} UTC"
            for row in active_raises(budget)[:ADJUSTMENTS_SHOWN]
        ],
        "open_requests": IncreaseRequest.objects.filter(budget=budget, state=RequestState.OPEN).count(),
        "requests_url": reverse("admin:budgets_increaserequest_changelist"),
    }


def _periods(budget: Budget, subject: str) -> "QuerySet[Any]":
    rows = BudgetPeriod.objects.filter(budget_id=budget.pk).annotate(limit_now_nanos=limit_now())
    if budget.each and subject:
        try:
            rows = rows.filter(subject=subject_text(subject_of(budget, subject)))
        except ValidationError:
            rows = rows.none()
    return rows.order_by("-pk")


def _page(rows: "QuerySet[Any]", before: str, subject: str) -> tuple[list[Any], str]:
    """One page below `before`, and the query string of the next; keyset, because subjects may be many."""
    if before.isdecimal() and len(before) < 19:
        rows = rows.filter(pk__lt=int(before))
    found = list(rows[: PERIODS_SHOWN + 1])
    if len(found) <= PERIODS_SHOWN:
        return found, ""
    following = {"before": str(found[PERIODS_SHOWN - 1].pk), "subject": subject}
    return found[:PERIODS_SHOWN], urlencode({name: text for name, text in following.items() if text})


def period_row(row: Any, budget: Budget, names: dict[tuple[str, str], str]) -> dict[str, Any]:
    return {
        "window": window_text(row.starts_at, row.ends_at, budget.time_zone),
        "subject": names.get((budget.scope, row.subject), row.subject) or "none named",
        "limit": format_usd(row.limit_now_nanos),
        "added": format_usd(row.added_nanos) if row.added_nanos else "",
        "spent": format_usd(row.spent_nanos),
        "held": format_usd(row.held_nanos),
        "left": format_usd(row.limit_now_nanos - row.spent_nanos - row.held_nanos),
        "bar": bar_html(Bar(row.spent_nanos, row.held_nanos, row.limit_now_nanos)),
    }


def adjustment_rows(access: Access, budget: Budget) -> list[dict[str, Any]]:
    """The newest top-ups, raises and transfers, with who and why. The other side of a transfer is named to
    those who see that budget."""
    rows = list(Adjustment.objects.filter(budget_id=budget.pk).order_by("-pk")[:ADJUSTMENTS_SHOWN])
    others = Adjustment.objects.filter(pk__in=[row.other_id for row in rows if row.period_id]).in_bulk()
    named = Budget.objects.filter(pk__in={other.budget_id for other in others.values()})
    names = visible_budgets(access, named).in_bulk()
    return [
        {
            "at": when(row.at),
            "kind": row.get_kind_display(),
            "subject": row.subject,
            "amount": format_usd(row.amount_nanos),
            "until": when(row.until) if row.until else "",
            "other": names.get(others[row.other_id].budget_id) if row.other_id in others else None,
            "who": row.actor_name,
            "reason": row.reason,
        }
        for row in rows
    ]
