"""Requests for more on a budget: who asks sees the answer, who manages the tenant gives it."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from unfold.decorators import action, display

from governance.budgets.models import Budget, IncreaseRequest, RequestState
from governance.budgets.requests import approve, deny
from governance.console.access import Access, access_of, actor_of
from governance.console.base import ReadOnlyAdmin
from governance.console.budget_figures import visible_budgets
from governance.console.budget_forms import ApproveForm, DenyForm
from governance.console.display import STATE_LABELS
from governance.console.pages import form_page, posted
from governance.console.site import console_site
from governance.core.money import format_usd

ANSWERED = ("given", "answer", "decided_by_name", "decided_at")
LIST = "admin:budgets_increaserequest_changelist"


@admin.register(IncreaseRequest, site=console_site)
class IncreaseRequestAdmin(ReadOnlyAdmin):
    """Members see the requests on the budgets that they see."""

    list_display = ("budget", "status", "asked", "asked_by_name", "reason", "asked_at", "given", "answer")
    list_select_related = ("budget",)
    list_filter = ("state",)
    search_fields = ("asked_by_name", "reason", "budget__name")
    ordering = ("-id",)
    list_per_page = 50
    actions_detail = ("approve", "deny")
    fields = ("budget", "subject", "status", "asked", "reason", "asked_by_name", "asked_at", *ANSWERED)
    empty_title = "Nobody asks for more"
    empty_hint = (
        "Whoever sees a budget can ask for more on it, on the budget's page. The answer is found here."
    )

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Any]":
        seen = visible_budgets(access_of(request), Budget.objects.all())
        return IncreaseRequest.objects.filter(budget__in=seen)

    def may_answer(self, access: Access, row: IncreaseRequest) -> bool:
        return access.manages(row.tenant_id) and row.state == RequestState.OPEN

    def get_actions_detail(self, request: HttpRequest, object_id: Any = None) -> list[Any]:
        row = self.get_object(request, str(object_id))
        if not isinstance(row, IncreaseRequest) or not self.may_answer(access_of(request), row):
            return []
        return super().get_actions_detail(request, object_id)

    @action(description="Approve", url_path="approve", icon="check")
    def approve(self, request: HttpRequest, object_id: str) -> HttpResponse:
        def work(row: IncreaseRequest, data: dict[str, Any]) -> None:
            approve(
                row,
                granted=data["granted"],
                amount_nanos=data["amount_usd"],
                until=data["until"],
                answer=data["answer"],
                actor=actor_of(request),
            )

        return self._answer(request, object_id, ApproveForm, work, "Approve")

    @action(description="Deny", url_path="deny", icon="close")
    def deny(self, request: HttpRequest, object_id: str) -> HttpResponse:
        def work(row: IncreaseRequest, data: dict[str, Any]) -> None:
            deny(row, answer=data["answer"], actor=actor_of(request))

        return self._answer(request, object_id, DenyForm, work, "Deny")

    def _answer(
        self,
        request: HttpRequest,
        object_id: str,
        form_class: Any,
        work: Callable[[IncreaseRequest, dict[str, Any]], None],
        title: str,
    ) -> HttpResponse:
        row = self.get_object(request, object_id)
        if not isinstance(row, IncreaseRequest):
            return redirect(LIST)
        if not access_of(request).manages(row.tenant_id):
            raise PermissionDenied
        form = form_class(posted(request), **({"request": row} if form_class is ApproveForm else {}))
        if form.is_valid():
            try:
                work(row, form.cleaned_data)
            except ValueError as error:
                form.add_error(None, str(error))
            else:
                return redirect(LIST)
        return form_page(
            self,
            request,
            form,
            title=f"{title} {format_usd(row.amount_nanos)} more on {row.budget.name}",
            submit=title,
            back=row,
            danger=title == "Deny",
            explanation=f"{row.asked_by_name} says: {row.reason}",
        )

    @display(description="State", ordering="state", label=STATE_LABELS)
    def status(self, row: IncreaseRequest) -> str:
        return row.state

    @display(description="Asks for", ordering="amount_nanos")
    def asked(self, row: IncreaseRequest) -> str:
        return format_usd(row.amount_nanos) + (f" for {row.subject}" if row.subject else "")

    @display(description="Got")
    def given(self, row: IncreaseRequest) -> str:
        if row.granted_nanos is None:
            return "—"
        return f"{format_usd(row.granted_nanos)}, {row.get_granted_display().lower()}"
