"""What the page of one call shows. Every amount is exact."""

from typing import Any

from governance.budgets.models import Budget
from governance.calls.models import Attempt, Call
from governance.console.budget_figures import scope_names
from governance.console.cache_words import cache_words
from governance.console.decision_words import decision_words
from governance.console.display import STATE_LABELS, Bar, bar_html, scope_text, when, window_text
from governance.console.request_shape import describe
from governance.console.savings_rows import policy_words, savings_rows
from governance.core.ids import id_floor, id_time_ms
from governance.core.meters import METERS
from governance.core.money import format_usd
from governance.ledger.kinds import EntryKind
from governance.ledger.models import BudgetPeriod, LedgerEntry
from tenants.models import ApiKey, Team, Tenant

METER_TEXTS = {
    "input": ("Input", "input_tokens"),
    "cache_write_5m": ("Cache write, 5 minutes", "cache_creation_5m_tokens"),
    "cache_write_1h": ("Cache write, 1 hour", "cache_creation_1h_tokens"),
    "cache_read": ("Cache read", "cache_read_input_tokens"),
    "output": ("Output", "output_tokens"),
    "web_search": ("Web searches", "web_search_requests"),
}
"""Meter → (words, the attempt's column with its units)."""

BASIS_TEXTS = {
    "exact": "from the usage that Claude reported",
    "bounded": "from a bound on the usage, because the reply was cut",
    "full_hold": "the whole hold, because the outcome is unknown",
}


def call_context(call: Call) -> dict[str, Any]:
    """Everything that templates/console/call.html names."""
    floor = id_floor(id_time_ms(call.pk))  # nothing of a call is older than the call
    attempts = list(Attempt.objects.filter(pk__gte=floor, call_id=call.pk).order_by("number"))
    entries = list(LedgerEntry.objects.filter(pk__gte=floor, call_id=call.pk).order_by("pk"))
    return {
        "call": call,
        "tenant": Tenant.objects.filter(pk=call.tenant_id).first(),
        "team": Team.objects.filter(pk=call.team_id).first(),
        "key": ApiKey.objects.filter(pk=call.key_id).first(),
        "at": when(call.at),
        "state_class": STATE_LABELS.get(call.outcome, "info"),
        "cost": format_usd(call.cost_nanos),
        "list_cost": format_usd(call.list_nanos),
        "held": format_usd(call.held_nanos),
        "baseline": format_usd(call.baseline_nanos) if call.baseline_nanos is not None else None,
        "decision": decision_words(call.decision),
        "cache": cache_words(call),
        "policy": policy_words(call),
        "savings": savings_rows(call),
        "refused": refusal(call),
        "tags": sorted(call.tags.items()),
        "shape": describe(call.facts),
        "meters": meter_rows(attempts),
        "attempts": [attempt_row(attempt) for attempt in attempts],
        "legs": leg_rows(entries),
        "corrected": corrected(entries),
    }


def refusal(call: Call) -> dict[str, Any] | None:
    """What a budget's refusal was computed from, as the caller was told; None for every other call."""
    figures = call.decision.get("refused")
    if not isinstance(figures, dict):
        return None
    limit, spent, held = (int(figures[f"{name}_nanos"]) for name in ("limit", "spent", "held"))
    return {
        "budget": Budget.objects.filter(pk=figures["budget_id"]).first(),
        "needed": format_usd(int(figures["needed_nanos"])),
        "left": format_usd(limit - spent - held),
        "limit": format_usd(limit),
        "spent": format_usd(spent),
        "held": format_usd(held),
    }


def meter_rows(attempts: list[Attempt]) -> list[dict[str, Any]]:
    """One row per meter that was used, summed over the attempts; the costs sum to the call's cost."""
    rows = []
    for meter in METERS:
        words, column = METER_TEXTS[meter]
        units = sum(getattr(attempt, column) or 0 for attempt in attempts)
        nanos = sum(int(attempt.cost_by_meter.get(meter, 0)) for attempt in attempts)
        if units or nanos:
            rows.append({"meter": words, "units": units, "cost": format_usd(nanos)})
    return rows


def attempt_row(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt,
        "cost": format_usd(attempt.cost_nanos),
        "held": format_usd(attempt.held_nanos),
        "basis": BASIS_TEXTS.get(attempt.basis or "", "nothing was charged"),
        "bound_used": bound_used(attempt),
    }


def bound_used(attempt: Attempt) -> str | None:
    """“12 % of its worst case”, rounded up; None where there was none or the cost is not known exactly."""
    if not attempt.bound_nanos or attempt.basis != "exact":
        return None
    return f"{-(-attempt.cost_nanos * 100 // attempt.bound_nanos)} % of its worst case"


def corrected(entries: list[LedgerEntry]) -> str | None:
    """What the tenant pays after credits and corrections; None where there are none."""
    if not any(entry.kind in (EntryKind.CREDIT, EntryKind.CORRECTION) for entry in entries):
        return None
    return format_usd(sum(entry.amount_nanos for entry in entries if entry.kind != EntryKind.OVERRUN))


def leg_rows(entries: list[LedgerEntry]) -> list[dict[str, Any]]:
    """One row per entry and budget that it was charged to, with how that budget stands now."""
    period_ids = {period_id for entry in entries for period_id in entry.period_ids}
    periods = BudgetPeriod.objects.filter(pk__in=period_ids).in_bulk()
    budgets = Budget.objects.filter(pk__in={period.budget_id for period in periods.values()}).in_bulk()
    names = scope_names(budgets.values())
    rows = []
    for entry in entries:
        legs = [periods[period_id] for period_id in entry.period_ids if period_id in periods]
        for period in legs:
            budget = budgets.get(period.budget_id)
            rows.append(
                {
                    "kind": entry.kind,
                    "why": entry.reason if entry.corrects_id else "",
                    "amount": format_usd(entry.amount_nanos),
                    "budget": budget,
                    "scope": scope_text(budget, names) if budget else "",
                    "window": window_text(
                        period.starts_at, period.ends_at, budget.time_zone if budget else "UTC"
                    ),
                    "bar": bar_html(Bar(period.spent_nanos, period.held_nanos, period.limit_nanos)),
                }
            )
        if not legs:
            rows.append({"kind": entry.kind, "amount": format_usd(entry.amount_nanos), "scope": entry.reason})
    return rows
