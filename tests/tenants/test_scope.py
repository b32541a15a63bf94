"""The first wall between tenants. Charlie belongs to neither Alice's tenant nor Bob's."""

import asyncio
import threading

import pytest

from tenants.keys import issue_key
from tenants.models import ApiKey, Membership, ProviderCredential, Team, Tenant
from tenants.scope import ScopeNotSet, current_scope, platform_scope, tenant_scope
from tests.tenants.makers import make_team, make_tenant

OWNED = [Tenant, Team, Membership, ApiKey, ProviderCredential]


@pytest.mark.parametrize("model", OWNED)
def test_without_a_scope_every_read_raises_and_says_what_to_do(model) -> None:
    assert current_scope() is None
    for read in (model.objects.all, model.objects.count, lambda: model.objects.filter(pk=1)):
        with pytest.raises(ScopeNotSet, match="tenant_scope"):
            read()


def test_each_tenant_sees_its_own_rows_and_charlie_none(alice: Tenant, bob: Tenant) -> None:
    rows = {}
    for tenant in (alice, bob):
        with tenant_scope(tenant.pk):
            rows[tenant.pk] = issue_key(tenant, "production").key
    charlie = make_tenant("Charlie")
    with tenant_scope(alice.pk):
        assert list(ApiKey.objects.all()) == [rows[alice.pk]]
        assert list(Tenant.objects.all()) == [alice]
        assert not ApiKey.objects.filter(pk=rows[bob.pk].pk).exists()
        assert bob.api_keys.count() == 0
    with tenant_scope(charlie.pk):
        assert not ApiKey.objects.exists()
        assert alice.api_keys.count() == 0
    with platform_scope():
        assert set(ApiKey.objects.filter(tenant__in=[alice, bob])) == set(rows.values())
    with tenant_scope():
        assert not Tenant.objects.exists()


def test_the_operators_credentials_are_no_tenants(alice: Tenant) -> None:
    with platform_scope():
        mine = ProviderCredential.objects.create(
            label="operator", ciphertext=b"x", encryption_key_id="none", hint="none"
        )
        mine.delete()
        kept = ProviderCredential.objects.create(
            tenant=alice, label="alice", ciphertext=b"x", encryption_key_id="none", hint="none"
        )
    with tenant_scope(alice.pk):
        assert list(ProviderCredential.objects.all()) == [kept]
    with platform_scope():
        kept.delete()


def test_writes_through_a_scope_touch_no_other_tenant(alice: Tenant, bob: Tenant) -> None:
    mine, foreign = make_team(alice, "Search"), make_team(bob, "Search")
    with tenant_scope(alice.pk):
        assert Team.objects.filter(name="Search").update(name="Found") == 1
    foreign.refresh_from_db()
    mine.refresh_from_db()
    assert (mine.name, foreign.name) == ("Found", "Search")


def test_the_inner_scope_holds_and_the_outer_one_returns(alice: Tenant, bob: Tenant) -> None:
    with tenant_scope(alice.pk):
        with tenant_scope(bob.pk):
            assert list(Tenant.objects.all()) == [bob]
        with pytest.raises(RuntimeError, match="on purpose"), platform_scope():
            raise RuntimeError("on purpose")
        assert list(Tenant.objects.all()) == [alice]
    assert current_scope() is None


def test_a_scope_reaches_tasks_it_started_but_no_other_thread(alice: Tenant, bob: Tenant) -> None:
    seen: list[object] = []

    async def look(tenant: Tenant) -> None:
        with tenant_scope(tenant.pk):
            await asyncio.sleep(0)
            seen.append((tenant.pk, current_scope().allows(tenant.pk)))

    async def both() -> None:
        await asyncio.gather(look(alice), look(bob))

    asyncio.run(both())
    assert sorted(seen) == sorted([(alice.pk, True), (bob.pk, True)])
    with tenant_scope(alice.pk):
        thread = threading.Thread(target=lambda: seen.append(current_scope()))
        thread.start()
        thread.join()
    assert seen[-1] is None
