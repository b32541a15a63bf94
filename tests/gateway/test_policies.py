"""Published policies in the gateway's workers: whom they reach, how soon, and what they share."""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import psycopg
import pytest
from django.conf import settings
from django.core.management import call_command

from governance.gateway.snapshot import KeySnapshot, SnapshotStore
from governance.routing.document import Policy
from governance.routing.facts import CallFacts
from governance.routing.models import RoutingPolicy
from governance.routing.policies import create_policy, publish, roll_back, save_draft, set_enabled
from governance.routing.route import Route
from governance.routing.trial import router_with
from tenants.keys import IssuedKey, issue_key, rotate_key
from tenants.scope import platform_scope
from tests.gateway.asking import post
from tests.harness import Account, Stack, make_tenant, start_stack
from tests.tenants.makers import make_team


@pytest.fixture(autouse=True, scope="module")
def _prices() -> None:
    call_command("load_prices", yes=True, stdout=io.StringIO())


def denial(words: str) -> str:
    return f"rules:\n  - name: Closed\n    then: {{deny: {words}}}\n"


def cap(tokens: int) -> str:
    return f"rules:\n  - name: Short\n    then: {{max_tokens: {{cap: {tokens}}}}}\n"


def published(account: Account, text: str, **where: str) -> RoutingPolicy:
    policy = create_policy(account.tenant, **{"scope": "tenant", "name": "P", "draft": text, **where})
    return publish(policy).policy


def another_key(account: Account, **options: Any) -> IssuedKey:
    with platform_scope():
        return issue_key(account.tenant, "another", **options)


@asynccontextmanager
async def workers(count: int = 1) -> AsyncIterator[list[SnapshotStore]]:
    stores = [SnapshotStore(settings.DATABASE_URL, ()) for _ in range(count)]
    for store in stores:
        await store.start()
    try:
        yield stores
    finally:
        for store in stores:
            await store.stop()


async def known(store: SnapshotStore, issued: IssuedKey) -> KeySnapshot:
    """As a call would find the key."""
    public_id = issued.key.public_id
    found = store.key(public_id) or await store.load_key(public_id)
    assert found is not None
    return found


def facts_of(public_id: str, team_id: int | None) -> CallFacts:
    return CallFacts(
        model="claude-sonnet-5-5",
        tags={},
        key_public_id=public_id,
        team_id=team_id,
        now=datetime.now(UTC),
        body_bytes=100,
        stream=False,
        first_turn=True,
        max_tokens=64,
    )


def routed(key: KeySnapshot) -> Route:
    assert key.router is not None
    return key.router.route(facts_of(key.public_id, key.team_id))


async def test_a_publish_a_roll_back_and_a_switch_reach_every_worker_within_a_second(
    account: Account,
) -> None:
    async with workers(2) as stores:
        for store in stores:
            assert (await known(store, account.issued)).router is None
        policy = await asyncio.to_thread(published, account, denial("Closed today."))
        changes: list[tuple[Any, str | None]] = [
            (lambda: None, "Closed today."),
            (lambda: publish(save_draft(policy, denial("Closed for good."))), "Closed for good."),
            (lambda: roll_back(policy, 1), "Closed today."),
            (lambda: set_enabled(policy, False), None),
            (lambda: set_enabled(policy, True), "Closed today."),
        ]
        for change, wanted in changes:
            await asyncio.to_thread(change)
            deadline = time.monotonic() + 1.0
            for store in stores:
                while (said := await denied(store, account.issued)) != wanted:
                    assert time.monotonic() < deadline, f"still {said}"
                    await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Stack]:
    with start_stack(workers=2) as running:
        yield running


def test_a_publish_is_in_force_at_every_worker_of_a_running_gateway_within_a_second(
    two_workers: Stack, account: Account
) -> None:
    def answers_become(status: int, words: str) -> None:
        deadline = time.monotonic() + 1.0
        for worker in range(2):
            while True:
                answer = post(two_workers, account, worker=worker)
                if answer.status_code == status and words in answer.text:
                    break
                assert time.monotonic() < deadline, f"worker {worker} still answers {answer.status_code}"
                time.sleep(0.02)

    for worker in range(2):
        assert post(two_workers, account, worker=worker).status_code == 200
    policy = published(account, denial("Closed today."))
    answers_become(400, "Closed today.")
    publish(save_draft(policy, denial("Closed for good.")))
    answers_become(400, "Closed for good.")
    roll_back(policy, 1)
    answers_become(400, "Closed today.")
    set_enabled(policy, False)
    answers_become(200, "")


async def denied(store: SnapshotStore, issued: IssuedKey) -> str | None:
    key = await known(store, issued)
    return None if key.router is None else routed(key).deny


async def test_a_draft_reaches_no_call_and_another_tenants_policy_neither(account: Account) -> None:
    neighbour = await asyncio.to_thread(make_tenant)
    await asyncio.to_thread(published, neighbour, denial("Not ours."))
    await asyncio.to_thread(create_policy, account.tenant, scope="tenant", name="P", draft=denial("Draft."))
    async with workers() as [store]:
        assert (await known(store, account.issued)).router is None
        assert routed(await known(store, neighbour.issued)).deny == "Not ours."


async def test_a_keys_policy_goes_before_its_teams_before_its_tenants(account: Account) -> None:
    def prepare() -> tuple[IssuedKey, IssuedKey]:
        team = make_team(account.tenant)
        own, mate = another_key(account, team=team), another_key(account, team=team)
        published(account, "rules:\n  - name: A\n    then: {concise: Tenant., timeout_seconds: 30}\n")
        published(
            account,
            "rules:\n  - name: B\n    then: {concise: Team., stop_sequences: [END]}\n",
            scope="team",
            ref=str(team.pk),
        )
        published(
            account, "rules:\n  - name: C\n    then: {concise: Key.}\n", scope="key", ref=str(own.key.pk)
        )
        return own, mate

    own, mate = await asyncio.to_thread(prepare)
    async with workers() as [store]:
        for issued, words, stops in (
            (own, "Key.", ("END",)),
            (mate, "Team.", ("END",)),
            (account.issued, "Tenant.", ()),
        ):
            route = routed(await known(store, issued))
            assert (route.concise, route.stop_sequences, route.timeout_seconds) == (words, stops, 30)


async def test_a_rule_about_a_key_is_about_its_rotations_too_on_the_path_and_in_the_preview(
    account: Account,
) -> None:
    """Whichever of them it names, and also when it was published before the key was rotated."""
    first, other = account.issued, await asyncio.to_thread(another_key, account)

    def publish() -> RoutingPolicy:
        named = f"when: {{keys: [{first.key.public_id}]}}"
        return published(account, f"rules: [{{name: A, {named}, then: {{deny: Not this one.}}}}]")

    def rotate(issued: IssuedKey) -> IssuedKey:
        with platform_scope():
            return rotate_key(issued.key, overlap_seconds=60)

    policy = await asyncio.to_thread(publish)
    async with workers() as [store]:
        assert await denied(store, first) == "Not this one."
        second = await asyncio.to_thread(rotate, first)
        third = await asyncio.to_thread(rotate, second)
        async with asyncio.timeout(5):
            while await denied(store, third) is None:
                await asyncio.sleep(0.05)
        for issued in (first, second, third):
            assert await denied(store, issued) == "Not this one."
        assert (await known(store, other)).router is not None
        assert await denied(store, other) is None

    def previewed(issued: IssuedKey) -> str | None:
        with platform_scope():
            assert policy.live is not None
            router = router_with(policy, msgspec.convert(policy.live.document, Policy), issued.key)
        return router.route(facts_of(issued.key.public_id, None)).deny

    for issued in (first, second, third):
        assert await asyncio.to_thread(previewed, issued) == "Not this one."
    assert await asyncio.to_thread(previewed, other) is None


async def test_keys_that_the_same_policies_reach_share_one_router(account: Account) -> None:
    await asyncio.to_thread(published, account, cap(100))
    others = [await asyncio.to_thread(another_key, account) for _ in range(3)]
    special = others[-1]
    await asyncio.to_thread(published, account, cap(50), scope="key", ref=str(special.key.pk))
    async with workers() as [store]:
        routers = {id((await known(store, issued)).router) for issued in [account.issued, *others[:-1]]}
        assert len(routers) == 1
        assert id((await known(store, special)).router) not in routers
        assert routed(await known(store, special)).max_tokens_cap == 50


async def test_a_version_of_another_release_that_cannot_be_read_denies_every_call_and_is_logged(
    account: Account, owner_connection: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    policy = await asyncio.to_thread(published, account, cap(100))
    owner_connection.execute(
        "WITH newer AS (INSERT INTO routing_policyversion (policy_id, number, source, document, note,"
        " published_at, published_by) VALUES (%(policy)s, 2, '', '{\"rules\": [{\"future\": 1}]}', '', now(),"
        " 'x') RETURNING id) UPDATE routing_routingpolicy SET live_id = newer.id FROM newer WHERE"
        " routing_routingpolicy.id = %(policy)s",
        {"policy": policy.pk},
    )
    async with workers() as [store]:
        assert "another release" in (routed(await known(store, account.issued)).deny or "")
    assert "cannot read it" in caplog.text
