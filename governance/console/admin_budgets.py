"""Budgets: set, change, close, with what is spent, held and left right now."""

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.safestring import SafeString
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from governance.budgets.limits import BudgetRefused, close_budget, set_budget
from governance.budgets.models import Budget, PeriodKind, Scope
from governance.console.access import Access, access_of, actor_of
from governance.console.admin_tenants import managed_tenants
from governance.console.base import ConsoleAdmin
from governance.console.budget_figures import bar_of, scope_names, visible_budgets, with_current_period
from governance.console.display import Bar, bar_html, window_text
from governance.console.fields import UsdField, parse_percents
from governance.console.pages import form_page, posted
from governance.console.site import console_site
from governance.core.money import format_usd
from governance.ledger.models import BudgetPeriod
from tenants.models import ApiKey, Team

PERIODS_SHOWN = 24
FIXED = ["tenant", "applies_to", "period", "time_zone"]
TERMS = ["enforcement", "name", "alerts"]
CHANGEABLE = ["limit_usd", "name", "alerts"]


class BudgetForm(ModelForm):
    """A budget's scope and period are fixed once it exists; its limit, name and alerts can change."""

    scope = forms.ChoiceField(
        label="Applies to",
        choices=[("tenant", "The whole tenant"), ("team", "One team"), ("key", "One API key")],
        widget=UnfoldAdminSelectWidget,
    )
    team: Any = forms.ModelChoiceField(queryset=None, required=False, widget=UnfoldAdminSelectWidget)
    key: Any = forms.ModelChoiceField(
        label="API key", queryset=None, required=False, widget=UnfoldAdminSelectWidget
    )
    period = forms.ChoiceField(choices=PeriodKind.choices, initial="month", widget=UnfoldAdminSelectWidget)
    limit_usd = UsdField(label="Limit (USD)", help_text="In force as soon as it is saved.")
    alerts = forms.CharField(
        label="Alert at (percent)",
        required=False,
        initial="50, 75, 90, 95, 100",
        widget=UnfoldAdminTextInputWidget,
        help_text="Crossing one is recorded once per period.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            for fixed in ("scope", "team", "key", "period"):
                self.fields.pop(fixed, None)
            self.initial["limit_usd"] = self.instance.limit_nanos
            self.initial["alerts"] = ", ".join(map(str, self.instance.alert_percents))
        else:
            self.fields["team"].queryset = Team.objects.select_related("tenant")  # type: ignore[attr-defined]
            self.fields["key"].queryset = ApiKey.objects.filter(revoked_at=None)  # type: ignore[attr-defined]
            self.fields["name"].required = False

    def clean_alerts(self) -> list[int]:
        return parse_percents(self.cleaned_data["alerts"])

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        target = data.get(data.get("scope", ""))
        if data.get("scope") in (Scope.TEAM, Scope.KEY):
            if target is None:
                self.add_error(data["scope"], f"Choose the {data['scope']} that this budget applies to.")
            elif data.get("tenant") and target.tenant_id != data["tenant"].pk:
                self.add_error(data["scope"], f"Choose a {data['scope']} of {data['tenant']}.")
        if not self.instance.pk and not self.errors:
            self._refuse_second(data)
        return data

    def _refuse_second(self, data: dict[str, Any]) -> None:
        """set_budget would change the budget that is there already; whoever adds one does not mean that."""
        same = Budget.objects.filter(
            tenant=data["tenant"],
            scope=data["scope"],
            scope_ref=scope_ref(data),
            period=data["period"],
            enforcement=data["enforcement"],
            closed_at=None,
        ).first()
        if same is not None:
            self.add_error(None, f"“{same.name}” is such a budget already; change its limit instead.")

    def _get_validation_exclusions(self) -> set[str]:
        # set_budget fills in and checks the rest; a budget that exists already is changed by it.
        return {field.name for field in Budget._meta.get_fields()} - {"tenant", "enforcement"}


@admin.register(Budget, site=console_site)
class BudgetAdmin(ConsoleAdmin):
    form = BudgetForm
    list_display = ("name", "applies_to", "period", "limit", "bar", "enforcement", "tenant")
    list_select_related = ("tenant",)
    list_filter = ("period", "enforcement")
    search_fields = ("name", "tenant__name")
    ordering = ("tenant__name", "scope", "period")
    actions_detail = ("close",)
    change_form_after_template = "console/budget_periods.html"
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
            whose = ["tenant", "scope", "team", "key"]
            return [(None, {"fields": whose}), ("Limit", {"fields": ["period", "limit_usd", *TERMS]})]
        if not self.has_change_permission(request, obj):
            return [(None, {"fields": [*FIXED, "limit", "bar", "enforcement", "name"]})]
        return [(None, {"fields": [*FIXED, "enforcement", "bar"]}), ("Limit", {"fields": CHANGEABLE})]

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        return ("enforcement", "limit", "bar", *FIXED) if obj else ()

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        kwargs["queryset"] = managed_tenants(access_of(request))
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: Budget, form: Any, change: bool) -> None:
        data = form.cleaned_data
        if not access_of(request).manages(obj.tenant_id):
            raise PermissionDenied
        budget = set_budget(
            obj.tenant,
            scope=obj.scope if change else data["scope"],
            ref=obj.scope_ref if change else scope_ref(data),
            period=obj.period if change else data["period"],
            limit_nanos=data["limit_usd"],
            enforcement=obj.enforcement,
            name=data["name"] or None,
            alert_percents=data["alerts"],
            actor=actor_of(request),
        )
        obj.pk, obj.name = budget.pk, budget.name

    @action(description="Close", url_path="close", icon="block")
    def close(self, request: HttpRequest, object_id: str) -> HttpResponse:
        budget = self.changeable(request, object_id)
        if budget is None:
            return redirect("admin:budgets_budget_changelist")
        form = forms.Form(posted(request))
        if form.is_valid():
            try:
                close_budget(budget, actor=actor_of(request))
            except BudgetRefused as error:
                form.add_error(None, str(error))
            else:
                return redirect("admin:budgets_budget_changelist")
        return form_page(
            self,
            request,
            form,
            title=f"Close {budget.name}",
            submit="Close",
            back=budget,
            danger=True,
            explanation="New calls are no longer charged to it; calls in flight settle into it. What was "
            "charged stays in the ledger.",
        )

    def get_actions_detail(self, request: HttpRequest, object_id: Any = None) -> list[Any]:
        budget = self.get_object(request, str(object_id))
        if budget is None or not self.has_change_permission(request, budget):
            return []
        return super().get_actions_detail(request, object_id)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        budget = self.get_object(request, object_id) if object_id else None
        context = {"periods": period_rows(budget)} if budget else {}
        return super().changeform_view(request, object_id, form_url, {**context, **(extra_context or {})})

    @display(description="Applies to")
    def applies_to(self, budget: Budget) -> str:
        name = scope_names([budget]).get((budget.scope, budget.scope_ref))
        return f"{budget.get_scope_display()} {name}" if name else "Whole tenant"

    @display(description="Limit", ordering="limit_nanos")
    def limit(self, budget: Budget) -> str:
        return format_usd(budget.limit_nanos)

    @display(description="Now")
    def bar(self, budget: Any) -> SafeString:
        return bar_html(bar_of(budget))


def scope_ref(data: dict[str, Any]) -> str:
    """What a new budget is on: nothing more for the tenant, the team's id, the key's lineage."""
    if data["scope"] == Scope.TENANT:
        return ""
    return str(data["team"].pk if data["scope"] == Scope.TEAM else data["key"].lineage_id)


def period_rows(budget: Budget) -> list[dict[str, Any]]:
    """The budget's newest periods, for the table beneath its form."""
    periods = BudgetPeriod.objects.filter(budget_id=budget.pk).order_by("-starts_at", "subject")
    return [
        {
            "window": window_text(row.starts_at, row.ends_at, budget.time_zone),
            "limit": format_usd(row.limit_nanos),
            "spent": format_usd(row.spent_nanos),
            "held": format_usd(row.held_nanos),
            "left": format_usd(row.left_nanos),
            "bar": bar_html(Bar(row.spent_nanos, row.held_nanos, row.limit_nanos)),
        }
        for row in periods[:PERIODS_SHOWN]
    ]
