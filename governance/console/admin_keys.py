"""API keys: issue, change, rotate, revoke. A key's text is shown once, on the page that made it."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.views.decorators.debug import sensitive_variables
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from governance.console.access import Access, access_of, actor_of, signed_in
from governance.console.admin_tenants import managed_tenants
from governance.console.base import ConsoleAdmin
from governance.console.display import STATE_LABELS, code
from governance.console.fields import TagsField, UsdField
from governance.console.pages import form_page, posted
from governance.console.site import console_site
from governance.core.clock import utcnow
from governance.routing.trial import policies_of
from tenants.keys import (
    CHANGEABLE_SETTINGS,
    IssuedKey,
    KeyStateError,
    change_key,
    issue_key,
    revoke_key,
    rotate_key,
)
from tenants.models import ApiKey, Team, Tenant

TAGS = ["default_tags", "required_tags"]
TENANTS_TO_ALLOW = ("unbounded_allowed", "as_asked_allowed")
"""Overspending a hard budget and evading a policy are the tenant's to allow, not a team's."""
OVERLAPS = {0: "None: refuse the old key now", 3600: "One hour", 86_400: "One day", 604_800: "One week"}


class KeyForm(ModelForm):
    default_tags = TagsField(
        required=False,
        help_text="Tags of every call with this key, one name=value a line; a call may add others.",
    )

    burn_nanos_per_10_minutes_max = UsdField(
        label="Most in ten minutes (USD)",
        required=False,
        help_text="A key whose calls of the last ten minutes cost more is paused by itself, and the tenant's "
        "administrators get an e-mail; a person resumes it. Empty never pauses.",
    )

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        team, tenant = data.get("team"), data.get("tenant")
        if team is not None and tenant is not None and team.tenant_id != tenant.pk:
            self.add_error("team", f"{team.name} is a team of another tenant; choose one of {tenant.name}.")
        return data


class RevokeForm(forms.Form):
    reason = forms.CharField(
        max_length=500,
        widget=UnfoldAdminTextInputWidget,
        help_text="Kept with the key and in the audit trail. Calls with it are refused within a second.",
    )


class RotateForm(forms.Form):
    overlap_seconds = forms.TypedChoiceField(
        label="Both keys work for",
        coerce=int,
        initial=86_400,
        choices=list(OVERLAPS.items()),
        widget=UnfoldAdminSelectWidget,
        help_text="Long enough to put the new key wherever the old one is used.",
    )


@admin.register(ApiKey, site=console_site)
class ApiKeyAdmin(ConsoleAdmin):
    form = KeyForm
    list_display = ("name", "state", "public", "tenant", "team", "created_at", "expires_at")
    list_select_related = ("tenant", "team")
    search_fields = ("name", "=public_id", "tenant__name", "team__name")
    search_help_text = "Name, id, tenant or team"
    ordering = ("-id",)
    actions_detail = ("rotate", "revoke")
    empty_title = "No API key yet"
    empty_hint = "Callers use a key of yours instead of one of Anthropic's. Issue one here, or with:"
    empty_command = "python manage.py issue_key --tenant acme --name production"

    def may_add(self, access: Access) -> bool:
        return access.issues_keys

    def may_change(self, access: Access, row: ApiKey) -> bool:
        return access.may_change_key(row)

    def get_fieldsets(self, request: HttpRequest, obj: Model | None = None) -> Any:
        limits = [
            "max_output_tokens",
            "hold_wait_seconds",
            "clamp_floor_tokens",
            "burn_nanos_per_10_minutes_max",
            "allowed_models",
            "unbounded_allowed",
            "as_asked_allowed",
        ]
        if not isinstance(obj, ApiKey):
            whose = {"fields": ["tenant", "team", "name", "expires_at"]}
            return [(None, whose), ("Limits", {"fields": limits}), ("Tags", {"fields": TAGS})]
        identity = ["public", "state", "tenant", "team", "policies", "created_at", "created_by"]
        identity += ["name", "expires_at"]
        if obj.revoked_at:
            identity += ["revoked_at", "revoked_reason"]
        if obj.replaced_by_id:
            identity += ["replaced_by"]
        return [(None, {"fields": identity}), ("Limits", {"fields": limits}), ("Tags", {"fields": TAGS})]

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        if not isinstance(obj, ApiKey):
            return () if access_of(request).manages_something else TENANTS_TO_ALLOW
        fixed = ("public", "state", "tenant", "team", "policies", "created_at", "created_by")
        ended = ("revoked_at", "revoked_reason", "replaced_by")
        return fixed + ended + (() if access_of(request).manages(obj.tenant_id) else TENANTS_TO_ALLOW)

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        access = access_of(request)
        if db_field.name == "tenant":
            led = Tenant.objects.filter(teams__in=access.team_roles.keys())
            kwargs["queryset"] = (managed_tenants(access) | led).distinct()
        if db_field.name == "team" and not access.is_platform:
            managed = Team.objects.filter(tenant__in=access.managed_tenant_ids)
            kwargs["queryset"] = managed | Team.objects.filter(pk__in=access.led_team_ids)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    # --- Issuing and changing ---

    @sensitive_variables("issued")
    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        data = form.cleaned_data
        if change:
            changed = {name: data[name] for name in form.changed_data if name in CHANGEABLE_SETTINGS}
            change_key(obj, changed, actor=actor_of(request))
            return
        if not access_of(request).may_change_key(obj):
            raise PermissionDenied
        chosen = {name: data[name] for name in CHANGEABLE_SETTINGS if name in data and name != "name"}
        issued = issue_key(
            obj.tenant,
            obj.name,
            team=obj.team,
            created_by=signed_in(request),
            actor=actor_of(request),
            **chosen,
        )
        obj.pk = issued.key.pk
        vars(request)["issued_key"] = issued  # this request's, gone with it

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: Any = None) -> HttpResponse:
        return self._show_once(request, vars(request)["issued_key"])

    @sensitive_variables("issued")
    def _show_once(self, request: HttpRequest, issued: IssuedKey, old: ApiKey | None = None) -> HttpResponse:
        """The one page with the key's text: never in a message, the session, a log or a cache."""
        key = ApiKey.objects.select_related("tenant", "team").get(pk=issued.key.pk)
        context = {
            **self.admin_site.each_context(request),
            "title": "Copy the new key now",
            "opts": self.opts,
            "original": key,
            "key": key,
            "text": issued.text,
            "old": old,
            "gateway_url": settings.GATEWAY_PUBLIC_URL,
            "change_url": reverse("admin:tenants_apikey_change", args=[key.pk]),
            "list_url": reverse("admin:tenants_apikey_changelist"),
        }
        return TemplateResponse(request, "console/key_issued.html", context)

    # --- The end of a key ---

    @action(description="Rotate", url_path="rotate", icon="autorenew")
    @sensitive_variables("issued")
    def rotate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = self.changeable(request, object_id)
        if key is None:
            return redirect("admin:tenants_apikey_changelist")
        form = RotateForm(posted(request))
        if form.is_valid():
            try:
                issued = rotate_key(
                    key,
                    form.cleaned_data["overlap_seconds"],
                    created_by=signed_in(request),
                    actor=actor_of(request),
                )
            except KeyStateError as error:
                form.add_error(None, str(error))
            else:
                key.refresh_from_db()
                return self._show_once(request, issued, old=key)
        return form_page(
            self,
            request,
            form,
            title=f"Rotate {key.name}",
            submit="Issue the new key",
            back=key,
            explanation="A new key with the same settings; the old one works until the overlap ends.",
        )

    @action(description="Revoke", url_path="revoke", icon="block")
    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = self.changeable(request, object_id)
        if key is None:
            return redirect("admin:tenants_apikey_changelist")
        form = RevokeForm(posted(request))
        if form.is_valid():
            revoke_key(key, form.cleaned_data["reason"], actor=actor_of(request))
            return redirect("admin:tenants_apikey_change", key.pk)
        return form_page(
            self,
            request,
            form,
            title=f"Revoke {key.name}",
            submit="Revoke",
            back=key,
            danger=True,
            explanation="This cannot be undone. To replace a key without an interruption, rotate it instead.",
        )

    def get_actions_detail(self, request: HttpRequest, object_id: Any = None) -> list[Any]:
        key = self.get_object(request, str(object_id))
        if not isinstance(key, ApiKey) or key_state(key) == "revoked":
            return []
        return (
            super().get_actions_detail(request, object_id) if self.may_change(access_of(request), key) else []
        )

    @display(description="State", label=STATE_LABELS)
    def state(self, key: ApiKey) -> str:
        return key_state(key)

    @display(description="Policies")
    def policies(self, key: ApiKey) -> SafeString | str:
        """What decides on its calls, the first first; what is off or only a draft is left out."""
        rows = [row for row in policies_of(key.tenant_id, key.team_id, key.lineage_id) if row.in_force]
        links = (
            (reverse("admin:routing_routingpolicy_change", args=[row.pk]), row, str(row.live)) for row in rows
        )
        page = format_html_join(", then ", '<a class="exq-link" href="{}">{}</a> ({})', links)
        return page or "None: calls go as they are asked."

    @display(description="Id")
    def public(self, key: ApiKey) -> SafeString:
        return code(f"exq_{key.public_id}…")


def key_state(key: ApiKey) -> str:
    """live, expiring (it has an end), expired or revoked."""
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is None:
        return "live"
    return "expiring" if key.expires_at > utcnow() else "expired"
