"""Whose keys are accepted, and how soon a change reaches every worker."""

import asyncio
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from governance.budgets.limits import set_budget
from governance.core.money import usd_to_nanos
from tenants.credentials import add_credential, disable_credential
from tenants.keys import BASE62, issue_key, mint_key, revoke_key, rotate_key
from tenants.models import Tenant
from tenants.scope import platform_scope
from tests.gateway.asking import ASK, assert_refused, post, script
from tests.harness import Account, Stack, make_tenant, start_stack


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Stack]:
    with start_stack(workers=2) as running:
        yield running


def refused_within(stack: Stack, account: Account, seconds: float, change: Callable[[], object]) -> list[str]:
    """Use the key in every worker, make the change, and wait for both to refuse → their sentences."""
    for worker in range(2):
        assert post(stack, account, worker=worker).status_code == 200
    change()
    deadline = time.monotonic() + seconds
    sentences = []
    for worker in range(2):
        while (response := post(stack, account, worker=worker)).status_code == 200:
            assert time.monotonic() < deadline, f"worker {worker} still serves after {seconds} s"
            time.sleep(0.02)
        sentences.append(response.json()["error"]["message"])
    return sentences


def test_a_revoked_key_is_refused_in_every_worker_within_a_second(
    two_workers: Stack, account: Account
) -> None:
    def revoke() -> None:
        with platform_scope():
            revoke_key(account.issued.key, "lost laptop")

    for sentence in refused_within(two_workers, account, 1.0, revoke):
        assert "revoked" in sentence
    response = post(two_workers, account)
    assert_refused(response, 401, "authentication_error", "revoked")
    assert response.headers["x-should-retry"] == "false"
    rows = [call for call in account.wait_for_calls(5) if call.outcome == "refused"]
    assert {(call.status, call.reason) for call in rows} == {(401, "key_revoked")}


def test_a_key_that_is_revoked_while_its_request_arrives_is_refused(stack: Stack, account: Account) -> None:
    def slow_body() -> Iterator[bytes]:
        body = json.dumps(ASK).encode()
        yield body[:20]
        with platform_scope():
            revoke_key(account.issued.key, "meanwhile")
        time.sleep(1)
        yield body[20:]

    assert_refused(post(stack, account, slow_body()), 401, "authentication_error", "revoked")


def test_a_change_by_plain_sql_is_noticed_too(
    two_workers: Stack, account: Account, owner_connection: object
) -> None:
    def pause() -> None:
        owner_connection.execute(  # type: ignore[attr-defined]
            "UPDATE tenants_tenant SET status = 'paused', status_reason = 'Invoice open.' WHERE id = %s",
            [account.tenant.pk],
        )

    for sentence in refused_within(two_workers, account, 1.0, pause):
        assert "paused: Invoice open." in sentence
    assert_refused(post(two_workers, account), 403, "permission_error", "paused")


def test_a_lowered_model_list_is_noticed(two_workers: Stack, account: Account) -> None:
    def forbid() -> None:
        with platform_scope():
            account.issued.key.allowed_models = ["claude-haiku-5-5"]
            account.issued.key.save()

    for sentence in refused_within(two_workers, account, 1.0, forbid):
        assert "may not use" in sentence


def test_a_key_that_has_expired_is_refused(stack: Stack) -> None:
    account = make_tenant(expires_at=datetime.now(UTC) + timedelta(seconds=1))
    assert post(stack, account).status_code == 200
    time.sleep(1.1)
    assert_refused(post(stack, account), 401, "authentication_error", "expired")
    assert account.wait_for_calls(2)[1].reason == "key_expired"


def test_a_key_that_expires_while_its_request_arrives_is_refused(stack: Stack) -> None:
    account = make_tenant(expires_at=datetime.now(UTC) + timedelta(seconds=1.5))
    assert post(stack, account).status_code == 200  # in memory from here on

    def slow_body() -> Iterator[bytes]:
        body = json.dumps(ASK).encode()
        yield body[:20]
        time.sleep(1.6)
        yield body[20:]

    assert_refused(post(stack, account, slow_body()), 401, "authentication_error", "expired")


def test_both_keys_work_while_a_rotation_overlaps(stack: Stack, account: Account) -> None:
    with platform_scope():
        successor = rotate_key(account.issued.key, overlap_seconds=60)
    assert post(stack, account).status_code == 200
    assert post(stack, Account(account.tenant, successor)).status_code == 200
    account.wait_for_calls(2)


def test_a_rotated_key_stays_in_the_budget_of_its_predecessor(stack: Stack, account: Account) -> None:
    with platform_scope():
        set_budget(account.tenant, scope="key", ref=str(account.issued.key.pk), period="day", limit_nanos=1)
        first = rotate_key(account.issued.key, overlap_seconds=60)
        second = rotate_key(first.key, overlap_seconds=0)
    refused = post(stack, Account(account.tenant, second))
    assert_refused(refused, 429, "billing_error", account.issued.key.name)


def test_a_well_formed_key_that_nobody_issued_is_refused(stack: Stack) -> None:
    _, text = mint_key()
    assert_refused(post(stack, None, headers={"x-api-key": text}), 401, "authentication_error", "not known")


def test_the_right_id_with_another_secret_is_refused(stack: Stack, account: Account) -> None:
    _, other = mint_key()
    body = f"exq_{account.issued.key.public_id}_" + other[13:56]
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = BASE62[digit] + digits
    response = post(stack, None, headers={"x-api-key": f"{body}_{digits}"})
    assert_refused(response, 401, "authentication_error", "not known")
    assert not account.calls()


async def guess(url: str, keys: int) -> list[int]:
    """Try that many well-formed keys at once → the statuses."""

    async def attempt(session: aiohttp.ClientSession) -> int:
        headers = {"x-api-key": mint_key()[1], "content-type": "application/json"}
        async with session.post(f"{url}/v1/messages", json=ASK, headers=headers) as response:
            return response.status

    async with aiohttp.ClientSession() as session:
        return await asyncio.gather(*(attempt(session) for _ in range(keys)))


def test_guessing_keys_is_slowed_down_and_costs_others_nothing(account: Account) -> None:
    with start_stack() as stack:  # of its own: its look-ups are used up
        assert post(stack, account).status_code == 200
        seen = asyncio.run(guess(stack.url, 300))
        assert {401, 429} == set(seen)
        assert seen.count(429) > 10
        assert post(stack, account).status_code == 200
        time.sleep(1)
        newcomer = make_tenant()
        assert post(stack, newcomer).status_code == 200


def test_a_key_that_exists_is_found_while_somebody_guesses(account: Account) -> None:
    with start_stack() as stack:
        newcomers = [make_tenant() for _ in range(12)]
        assert post(stack, account).status_code == 200
        time.sleep(1)  # a new key is known to every worker by then
        enough, rounds = threading.Event(), 0

        def go_on_guessing() -> None:
            nonlocal rounds
            while not enough.is_set():
                asyncio.run(guess(stack.url, 300))
                rounds += 1

        guessing = threading.Thread(target=go_on_guessing)
        guessing.start()
        try:
            time.sleep(0.3)
            assert [post(stack, newcomer).status_code for newcomer in newcomers] == [200] * 12
            with platform_scope():
                account.tenant.status_reason = "Edited."  # its keys are forgotten and loaded again
                account.tenant.save()
            time.sleep(0.7)
            assert post(stack, account).status_code == 200
        finally:
            enough.set()
            guessing.join()
        assert rounds > 0


def test_a_tenants_own_credential_is_used_and_rotation_drops_no_call(stack: Stack, account: Account) -> None:
    def upstream_key() -> str:
        """The twelve hex digits of the credential's digest that the simulator puts on its bill."""
        assert post(stack, account, headers=script(tag=account.tenant.slug)).status_code == 200
        return str(stack.bill(account.tenant.slug)[-1]["key"])

    operators = upstream_key()
    with platform_scope():
        first = add_credential(account.tenant, "first", "sk-ant-first-" + "x" * 20)
        time.sleep(0.7)
        own = upstream_key()
        second = add_credential(account.tenant, "second", "sk-ant-second-" + "x" * 20)
        time.sleep(0.7)
        newer = upstream_key()
        disable_credential(first)
        time.sleep(0.7)
    assert len({operators, own, newer}) == 3
    assert upstream_key() == newer
    account.wait_for_calls(4)
    used = [attempt.credential_id for attempt in account.attempts()]
    assert used == [None, first.pk, second.pk, second.pk]


def test_a_tenant_without_a_hard_budget_is_refused(stack: Stack) -> None:
    with platform_scope():
        tenant = Tenant.objects.create(name="No wall", slug="no-wall")
        set_budget(tenant, scope="tenant", period="day", limit_nanos=usd_to_nanos("1"), enforcement="soft")
        account = Account(tenant, issue_key(tenant, "k"))
    assert_refused(post(stack, account), 403, "permission_error", "no hard budget")
    (call,) = account.wait_for_calls(1)
    assert (call.outcome, call.reason) == ("refused", "no_budget")
