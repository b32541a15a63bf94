"""Calls and the ledger: facts, read-only. A call's page answers who, why, how much and from which budget."""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin import SimpleListFilter
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextInputWidget

from governance.calls.models import Call, Outcome
from governance.console.access import access_of, actor_of
from governance.console.call_page import call_context
from governance.console.display import STATE_LABELS, call_link, short_usd, when
from governance.console.fields import UsdField
from governance.console.keyset import FactAdmin, WindowFilter, parse_id
from governance.console.pages import form_page, posted
from governance.console.prompt_cache_page import prompt_cache_context
from governance.console.site import console_site
from governance.core.money import format_usd
from governance.desk.corrections import CreditRefused, credit_call
from governance.ledger.kinds import EntryKind
from governance.ledger.models import LedgerEntry
from tenants.models import ApiKey, Tenant

TENANTS_OFFERED = 200
RULE = "rule:"


class TenantFilter(SimpleListFilter):
    """Offered to whoever sees more than one tenant."""

    title = "tenant"
    parameter_name = "tenant"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        tenants = Tenant.objects.values_list("pk", "name")[:TENANTS_OFFERED]
        return [(str(pk), name) for pk, name in tenants] if len(tenants) > 1 else []

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        chosen = self.value()
        if chosen is None:
            return queryset
        return queryset.filter(tenant_id=int(chosen)) if chosen.isdigit() else queryset.none()


class OutcomeFilter(SimpleListFilter):
    title = "outcome"
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(outcome.value, capfirst(outcome.label)) for outcome in Outcome]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        return queryset.filter(outcome=self.value()) if self.value() else queryset


class NamedRowsAdmin(FactAdmin):
    """Facts that refer to a tenant and a key by id."""

    def add_names(self, rows: list[Any]) -> None:
        keys = ApiKey.objects.filter(pk__in={row.key_id for row in rows}).in_bulk()
        tenants = Tenant.objects.filter(pk__in={row.tenant_id for row in rows}).in_bulk()
        for row in rows:
            key, tenant = keys.get(row.key_id), tenants.get(row.tenant_id)
            row.key_name = key.name if key else "—"
            row.tenant_name = tenant.name if tenant else "—"

    @display(description="Time")
    def time(self, row: Any) -> SafeString:
        return format_html('<span class="exq-num">{}</span>', when(row.at))

    @display(description="API key")
    def key(self, row: Any) -> str:
        return str(row.key_name)

    @display(description="Tenant")
    def tenant(self, row: Any) -> str:
        return str(row.tenant_name)


class CreditForm(forms.Form):
    amount_usd = UsdField(
        label="Amount (USD)", required=False, help_text="All that is left of the charge, unless told."
    )
    reason = forms.CharField(label="Reason", max_length=256, widget=UnfoldAdminTextInputWidget)


@admin.register(Call, site=console_site)
class CallAdmin(NamedRowsAdmin):
    list_display = ("time", "state", "served", "key", "tenant", "reason", "cost", "took")
    actions_list = ("prompt_cache",)
    actions_detail = ("credit",)
    list_filter = (WindowFilter, OutcomeFilter, TenantFilter)
    list_filter_options = {**FactAdmin.list_filter_options, "outcome": {"horizontal": True, "label": None}}
    search_fields = ("id",)
    search_help_text = "Call id, key id, session, end user, or rule: and a rule's name"
    empty_title = "No calls in this time"
    empty_hint = "Point the official SDK, Claude Code or plain HTTP at the gateway with one of your keys."

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[Any]", search_term: str
    ) -> tuple["QuerySet[Any]", bool]:
        """One exact match of an id; sessions, end users and rules within the chosen time."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if term.startswith(RULE):
            rule = {"rule": term.removeprefix(RULE).strip()}
            return queryset.filter(decision__policy__applied__contains=[rule]), False
        if (call_id := parse_id(term)) is not None:
            return queryset.filter(pk=call_id), False
        key = ApiKey.objects.filter(public_id=term.removeprefix("exq_").rstrip("…")).first()
        if key is not None:
            return queryset.filter(key_id=key.pk), False
        return queryset.filter(session=term) | queryset.filter(end_user=term), False

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        call = self.get_object(request, object_id or "")
        if not isinstance(call, Call):
            raise Http404
        may_credit = access_of(request).is_platform and call.cost_nanos > 0
        context = {
            **self.admin_site.each_context(request),
            **call_context(call),
            "credit_url": reverse("admin:calls_call_credit", args=[call.pk]) if may_credit else None,
            "title": str(call),
            "opts": self.opts,
            "original": call,
        }
        return TemplateResponse(request, "console/call.html", context)

    @action(description="Give back", url_path="credit", icon="undo")
    def credit(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """A credit. Operators only: it makes room in budgets that others set."""
        call = self.get_object(request, object_id)
        if not isinstance(call, Call):
            raise Http404
        if not access_of(request).is_platform:
            raise PermissionDenied
        form = CreditForm(posted(request))
        if form.is_valid():
            data = form.cleaned_data
            try:
                credit_call(
                    call.pk,
                    amount_nanos=data["amount_usd"],
                    reason=data["reason"],
                    actor=actor_of(request),
                )
            except CreditRefused as error:
                form.add_error(None, str(error))
            else:
                return redirect("admin:calls_call_change", call.pk)
        return form_page(
            self,
            request,
            form,
            title=f"Give back what {call} was charged",
            submit="Give back",
            back=call,
            explanation="A credit in the ledger, in the periods that the call was charged to. Its budgets "
            "have as much more left at once.",
        )

    @action(description="Prompt cache", url_path="prompt-cache", icon="bolt")
    def prompt_cache(self, request: HttpRequest) -> HttpResponse:
        """What marking prompts for the prompt cache brought, and what keeps prompts from it."""
        context = {
            **self.admin_site.each_context(request),
            **prompt_cache_context(access_of(request)),
            "title": "Prompt cache",
            "opts": self.opts,
        }
        return TemplateResponse(request, "console/prompt_cache.html", context)

    @display(description="Outcome", label=STATE_LABELS)
    def state(self, call: Call) -> str:
        return call.outcome

    @display(description="Model")
    def served(self, call: Call) -> str:
        return call.served_model or call.requested_model or "—"

    @display(description="Cost")
    def cost(self, call: Call) -> SafeString:
        return format_html('<span class="exq-num">{}</span>', short_usd(call.cost_nanos))

    @display(description="Took")
    def took(self, call: Call) -> SafeString:
        return format_html('<span class="exq-num">{}</span>', f"{call.duration_ms:,} ms")


@admin.register(LedgerEntry, site=console_site)
class LedgerEntryAdmin(NamedRowsAdmin):
    """Every movement of money. Members of a single team read their money on their calls' pages."""

    team_field = None
    list_display = ("time", "kind", "basis", "amount", "held", "key", "tenant", "call", "reason")
    list_display_links = None
    list_filter = (WindowFilter, TenantFilter)
    search_fields = ("id",)
    search_help_text = "Entry id or call id"
    empty_title = "No entries in this time"
    empty_hint = "Each call leaves an entry when its hold is resolved: a charge, or a void."

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[Any]", search_term: str
    ) -> tuple["QuerySet[Any]", bool]:
        if not search_term.strip():
            return queryset, False
        found = parse_id(search_term)
        if found is None:
            return queryset.none(), False
        return queryset.filter(pk=found) | queryset.filter(call_id=found), False

    @display(description="Amount")
    def amount(self, entry: LedgerEntry) -> SafeString:
        return format_html('<span class="exq-num">{}</span>', format_usd(entry.amount_nanos))

    @display(description="Was held")
    def held(self, entry: LedgerEntry) -> SafeString:
        return format_html('<span class="exq-num">{}</span>', format_usd(entry.held_nanos))

    @display(description="Call")
    def call(self, entry: LedgerEntry) -> SafeString:
        if entry.kind == EntryKind.TRANSFER:
            return format_html("{}", "between two budgets")
        return call_link(entry.call_id)
