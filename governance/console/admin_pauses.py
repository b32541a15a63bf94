"""The pause switch: what is paused, since when and why; pause and resume."""

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from governance.console.access import Access, access_of, actor_of, signed_in
from governance.console.admin_tenants import managed_tenants
from governance.console.base import MadeOnceAdmin
from governance.console.display import STATE_LABELS
from governance.console.fields import offer
from governance.console.pages import form_page, posted
from governance.console.site import console_site
from tenants.models import ApiKey, Pause, Team, Tenant
from tenants.pauses import PauseRefused, Scope, find_pause, pause, resume


class PauseForm(ModelForm):
    """`access` is set by the page: the form offers what the person may see."""

    access: Access
    scope = forms.ChoiceField(label="Pause", choices=Scope.choices, widget=UnfoldAdminSelectWidget)
    team: Any = forms.ModelChoiceField(queryset=None, required=False, widget=UnfoldAdminSelectWidget)
    key: Any = forms.ModelChoiceField(
        label="API key", queryset=None, required=False, widget=UnfoldAdminSelectWidget
    )
    tag = forms.CharField(
        required=False,
        max_length=321,
        widget=UnfoldAdminTextInputWidget,
        help_text="name=value, such as feature=search; calls that carry it are refused.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "team" in self.fields:
            access, live = self.access, ApiKey.objects.filter(revoked_at=None)
            offer(self, "team", access.visible(Team.objects.all(), team_field="id"))
            offer(self, "key", access.visible(live))

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        scope = data.get("scope", "")
        target = data.get(scope) if scope != Scope.TENANT else ""
        if target in (None, "") and scope != Scope.TENANT:
            self.add_error(scope or None, "Say which one is to be paused.")
        if self.errors:
            return data
        try:
            if find_pause(data["tenant"], scope=scope, ref=ref_of(data)) is not None:
                self.add_error(None, "That is paused already; resume it first, to give another reason.")
        except PauseRefused as error:
            self.add_error(scope, str(error))
        return data

    def _get_validation_exclusions(self) -> set[str]:
        return {"scope", "scope_ref"}  # pause() fills them in and checks them


@admin.register(Pause, site=console_site)
class PauseAdmin(MadeOnceAdmin):
    """Managers pause anything of their tenant; leads pause their team and its keys, and end their own."""

    team_field = None
    form = PauseForm
    list_display = ("paused", "state", "tenant", "reason", "began_at", "began_by", "ended_at")
    list_select_related = ("tenant", "began_by")
    ordering = ("-id",)
    actions_detail = ("resume",)
    empty_title = "Nothing is paused"
    empty_hint = "A pause refuses every call of a key, a team, a tag or a tenant within a second. Or with:"
    empty_command = 'python manage.py pause --tenant acme --team search --reason "Runaway loop, ask Alice"'

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Any]":
        access = access_of(request)
        rows = Pause.objects.select_related("tenant", "began_by")
        if access.is_platform:
            return rows
        teams = [str(team_id) for team_id in access.team_roles]
        lineages = ApiKey.objects.filter(team_id__in=access.team_roles).values_list("lineage_id", flat=True)
        return (
            access.visible(rows, team_field=None)
            | rows.filter(tenant_id__in=access.team_tenants.values(), scope=Scope.TEAM, scope_ref__in=teams)
            | rows.filter(
                tenant_id__in=access.team_tenants.values(),
                scope=Scope.KEY,
                scope_ref__in=[str(lineage_id) for lineage_id in lineages],
            )
        )

    def may_add(self, access: Access) -> bool:
        return access.issues_keys

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> list[str]:
        if obj is None:
            return ["tenant", "scope", "team", "key", "tag", "reason"]
        return ["paused", "state", "tenant", "reason", "began_at", "began_by", "ended_at"]

    def get_form(
        self, request: HttpRequest, obj: Model | None = None, change: bool = False, **kwargs: Any
    ) -> type[ModelForm]:
        form = super().get_form(request, obj, change=change, **kwargs)
        return type(form.__name__, (form,), {"access": access_of(request)})

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        access = access_of(request)
        led = Tenant.objects.filter(teams__in=access.led_team_ids)
        kwargs["queryset"] = (managed_tenants(access) | led).distinct()
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: Pause, form: Any, change: bool) -> None:
        data = form.cleaned_data
        if not _may_pause(access_of(request), data):
            raise PermissionDenied
        row = pause(
            obj.tenant,
            obj.reason,
            scope=data["scope"],
            ref=ref_of(data),
            began_by=signed_in(request),
            actor=actor_of(request),
        )
        obj.pk, obj.scope, obj.scope_ref = row.pk, row.scope, row.scope_ref

    @action(description="Resume", url_path="resume", icon="play_arrow")
    def resume(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None:
            return redirect("admin:tenants_pause_changelist")
        if not _may_end(request, row):
            raise PermissionDenied
        form = forms.Form(posted(request))
        if form.is_valid():
            resume(row, actor=actor_of(request))
            return redirect("admin:tenants_pause_changelist")
        return form_page(
            self,
            request,
            form,
            title=f"Resume {self.paused(row)}",
            submit="Resume",
            back=row,
            explanation="Calls pass again within a second, in every worker.",
        )

    def get_actions_detail(self, request: HttpRequest, object_id: Any = None) -> list[Any]:
        row = self.get_object(request, str(object_id))
        if not isinstance(row, Pause) or row.ended_at is not None or not _may_end(request, row):
            return []
        return super().get_actions_detail(request, object_id)

    @display(description="Paused")
    def paused(self, row: Pause) -> str:
        if row.scope == Scope.TEAM:
            team = Team.objects.filter(pk=row.scope_ref).first()
            return f"Team {team.name if team else row.scope_ref}"
        if row.scope == Scope.KEY:
            key = ApiKey.objects.filter(lineage_id=row.scope_ref).order_by("-pk").first()
            return f"Key {key.name if key else row.scope_ref}"
        return f"Tag {row.scope_ref}" if row.scope == Scope.TAG else "The whole tenant"

    @display(description="State", label=STATE_LABELS)
    def state(self, row: Pause) -> str:
        return "closed" if row.ended_at else "paused"


def ref_of(data: dict[str, Any]) -> str:
    """What pauses.pause takes as `ref`."""
    if data["scope"] in (Scope.TEAM, Scope.KEY):
        return str(data[data["scope"]].pk)
    return data["tag"] if data["scope"] == Scope.TAG else ""


def _may_pause(access: Access, data: dict[str, Any]) -> bool:
    if access.manages(data["tenant"].pk):
        return True
    if data["scope"] == Scope.TEAM:
        return data["team"].pk in access.led_team_ids
    return data["scope"] == Scope.KEY and access.may_change_key(data["key"])


def _may_end(request: HttpRequest, row: Pause) -> bool:
    return access_of(request).manages(row.tenant_id) or row.began_by_id == request.user.pk
