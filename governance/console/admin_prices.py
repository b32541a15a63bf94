"""The price book, as one table, and each tenant's contract prices."""

from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.db.models import Model
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminDecimalFieldWidget, UnfoldAdminSelectWidget

from governance.console.access import Access, access_of, actor_of
from governance.console.admin_tenants import managed_tenants
from governance.console.base import MadeOnceAdmin, ReadOnlyAdmin
from governance.console.display import when
from governance.console.fields import field_of
from governance.console.pages import form_page, posted
from governance.console.site import console_site
from governance.core.clock import utcnow
from governance.core.meters import METERS
from governance.core.money import format_usd
from governance.pricing.contracts import agree_discount, end_contract_price
from governance.pricing.loading import read_rates
from governance.pricing.models import ContractPrice, KnownModel, PriceBookVersion, PriceRow
from governance.pricing.rates import ANY, VARIANTS, ListRate

PPM_PER_PERCENT = 10_000


@admin.register(PriceRow, site=console_site)
class PriceRowAdmin(ReadOnlyAdmin):
    """List prices that hold now; they are loaded by `manage.py load_prices` and never edited."""

    def get_queryset(self, request: HttpRequest) -> Any:
        return PriceRow.objects.all()

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        version = PriceBookVersion.objects.order_by("-pk").first()
        context = {
            **self.admin_site.each_context(request),
            "title": "Price book",
            "version": version,
            "loaded_at": when(version.loaded_at) if version else None,
            "meters": METERS,
            "rows": price_table(read_rates(connection)) if version else [],
        }
        return TemplateResponse(request, "console/prices.html", context)


def price_table(rates: list[ListRate]) -> list[dict[str, Any]]:
    """One row per model, variant and prompt length; one cell per meter. Only what holds now."""
    now = utcnow()
    rows: dict[tuple[str, int, int], dict[str, str]] = {}
    for rate in rates:
        begun = rate.effective_from is None or rate.effective_from <= now
        if begun and (rate.effective_to is None or now < rate.effective_to):
            place = (rate.model_id, VARIANTS.index(rate.variant), rate.above_prompt_tokens)
            rows.setdefault(place, {})[rate.meter] = format_usd(rate.nanos_per_mtok)
    return [
        {
            "model": "every model" if model_id == ANY else model_id,
            "variant": VARIANTS[variant],
            "above": above,
            "cells": [cells.get(meter, "") for meter in METERS],
        }
        for (model_id, variant, above), cells in sorted(rows.items())
    ]


class DiscountForm(ModelForm):
    model_id = forms.ChoiceField(label="On", widget=UnfoldAdminSelectWidget)
    discount_percent = forms.DecimalField(
        label="Discount (percent)",
        min_value=0,
        max_value=100,
        decimal_places=4,
        max_digits=7,
        widget=UnfoldAdminDecimalFieldWidget,
        help_text="Off list price, on every meter. Holds, charges and budgets use the price after it.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        known = KnownModel.objects.filter(superseded_in=None).values_list("model_id", flat=True)
        names = [(name, name) for name in known]
        field_of(self, "model_id", forms.ChoiceField).choices = [(ANY, "Every model"), *names]
        self.fields["effective_from"].required = False
        self.fields["effective_from"].help_text = "Now, unless told."

    def clean_discount_percent(self) -> int:
        percent: Decimal = self.cleaned_data["discount_percent"]
        return int(percent * PPM_PER_PERCENT)

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        self.instance.model_id = data.get("model_id", ANY)
        self.instance.discount_ppm = data.get("discount_percent")
        self.instance.effective_from = data["effective_from"] = data.get("effective_from") or utcnow()
        return data

    def _get_validation_exclusions(self) -> set[str]:
        # The constraints look at columns that are filled in by clean(), an overlap among them.
        return set()


@admin.register(ContractPrice, site=console_site)
class ContractPriceAdmin(MadeOnceAdmin):
    """Only operators agree on prices; a tenant's members read theirs."""

    team_field = None
    form = DiscountForm
    list_display = ("tenant", "applies_to", "terms", "begins", "ends", "note")
    list_select_related = ("tenant",)
    actions_detail = ("end",)
    empty_title = "No contract prices"
    empty_hint = "Every tenant pays list price until a discount or an own rate is agreed."

    def may_add(self, access: Access) -> bool:
        return access.is_platform

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        if obj is None:
            return ("tenant", "model_id", "discount_percent", "effective_from", "effective_to", "note")
        return ("tenant", "applies_to", "terms", "begins", "ends", "note")

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        kwargs["queryset"] = managed_tenants(access_of(request))
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: ContractPrice, form: Any, change: bool) -> None:
        price = agree_discount(
            obj.tenant,
            obj.discount_ppm or 0,
            model_id=obj.model_id,
            effective_from=obj.effective_from,
            effective_to=obj.effective_to,
            note=obj.note,
            actor=actor_of(request),
        )
        obj.pk = price.pk

    @action(description="End", url_path="end", icon="event_busy")
    def end(self, request: HttpRequest, object_id: str) -> HttpResponse:
        price = self.get_object(request, object_id)
        if price is None:
            return redirect("admin:pricing_contractprice_changelist")
        if not access_of(request).is_platform:
            raise PermissionDenied
        form = forms.Form(posted(request))
        if form.is_valid():
            end_contract_price(price, actor=actor_of(request))
            return redirect("admin:pricing_contractprice_change", price.pk)
        return form_page(
            self,
            request,
            form,
            title="End this contract price",
            submit="End it now",
            back=price,
            danger=True,
            explanation="Calls from now on pay list price, or what another contract price says. What was "
            "charged stays as it is.",
        )

    def get_actions_detail(self, request: HttpRequest, object_id: Any = None) -> list[Any]:
        price = self.get_object(request, str(object_id))
        over = not isinstance(price, ContractPrice) or (price.effective_to and price.effective_to <= utcnow())
        if over or not access_of(request).is_platform:
            return []
        return super().get_actions_detail(request, object_id)

    @display(description="On")
    def applies_to(self, price: ContractPrice) -> str:
        if price.model_id == ANY:
            return "every model"
        meter = "" if price.meter == ANY else f", {price.meter}, {price.variant}"
        above = f", above {price.above_prompt_tokens:,} tokens" if price.above_prompt_tokens else ""
        return f"{price.model_id}{meter}{above}"

    @display(description="Terms")
    def terms(self, price: ContractPrice) -> str:
        if price.discount_ppm is not None:
            percent = Decimal(price.discount_ppm) / PPM_PER_PERCENT
            return f"{percent.normalize():f} % off list price"
        return f"{format_usd(price.nanos_per_mtok or 0)} per million"

    @display(description="From", ordering="effective_from")
    def begins(self, price: ContractPrice) -> str:
        return when(price.effective_from)

    @display(description="Until", ordering="effective_to")
    def ends(self, price: ContractPrice) -> str:
        return when(price.effective_to) if price.effective_to else "further notice"
