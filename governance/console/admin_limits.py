"""Limits on calls: how many a minute, how large and how many at once, of a tenant, a team or a key."""

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminSelectWidget

from governance.console.access import Access, access_of, actor_of
from governance.console.admin_tenants import managed_tenants
from governance.console.base import ConsoleAdmin
from governance.console.fields import offer
from governance.console.pages import form_page, posted
from governance.console.site import console_site
from governance.limits.limits import MEASURES, remove_limit, set_limit
from governance.limits.models import CallLimit, Scope
from tenants.models import ApiKey, Team


class LimitForm(ModelForm):
    """Whose calls and of which model is fixed once the limit exists."""

    scope = forms.ChoiceField(label="Applies to", choices=Scope.choices, widget=UnfoldAdminSelectWidget)
    team: Any = forms.ModelChoiceField(queryset=None, required=False, widget=UnfoldAdminSelectWidget)
    key: Any = forms.ModelChoiceField(
        label="API key", queryset=None, required=False, widget=UnfoldAdminSelectWidget
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            for fixed in ("scope", "team", "key"):
                self.fields.pop(fixed, None)
            return
        offer(self, "team", Team.objects.select_related("tenant"))
        offer(self, "key", ApiKey.objects.filter(revoked_at=None))

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if not any(data.get(measure) for measure in MEASURES) and not self.errors:
            self.add_error(None, "Limit at least one thing; to stop all calls, pause.")
        if self.instance.pk or self.errors:
            return data
        target = data.get(data["scope"])
        if data["scope"] != Scope.TENANT and target is None:
            self.add_error(data["scope"], f"Choose the {data['scope']} that this limit applies to.")
        elif target is not None and data["scope"] != Scope.TENANT and target.tenant_id != data["tenant"].pk:
            self.add_error(data["scope"], f"Choose a {data['scope']} of {data['tenant']}.")
        elif CallLimit.objects.filter(
            tenant=data["tenant"],
            scope=data["scope"],
            scope_ref=kept_ref(data),
            model=data.get("model") or "",
        ).exists():
            self.add_error(None, "There is such a limit already; change that one.")
        return data

    def _get_validation_exclusions(self) -> set[str]:
        # set_limit fills in the rest and checks it.
        return {field.name for field in CallLimit._meta.get_fields()} - {"tenant", "model", *MEASURES}


@admin.register(CallLimit, site=console_site)
class CallLimitAdmin(ConsoleAdmin):
    team_field = None
    form = LimitForm
    list_display = ("applies_to", "model_name", *MEASURES, "tenant")
    list_select_related = ("tenant",)
    ordering = ("tenant__name", "scope", "scope_ref", "model")
    actions_detail = ("lift",)
    empty_title = "No limit on calls"
    empty_hint = "Budgets limit money; limits on calls keep one caller from taking a quota that all share."
    empty_command = "python manage.py set_call_limit --tenant acme --team search --requests-per-minute 100"

    def may_add(self, access: Access) -> bool:
        return access.manages_something

    def may_change(self, access: Access, row: CallLimit) -> bool:
        return access.manages(row.tenant_id)

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> list[str]:
        if obj is None:
            return ["tenant", "scope", "team", "key", "model", *MEASURES]
        return ["tenant", "applies_to", "model_name", *MEASURES]

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        return ("tenant", "applies_to", "model_name") if obj else ()

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        kwargs["queryset"] = managed_tenants(access_of(request))
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: CallLimit, form: Any, change: bool) -> None:
        data = form.cleaned_data
        if not access_of(request).manages(obj.tenant_id):
            raise PermissionDenied
        row = set_limit(
            obj.tenant,
            {measure: data[measure] for measure in MEASURES},
            scope=obj.scope if change else data["scope"],
            ref=row_id(obj) if change else _target_id(data),
            model=obj.model,
            actor=actor_of(request),
        )
        obj.pk, obj.scope, obj.scope_ref = row.pk, row.scope, row.scope_ref

    @action(description="Lift", url_path="lift", icon="block")
    def lift(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.changeable(request, object_id)
        if row is None:
            return redirect("admin:limits_calllimit_changelist")
        form = forms.Form(posted(request))
        if form.is_valid():
            remove_limit(row, actor=actor_of(request))
            return redirect("admin:limits_calllimit_changelist")
        return form_page(
            self,
            request,
            form,
            title=f"Lift the limit: {self.applies_to(row)}",
            submit="Lift",
            back=row,
            danger=True,
            explanation="Calls are no longer limited by it, in every worker within a second. Budgets stay.",
        )

    def get_actions_detail(self, request: HttpRequest, object_id: Any = None) -> list[Any]:
        row = self.get_object(request, str(object_id))
        if row is None or not self.has_change_permission(request, row):
            return []
        return super().get_actions_detail(request, object_id)

    @display(description="Applies to")
    def applies_to(self, row: CallLimit) -> str:
        if row.scope == Scope.TENANT:
            return "The whole tenant"
        if row.scope == Scope.TEAM:
            team = Team.objects.filter(pk=row.scope_ref).first()
            return f"Team {team.name if team else row.scope_ref}"
        key = _newest_of(row.scope_ref)
        return f"Key {key.name if key else row.scope_ref}"

    @display(description="Model")
    def model_name(self, row: CallLimit) -> str:
        return row.model or "all together"


def row_id(row: CallLimit) -> str:
    """The id of the team's or key's row, as set_limit takes it."""
    key = _newest_of(row.scope_ref) if row.scope == Scope.KEY else None
    return str(key.pk) if key else row.scope_ref


def kept_ref(data: dict[str, Any]) -> str:
    """What the limit will be on: the team's id, the key's lineage, nothing more for the tenant."""
    return str(data["key"].lineage_id) if data["scope"] == Scope.KEY else _target_id(data)


def _target_id(data: dict[str, Any]) -> str:
    return "" if data["scope"] == Scope.TENANT else str(data[data["scope"]].pk)


def _newest_of(lineage_id: str) -> ApiKey | None:
    newest: ApiKey | None = ApiKey.objects.filter(lineage_id=lineage_id).order_by("-pk").first()
    return newest
