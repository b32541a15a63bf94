"""Asking for more, and the answer: once, with a reason, and with money that moves in the same transaction."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from governance.audit.events import Actor
from governance.audit.models import AuditEvent
from governance.budgets.adjustments import AdjustmentRefused, active_raises
from governance.budgets.limits import create_tenant_with_wall, set_budget
from governance.budgets.models import Budget, IncreaseRequest
from governance.budgets.requests import RequestRefused, approve, ask_for_more, deny
from governance.ledger.models import BudgetPeriod
from tenants.models import Tenant
from tenants.scope import platform_scope

LEAD, ADMIN = Actor("lead", user_id=11), Actor("admin", user_id=12)
_names = itertools.count()


@pytest.fixture
def budget() -> Budget:
    with platform_scope():
        tenant = create_tenant_with_wall(f"Asking {next(_names)}", limit_nanos=100)
        return Budget.objects.get(tenant=tenant)


def ask(budget: Budget, amount: int = 40, **options: object) -> IncreaseRequest:
    return ask_for_more(budget, amount_nanos=amount, reason="a launch", **{"actor": LEAD} | options)  # type: ignore[arg-type]


def limit_of(budget: Budget) -> int:
    with platform_scope():
        return int(BudgetPeriod.objects.get(budget_id=budget.pk).limit_nanos)


def test_an_approval_may_top_up_raise_or_set_a_new_limit(budget: Budget) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    approved = approve(ask(budget), granted="top_up", amount_nanos=30, answer="not all of it", actor=ADMIN)
    assert (approved.state, approved.granted, approved.granted_nanos) == ("approved", "top_up", 30)
    assert (approved.answer, approved.decided_by_name) == ("not all of it", "admin")
    assert limit_of(budget) == 130
    approve(ask(budget), granted="limit", amount_nanos=40, answer="", actor=ADMIN)
    assert limit_of(budget) == 170
    approve(ask(budget), granted="raise", amount_nanos=7, until=until, answer="for today", actor=ADMIN)
    with platform_scope():
        (running,) = active_raises(budget)
        events = AuditEvent.objects.filter(tenant_id=budget.tenant_id, action="request.approve")
        assert {event.after["granted"] for event in events} == {"top_up", "limit", "raise"}
    assert (running.amount_nanos, running.actor_name) == (7, "admin")
    assert running.reason == "asked by lead: a launch"
    assert limit_of(budget) == 170


def test_a_denial_moves_nothing_and_says_why(budget: Budget) -> None:
    with pytest.raises(RequestRefused, match="Say why not"):
        deny(ask(budget), answer=" ", actor=ADMIN)
    with platform_scope():
        request = IncreaseRequest.objects.get(budget=budget)
    denied = deny(request, answer="the quarter is over", actor=ADMIN)
    assert (denied.state, denied.answer, denied.granted_nanos) == ("denied", "the quarter is over", None)
    with platform_scope():
        assert not BudgetPeriod.objects.filter(budget_id=budget.pk).exists()


def test_a_request_is_answered_once(budget: Budget) -> None:
    request = ask(budget)
    approve(request, granted="top_up", amount_nanos=40, answer="", actor=ADMIN)
    with pytest.raises(RequestRefused, match="admin has approved this request already"):
        approve(request, granted="top_up", amount_nanos=40, answer="", actor=ADMIN)
    with pytest.raises(RequestRefused, match="already"):
        deny(request, answer="too late", actor=ADMIN)
    assert limit_of(budget) == 140


def test_an_approval_that_cannot_be_leaves_the_request_open(budget: Budget) -> None:
    request = ask(budget)
    past = datetime.now(UTC) - timedelta(hours=1)
    for granted, amount, until, error, words in [
        ("top_up", 0, None, AdjustmentRefused, "above zero"),
        ("raise", 1, past, AdjustmentRefused, "to come"),
        ("raise", 1, None, RequestRefused, "until when"),
        ("top_up", 1, past, RequestRefused, "until when"),
        ("limit", -1, None, AdjustmentRefused, "above zero"),
        ("gift", 1, None, RequestRefused, "cannot be granted"),
    ]:
        with pytest.raises(error, match=words):
            approve(request, granted=granted, amount_nanos=amount, until=until, answer="", actor=ADMIN)
    with platform_scope():
        assert IncreaseRequest.objects.get(pk=request.pk).state == "open"


def test_a_person_has_one_open_request_on_a_pot(budget: Budget) -> None:
    ask(budget)
    with pytest.raises(RequestRefused, match="asked for more on this budget already"):
        ask(budget, 50)
    ask(budget, 50, actor=Actor("another", user_id=13))
    with pytest.raises(RequestRefused, match="above zero"):
        ask(budget, 0)
    with pytest.raises(RequestRefused, match="one pot for all"):
        ask(budget, 1, subject="ann")


def test_more_for_one_end_user_is_not_more_for_all(budget: Budget) -> None:
    tenant: Tenant = budget.tenant
    with platform_scope():
        each = set_budget(tenant, scope="end_user", each=True, period="day", limit_nanos=10)
    request = ask(each, 5, subject="ann")
    with pytest.raises(RequestRefused, match="everybody's"):
        approve(request, granted="limit", amount_nanos=5, answer="", actor=ADMIN)
    approve(request, granted="top_up", amount_nanos=5, answer="", actor=ADMIN)
    with platform_scope():
        row = BudgetPeriod.objects.get(budget_id=each.pk)
    assert (row.subject, row.limit_nanos) == ("ann", 15)
