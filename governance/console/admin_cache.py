"""Purging the response cache: what was purged, when and by whom, and a form for more."""

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from governance.console.access import Access, access_of, actor_of, signed_in
from governance.console.admin_tenants import managed_tenants
from governance.console.base import MadeOnceAdmin
from governance.console.site import console_site
from governance.response_cache.models import VALUE_LENGTH_MAX, CachePurge, Kind
from governance.response_cache.purges import purge


class PurgeForm(ModelForm):
    kind = forms.ChoiceField(label="Purge", choices=Kind.choices, widget=UnfoldAdminSelectWidget)
    value = forms.CharField(
        label="Which",
        required=False,
        max_length=VALUE_LENGTH_MAX,
        widget=UnfoldAdminTextInputWidget,
        help_text="name=value of a tag, such as feature=search; the id of a model; nothing for everything.",
    )

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        kind, value = data.get("kind"), data.get("value") or ""
        if kind == Kind.TENANT and value:
            self.add_error("value", "Leave this empty to purge everything.")
        elif kind == Kind.TAG and (value.startswith("=") or not value.partition("=")[2]):
            self.add_error("value", "Write the tag as name=value.")
        elif kind == Kind.MODEL and not value:
            self.add_error("value", "Write the id of the model.")
        return data

    def _get_validation_exclusions(self) -> set[str]:
        return {"kind", "value"}  # purge() checks them, and the database


@admin.register(CachePurge, site=console_site)
class CachePurgeAdmin(MadeOnceAdmin):
    team_field = None
    form = PurgeForm
    list_display = ("what", "tenant", "at", "by")
    list_select_related = ("tenant", "by")
    ordering = ("-id",)
    actions_list = ("statistics",)
    empty_title = "Nothing was purged"
    empty_hint = "A purge makes kept answers misses everywhere within a second. Or with:"
    empty_command = "python manage.py purge_cache --tenant acme --tag feature=search"

    def may_add(self, access: Access) -> bool:
        return access.manages_something

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> list[str]:
        return ["what", "tenant", "at", "by"] if obj else ["tenant", "kind", "value"]

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        kwargs["queryset"] = managed_tenants(access_of(request))
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: CachePurge, form: Any, change: bool) -> None:
        if not access_of(request).manages(obj.tenant_id):
            raise PermissionDenied
        data = form.cleaned_data
        row = purge(
            obj.tenant,
            data["kind"],
            data["value"],
            by=signed_in(request),
            actor=actor_of(request),
        )
        obj.pk, obj.kind, obj.value = row.pk, row.kind, row.value

    @action(description="Statistics", url_path="statistics", icon="monitoring")
    def statistics(self, request: HttpRequest) -> HttpResponse:
        return redirect("admin:response_cache")

    @display(description="Purged")
    def what(self, row: CachePurge) -> str:
        if row.kind == Kind.TAG:
            return f"Tag {row.value}"
        return f"Model {row.value}" if row.kind == Kind.MODEL else "Everything"
