"""The preview of a policy: a request is pasted, and each rule says whether it matches and why."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
from django import forms
from django.db import connection
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from governance.budgets.terms import LOAD_TERMS, covering, terms_from_row
from governance.console.access import Access
from governance.console.fields import MomentField, TagsField, field_of, offer
from governance.core.clock import utcnow
from governance.ledger.models import BudgetPeriod, DatabaseNow, limit_now
from governance.pricing.loading import load_book
from governance.pricing.queries import BROKEN_BOUNDS, REFUSED_NAMES
from governance.pricing.tables import PriceBookIncomplete
from governance.routing.document import Policy
from governance.routing.facts import BUDGET_USED, CallFacts
from governance.routing.models import RoutingPolicy, Scope
from governance.routing.preview import Preview, preview
from governance.routing.router import Router
from governance.routing.telling import governed_keys
from governance.routing.trial import router_with
from tenants.models import ApiKey

BODY_BYTES_MAX = 1_000_000
SAMPLE_BODY = json.dumps(
    {
        "model": "claude-sonnet-5-5",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": "Translate “good morning” into French."}],
    },
    indent=2,
    ensure_ascii=False,
)


class PreviewForm(forms.Form):
    """The call as it would come in. `at` is in the tenant's time zone."""

    body = forms.CharField(
        label="Request body",
        widget=forms.Textarea(attrs={"rows": 10, "spellcheck": "false", "class": "exq-pasted"}),
        help_text="What is posted to /v1/messages, as JSON. It is not sent and not kept.",
    )
    key: Any = forms.ModelChoiceField(
        label="API key",
        queryset=None,
        required=False,
        widget=UnfoldAdminSelectWidget,
        empty_label="Any key without a policy of its own",
    )
    tags = TagsField(required=False, help_text="One name=value a line; those of the key are added.")
    latency = forms.ChoiceField(
        label="Latency class",
        choices=[(name, name) for name in ("interactive", "background", "batch")],
        widget=UnfoldAdminSelectWidget,
        help_text="The header exchequer-latency-class.",
    )
    budget_used = forms.IntegerField(
        label="Budget used (%)",
        min_value=0,
        max_value=100,
        required=False,
        widget=UnfoldAdminTextInputWidget(attrs={"type": "number"}),
        help_text="Empty is what it is now: of the fullest hard budget that covers all calls of the key. "
        "Without a key, of the budgets that its tenant or team shares.",
    )
    at = MomentField(label="Time", required=False, help_text="Empty is now.")
    use = forms.ChoiceField(
        label="Which text",
        choices=[("draft", "The draft"), ("live", "The live version")],
        widget=UnfoldAdminSelectWidget,
    )

    def __init__(self, policy: RoutingPolicy, access: Access, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        keys = access.visible(governed_keys(policy))
        offer(self, "key", keys)
        field_of(self, "at", MomentField).read_in(policy.tenant.time_zone)
        if policy.scope == Scope.KEY:
            self.fields["key"].initial = keys.last()
            field_of(self, "key", forms.ModelChoiceField).empty_label = None
            self.fields["key"].required = True
        if policy.live is None:
            del self.fields["use"]

    def clean_body(self) -> bytes:
        body = str(self.cleaned_data["body"]).encode()
        if len(body) > BODY_BYTES_MAX:
            raise forms.ValidationError(f"Paste at most {BODY_BYTES_MAX:,} bytes; leave media out.")
        return body


class _Proxy:
    """How the proxy reads a body: governance/gateway/pasted.py, which this package may not import."""

    load: Callable[[], Any]


def read_pasted_with(load: Callable[[], Any]) -> None:
    """Called once, where console and proxy are put together (governance/urls.py)."""
    _Proxy.load = staticmethod(load)


def live_text(policy: RoutingPolicy) -> Policy | None:
    return msgspec.convert(policy.live.document, Policy) if policy.live else None


def previewed(policy: RoutingPolicy, text: Policy, data: dict[str, Any]) -> dict[str, Any]:
    """What templates/console/policy_preview.html shows. ValueError with a sentence about the pasted body."""
    key, at = data["key"], data["at"] or utcnow()
    team_id = key.team_id if key else int(policy.scope_ref) if policy.scope == Scope.TEAM else None
    used = data["budget_used"]
    if used is None:
        used = percent_used_now(policy.tenant_id, team_id, key)
    facts = _Proxy.load().pasted_facts(
        data["body"],
        tags={**(key.default_tags if key else {}), **data["tags"]},
        key_public_id=key.public_id if key else "",
        team_id=team_id,
        at=at,
        latency=data["latency"],
        budget_used_percent=used,
    )
    router = router_with(policy, text, key)
    seen = preview(router, facts)
    call = _outcome(router, seen, facts, data["body"], key)
    depends_on = [*call.depends_on] if call else []
    if key is None and data["budget_used"] is None and BUDGET_USED in router.asks:
        depends_on.append("budget_used: a key's own budgets may be fuller; choose a key to see.")
    return {
        "seen": seen,
        "facts": facts,
        "outcome": outcome_words(seen),
        "call": call,
        "depends_on": depends_on,
        "groups": _by_policy(policy, seen),
    }


def percent_used_now(tenant_id: int, team_id: int | None, key: ApiKey | None) -> int | None:
    """Of the fullest hard budget that covers every call of the key, spent and held; None without one. Without
    a key: of those that cover whichever key of the team, or of the tenant, it is. The gateway counts those of
    end users, tags and sessions too, which a call names."""
    with connection.cursor() as cursor:
        cursor.execute(LOAD_TERMS, [tenant_id])
        terms = [terms_from_row(row) for row in cursor.fetchall()]
    if key is None:
        shared = ("tenant",) if team_id is None else ("tenant", "team")
        terms = [budget for budget in terms if budget.scope in shared]
    legs = covering(terms, team_id=team_id, key_id=key.lineage_id if key else 0).legs
    wanted = {leg.key for leg in legs if leg.budget.hard}
    now = DatabaseNow()
    rows = BudgetPeriod.objects.filter(
        budget_id__in={budget_id for budget_id, _ in wanted}, starts_at__lte=now, ends_at__gt=now
    ).annotate(limit_now_nanos=limit_now())
    percents = [
        (row.spent_nanos + row.held_nanos) * 100 // row.limit_now_nanos if row.limit_now_nanos > 0 else 100
        for row in rows
        if (row.budget_id, row.subject) in wanted
    ]
    return max(percents, default=0 if wanted else None)


def outcome_words(seen: Preview) -> list[tuple[str, str]]:
    """(what becomes of the call, by which rule), those that count."""
    return [
        (action, rule.name) for rule in seen.rules if rule.matched and not rule.shadow for action in rule.did
    ]


def _outcome(router: Router, seen: Preview, facts: CallFacts, body: bytes, key: ApiKey | None) -> Any:
    """gateway/pasted.Outcome; None without loaded prices, when nothing is sent anywhere."""
    try:
        book = load_book(connection)
    except PriceBookIncomplete:
        return None
    proxy = _Proxy.load()
    with connection.cursor() as cursor:
        cursor.execute(REFUSED_NAMES)
        refused = cursor.fetchall()
        cursor.execute(BROKEN_BOUNDS)
        broken = cursor.fetchall()
    terms = proxy.Terms(
        book=book,
        allowed_models=key.allowed_models if key else (),
        max_output_tokens=key.max_output_tokens if key else None,
        refused=refused,
        broken=broken,
    )
    return proxy.pasted_outcome(body, router, seen.route, facts, terms)


def _by_policy(policy: RoutingPolicy, seen: Preview) -> list[dict[str, Any]]:
    """The rules under the policy that they are of, in the order in which they are asked."""
    names = {row.pk: row for row in RoutingPolicy.objects.filter(pk__in={r.policy_id for r in seen.rules})}
    groups: list[dict[str, Any]] = []
    for rule in seen.rules:
        if not groups or groups[-1]["policy"].pk != rule.policy_id:
            version = "this text" if rule.policy_id == policy.pk else "live"
            groups.append({"policy": names[rule.policy_id], "version": version, "rules": []})
        groups[-1]["rules"].append(rule)
    return groups
