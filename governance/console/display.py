"""How money, states and times look in the console."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.timezone import localtime

from governance.budgets.models import Budget
from governance.budgets.subjects import SUBJECT_NAMES
from governance.core.money import NANOS_PER_USD

STATE_LABELS = {
    "active": "success",
    "live": "success",
    "open": "warning",
    "approved": "success",
    "denied": "danger",
    "served": "success",
    "paused": "warning",
    "expiring": "warning",
    "refused": "warning",
    "cut": "warning",
    "failed": "danger",
    "swept": "danger",
    "revoked": "danger",
    "expired": "info",
    "closed": "info",
    "disabled": "info",
}
"""State → colour of unfold's label."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One budget period as people see it. Amounts are nano-dollars; widths are whole percents."""

    spent_nanos: int
    held_nanos: int
    limit_nanos: int

    @property
    def left_nanos(self) -> int:
        return self.limit_nanos - self.spent_nanos - self.held_nanos

    @property
    def spent_percent(self) -> int:
        return self._percent(self.spent_nanos)

    @property
    def held_percent(self) -> int:
        return min(self._percent(self.held_nanos), 100 - self.spent_percent)

    @property
    def level(self) -> str:
        """ok, warm from 75 %, hot from 95 %: the steps at which callers are warned too."""
        used = self.spent_nanos + self.held_nanos
        if used * 100 >= self.limit_nanos * 95:
            return "hot"
        return "warm" if used * 100 >= self.limit_nanos * 75 else "ok"

    def _percent(self, nanos: int) -> int:
        """Rounded up, so that the first cent shows; 100 for a limit of nothing."""
        if self.limit_nanos <= 0:
            return 100
        return min(-(-nanos * 100 // self.limit_nanos), 100)


def bar_html(bar: Bar, note: str = "") -> SafeString:
    """Spent, held and left as a bar with its figures beneath, and a note at the right."""
    return format_html(
        '<div class="exq-bar exq-{}" role="img" aria-label="{} spent, {} held, {} left of {}">'
        '<span class="exq-spent" style="width:{}%"></span><span class="exq-held" style="width:{}%"></span>'
        '</div><div class="exq-bar-text"><span><b>{}</b> spent{} · {} left</span><span>{}</span></div>',
        bar.level,
        short_usd(bar.spent_nanos),
        short_usd(bar.held_nanos),
        short_usd(bar.left_nanos),
        short_usd(bar.limit_nanos),
        bar.spent_percent,
        bar.held_percent,
        short_usd(bar.spent_nanos),
        format_html(" · {} held", short_usd(bar.held_nanos)) if bar.held_nanos else "",
        short_usd(bar.left_nanos),
        note,
    )


def short_usd(nanos: int) -> str:
    """For overviews: cents, or four decimals under ten cents, to the nearest. Exact pages use format_usd."""
    decimals = 2 if abs(nanos) >= 100_000_000 or nanos == 0 else 4
    step = NANOS_PER_USD // 10**decimals
    units = (abs(nanos) + step // 2) // step
    if nanos and not units:
        return "<$0.0001"
    whole, rest = divmod(units, 10**decimals)
    return f"{'-' if nanos < 0 else ''}${whole:,}.{rest:0{decimals}d}"


def scope_text(budget: Budget, names: dict[tuple[str, str], str]) -> str:
    """“tenant”, “team Search”, “each end user”, “tag feature=faq, opus only”.

    `names`: (scope, ref) → name.
    """
    name = names.get((budget.scope, budget.scope_ref), budget.scope_ref)
    kind = SUBJECT_NAMES.get(budget.scope, budget.scope)
    if budget.each:
        text = f"each {f'{kind} {name}' if name else kind}"
    else:
        text = f"{'tag' if budget.scope == 'tag' else kind} {name}" if name else kind
    return f"{text}, {' and '.join(budget.models_only)} only" if budget.models_only else text


def target_text(budget: Budget, names: dict[tuple[str, str], str]) -> str:
    """The same as a cell of its own."""
    text = scope_text(budget, names)
    return "Whole tenant" + text.removeprefix("tenant") if budget.scope == "tenant" else capfirst(text)


def code(text: Any) -> SafeString:
    """An identifier, in type that tells 0 from O."""
    return format_html('<code class="exq-mono">{}</code>', text)


def call_link(call_id: UUID) -> SafeString:
    """The end of a call's id, linked to its page."""
    url = reverse("admin:calls_call_change", args=[call_id])
    return format_html('<a class="exq-link" href="{}">{}</a>', url, code(f"…{str(call_id)[-12:]}"))


def window_text(starts_at: datetime, ends_at: datetime, time_zone: str) -> str:
    """Whole days in the budget’s own zone: “2026-11-16 to 2026-11-22”, both included; “November 2026”."""
    if ends_at.year == datetime.max.year:
        return "without end"
    zone = ZoneInfo(time_zone)
    first = starts_at.astimezone(zone).date()
    last = (ends_at.astimezone(zone) - timedelta(microseconds=1)).date()
    if first == last:
        return f"{first}"
    whole_month = first.day == 1 and (last + timedelta(days=1)).day == 1 and first.month == last.month
    return f"{first:%B %Y}" if whole_month else f"{first} to {last}"


def when(instant: datetime | None) -> str:
    """A moment to the second, in the site's time zone."""
    return f"{localtime(instant):%Y-%m-%d %H:%M:%S}" if instant else "—"
