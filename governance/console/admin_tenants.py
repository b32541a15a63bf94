"""Tenants, teams, members and the people who sign in."""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import User
from django.db.models import Model, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.decorators import display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminSelectWidget

from governance.audit import events
from governance.budgets.limits import create_tenant_with_wall
from governance.console.access import Access, access_of, actor_of
from governance.console.base import ConsoleAdmin
from governance.console.display import STATE_LABELS
from governance.console.fields import UsdField, time_zone_choices
from governance.console.site import console_site
from tenants.models import Membership, Team, Tenant
from tenants.tenants import change_tenant, create_team, rename_team


class TenantForm(ModelForm):
    """A new tenant needs its hard monthly budget; an existing one has its budgets on their own page."""

    time_zone = forms.ChoiceField(
        choices=time_zone_choices,
        initial="UTC",
        widget=UnfoldAdminSelectWidget,
        help_text="Days and months of this tenant's new budgets begin at midnight there.",
    )
    monthly_limit_usd = UsdField(
        label="Monthly limit (USD)",
        help_text="A hard budget: the tenant is never charged a nano-dollar more.",
    )


@admin.register(Tenant, site=console_site)
class TenantAdmin(ConsoleAdmin):
    tenant_field = "id"
    team_field = "teams"
    form = TenantForm
    list_display = ("name", "state", "time_zone", "slug", "created_at")
    search_fields = ("name", "slug")
    empty_title = "No tenant yet"
    empty_hint = "A tenant is a company, or a part of one, with its own money."
    empty_command = 'python manage.py create_tenant "Acme" --monthly-limit-usd 500'

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Any]":
        return super().get_queryset(request).distinct()

    def may_add(self, access: Access) -> bool:
        return access.is_platform

    def may_change(self, access: Access, row: Tenant) -> bool:
        return access.manages(row.pk)

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> list[str]:
        if obj is None:
            return ["name", "time_zone", "monthly_limit_usd"]
        return ["name", "time_zone", "status", "status_reason"]

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        return () if access_of(request).is_platform else ("status", "status_reason")

    def get_form(
        self, request: HttpRequest, obj: Model | None = None, change: bool = False, **kwargs: Any
    ) -> type[ModelForm]:
        form = super().get_form(request, obj, change=change, **kwargs)
        if obj is not None:
            form.base_fields.pop("monthly_limit_usd", None)
        return form

    def save_model(self, request: HttpRequest, obj: Tenant, form: Any, change: bool) -> None:
        actor, data = actor_of(request), form.cleaned_data
        if change:
            change_tenant(obj, actor=actor, **{name: data[name] for name in form.changed_data})
            return
        created = create_tenant_with_wall(
            data["name"], limit_nanos=data["monthly_limit_usd"], time_zone=data["time_zone"], actor=actor
        )
        obj.pk, obj.slug, obj.created_at = created.pk, created.slug, created.created_at

    @display(description="Status", ordering="status", label=STATE_LABELS)
    def state(self, tenant: Tenant) -> str:
        return tenant.status


@admin.register(Team, site=console_site)
class TeamAdmin(ConsoleAdmin):
    team_field = "id"
    fields = ("tenant", "name")
    list_display = ("name", "tenant", "slug")
    list_select_related = ("tenant",)
    search_fields = ("name", "slug")
    empty_title = "No team yet"
    empty_hint = "Teams can have keys and budgets of their own, beneath the tenant's."

    def may_add(self, access: Access) -> bool:
        return access.manages_something

    def may_change(self, access: Access, row: Team) -> bool:
        return access.manages(row.tenant_id)

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        return ("tenant",) if obj else ()

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        kwargs["queryset"] = managed_tenants(access_of(request))
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: Team, form: Any, change: bool) -> None:
        if change:
            rename_team(obj, obj.name, actor=actor_of(request))
        else:
            created = create_team(obj.tenant, obj.name, actor=actor_of(request))
            obj.pk, obj.slug = created.pk, created.slug


def managed_tenants(access: Access) -> "QuerySet[Tenant]":
    """Tenants in which this person may make things; closed ones are left out."""
    tenants: QuerySet[Tenant] = Tenant.objects.exclude(status=Tenant.Status.CLOSED)
    return tenants if access.is_platform else tenants.filter(pk__in=access.managed_tenant_ids)


class MembershipForm(ModelForm):
    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        team, tenant = data.get("team"), data.get("tenant")
        if team is not None and tenant is not None and team.tenant_id != tenant.pk:
            self.add_error("team", f"{team.name} is a team of another tenant; choose one of {tenant.name}.")
        return data


@admin.register(Membership, site=console_site)
class MembershipAdmin(ConsoleAdmin):
    """Operators add members, because only they may see every account; owners change and remove them."""

    form = MembershipForm
    fields = ("user", "tenant", "team", "role")
    list_display = ("user", "role", "tenant", "team")
    list_select_related = ("user", "tenant", "team")
    list_filter = ("role",)
    search_fields = ("user__username",)
    empty_title = "No members yet"
    empty_hint = "Members see one tenant, or one team of it. Superusers need no membership."

    def may_add(self, access: Access) -> bool:
        return access.is_platform

    def may_change(self, access: Access, row: Membership) -> bool:
        return access.owns(row.tenant_id)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return isinstance(obj, Membership) and self.may_change(access_of(request), obj)

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        return ("user", "tenant", "team") if obj else ()

    def save_model(self, request: HttpRequest, obj: Membership, form: Any, change: bool) -> None:
        before = {"role": form.initial.get("role")} if change else None
        obj.save()
        action = "membership.change" if change else "membership.add"
        events.record(
            actor_of(request), obj.tenant_id, action, obj, before, {"role": obj.role, "team": obj.team_id}
        )

    def delete_model(self, request: HttpRequest, obj: Membership) -> None:
        before = {"role": obj.role, "team": obj.team_id}
        events.record(actor_of(request), obj.tenant_id, "membership.remove", obj, before)
        obj.delete()

    def log_deletions(self, request: HttpRequest, queryset: Any) -> None:
        """The audit trail has it already."""


@admin.register(User, site=console_site)
class UserAdmin(DjangoUserAdmin, ModelAdmin):
    """Accounts, for operators only. Django's groups and permissions are not used: membership decides."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "email", "is_superuser", "is_active", "last_login")
    list_filter = ("is_superuser", "is_active")
    fieldsets = (
        (None, {"fields": ("username", "password", "first_name", "last_name", "email")}),
        ("Access", {"fields": ("is_active", "is_superuser")}),
    )
    actions = None

    def _is_platform(self, request: HttpRequest) -> bool:
        return access_of(request).is_platform

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self._is_platform(request)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self._is_platform(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self._is_platform(request)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self._is_platform(request)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        facts = {name: getattr(obj, name) for name in ("username", "email", "is_active", "is_superuser")}
        before = {name: form.initial.get(name) for name in facts} if change else None
        action = "user.change" if change else "user.add"
        events.record(actor_of(request), None, action, obj, before, facts)

    def log_addition(self, request: HttpRequest, obj: Model, message: Any) -> None:  # type: ignore[override]
        """The audit trail has it already."""

    def log_change(self, request: HttpRequest, obj: Model, message: Any) -> None:  # type: ignore[override]
        """The audit trail has it, but for a changed password, which Django saves by another road."""
        if isinstance(message, list) and any("password" in str(part) for part in message):
            events.record(actor_of(request), None, "user.password", obj)
