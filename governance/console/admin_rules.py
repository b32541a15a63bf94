"""The operator's rules for calls whose price is in doubt: broken bounds, refused names, names seen."""

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.safestring import SafeString
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextInputWidget

from governance.calls.models import Attempt
from governance.console.access import Access, access_of, actor_of
from governance.console.base import MadeOnceAdmin, ReadOnlyAdmin
from governance.console.display import call_link, when
from governance.console.pages import form_page, posted
from governance.console.site import console_site
from governance.core.money import format_usd
from governance.pricing.models import BrokenBound, RefusedName, SeenName
from governance.pricing.operator_rules import allow_name, clear_broken_bound, refuse_name
from tenants.models import Tenant


class ReasonForm(forms.Form):
    reason = forms.CharField(label="Reason", max_length=300, widget=UnfoldAdminTextInputWidget)


class OperatorsPage(ReadOnlyAdmin):
    """Rows that concern every tenant: operators alone see and change them."""

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Any]":
        rows = self.model._default_manager.all()
        return rows if access_of(request).is_platform else rows.none()

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return access_of(request).is_platform


@admin.register(BrokenBound, site=console_site)
class BrokenBoundAdmin(OperatorsPage):
    list_display = ("pair", "state", "bound", "cost", "broke", "cleared_because")
    fields = ("pair", "state", "bound", "cost", "call", "tenant", "broke", "cleared", "cleared_because")
    actions_detail = ("clear",)
    empty_title = "No bound has broken"
    empty_hint = (
        "When a call costs more than the worst case that was computed for it, its model and features are "
        "listed here, and such calls are refused until somebody has looked into it."
    )

    @action(description="Clear", url_path="clear", icon="check")
    def clear(self, request: HttpRequest, object_id: str) -> HttpResponse:
        broken = self.get_object(request, object_id)
        if broken is None:
            return redirect("admin:pricing_brokenbound_changelist")
        form = ReasonForm(posted(request))
        if form.is_valid():
            try:
                clear_broken_bound(broken, form.cleaned_data["reason"], actor=actor_of(request))
            except ValidationError as error:
                form.add_error(None, error)
            else:
                return redirect("admin:pricing_brokenbound_change", broken.pk)
        return form_page(
            self,
            request,
            form,
            title=f"Clear {broken}",
            submit="Clear",
            back=broken,
            explanation="Such calls pass again within a second. Find out first why the call cost more than "
            "its worst case: manage.py calibrate compares the bound with what Claude counts.",
        )

    def get_actions_detail(self, request: HttpRequest, object_id: Any = None) -> list[Any]:
        broken = self.get_object(request, str(object_id))
        if not isinstance(broken, BrokenBound) or broken.cleared_at:
            return []
        return super().get_actions_detail(request, object_id)

    @display(description="Calls to")
    def pair(self, broken: BrokenBound) -> str:
        return str(broken)

    @display(description="State", label={"refused": "danger", "cleared": "info"})
    def state(self, broken: BrokenBound) -> str:
        return "cleared" if broken.cleared_at else "refused"

    @display(description="Worst case")
    def bound(self, broken: BrokenBound) -> str:
        return format_usd(broken.bound_nanos)

    @display(description="Cost")
    def cost(self, broken: BrokenBound) -> str:
        return f"{format_usd(broken.cost_nanos)} ({broken.cost_nanos * 100 // broken.bound_nanos} %)"

    @display(description="Call")
    def call(self, broken: BrokenBound) -> SafeString | str:
        attempt = Attempt.objects.filter(pk=broken.attempt_id).first()
        return call_link(attempt.call_id) if attempt else str(broken.attempt_id)

    @display(description="Tenant")
    def tenant(self, broken: BrokenBound) -> str:
        return _tenant_name(broken.tenant_id)

    @display(description="Since", ordering="broke_at")
    def broke(self, broken: BrokenBound) -> str:
        return when(broken.broke_at)

    @display(description="Cleared")
    def cleared(self, broken: BrokenBound) -> str:
        return when(broken.cleared_at)


class RefusedNameForm(ModelForm):
    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        self.instance.name = str(data.get("name", "")).strip()
        return data


@admin.register(RefusedName, site=console_site)
class RefusedNameAdmin(MadeOnceAdmin):
    form = RefusedNameForm
    fields = ("kind", "name", "reason")
    list_display = ("name", "kind", "reason", "began")
    actions_detail = ("allow",)
    empty_title = "No name is refused"
    empty_hint = (
        "A beta, a field of the request body or a model that nobody may use, whatever their key says. What "
        "we do not know yet passes otherwise, with an assumed worst case: see “Names seen”."
    )

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Any]":
        return RefusedName.objects.all() if access_of(request).is_platform else RefusedName.objects.none()

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return access_of(request).is_platform

    def may_add(self, access: Access) -> bool:
        return access.is_platform

    def save_model(self, request: HttpRequest, obj: RefusedName, form: Any, change: bool) -> None:
        obj.pk = refuse_name(obj.kind, obj.name, obj.reason, actor=actor_of(request)).pk

    @action(description="Allow again", url_path="allow", icon="check")
    def allow(self, request: HttpRequest, object_id: str) -> HttpResponse:
        refused = self.get_object(request, object_id)
        if refused is None:
            return redirect("admin:pricing_refusedname_changelist")
        form = forms.Form(posted(request))
        if form.is_valid():
            allow_name(refused, actor=actor_of(request))
            return redirect("admin:pricing_refusedname_changelist")
        return form_page(
            self,
            request,
            form,
            title=f"Allow the {refused} again",
            submit="Allow again",
            back=refused,
            explanation="Calls that use it pass again within a second.",
        )

    @display(description="Since", ordering="since")
    def began(self, refused: RefusedName) -> str:
        return when(refused.since)


@admin.register(SeenName, site=console_site)
class SeenNameAdmin(OperatorsPage):
    list_display = ("name", "kind", "state", "first_seen", "tenant")
    fields = ("name", "kind", "state", "first_seen", "tenant")
    list_filter = ("kind",)
    actions_detail = ("refuse",)
    empty_title = "No unknown name was seen"
    empty_hint = (
        "Betas, body fields and models that calls used and that this version does not know. They pass; their "
        "worst case is assumed."
    )

    @action(description="Refuse", url_path="refuse", icon="block")
    def refuse(self, request: HttpRequest, object_id: str) -> HttpResponse:
        seen = self.get_object(request, object_id)
        if seen is None:
            return redirect("admin:pricing_seenname_changelist")
        form = ReasonForm(posted(request))
        if form.is_valid():
            try:
                refused = refuse_name(seen.kind, seen.name, form.cleaned_data["reason"], actor_of(request))
            except ValidationError as error:
                form.add_error(None, " ".join(error.messages))
            else:
                return redirect("admin:pricing_refusedname_change", refused.pk)
        return form_page(
            self,
            request,
            form,
            title=f"Refuse the {seen}",
            submit="Refuse",
            back=seen,
            danger=True,
            explanation="Every call that uses it is refused within a second, whatever its key. Callers read "
            "the reason.",
        )

    def get_actions_detail(self, request: HttpRequest, object_id: Any = None) -> list[Any]:
        seen = self.get_object(request, str(object_id))
        if not isinstance(seen, SeenName) or self.state(seen) == "refused":
            return []
        return super().get_actions_detail(request, object_id)

    @display(description="State", label={"refused": "danger", "passes": "warning"})
    def state(self, seen: SeenName) -> str:
        refused = RefusedName.objects.filter(kind=seen.kind, name=seen.name).exists()
        return "refused" if refused else "passes"

    @display(description="First seen", ordering="seen_at")
    def first_seen(self, seen: SeenName) -> str:
        return when(seen.seen_at)

    @display(description="First used by")
    def tenant(self, seen: SeenName) -> str:
        return _tenant_name(seen.tenant_id)


def _tenant_name(tenant_id: int) -> str:
    tenant = Tenant.objects.filter(pk=tenant_id).first()
    return tenant.name if tenant else f"tenant {tenant_id}"
