"""The pause switch: what is paused is refused with its reason, in every worker within a second."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import psycopg
import pytest

from tenants.keys import issue_key, rotate_key
from tenants.models import Pause
from tenants.pauses import pause, resume
from tenants.scope import platform_scope
from tests.gateway.asking import ASK, assert_refused, post
from tests.harness import Account, Stack, make_tenant, start_stack, wait_until
from tests.tenants.makers import make_team, make_user


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Stack]:
    with start_stack(workers=2) as running:
        yield running


def begin(account: Account, reason: str, **target: Any) -> Pause:
    with platform_scope():
        return pause(account.tenant, reason, **target)


def end(row: Pause) -> None:
    with platform_scope():
        resume(row)


def statuses_become(stack: Stack, account: Account, wanted: int, **options: Any) -> None:
    """In both workers, within the second that is promised."""
    deadline = time.monotonic() + 1.0
    for worker in range(2):
        while (status := post(stack, account, worker=worker, **options).status_code) != wanted:
            assert time.monotonic() < deadline, f"worker {worker} still answers {status}"
            time.sleep(0.02)


@pytest.mark.parametrize("scope", ["key", "team", "tenant"])
def test_a_pause_holds_in_every_worker_within_a_second_and_so_does_its_end(
    two_workers: Stack, scope: str
) -> None:
    """cases A16: whoever sees a stolen key at work stops it at once, and its callers read why."""
    account = make_tenant()
    team = make_team(account.tenant)
    with platform_scope():
        issued = issue_key(account.tenant, "paused", team=team)
        paused = Account(account.tenant, issued)
    for worker in range(2):
        assert post(two_workers, paused, worker=worker).status_code == 200
        assert post(two_workers, account, worker=worker).status_code == 200
    ref = {"key": str(issued.key.pk), "team": str(team.pk), "tenant": ""}[scope]
    alice = make_user("alice")
    row = begin(account, "A loop spends $40 a minute.", scope=scope, ref=ref, began_by=alice)
    statuses_become(two_workers, paused, 403)
    response = post(two_workers, paused)
    assert_refused(
        response, 403, "permission_error", "paused: A loop spends $40 a minute. Ask", alice.username
    )
    assert response.headers["x-should-retry"] == "false"
    free = httpx2.get(f"{two_workers.url}/v1/models", headers={"x-api-key": paused.key})
    assert free.status_code == 403
    assert post(two_workers, account).status_code == (403 if scope == "tenant" else 200)
    refused = [call for call in paused.wait_for_calls(6) if call.outcome == "refused"]
    assert {(call.status, call.reason) for call in refused} == {(403, "paused")}
    end(row)
    statuses_become(two_workers, paused, 200)


def test_a_paused_tag_stops_the_calls_that_carry_it_and_no_others(stack: Stack, account: Account) -> None:
    begin(account, "Wrong prompt in production.", scope="tag", ref="feature=search")
    search, other = {"exchequer-tags": "feature=search,a=b"}, {"exchequer-tags": "feature=searching"}
    wait_until(lambda: post(stack, account, headers=search).status_code == 403, 1)
    assert_refused(
        post(stack, account, headers=search), 403, "permission_error", "tag feature=search", "administrator"
    )
    assert post(stack, account, headers=other).status_code == 200
    assert post(stack, account).status_code == 200


def test_a_paused_key_stays_paused_when_it_is_rotated(stack: Stack, account: Account) -> None:
    begin(account, "Stolen.", scope="key", ref=str(account.issued.key.pk))
    with platform_scope():
        successor = rotate_key(account.issued.key, overlap_seconds=60)
    assert_refused(post(stack, Account(account.tenant, successor)), 403, "permission_error", "Stolen.")


def test_another_tenant_is_not_paused(stack: Stack, account: Account) -> None:
    neighbour = make_tenant()
    begin(account, "Ours alone.")
    wait_until(lambda: post(stack, account).status_code == 403, 1)
    assert post(stack, neighbour).status_code == 200


def test_a_call_that_waits_for_its_hold_while_its_key_is_paused_is_refused(
    stack: Stack, account: Account, owner_connection: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    assert post(stack, account).status_code == 200
    account.wait_for_calls(1)
    answers: list[httpx2.Response] = []
    asking = threading.Thread(target=lambda: answers.append(post(stack, account)))
    with owner_connection.transaction():
        owner_connection.execute(
            "SELECT FROM ledger_budgetperiod WHERE id = %s FOR UPDATE", [account.period().pk]
        )
        asking.start()
        time.sleep(0.3)  # it is past every check and waits for this lock
        begin(account, "Meanwhile.", scope="key", ref=str(account.issued.key.pk))
        time.sleep(1)
    asking.join()
    assert_refused(answers[0], 403, "permission_error", "Meanwhile.")
    call = account.wait_for_calls(2)[-1]
    assert (call.outcome, call.reason, call.cost_nanos) == ("refused", "paused", 0)
    assert account.entries()[-1].kind == "void"
    assert account.period().held_nanos == 0


def test_the_sdk_raises_the_reason_at_once(stack: Stack, account: Account) -> None:
    begin(account, "Budget review until Monday.")
    wait_until(lambda: post(stack, account).status_code == 403, 1)
    began = time.monotonic()
    with pytest.raises(anthropic.PermissionDeniedError, match="Budget review until Monday"):
        account.client(stack, max_retries=3).messages.create(**ASK)
    assert time.monotonic() - began < 3
