"""Rules about money change while calls are in flight: those settle, and nothing more is admitted than the
new rules allow."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from governance.budgets.adjustments import raise_limit, top_up
from governance.budgets.limits import close_budget, set_budget
from governance.budgets.models import Budget
from governance.core.money import usd_to_nanos
from governance.ledger.audit import audit
from governance.ledger.models import BudgetPeriod
from tenants.keys import move_key
from tenants.scope import platform_scope
from tenants.tenants import create_team
from tests.gateway.asking import ASK, assert_refused, post, script
from tests.harness import Account, Stack, make_tenant, wait_until

USAGE = {"input_tokens": 10, "output_tokens": 64}
DOLLAR = usd_to_nanos("1")


@contextmanager
def in_flight(stack: Stack, account: Account, calls: int = 3) -> Iterator[list[int]]:
    """So many calls are held upstream inside; after it their statuses are in the list."""
    statuses: list[int] = []
    slow = script(latency_ms=1_500, usage=USAGE)
    threads = [
        threading.Thread(target=lambda: statuses.append(post(stack, account, headers=slow).status_code))
        for _ in range(calls)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(account.holds()) == calls, 10)
    yield statuses
    for thread in threads:
        thread.join()


def lower(account: Account, budget: Budget) -> None:
    set_budget(account.tenant, scope="key", ref=budget.scope_ref, period="month", limit_nanos=1)


def higher(account: Account, budget: Budget) -> None:
    set_budget(account.tenant, scope="key", ref=budget.scope_ref, period="month", limit_nanos=2 * DOLLAR)


def raise_it(account: Account, budget: Budget) -> None:
    raise_limit(
        budget, amount_nanos=DOLLAR, until=datetime.now(UTC) + timedelta(milliseconds=600), reason="x"
    )


def close(account: Account, budget: Budget) -> None:
    close_budget(budget)


def move(account: Account, budget: Budget) -> None:
    move_key(account.issued.key, create_team(account.tenant, "Elsewhere"), reason="reorganised")


@pytest.mark.parametrize("change", [lower, higher, raise_it, close, move])
def test_calls_in_flight_settle_whatever_happens_to_their_budget(
    stack: Stack, account: Account, change: Callable[[Account, Budget], Any]
) -> None:
    with platform_scope():
        key_id = str(account.issued.key.pk)
        budget = set_budget(account.tenant, scope="key", ref=key_id, period="month", limit_nanos=DOLLAR)
        with in_flight(stack, account) as statuses:
            change(account, budget)
    assert statuses == [200, 200, 200]
    calls = account.wait_for_calls(3)
    with platform_scope():
        row = BudgetPeriod.objects.get(budget_id=budget.pk)
    assert (row.spent_nanos, row.held_nanos) == (sum(call.cost_nanos for call in calls), 0)
    assert audit(account.tenant.pk)[1] == []


def test_a_lowered_limit_admits_nothing_from_the_moment_it_is_saved(stack: Stack, account: Account) -> None:
    with in_flight(stack, account) as statuses:
        with platform_scope():
            set_budget(account.tenant, scope="tenant", period="month", limit_nanos=1)
        assert_refused(post(stack, account), 429, "billing_error", "left of $0.000000001")
    assert statuses == [200, 200, 200]
    account.wait_for_calls(4)
    assert account.period().spent_nanos > account.period().limit_nanos
    assert_refused(post(stack, account), 429, "billing_error", "$0.00 left")


def test_a_closed_budget_neither_refuses_nor_is_charged_once_workers_know(stack: Stack) -> None:
    account = make_tenant()
    with platform_scope():
        budget = set_budget(account.tenant, scope="tenant", period="day", limit_nanos=0)
        assert post(stack, account).status_code == 429
        close_budget(budget)
    wait_until(lambda: post(stack, account).status_code == 200, 2)
    with platform_scope():
        assert BudgetPeriod.objects.get(budget_id=budget.pk).spent_nanos == 0


def test_a_moved_key_is_charged_to_its_new_team(stack: Stack, account: Account) -> None:
    with platform_scope():
        teams = [create_team(account.tenant, name) for name in ("Old", "New")]
        budgets = [
            set_budget(account.tenant, scope="team", ref=str(team.pk), period="month", limit_nanos=DOLLAR)
            for team in teams
        ]
        for team in teams:
            move_key(account.issued.key, team, reason="reorganised")
            wait_until(lambda team=team: charged_to(stack, account, team.pk), 3)
        rows = [BudgetPeriod.objects.get(budget_id=budget.pk) for budget in budgets]
    assert all(row.spent_nanos > 0 for row in rows)


def charged_to(stack: Stack, account: Account, team_id: int) -> bool:
    assert post(stack, account).status_code == 200
    wait_until(lambda: not account.holds(), 5)
    return bool(account.calls()[-1].team_id == team_id)


def test_a_top_up_lets_the_next_call_through(stack: Stack) -> None:
    """cases E8: prepaid. No worker has to hear of it: the row that admission reads has it."""
    account = make_tenant("0", period="total")
    assert_refused(post(stack, account, ASK), 429, "billing_error", "does not reset")
    with platform_scope():
        [budget] = Budget.objects.filter(tenant=account.tenant)
        top_up(budget, amount_nanos=usd_to_nanos("0.0015"), reason="invoice 7")
    assert post(stack, account, headers=script(usage=USAGE)).status_code == 200
    account.wait_for_calls(2)
    assert_refused(post(stack, account), 429, "billing_error", "of $0.0015")
