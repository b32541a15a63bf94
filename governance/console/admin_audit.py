"""The audit trail: who changed which rule. Read-only; managers see their tenants', operators all."""

import json
from typing import Any

from django.contrib import admin
from django.contrib.admin import SimpleListFilter
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display

from governance.audit.models import AuditEvent
from governance.console.access import access_of
from governance.console.display import when
from governance.console.keyset import FactAdmin, WindowFilter, parse_id
from governance.console.site import console_site
from tenants.models import Tenant

NOUNS = (
    "tenant",
    "team",
    "membership",
    "key",
    "credential",
    "budget",
    "cache",
    "contract_price",
    "prices",
    "user",
)


class NounFilter(SimpleListFilter):
    title = "about"
    parameter_name = "about"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(noun, noun.replace("_", " ").capitalize()) for noun in NOUNS]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        return queryset.filter(action__startswith=f"{self.value()}.") if self.value() else queryset


class LastSevenDays(WindowFilter):
    """Rules change rarely: a week unless told."""

    default = "7d"


@admin.register(AuditEvent, site=console_site)
class AuditEventAdmin(FactAdmin):
    list_display = ("time", "actor_name", "action", "target_label", "changed", "tenant")
    list_filter = (LastSevenDays, NounFilter)
    search_fields = ("id",)
    search_help_text = "Person, target, or type:id of a target"
    fields = (
        "time",
        "actor_name",
        "ip_address",
        "tenant",
        "action",
        "target_type",
        "target_id",
        "target_label",
        "before_text",
        "after_text",
    )
    readonly_fields = fields
    empty_title = "No changes in this time"
    empty_hint = "Each change of a tenant, key, budget, credential or price is recorded here for good."

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Any]":
        access = access_of(request)
        rows = AuditEvent.objects.all()
        return rows if access.is_platform else rows.filter(tenant_id__in=access.managed_tenant_ids)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return access_of(request).manages_something

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[Any]", search_term: str
    ) -> tuple["QuerySet[Any]", bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        if (event_id := parse_id(term)) is not None:
            return queryset.filter(pk=event_id), False
        target_type, _, target_id = term.partition(":")
        if target_id:
            return queryset.filter(target_type=target_type, target_id=target_id), False
        return queryset.filter(actor_name=term) | queryset.filter(target_label__icontains=term), False

    def add_names(self, rows: list[Any]) -> None:
        tenants = Tenant.objects.filter(pk__in={row.tenant_id for row in rows}).in_bulk()
        for row in rows:
            row.tenant_name = str(tenants[row.tenant_id]) if row.tenant_id in tenants else "—"

    @display(description="Time")
    def time(self, event: AuditEvent) -> SafeString:
        return format_html('<span class="exq-num">{}</span>', when(event.at))

    @display(description="Tenant")
    def tenant(self, event: Any) -> str:
        if not hasattr(event, "tenant_name"):
            self.add_names([event])
        return str(event.tenant_name)

    @display(description="Changed")
    def changed(self, event: AuditEvent) -> str:
        return ", ".join(event.after or {}) if event.before else ""

    @display(description="Before")
    def before_text(self, event: AuditEvent) -> SafeString:
        return _as_code(event.before)

    @display(description="After")
    def after_text(self, event: AuditEvent) -> SafeString:
        return _as_code(event.after)


def _as_code(facts: dict[str, Any] | None) -> SafeString:
    text = json.dumps(facts, indent=2, ensure_ascii=False) if facts is not None else "—"
    return format_html('<pre class="exq-code">{}</pre>', text)
