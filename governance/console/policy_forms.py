"""Forms of the policy pages: a text area that says beside each line what is wrong with it."""

from typing import Any

from django import forms
from django.forms import ModelForm
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from governance.console.access import Access
from governance.console.fields import field_of, offer
from governance.routing.drafts import Checked, Problem
from governance.routing.models import SOURCE_LENGTH_MAX, RoutingPolicy, Scope
from governance.routing.policies import PolicyRefused, find_policy, stamp
from tenants.models import ApiKey, Team

ROWS_MIN, ROWS_SPARE, NUMBERS_SPARE = 18, 3, 400
"""The text area shows all its lines and some more; numbers go on for what is typed into it."""

SAMPLE = """\
# Every rule whose `when` fits does what it says; of two that say the same kind of thing, the first counts.
rules:
  - name: Small questions go to Haiku
    when: {tiers: [opus, sonnet], words: {at_most: 80}}
    unless: {has_any: [tools, thinking, images]}
    then:
      route: {tier: haiku}
      max_tokens: {cap: 2000}

  - name: FAQ answers may be an hour old
    when: {tags: {endpoint: faq}, turn: first}
    then:
      cache: {ttl_seconds: 3600, scope: team}

  - name: The last five percent are for people, not for jobs
    when: {budget_used: {at_least: 95}, latency: [background, batch]}
    then:
      deny: The budget is nearly used up, so background jobs wait for the next period.
"""


class SourceWidget(forms.Textarea):
    """A policy's text with line numbers; `checked` puts sentences beside its lines."""

    checked: Checked | None = None

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        lines = str(value or "").count("\n") + 1
        rows = max(ROWS_MIN, lines + ROWS_SPARE)
        given = {**(attrs or {}), "rows": rows, "spellcheck": "false", "wrap": "off", "class": "exq-lines"}
        checked = self.checked or Checked(None)
        wrong = {problem.line: "danger" for problem in checked.problems}
        marked = {problem.line: "warning" for problem in checked.warnings} | wrong
        return format_html(
            '<div class="exq-source{}"><div class="exq-numbers" aria-hidden="true">{}</div>{}{}</div>',
            " exq-noted" if marked else "",
            format_html_join(
                "",
                "<i{}>{}</i>",
                (
                    (format_html(' class="{}"', marked[n]) if n in marked else "", n)
                    for n in range(1, lines + NUMBERS_SPARE)
                ),
            ),
            super().render(name, value, given, renderer),
            _notes(checked) if marked else "",
        )


def _notes(checked: Checked) -> SafeString:
    """One a line: the first problem there, else the first warning."""
    first: dict[int, tuple[str, Problem]] = {}
    for kind, problems in (("danger", checked.problems), ("warning", checked.warnings)):
        for problem in problems:
            first.setdefault(problem.line, (kind, problem))
    return format_html(
        '<div class="exq-notes">{}</div>',
        format_html_join(
            "",
            '<p class="{}" style="top:calc({}px + var(--exq-row) * {})" title="{}">{}</p>',
            (
                (kind, 8, problem.line - 1, problem.sentence, problem.sentence)
                for kind, problem in first.values()
            ),
        ),
    )


class PolicyForm(ModelForm):
    """`access` is set by the page: the form offers what the person may make a policy for."""

    access: Access
    scope = forms.ChoiceField(label="Applies to", choices=Scope.choices, widget=UnfoldAdminSelectWidget)
    team: Any = forms.ModelChoiceField(queryset=None, required=False, widget=UnfoldAdminSelectWidget)
    key: Any = forms.ModelChoiceField(
        label="API key", queryset=None, required=False, widget=UnfoldAdminSelectWidget
    )
    draft = forms.CharField(label="Draft", strip=False, max_length=SOURCE_LENGTH_MAX, widget=SourceWidget)
    seen = forms.CharField(widget=forms.HiddenInput, required=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            for fixed in ("scope", "team", "key"):
                self.fields.pop(fixed, None)
            self.fields["seen"].initial = stamp(self.instance)
            return
        self.fields.pop("seen")
        self.fields["draft"].initial = SAMPLE
        teams, keys = Team.objects.select_related("tenant"), ApiKey.objects.filter(revoked_at=None)
        if not self.access.is_platform:
            managed, led = self.access.managed_tenant_ids, self.access.led_team_ids
            teams = teams.filter(tenant__in=managed) | teams.filter(pk__in=led)
            keys = keys.filter(tenant__in=managed) | keys.filter(team__in=led)
            if not managed:
                field_of(self, "scope", forms.ChoiceField).choices = Scope.choices[1:]
        offer(self, "team", teams)
        offer(self, "key", keys)

    def clean_draft(self) -> str:
        return str(self.cleaned_data["draft"]).replace("\r\n", "\n")

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if self.errors:
            return data
        try:
            if self.instance.pk:
                seen = {"draft": data["draft"], "name": data["name"]}
                if any(getattr(self.stored(), name) != text for name, text in seen.items()):
                    self.check_unchanged(str(data.get("seen", "")))
            else:
                self.check_scope(data)
        except PolicyRefused as error:
            self.add_error(None, str(error))
        return data

    def stored(self) -> RoutingPolicy:
        """As it is in the database; `instance` has what was typed."""
        row: RoutingPolicy = RoutingPolicy.objects.get(pk=self.instance.pk)
        return row

    def check_unchanged(self, seen: str) -> None:
        if seen and seen != stamp(self.stored()):
            raise PolicyRefused(
                "Somebody else changed this policy since you opened it. Keep a copy of your text, open the "
                "page again, and put what is yours into what it says now."
            )

    def check_scope(self, data: dict[str, Any]) -> None:
        scope, tenant = data["scope"], data["tenant"]
        target = data.get(scope)
        if scope == Scope.TENANT:
            if not self.access.manages(tenant.pk):
                self.add_error(
                    "scope", "Owners and administrators make the tenant's policy; choose your team."
                )
                return
        elif target is None:
            self.add_error(scope, f"Choose the {scope} that this policy applies to.")
            return
        elif target.tenant_id != tenant.pk:
            self.add_error(scope, f"Choose a {scope} of {tenant}.")
            return
        if find_policy(tenant, scope=scope, ref=ref_of(data)) is not None:
            self.add_error(None, "There is a policy for that already; change that one.")

    def _get_validation_exclusions(self) -> set[str]:
        return {"scope", "scope_ref", "draft"}  # create_policy fills them in and checks them


def ref_of(data: dict[str, Any]) -> str:
    """The id of the team's or key's row, as create_policy takes it."""
    return "" if data["scope"] == Scope.TENANT else str(data[data["scope"]].pk)


class NoteForm(forms.Form):
    """`seen` is what the person confirms: the stamp of the policy when the page was made."""

    note = forms.CharField(
        max_length=300,
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Why. It stays with the version, and key holders read it in their mail.",
    )
    seen = forms.CharField(widget=forms.HiddenInput, required=False)


class SeenForm(forms.Form):
    seen = forms.CharField(widget=forms.HiddenInput, required=False)
