"""Budgets: set, change, move limits, close, with what is spent, held and left right now."""

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString
from unfold.decorators import display

from governance.budgets.limits import change_budget, set_budget
from governance.budgets.models import Budget, PeriodKind
from governance.console.access import Access, access_of, actor_of
from governance.console.admin_tenants import managed_tenants
from governance.console.budget_actions import BudgetActions
from governance.console.budget_figures import (
    bar_of,
    pots_text,
    scope_names,
    visible_budgets,
    with_current_period,
)
from governance.console.budget_forms import BudgetForm, set_terms
from governance.console.budget_page import budget_context
from governance.console.display import bar_html, target_text
from governance.console.site import console_site
from governance.core.money import format_usd

FIXED = ["tenant", "applies_to", "counts", "time_zone"]
CHANGEABLE = ["limit_usd", "name", "alerts"]


@admin.register(Budget, site=console_site)
class BudgetAdmin(BudgetActions):
    form = BudgetForm
    list_display = ("name", "applies_to", "counts", "limit", "bar", "enforcement", "tenant")
    list_select_related = ("tenant",)
    list_filter = ("period", "scope", "enforcement")
    search_fields = ("name", "scope_ref", "tenant__name")
    ordering = ("tenant__name", "scope", "period")
    change_form_outer_after_template = "console/budget_periods.html"
    empty_title = "No budget"
    empty_hint = "A tenant is served only with a hard budget of its own. Set one here, or with:"
    empty_command = (
        "python manage.py set_budget --tenant acme --scope tenant --period month --limit-usd 500 "
        "--enforcement hard"
    )

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Any]":
        rows = Budget.objects.filter(closed_at=None)
        return with_current_period(visible_budgets(access_of(request), rows))

    def may_add(self, access: Access) -> bool:
        return access.manages_something

    def may_change(self, access: Access, row: Budget) -> bool:
        return access.manages(row.tenant_id)

    def get_fieldsets(self, request: HttpRequest, obj: Model | None = None) -> Any:
        if obj is None:
            return [
                (None, {"fields": ["tenant", "scope", "each", "team", "key", "named", "models"]}),
                ("Period", {"fields": ["period", "week_start", "zone"]}),
                ("Limit", {"fields": ["limit_usd", "enforcement", "cap", "name", "alerts"]}),
            ]
        if not self.has_change_permission(request, obj):
            return [(None, {"fields": [*FIXED, "limit", "bar", "enforcement", "name"]})]
        assert isinstance(obj, Budget)
        changeable = [*CHANGEABLE, "cap"] if obj.each else CHANGEABLE
        return [(None, {"fields": [*FIXED, "enforcement", "bar"]}), ("Limit", {"fields": changeable})]

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        return ("enforcement", "limit", "bar", *FIXED) if obj else ()

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        kwargs["queryset"] = managed_tenants(access_of(request))
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: Budget, form: Any, change: bool) -> None:
        data, actor = form.cleaned_data, actor_of(request)
        if not access_of(request).manages(obj.tenant_id):
            raise PermissionDenied
        if change:
            budget = change_budget(
                obj,
                limit_nanos=data["limit_usd"],
                name=data["name"] or None,
                alert_percents=data["alerts"],
                subjects_max=data.get("cap"),
                actor=actor,
            )
        else:
            budget = set_budget(obj.tenant, **set_terms(data), enforcement=obj.enforcement, actor=actor)
        obj.pk, obj.name = budget.pk, budget.name

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        budget = self.get_object(request, object_id) if object_id else None
        context = budget_context(access_of(request), budget, request.GET) if budget else {}
        return super().changeform_view(request, object_id, form_url, {**context, **(extra_context or {})})

    @display(description="Applies to")
    def applies_to(self, budget: Budget) -> str:
        return target_text(budget, scope_names([budget]))

    @display(description="Period", ordering="period")
    def counts(self, budget: Budget) -> str:
        if budget.period == PeriodKind.WEEK and budget.week_starts_on:
            return f"week from {budget.get_week_starts_on_display()}"
        return budget.period

    @display(description="Limit", ordering="limit_nanos")
    def limit(self, budget: Budget) -> str:
        return format_usd(budget.limit_nanos) + (" each" if budget.each else "")

    @display(description="Now")
    def bar(self, budget: Any) -> SafeString:
        return bar_html(bar_of(budget), pots_text(budget))
