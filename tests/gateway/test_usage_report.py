"""GET /api/oauth/usage: what a key's budgets have left, from the rows that enforce them."""

import threading
import time
from datetime import UTC, datetime
from typing import Any

import httpx2

from governance.budgets.limits import set_budget
from governance.core.money import NANOS_PER_USD, nanos_to_usd, usd_to_nanos
from tenants.scope import platform_scope
from tests.gateway.asking import ASK, assert_refused, post, script
from tests.harness import Account, Stack, make_tenant, wait_until


def ask_usage(stack: Stack, account: Account | None, **headers: str) -> httpx2.Response:
    sent = {"x-api-key": account.key} if account else {}
    return httpx2.get(f"{stack.url}/api/oauth/usage", headers=sent | headers, timeout=10)


def usage(stack: Stack, account: Account) -> dict[str, Any]:
    """A fresh report: one is kept for a second."""
    time.sleep(1.1)
    response = ask_usage(stack, account)
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_what_is_enforced_shows_as_spent_and_held_in_one_answer(stack: Stack) -> None:
    """cases B2: spent and open holds, the two things that a budget is made of, both visible in one call."""
    account = make_tenant("5")
    assert post(stack, account).status_code == 200
    account.wait_for_calls(1)
    slow = threading.Thread(target=post, args=(stack, account), kwargs={"headers": script(latency_ms=3000)})
    slow.start()
    wait_until(lambda: bool(account.holds()), 5)
    (budget,) = usage(stack, account)["budgets"]
    (hold,), row = account.holds(), account.period()
    slow.join()
    assert budget["spent_usd"] == nanos_to_usd(account.calls()[0].cost_nanos)
    assert budget["held_usd"] == nanos_to_usd(hold.amount_nanos)
    assert usd_to_nanos(budget["left_usd"]) == 5 * NANOS_PER_USD - row.spent_nanos - row.held_nanos
    assert (budget["scope"], budget["period"], budget["enforcement"]) == ("tenant", "month", "hard")
    assert datetime.fromisoformat(budget["resets_at"]) == row.ends_at
    account.wait_for_calls(2)


def test_claude_code_is_told_the_tightest_hard_budget_in_cents(stack: Stack, account: Account) -> None:
    """A budget of the month is larger than the key's day; the soft one is smaller and no wall."""
    key_ref = str(account.issued.key.pk)
    with platform_scope():
        set_budget(account.tenant, scope="key", ref=key_ref, period="day", limit_nanos=2 * NANOS_PER_USD)
        set_budget(account.tenant, scope="key", ref=key_ref, period="week", limit_nanos=1, enforcement="soft")
    wait_until(lambda: len(usage(stack, account)["budgets"]) == 3, 5)
    usage_80_cents = {"input_tokens": 0, "output_tokens": 80_000}
    asked = {**ASK, "max_tokens": 80_000}
    assert post(stack, account, asked, headers=script(usage=usage_80_cents)).status_code == 200
    account.wait_for_calls(1)
    report = usage(stack, account)
    assert report["extra_usage"] == {
        "is_enabled": True,
        "monthly_limit": 200,
        "used_credits": 80,
        "utilization": 40,
        "currency": "USD",
        "decimal_places": 2,
        "spend_limit_reached": False,
    }
    assert (report["five_hour"], report["seven_day"]) == (None, None)


def test_a_budget_that_nothing_was_spent_from_is_whole(stack: Stack) -> None:
    account = make_tenant("7", period="total")
    (budget,) = usage(stack, account)["budgets"]
    assert (budget["limit_usd"], budget["left_usd"], budget["resets_at"]) == ("7.00", "7.00", None)


def test_only_the_keys_own_budgets_are_told_and_only_to_a_key(stack: Stack, account: Account) -> None:
    neighbour = make_tenant("3")
    with platform_scope():
        set_budget(neighbour.tenant, scope="tenant", period="day", limit_nanos=1, name="Bob's secret")
    assert "secret" not in str(usage(stack, account))
    assert_refused(ask_usage(stack, None), 401, "authentication_error")
    bearer = ask_usage(stack, None, authorization=f"Bearer {account.key}")
    assert bearer.json()["budgets"] == ask_usage(stack, account).json()["budgets"]
    assert bearer.headers["cache-control"] == "private, no-store"


def test_asking_often_reads_once_a_second(stack: Stack, account: Account) -> None:
    first = usage(stack, account)
    again = [ask_usage(stack, account).json()["as_of"] for _ in range(5)]
    assert first["as_of"] in again
    assert len(set(again)) <= 2
    assert datetime.fromisoformat(first["as_of"]) < datetime.now(UTC)
    assert not account.calls()
