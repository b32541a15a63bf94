"""What every page of the console shares: rows and choices limited to what the person may see."""

from typing import Any
from urllib.parse import urlencode

from django.contrib.admin.options import BaseModelAdmin
from django.contrib.admin.widgets import RelatedFieldWidgetWrapper
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import PermissionDenied
from django.db.models import Field, ForeignKey, Model, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from unfold.admin import ModelAdmin
from unfold.widgets import UnfoldAdminTextInputWidget

from governance.console.access import Access, access_of


class ConsoleAdmin(ModelAdmin):
    """Rows by membership, no deletion, and one history: the audit trail instead of Django's log.

    `tenant_field` and `team_field` are lookups to the owning tenant and team; with `team_field` None,
    members of a single team see none of these rows.

    Forms have no Meta: their foreign keys are made per request (`get_form`), inside the tenant scope;
    as a class is defined there is no scope, and the managers rightly raise.
    """

    tenant_field = "tenant_id"
    team_field: str | None = "team_id"
    list_filter_sheet = False
    show_full_result_count = False
    actions = None

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Any]":
        return access_of(request).visible(super().get_queryset(request), self.tenant_field, self.team_field)

    # --- Permissions: by membership, not by Django's permission tables ---

    def may_add(self, access: Access) -> bool:
        return False

    def may_change(self, access: Access, row: Any) -> bool:
        return False

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return access_of(request).is_member

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.may_add(access_of(request))

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        access = access_of(request)
        return self.may_change(access, obj) if obj is not None else self.may_add(access)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def changeable(self, request: HttpRequest, object_id: str) -> Any:
        """The row, if this person may change it; None if there is no such row for them."""
        row = self.get_object(request, object_id)
        if row is not None and not self.has_change_permission(request, row):
            raise PermissionDenied
        return row

    # --- Choices: only what the target's own page would show ---

    def formfield_for_foreignkey(
        self, db_field: "ForeignKey[Any, Any]", request: HttpRequest, **kwargs: Any
    ) -> Any:
        target = self.admin_site._registry.get(db_field.remote_field.model)
        if isinstance(target, BaseModelAdmin):
            kwargs.setdefault("queryset", target.get_queryset(request))
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Only the filters that the page offers: others would answer questions about hidden columns."""
        offered = {
            choice[0] if isinstance(choice, tuple) else getattr(choice, "parameter_name", choice)
            for choice in self.get_list_filter(request)
        }
        return lookup.removesuffix("__exact") in offered

    def formfield_for_dbfield(self, db_field: Field, request: HttpRequest, **kwargs: Any) -> Any:
        """Without the buttons that open a second form in a pop-up; lists of texts on one line."""
        if isinstance(db_field, ArrayField):
            kwargs["widget"] = UnfoldAdminTextInputWidget
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field is not None and isinstance(field.widget, RelatedFieldWidgetWrapper):
            field.widget = field.widget.widget
        return field

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        one_button = {"show_save_and_add_another": False, "show_save_and_continue": False}
        return super().changeform_view(request, object_id, form_url, {**one_button, **(extra_context or {})})

    # --- History ---

    def log_addition(self, request: HttpRequest, obj: Model, message: Any) -> None:
        """The audit trail has it already."""

    def log_change(self, request: HttpRequest, obj: Model, message: Any) -> None:
        """The audit trail has it already."""

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        query = urlencode({"q": f"{self.opts.label_lower}:{object_id}", "window": "all"})
        return redirect(f"{reverse('admin:audit_auditevent_changelist')}?{query}")


class MadeOnceAdmin(ConsoleAdmin):
    """Rows that are made through a form and never edited: `form` is for the new ones only."""

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def get_form(
        self, request: HttpRequest, obj: Model | None = None, change: bool = False, **kwargs: Any
    ) -> type[ModelForm]:
        if obj is not None:
            kwargs["form"] = ModelForm
        return super().get_form(request, obj, change=change, **kwargs)

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        return self.get_fields(request, obj) if obj else ()


class ReadOnlyAdmin(ConsoleAdmin):
    """Facts: looked at, never edited."""

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False
