"""Provider credentials: written here, never shown again."""

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_post_parameters
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminPasswordWidget

from governance.console.access import Access, access_of, actor_of
from governance.console.admin_tenants import managed_tenants
from governance.console.base import MadeOnceAdmin
from governance.console.display import STATE_LABELS
from governance.console.pages import form_page, posted
from governance.console.site import console_site
from tenants.credentials import add_credential, check_credential, disable_credential
from tenants.models import ProviderCredential


class CredentialForm(ModelForm):
    claude_key = forms.CharField(
        label="Claude API key",
        max_length=512,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "off"}),
        help_text="Encrypted as soon as it arrives. Nobody can read it back here; keep your own copy.",
    )

    def clean_claude_key(self) -> str:
        plaintext: str = self.cleaned_data["claude_key"].strip()
        check_credential(plaintext)
        return plaintext


@admin.register(ProviderCredential, site=console_site)
class ProviderCredentialAdmin(MadeOnceAdmin):
    """Managers see and add those of their tenants; the operator's own are the operator's alone."""

    team_field = None
    form = CredentialForm
    list_display = ("label", "state", "hint", "tenant_or_all", "created_at", "disabled_at")
    list_select_related = ("tenant",)
    ordering = ("-id",)
    actions_detail = ("disable",)
    empty_title = "No provider credential yet"
    empty_hint = (
        "Calls go out with a key of the Claude API: the tenant's newest live one, else the operator's, else "
        "the one in the environment (ANTHROPIC_API_KEY)."
    )
    empty_command = "python manage.py add_credential --label main"

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Any]":
        access = access_of(request)
        rows = super().get_queryset(request)
        return rows if access.is_platform else rows.filter(tenant_id__in=access.managed_tenant_ids)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return access_of(request).manages_something

    def may_add(self, access: Access) -> bool:
        return access.manages_something

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        if obj is None:
            return ("tenant", "label", "claude_key")
        return ("label", "state", "hint", "tenant_or_all", "encryption_key_id", "created_at", "disabled_at")

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        access = access_of(request)
        field = super().formfield_for_foreignkey(
            db_field, request, queryset=managed_tenants(access), **kwargs
        )
        if field is not None and access.is_platform:
            field.empty_label = "Every tenant (the operator's)"
        elif field is not None:
            field.required = True
        return field

    @method_decorator(sensitive_post_parameters("claude_key"))
    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return super().add_view(request, form_url, extra_context)

    def save_model(self, request: HttpRequest, obj: ProviderCredential, form: Any, change: bool) -> None:
        if not access_of(request).manages(obj.tenant_id):
            raise PermissionDenied
        stored = add_credential(
            obj.tenant, obj.label, form.cleaned_data["claude_key"], actor=actor_of(request)
        )
        obj.pk, obj.hint = stored.pk, stored.hint

    @action(description="Disable", url_path="disable", icon="block")
    def disable(self, request: HttpRequest, object_id: str) -> HttpResponse:
        credential = self.get_object(request, object_id)
        if credential is None:
            return redirect("admin:tenants_providercredential_changelist")
        form = forms.Form(posted(request))
        if form.is_valid():
            disable_credential(credential, actor=actor_of(request))
            return redirect("admin:tenants_providercredential_change", credential.pk)
        return form_page(
            self,
            request,
            form,
            title=f"Disable {credential.label}",
            submit="Disable",
            back=credential,
            danger=True,
            explanation="New calls stop using it within a second; calls under way end on it. Add its "
            "successor first, so that no call is refused in between.",
        )

    def get_actions_detail(self, request: HttpRequest, object_id: Any = None) -> list[Any]:
        row = self.get_object(request, str(object_id))
        if not isinstance(row, ProviderCredential) or row.disabled_at:
            return []
        return super().get_actions_detail(request, object_id)

    @display(description="State", label=STATE_LABELS)
    def state(self, credential: ProviderCredential) -> str:
        return "disabled" if credential.disabled_at else "live"

    @display(description="Serves", ordering="tenant")
    def tenant_or_all(self, credential: ProviderCredential) -> str:
        return str(credential.tenant or "every tenant")
