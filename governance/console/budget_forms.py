"""The forms of a budget: setting it, and moving its limit."""

from typing import Any

from django import forms
from django.db import transaction
from django.forms import ModelForm
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget, UnfoldBooleanSwitchWidget

from governance.budgets import lookups
from governance.budgets.limits import find_identity, set_budget
from governance.budgets.models import Budget, IncreaseRequest, PeriodKind, Scope, WeekDay
from governance.budgets.subjects import TIERS
from governance.console.fields import (
    MomentField,
    UsdField,
    field_of,
    offer,
    parse_percents,
    time_zone_choices,
)
from tenants.lookups import NotFound
from tenants.models import ApiKey, Team
from tenants.scope import tenant_scope

SCOPES = [
    ("tenant", "The whole tenant"),
    ("team", "Teams"),
    ("key", "API keys"),
    ("end_user", "End users (metadata.user_id)"),
    ("tag", "Values of a tag"),
    ("session", "Sessions (Claude Code's conversations)"),
]


CSRF_FIELD = "csrfmiddlewaretoken"


class BudgetForm(ModelForm):
    """A budget's scope and period are fixed once it exists; its limit, name, alerts and cap can change."""

    scope = forms.ChoiceField(label="Applies to", choices=SCOPES, widget=UnfoldAdminSelectWidget)
    each = forms.BooleanField(
        label="Each one separately",
        required=False,
        widget=UnfoldBooleanSwitchWidget,
        help_text="Every team, key, end user, session or value of the tag has the limit for itself.",
    )
    team: Any = forms.ModelChoiceField(queryset=None, required=False, widget=UnfoldAdminSelectWidget)
    key: Any = forms.ModelChoiceField(
        label="API key", queryset=None, required=False, widget=UnfoldAdminSelectWidget
    )
    named = forms.CharField(
        label="End user, session or tag",
        required=False,
        max_length=321,
        widget=UnfoldAdminTextInputWidget,
        help_text="A tag as name=value, such as feature=search; only its name where each value is counted.",
    )
    models = forms.CharField(
        label="Only these models",
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text=f"Model ids or tiers ({', '.join(TIERS)}), separated by commas; empty for all.",
    )
    period = forms.ChoiceField(choices=PeriodKind.choices, initial="month", widget=UnfoldAdminSelectWidget)
    week_start = forms.ChoiceField(
        label="Weeks start on",
        required=False,
        choices=[("", "Monday"), *WeekDay.choices[1:]],
        widget=UnfoldAdminSelectWidget,
        help_text="For a week only.",
    )
    zone = forms.ChoiceField(
        label="Time zone",
        required=False,
        choices=lambda: [("", "The tenant's"), *time_zone_choices()],
        widget=UnfoldAdminSelectWidget,
    )
    limit_usd = UsdField(label="Limit (USD)", help_text="In force as soon as it is saved.")
    cap = forms.IntegerField(
        label="Subjects at most",
        required=False,
        min_value=1,
        widget=UnfoldAdminTextInputWidget,
        help_text="Of a budget on each: so many get a pot in one period; calls of others are refused.",
    )
    alerts = forms.CharField(
        label="Alert at (percent)",
        required=False,
        initial="50, 75, 90, 95, 100",
        widget=UnfoldAdminTextInputWidget,
        help_text="Crossing one is recorded once per period.",
    )

    FIXED = ("scope", "each", "team", "key", "named", "models", "period", "week_start", "zone")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            for fixed in self.FIXED:
                self.fields.pop(fixed, None)
            if not self.instance.each:
                self.fields.pop("cap", None)
            self.initial["limit_usd"] = self.instance.limit_nanos
            self.initial["cap"] = self.instance.subjects_max
            self.initial["alerts"] = ", ".join(map(str, self.instance.alert_percents))
        else:
            offer(self, "team", Team.objects.select_related("tenant"))
            offer(self, "key", ApiKey.objects.filter(revoked_at=None))
            self.fields["name"].required = False

    def clean_alerts(self) -> list[int]:
        return parse_percents(self.cleaned_data["alerts"])

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        unknown = {name for name in self.data if not name.startswith("_")} - {*self.fields, CSRF_FIELD}
        if unknown:
            self.add_error(None, f"This form cannot set {', '.join(sorted(unknown))}; nothing was saved.")
        if self.instance.pk or self.errors:
            return data
        self._check_target(data)
        if not self.errors:
            self._try(data)
        return data

    def _check_target(self, data: dict[str, Any]) -> None:
        """What is filled in must belong to the scope: nothing that somebody wrote is passed over."""
        wanted = {"team": "team", "key": "key", "tenant": ""}.get(data["scope"], "named")
        if data["each"] and data["scope"] != Scope.TAG:
            wanted = ""
        for name in ("team", "key", "named"):
            value = data.get(name)
            if name == wanted and not value:
                self.add_error(name, "Say which one this budget is on, or switch on “each one separately”.")
            elif name != wanted and value:
                self.add_error(name, "Leave this empty: the budget is on something else.")
            elif value and name != "named" and value.tenant_id != data["tenant"].pk:
                self.add_error(name, f"Choose a {name} of {data['tenant']}.")

    def _try(self, data: dict[str, Any]) -> None:
        """Set the budget and take it back: whatever is wrong with the combination is said in the form."""
        terms = set_terms(data)
        try:
            with transaction.atomic(), tenant_scope(data["tenant"].pk):
                identity, _ = find_identity(
                    data["tenant"],
                    **{name: terms[name] for name in ("scope", "ref", "each", "models_only", "period")},
                    enforcement=data["enforcement"],
                )
                same = Budget.objects.filter(tenant=data["tenant"], closed_at=None, **identity).first()
                if same is not None:
                    self.add_error(None, f"“{same.name}” is such a budget already; change its limit instead.")
                    return
                set_budget(data["tenant"], **terms, enforcement=data["enforcement"])
                transaction.set_rollback(True)
        except ValueError as error:
            self.add_error(None, str(error))
        except forms.ValidationError as error:
            self.add_error(None, error.messages)

    def _get_validation_exclusions(self) -> set[str]:
        # set_budget fills in and checks the rest; a budget that exists already is changed by it.
        return {field.name for field in Budget._meta.get_fields()} - {"tenant", "enforcement"}


def set_terms(data: dict[str, Any]) -> dict[str, Any]:
    """The cleaned form of a new budget → arguments of set_budget, but for tenant and enforcement."""
    target = data.get(data["scope"]) if data["scope"] in (Scope.TEAM, Scope.KEY) else None
    return {
        "scope": data["scope"],
        "ref": str(target.pk) if target is not None else data["named"].strip(),
        "each": data["each"],
        "subjects_max": data["cap"],
        "models_only": [name.strip() for name in data["models"].split(",") if name.strip()],
        "period": data["period"],
        "week_starts_on": int(data["week_start"]) if data["week_start"] else None,
        "time_zone": data["zone"] or None,
        "limit_nanos": data["limit_usd"],
        "name": data["name"] or None,
        "alert_percents": data["alerts"],
    }


def subject_of(budget: Budget, text: str) -> str:
    """What a person writes for a pot → what its row is kept under. ValidationError where there is none."""
    try:
        return lookups.subject_of(budget, text)
    except NotFound as error:
        raise forms.ValidationError(str(error)) from None


# --- Moving a limit ----------------------------------------------------------------------------------
class ReasonForm(forms.Form):
    """Why, and of a budget on each: whose pot."""

    subject = forms.CharField(
        label="Whose pot",
        required=False,
        max_length=512,
        widget=UnfoldAdminTextInputWidget,
        help_text="The end user, session, value of the tag, team or key; empty for calls that name none.",
    )
    reason = forms.CharField(max_length=256, widget=UnfoldAdminTextInputWidget)

    def __init__(self, *args: Any, budget: Budget, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.budget = budget
        if not budget.each:
            del self.fields["subject"]

    def clean_subject(self) -> str:
        return subject_of(self.budget, self.cleaned_data["subject"])

    def arguments(self) -> dict[str, Any]:
        """What adjustments.py and requests.py take."""
        data = self.cleaned_data
        found = {"subject": data.get("subject", ""), "reason": data["reason"]}
        if "amount_usd" in data:
            found["amount_nanos"] = data["amount_usd"]
        return found


class AmountForm(ReasonForm):
    amount_usd = UsdField(label="Amount (USD)")
    field_order: tuple[str, ...] = ("subject", "amount_usd", "reason")


class RaiseForm(AmountForm):
    until = MomentField(label="Until")
    field_order = ("subject", "amount_usd", "until", "reason")

    def __init__(self, *args: Any, budget: Budget, **kwargs: Any) -> None:
        super().__init__(*args, budget=budget, **kwargs)
        field_of(self, "until", MomentField).read_in(budget.time_zone)

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "until": self.cleaned_data["until"]}


class TransferForm(AmountForm):
    to: Any = forms.ModelChoiceField(label="To", queryset=None, widget=UnfoldAdminSelectWidget)
    to_subject = forms.CharField(
        label="Whose pot there",
        required=False,
        max_length=512,
        widget=UnfoldAdminTextInputWidget,
        help_text="Only where the other budget has a pot for each.",
    )
    field_order = ("subject", "amount_usd", "to", "to_subject", "reason")

    def __init__(self, *args: Any, budget: Budget, **kwargs: Any) -> None:
        super().__init__(*args, budget=budget, **kwargs)
        others = Budget.objects.filter(tenant_id=budget.tenant_id, closed_at=None)
        others = others if budget.each else others.exclude(pk=budget.pk)
        offer(self, "to", others.order_by("name", "pk"))

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if data.get("to") and data.get("to_subject"):
            try:
                data["to_subject"] = subject_of(data["to"], data["to_subject"])
            except forms.ValidationError as error:
                self.add_error("to_subject", error)
        return data

    def arguments(self) -> dict[str, Any]:
        data = self.cleaned_data
        return {
            "target": data["to"],
            "amount_nanos": data["amount_usd"],
            "reason": data["reason"],
            "source_subject": data.get("subject", ""),
            "target_subject": data["to_subject"],
        }


class ApproveForm(forms.Form):
    """How much of what was asked for, and how."""

    granted = forms.ChoiceField(
        label="How", choices=IncreaseRequest.Granted.choices, widget=UnfoldAdminSelectWidget
    )
    amount_usd = UsdField(label="Amount (USD)", help_text="What was asked for; it may be another.")
    until = MomentField(label="Until", required=False, help_text="For a raise.")
    answer = forms.CharField(required=False, max_length=256, widget=UnfoldAdminTextInputWidget)

    def __init__(self, *args: Any, request: IncreaseRequest, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["amount_usd"] = request.amount_nanos
        field_of(self, "until", MomentField).read_in(request.budget.time_zone)


class DenyForm(forms.Form):
    answer = forms.CharField(label="Why not", max_length=256, widget=UnfoldAdminTextInputWidget)
