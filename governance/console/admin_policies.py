"""Policies: write a draft, see what it would do, publish it, compare versions, roll back."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import action, display

from governance.console.access import Access, access_of, actor_of
from governance.console.admin_tenants import managed_tenants
from governance.console.base import ConsoleAdmin
from governance.console.display import when
from governance.console.pages import form_page, posted
from governance.console.policy_forms import SAMPLE, NoteForm, PolicyForm, SeenForm, ref_of
from governance.console.policy_page import (
    Draft,
    compared,
    diff_rows,
    page_context,
    urls_of,
    version_rows,
)
from governance.console.policy_preview import SAMPLE_BODY, PreviewForm, live_text, previewed
from governance.console.policy_rights import may_change_policy, visible_policies
from governance.console.rule_counts import rule_counts
from governance.console.site import console_site
from governance.routing.changes import changed_rules
from governance.routing.drafts import as_document, check_draft
from governance.routing.models import PolicyVersion, RoutingPolicy, Scope
from governance.routing.naming import known_of
from governance.routing.policies import (
    Outcome,
    PolicyRefused,
    create_policy,
    publish,
    roll_back,
    save_draft,
    set_enabled,
    stamp,
)
from governance.routing.telling import key_holders
from tenants.models import ApiKey, Team, Tenant

STATES = {"live": "success", "edited": "warning", "never published": "info", "off": "danger"}


@admin.register(RoutingPolicy, site=console_site)
class RoutingPolicyAdmin(ConsoleAdmin):
    form = PolicyForm
    list_display = ("name", "applies_to", "state", "version", "tenant")
    list_select_related = ("tenant", "live")
    list_filter = ("scope",)
    search_fields = ("name", "tenant__name")
    ordering = ("tenant__name", "scope", "name")
    actions_detail = ("publish", "preview", "versions", "switch", "roll_back")
    change_form_before_template = "console/policy_top.html"
    change_form_outer_after_template = "console/policy_versions.html"
    empty_title = "No policy yet"
    empty_hint = (
        "A policy decides what becomes of a call before it is paid for: which model answers, whether an "
        "earlier answer will do, how long it may be. Without one, calls go as they are asked. A new policy "
        "begins with this sample; nothing is in force until you publish it."
    )
    empty_command = SAMPLE

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Any]":
        return visible_policies(access_of(request), RoutingPolicy.objects.select_related("tenant", "live"))

    def may_add(self, access: Access) -> bool:
        return access.issues_keys

    def may_change(self, access: Access, row: RoutingPolicy) -> bool:
        return may_change_policy(access, row)

    # --- The draft ---

    def get_fieldsets(self, request: HttpRequest, obj: Model | None = None) -> Any:
        if obj is None:
            return [(None, {"fields": ["tenant", "scope", "team", "key", "name", "draft"]})]
        editable = ["name", "draft", "seen"] if self.has_change_permission(request, obj) else ["source"]
        return [(None, {"fields": ["tenant", "applies_to", "state", *editable]})]

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        return ("tenant", "applies_to", "state", "source") if obj else ()

    def get_form(self, request: HttpRequest, obj: Model | None = None, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, **kwargs)
        form.access = access_of(request)
        return form

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        access = access_of(request)
        led = Tenant.objects.filter(teams__in=access.led_team_ids)
        kwargs["queryset"] = (managed_tenants(access) | led).distinct()
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Most people belong to one tenant."""
        tenants = list(access_of(request).tenant_ids)
        own = {"tenant": str(tenants[0])} if len(tenants) == 1 else {}
        return {**own, **super().get_changeform_initial_data(request)}

    def save_model(self, request: HttpRequest, obj: RoutingPolicy, form: Any, change: bool) -> None:
        data, actor = form.cleaned_data, actor_of(request)
        if change:
            save_draft(obj, data["draft"], name=data["name"], actor=actor)
            return
        wanted = RoutingPolicy(tenant=obj.tenant, scope=data["scope"])
        wanted.scope_ref = _kept_ref(data)
        if not may_change_policy(access_of(request), wanted):
            raise PermissionDenied
        made = create_policy(
            obj.tenant,
            scope=data["scope"],
            ref=ref_of(data),
            name=data["name"],
            draft=data["draft"],
            actor=actor,
        )
        obj.pk = made.pk

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: Any = None) -> HttpResponse:
        return HttpResponseRedirect(urls_of(obj)["change"])

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        """Back to the draft: it may have problems, and the next thing to do is to publish it."""
        super().response_change(request, obj)
        return HttpResponseRedirect(urls_of(obj)["change"])

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        policy = self.get_object(request, object_id) if object_id else None
        context: dict[str, Any] = {}
        if isinstance(policy, RoutingPolicy):
            may_change = self.may_change(access_of(request), policy)
            counts = rule_counts(policy, access_of(request))
            context = {
                **page_context(policy, may_change=may_change),
                "may_change": may_change,
                "counts": counts,
            }
        return super().changeform_view(request, object_id, form_url, {**context, **(extra_context or {})})

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        """Beside its lines stands what is wrong with the text that is shown, saved or not."""
        form = context["adminform"].form
        policy = context.get("original")
        if "draft" in form.fields and (policy is None or self.has_change_permission(request, policy)):
            text = form["draft"].value() or ""
            known = None if policy is None else known_of(policy)
            form.fields["draft"].widget.checked = context["checked"] = check_draft(text, known)
        return super().render_change_form(request, context, *args, **kwargs)

    # --- Publishing ---

    @action(description="Publish", url_path="publish", icon="publish")
    def publish(self, request: HttpRequest, object_id: str) -> HttpResponse:
        policy = self.changeable(request, object_id)
        if policy is None:
            return redirect("admin:routing_routingpolicy_changelist")
        form = NoteForm(posted(request), initial={"seen": stamp(policy)})
        if form.is_valid():
            note, seen = form.cleaned_data["note"], form.cleaned_data["seen"]
            try:
                outcome = publish(policy, note=note, seen=seen, actor=actor_of(request))
            except PolicyRefused as error:
                form.add_error(None, str(error))
            else:
                return self._done(request, outcome, f"{outcome.policy.live} is live.")
        checked = check_draft(policy.draft, known_of(policy))
        document = None if checked.policy is None else as_document(checked.policy)
        live = policy.live
        is_live = live is not None and (live.source, live.document) == (policy.draft, document)
        explanation = "In force in every worker within a second, for the calls that begin then."
        if document is None:
            explanation = "Nothing is published while lines are wrong; what is live stays live."
        elif is_live:
            explanation = f"Nothing to publish: {live} says this already and is live."
        return self._confirm(
            request,
            policy,
            form,
            title=f"Publish “{policy}”",
            button="" if document is None or is_live else "Publish",
            explanation=explanation,
            checked=checked,
            words=changed_rules(policy.live.document if policy.live else None, document) if document else [],
            rows=diff_rows(policy.live, Draft(policy.draft)),
        )

    @action(description="Roll back", url_path="roll-back", icon="undo")
    def roll_back(self, request: HttpRequest, object_id: str) -> HttpResponse:
        policy = self.changeable(request, object_id)
        if policy is None:
            return redirect("admin:routing_routingpolicy_changelist")
        number = str(request.GET.get("number", ""))
        found = PolicyVersion.objects.filter(policy=policy).exclude(pk=policy.live_id)
        version = found.filter(number=int(number)).first() if number.isdecimal() else None
        if policy.live is None or version is None:
            return redirect(urls_of(policy)["versions"])
        form = SeenForm(posted(request), initial={"seen": stamp(policy)})
        if form.is_valid():
            try:
                outcome = roll_back(
                    policy, version.number, seen=form.cleaned_data["seen"], actor=actor_of(request)
                )
            except PolicyRefused as error:
                form.add_error(None, str(error))
            else:
                return self._done(request, outcome, f"{outcome.policy.live} is live again.")
        return self._confirm(
            request,
            policy,
            form,
            title=f"Put {version} of “{policy}” back in force",
            button="Roll back",
            explanation=f"Published by {version.published_by} on {when(version.published_at)}. It comes into "
            f"force as it was, in every worker within a second, instead of {policy.live}. The draft stays.",
            words=changed_rules(policy.live.document, version.document),
            rows=diff_rows(policy.live, version),
        )

    @action(description="Switch off or on", url_path="switch", icon="power_settings_new")
    def switch(self, request: HttpRequest, object_id: str) -> HttpResponse:
        policy = self.changeable(request, object_id)
        if policy is None:
            return redirect("admin:routing_routingpolicy_changelist")
        form = forms.Form(posted(request))
        on = not policy.enabled
        if form.is_valid():
            try:
                outcome = set_enabled(policy, on, actor=actor_of(request))
            except PolicyRefused as error:
                form.add_error(None, str(error))
            else:
                return self._done(request, outcome, f"“{policy}” is {'on' if on else 'off'}.")
        return form_page(
            self,
            request,
            form,
            title=f"Switch {'on' if on else 'off'} “{policy}”",
            submit="Switch on" if on else "Switch off",
            back=policy,
            danger=not on,
            explanation=f"{policy.live or 'No version'} holds again within a second."
            if on
            else "Within a second calls go as if there were no such policy. Budgets and limits stay.",
        )

    def _done(self, request: HttpRequest, outcome: Outcome, what: str) -> HttpResponse:
        told = outcome.told
        off = "" if outcome.policy.enabled else " It is switched off, so no call changes."
        level = messages.WARNING if told.failed else messages.SUCCESS
        messages.add_message(request, level, f"{what}{off} {told}")
        return redirect(urls_of(outcome.policy)["change"])

    def _confirm(
        self, request: HttpRequest, policy: RoutingPolicy, form: forms.Form, **context: Any
    ) -> HttpResponse:
        """What is about to change, and the button that does it."""
        holders = key_holders(policy, but=request.user.pk) if policy.enabled else []
        shown = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": policy,
            "policy": policy,
            "form": form,
            "holders": holders,
            "urls": urls_of(policy),
            **context,
        }
        return TemplateResponse(request, "console/policy_confirm.html", shown)

    # --- Looking ---

    @action(description="Versions", url_path="versions", icon="history")
    def versions(self, request: HttpRequest, object_id: str) -> HttpResponse:
        policy = self.get_object(request, object_id)
        if not isinstance(policy, RoutingPolicy):
            return redirect("admin:routing_routingpolicy_changelist")
        may_change = self.may_change(access_of(request), policy)
        context = {
            **self.admin_site.each_context(request),
            "title": f"Versions of “{policy}”",
            "opts": self.opts,
            "original": policy,
            "policy": policy,
            "urls": urls_of(policy),
            "versions": version_rows(policy, may_change=may_change),
            **compared(policy, str(request.GET.get("before", "")), str(request.GET.get("after", ""))),
        }
        return TemplateResponse(request, "console/policy_compare.html", context)

    @action(description="Preview", url_path="preview", icon="science")
    def preview(self, request: HttpRequest, object_id: str) -> HttpResponse:
        policy = self.get_object(request, object_id)
        if not isinstance(policy, RoutingPolicy):
            return redirect("admin:routing_routingpolicy_changelist")
        form = PreviewForm(policy, access_of(request), posted(request), initial={"body": SAMPLE_BODY})
        context = {
            **self.admin_site.each_context(request),
            "title": f"What would “{policy}” do?",
            "opts": self.opts,
            "original": policy,
            "form": form,
            "urls": urls_of(policy),
        }
        if form.is_valid():
            checked = check_draft(policy.draft, known_of(policy))
            text = live_text(policy) if form.cleaned_data.get("use") == "live" else checked.policy
            try:
                context |= (
                    {"checked": checked} if text is None else previewed(policy, text, form.cleaned_data)
                )
            except ValueError as error:
                form.add_error("body", str(error))
        return TemplateResponse(request, "console/policy_preview.html", context)

    def get_actions_detail(self, request: HttpRequest, object_id: Any = None) -> list[Any]:
        policy = self.get_object(request, str(object_id))
        if not isinstance(policy, RoutingPolicy):
            return []
        found = super().get_actions_detail(request, object_id)
        may_change = self.may_change(access_of(request), policy)
        hidden = {"roll_back"} if may_change else {"publish", "switch", "roll_back"}  # rows have their own
        name = f"{self.opts.app_label}_{self.opts.model_name}_"
        return [one for one in found if one.action_name.removeprefix(name) not in hidden]

    # --- Columns ---

    @display(description="Applies to")
    def applies_to(self, policy: RoutingPolicy) -> str:
        if policy.scope == Scope.TENANT:
            return "The whole tenant"
        if policy.scope == Scope.TEAM:
            team = Team.objects.filter(pk=policy.scope_ref).first()
            return f"Team {team.name if team else policy.scope_ref}"
        key = ApiKey.objects.filter(lineage_id=policy.scope_ref).order_by("-pk").first()
        return f"Key {key.name if key else policy.scope_ref}"

    @display(description="Draft")
    def source(self, policy: RoutingPolicy) -> SafeString:
        return format_html('<pre class="exq-code">{}</pre>', policy.draft)

    @display(description="State", label=STATES)
    def state(self, policy: RoutingPolicy) -> str:
        if policy.live is None:
            return "never published"
        if not policy.enabled:
            return "off"
        return "live" if policy.live.source == policy.draft else "edited"

    @display(description="Live")
    def version(self, policy: RoutingPolicy) -> str:
        live = policy.live
        return f"{live}, {when(live.published_at)} by {live.published_by}" if live else "—"


def _kept_ref(data: dict[str, Any]) -> str:
    return str(data["key"].lineage_id) if data["scope"] == Scope.KEY else ref_of(data)
