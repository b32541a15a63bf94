"""What is not known is told once a name, and no tenant uses up the room of another."""

from secrets import token_hex

from governance.gateway.alerts import NAMES_PER_KIND_MAX, NAMES_PER_TENANT_MAX, Alerts
from tests.gateway.asking import ASK, post
from tests.harness import Account, Stack, wait_until


def test_each_name_is_news_once() -> None:
    alerts = Alerts()
    assert alerts.unknown("model", "claude-omega-9", 1)
    assert not alerts.unknown("model", "claude-omega-9", 1)
    assert not alerts.unknown("model", "claude-omega-9", 2)
    assert alerts.unknown("field", "claude-omega-9", 1)


def test_one_tenants_names_leave_room_for_another_tenants() -> None:
    alerts = Alerts()
    assert sum(alerts.unknown("field", f"f{n}", 1) for n in range(10_000)) == NAMES_PER_TENANT_MAX
    assert alerts.unknown("field", "new", 2)


def test_the_names_of_one_kind_leave_room_for_another_kind() -> None:
    alerts = Alerts()
    logged = sum(alerts.unknown("field", f"f{n}", n) for n in range(2 * NAMES_PER_KIND_MAX))
    assert logged == NAMES_PER_KIND_MAX
    assert alerts.unknown("model", "claude-omega-9", 1)


def test_a_call_with_an_unknown_beta_has_an_assumed_bound_and_is_alerted(
    stack: Stack, account: Account
) -> None:
    new = f"dearer-thoughts-{token_hex(4)}"
    for beta in (
        "claude-code-20250219,effort-2025-11-24, ,context-1m-2025-08-07",
        f"effort-2025-11-24,{new}",
        new,
    ):
        assert post(stack, account, ASK, headers={"anthropic-beta": beta}).status_code == 200
    calls = account.wait_for_calls(3)
    assert [call.bound for call in calls] == ["bounded", "assumed", "assumed"]
    wait_until(lambda: stack.workers[0].log_text().count(new) == 1, 5)
