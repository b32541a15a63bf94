"""What can be done to a budget beside changing it: one form each, and whoever may only look may ask."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from unfold.decorators import action

from governance.budgets.adjustments import end_raise, raise_limit, top_up, transfer
from governance.budgets.limits import close_budget
from governance.budgets.models import Budget
from governance.budgets.requests import ask_for_more
from governance.console.access import actor_of
from governance.console.base import ConsoleAdmin
from governance.console.budget_forms import AmountForm, RaiseForm, ReasonForm, TransferForm
from governance.console.pages import form_page, posted

LIST = "admin:budgets_budget_changelist"


class BudgetActions(ConsoleAdmin):
    """The actions on a budget's page."""

    actions_detail = ("top_up", "raise_until", "end_raise", "transfer", "ask", "close")
    for_managers = frozenset({"top_up", "raise_until", "end_raise", "transfer", "close"})

    def get_actions_detail(self, request: HttpRequest, object_id: Any = None) -> list[Any]:
        budget = self.get_object(request, str(object_id))
        if budget is None or budget.closed_at is not None:
            return []
        actions = super().get_actions_detail(request, object_id)
        manages = self.has_change_permission(request, budget)
        return [one for one in actions if (one.method.original_function_name in self.for_managers) == manages]

    @action(description="Top up", url_path="top-up", icon="add_card")
    def top_up(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._adjust(
            request,
            object_id,
            AmountForm,
            lambda budget, form: top_up(budget, **form.arguments(), actor=actor_of(request)),
            title="Top up",
            explanation="Adds to the limit of the current period; of a budget in total, prepaid money. The "
            "next period begins with the budget's limit again.",
        )

    @action(description="Raise for a while", url_path="raise", icon="trending_up")
    def raise_until(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._adjust(
            request,
            object_id,
            RaiseForm,
            lambda budget, form: raise_limit(budget, **form.arguments(), actor=actor_of(request)),
            title="Raise",
            explanation="Allows so much more until that moment, which the database's clock decides; then the "
            "limit is what it was, whatever runs or does not.",
        )

    @action(description="End raise", url_path="end-raise", icon="trending_down")
    def end_raise(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._adjust(
            request,
            object_id,
            ReasonForm,
            lambda budget, form: end_raise(budget, **form.arguments(), actor=actor_of(request)),
            title="End the raise of",
            explanation="Ends the raise that is running now. What was spent under it stays spent.",
        )

    @action(description="Transfer", url_path="transfer", icon="sync_alt")
    def transfer(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._adjust(
            request,
            object_id,
            TransferForm,
            lambda budget, form: transfer(budget, **form.arguments(), actor=actor_of(request)),
            title="Transfer from",
            explanation="Moves what is neither spent nor held in the current period to the current period of "
            "another budget.",
        )

    @action(description="Close", url_path="close", icon="block")
    def close(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._adjust(
            request,
            object_id,
            forms.Form,
            lambda budget, form: close_budget(budget, actor=actor_of(request)),
            title="Close",
            explanation="New calls are no longer charged to it; calls in flight settle into it. What was "
            "charged stays in the ledger.",
            danger=True,
        )

    @action(description="Ask for more", url_path="ask", icon="front_hand")
    def ask(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """For whoever sees the budget; the answer comes from those who manage its tenant."""
        budget = self.get_object(request, object_id)
        return self._act(
            request,
            budget,
            AmountForm,
            lambda budget, form: ask_for_more(budget, **form.arguments(), actor=actor_of(request)),
            title="Ask for more on",
            explanation="Those who manage the tenant see it and approve or deny it, with a reason. You find "
            "the answer under “Requests”.",
            done="admin:budgets_increaserequest_changelist",
        )

    def _adjust(self, request: HttpRequest, object_id: str, *args: Any, **options: Any) -> HttpResponse:
        return self._act(request, self.changeable(request, object_id), *args, **options)

    def _act(
        self,
        request: HttpRequest,
        budget: Budget | None,
        form_class: Any,
        work: Callable[[Budget, Any], object],
        *,
        title: str,
        explanation: str,
        danger: bool = False,
        done: str | None = None,
    ) -> HttpResponse:
        """Show the form; once it is right, do it and go back to the budget (or to the page `done`)."""
        if budget is None:
            return redirect(LIST)
        options = {"budget": budget} if issubclass(form_class, ReasonForm) else {}
        form = form_class(posted(request), **options)
        if form.is_valid():
            try:
                work(budget, form)
            except ValueError as error:
                form.add_error(None, str(error))
            else:
                budget.refresh_from_db()
                if done is None and budget.closed_at is None:
                    return redirect(reverse("admin:budgets_budget_change", args=[budget.pk]))
                return redirect(done or LIST)
        return form_page(
            self,
            request,
            form,
            title=f"{title} {budget.name}",
            submit=title.removesuffix(" of").removesuffix(" from").removesuffix(" on"),
            back=budget,
            danger=danger,
            explanation=explanation,
        )
