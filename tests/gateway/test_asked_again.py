"""What is settled while a call waits for its hold holds for that call too: no call is sent on old rules."""

import time
from contextlib import nullcontext
from typing import Any

import psycopg
import pytest

from governance.pricing.operator_rules import allow_name, refuse_name
from tenants.keys import change_key
from tenants.scope import platform_scope
from tests.gateway.asking import assert_refused, script
from tests.gateway.test_waiting import ROOM_FOR_ONE, hold_for, in_background, waiters
from tests.harness import Stack, make_tenant, wait_until


@pytest.mark.parametrize("looked_at", [False, True], ids=["in the queue", "as its hold comes"])
def test_a_call_that_waited_is_sent_on_the_rules_of_the_moment_when_it_is_sent(
    stack: Stack, owner_connection: psycopg.Connection[Any], looked_at: bool
) -> None:
    """Three tenants: a key's models, an operator's rule, a key's cap on output. `looked_at`: the hold comes
    while the key is looked at, which is slow because a table of settings is locked."""
    tenants = {
        "model_not_allowed": ROOM_FOR_ONE,
        "name_refused": {**ROOM_FOR_ONE, "top_k": 5},
        "served": ROOM_FOR_ONE,
    }
    accounts = {reason: make_tenant("0.003") for reason in tenants}
    slow = [hold_for(stack, account, 1500) for account in accounts.values()]
    waiting = {
        reason: in_background(
            stack, accounts[reason], ask, **script(tag=accounts[reason].tenant.slug + "-waited")
        )
        for reason, ask in tenants.items()
    }
    wait_until(lambda: waiters(stack) == 3, 5)
    with platform_scope():
        with owner_connection.transaction() if looked_at else nullcontext():
            if looked_at:
                owner_connection.execute("LOCK TABLE tenants_pause IN ACCESS EXCLUSIVE MODE")
            change_key(accounts["model_not_allowed"].issued.key, {"allowed_models": ["claude-haiku-4-5"]})
            change_key(accounts["served"].issued.key, {"max_output_tokens": 50})
            rule = refuse_name("field", "top_k", "its bill is disputed")
            if looked_at:
                assert [call.result().status_code for call in slow] == [200] * 3
                time.sleep(0.3)  # the waiters' holds are placed
        responses = {reason: call.result() for reason, call in waiting.items()}
        allow_name(rule)
    assert [call.result().status_code for call in slow] == [200] * 3
    for reason, account in accounts.items():
        bill, response = stack.bill(account.tenant.slug + "-waited"), responses[reason]
        if reason == "served":
            assert (response.status_code, response.headers["exchequer-max-tokens"]) == (200, "50")
            assert [line["max_tokens"] for line in bill] == [50]
        else:
            assert_refused(response, 403, "permission_error")
            assert (response.headers["exchequer-decision"], bill) == (reason, [])
        assert {call.reason for call in account.wait_for_calls(2)} == {"served", reason}
        assert account.period().held_nanos == 0
