"""Everything the call path needs to know about a key: compiled to frozen values, loaded on first use.

`SnapshotStore.key(public_id)` is a dictionary look-up. Rows change by any road; a trigger then bumps the
tenant's version (tenants/versioning.py), and this process compares versions twice a second, sooner on
NOTIFY. A tenant whose version moved is forgotten and loaded again by its next call. When the comparison
has not succeeded for FRESH_SECONDS_MAX, nothing is known for sure any more: `fresh` is False and the
process answers 503 to everybody.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any

from governance.budgets.terms import (
    LOAD_TERMS,
    BudgetTerms,
    Coverage,
    covering,
    has_tenant_wall,
    terms_from_row,
)
from governance.gateway.key_ids import LOAD_NEW_IDS, KeyIds
from governance.gateway.operator_rules import OperatorRules, load_operator_rules
from governance.gateway.versions import (
    FRESH_SECONDS_MAX,
    Connection,
    connect,
    current_versions,
    fetch_all,
    fetch_one,
    watch_versions,
)
from governance.limits.terms import LOAD_LIMITS, LimitTerms
from governance.limits.terms import reaching as limits_reaching
from governance.pricing.book import PriceBook
from governance.pricing.loading import load_book_async, load_contract_rates_async
from governance.response_cache.purges import LOAD_PURGES, Purges
from governance.response_cache.purges import compiled as purges_compiled
from governance.routing.loading import LOAD_POLICIES, Routers
from governance.routing.router import Router
from tenants.credentials import open_credential
from tenants.pauses import LOAD_PAUSES, PauseTerms
from tenants.pauses import reaching as pauses_reaching
from tenants.secrets import CannotDecrypt, fingerprint_key
from tenants.versioning import GLOBAL_TENANT_ID

log = logging.getLogger(__name__)

KEYS_KEPT_MAX = 20_000
LOOKUPS_AT_ONCE_MAX = 256

LOAD_KEY = """
SELECT id, public_id, tenant_id, team_id, digest, pepper_id, expires_at, revoked_at, default_tags,
       required_tags, allowed_models, max_output_tokens, unbounded_allowed, lineage_id,
       hold_wait_seconds, clamp_floor_tokens, as_asked_allowed
FROM tenants_apikey WHERE public_id = %s
"""
LOAD_TENANT = "SELECT name, status, status_reason FROM tenants_tenant WHERE id = %s"
LOAD_CREDENTIALS = """
SELECT tenant_id, id, encryption_key_id, ciphertext FROM tenants_providercredential
WHERE disabled_at IS NULL AND (tenant_id = %s OR tenant_id IS NULL)
ORDER BY tenant_id NULLS LAST, created_at DESC, id DESC
"""


class LookupsBusy(Exception):
    """Too many unknown keys are being tried; ask again in a second."""


@dataclass(frozen=True, slots=True)
class TenantSnapshot:
    """A tenant's settings at one version. `upstream_headers` carry the credential its calls are made with;
    empty when there is none. `credential_id` is its row; None for the operator's setting. `book` has its
    contract prices; `list_book` has not. `operator_rules` hold for every tenant; None when there are none."""

    id: int
    name: str
    status: str
    status_reason: str
    pauses: tuple[PauseTerms, ...]
    call_limits: tuple[LimitTerms, ...]
    purges: Purges
    budgets: tuple[BudgetTerms, ...]
    has_wall: bool
    book: PriceBook
    list_book: PriceBook
    operator_rules: OperatorRules | None
    upstream_headers: tuple[tuple[str, str], ...]
    credential_id: int | None
    fingerprint_key: bytes
    routers: Routers


@dataclass(frozen=True, slots=True)
class KeySnapshot:
    """A key, its tenant, the budgets that cover its calls and the pauses that may refuse them. `router` has
    the rules of the policies that reach it, None without any. `is_authenticated` is for DRF."""

    id: int
    public_id: str
    lineage_id: int
    tenant: TenantSnapshot
    team_id: int | None
    digest: bytes
    pepper_id: str
    expires_at: datetime | None
    revoked_at: datetime | None
    pauses: tuple[PauseTerms, ...]
    call_limits: tuple[LimitTerms, ...]
    default_tags: Mapping[str, str]
    required_tags: tuple[str, ...]
    allowed_models: frozenset[str]
    max_output_tokens: int | None
    hold_wait_seconds: int
    clamp_floor_tokens: int | None
    unbounded_allowed: bool
    as_asked_allowed: bool
    coverage: Coverage
    router: Router | None
    is_authenticated: bool = True


class SnapshotStore:
    """The snapshots of one process, and the one connection that loads them."""

    def __init__(self, database_url: str, operator_headers: tuple[tuple[str, str], ...]) -> None:
        self._database_url = database_url
        self._operator_headers = operator_headers
        self._book: PriceBook | None = None
        self._operator_rules: OperatorRules | None = None
        self._tenants: dict[int, TenantSnapshot] = {}
        self._versions: dict[int, int] = {}
        self._keys: dict[str, KeySnapshot] = {}
        self._accepted: dict[bytes, KeySnapshot] = {}
        self._ids = KeyIds()
        self._loading: dict[str, asyncio.Task[KeySnapshot | None]] = {}
        self._loader: Connection | None = None
        self._loader_lock = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None
        self._compared_at = 0.0

    # --- what the call path asks ------------------------------------------------------------------
    @property
    def fresh(self) -> bool:
        """Was the last comparison of versions recent enough to act on what is in memory?"""
        return monotonic() - self._compared_at < FRESH_SECONDS_MAX

    def key(self, public_id: str) -> KeySnapshot | None:
        """The key if it is in memory; then it is no older than the last comparison."""
        return self._keys.get(public_id)

    def accepted(self, digest: bytes) -> KeySnapshot | None:
        """The key whose text has this digest, if it was accepted before and nothing changed since."""
        return self._accepted.get(digest)

    def accept(self, digest: bytes, key: KeySnapshot) -> None:
        """Remember that a text was found to be this key's. `digest`: 32 bytes; no text is kept."""
        if self._keys.get(key.public_id) is key:
            self._accepted[digest] = key

    async def load_key(self, public_id: str) -> KeySnapshot | None:
        """The key from the database; None if there is none of that id.

        Look-ups of the same key share one query. LookupsBusy for a key that is not known to exist while
        somebody guesses keys; psycopg.Error or TimeoutError when the database is away.
        """
        if self._ids.is_missing(public_id):
            return None
        task = self._loading.get(public_id)
        if task is None:
            busy = len(self._loading) >= LOOKUPS_AT_ONCE_MAX or not self._ids.may_miss()
            if busy and not self._ids.exists(public_id):
                raise LookupsBusy
            task = asyncio.create_task(self._load_key(public_id))
            self._loading[public_id] = task
            task.add_done_callback(lambda _: self._loading.pop(public_id, None))
        return await asyncio.shield(task)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """The loading connection, in autocommit mode, for the time of an `async with`: others wait.

        It gives up after FRESH_SECONDS_MAX with TimeoutError.
        """
        async with asyncio.timeout(FRESH_SECONDS_MAX), self._loader_lock:
            if self._loader is None or self._loader.closed:
                self._loader = await connect(self._database_url, "exchequer settings")
            try:
                yield self._loader
            except BaseException:  # in the middle of an exchange, perhaps: what it would say next is not ours
                await self._loader.close()
                raise

    # --- life -------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Load prices, begin to compare versions. Raises when the database or the prices are not there."""
        async with self.connection() as connection:
            await self._compare(connection)
            await self._load_for_all(connection)
        self._watcher = asyncio.create_task(
            watch_versions(self._database_url, self._compare), name="versions"
        )

    async def stop(self) -> None:
        if self._watcher:
            self._watcher.cancel()
            await asyncio.wait({self._watcher})
        if self._loader:
            await self._loader.close()

    # --- loading ----------------------------------------------------------------------------------
    async def _load_key(self, public_id: str) -> KeySnapshot | None:
        async with self.connection() as connection:
            # Until nothing moved meanwhile: rows are read after the version that they are kept under.
            while True:
                row = await fetch_one(connection, LOAD_KEY, public_id)
                if row is None:
                    self._ids.missed(public_id)
                    return None
                tenant_id = row[2]
                tenant = self._tenants.get(tenant_id)
                if tenant is None:
                    tenant = await self._load_tenant(connection, tenant_id)
                    row = await fetch_one(connection, LOAD_KEY, public_id)
                    if row is None:
                        continue
                key = _compile_key(row, tenant)
                if self._tenants.get(tenant_id) is tenant:
                    if len(self._keys) >= KEYS_KEPT_MAX:
                        del self._keys[next(iter(self._keys))]
                        self._accepted.clear()
                    self._keys[public_id] = key
                    self._ids.found(public_id)
                    return key

    async def _load_for_all(self, connection: Connection) -> PriceBook:
        """What is the same for every tenant."""
        self._operator_rules = await load_operator_rules(connection)
        self._book = await load_book_async(connection)
        return self._book

    async def _load_tenant(self, connection: Connection, tenant_id: int) -> TenantSnapshot:
        while True:
            versions = await current_versions(connection, [tenant_id, GLOBAL_TENANT_ID])
            book = self._book
            if book is None:
                book = await self._load_for_all(connection)
                self._versions[GLOBAL_TENANT_ID] = versions.get(GLOBAL_TENANT_ID, 0)
            row = await fetch_one(connection, LOAD_TENANT, tenant_id)
            headers, credential_id = self._credential(
                await fetch_all(connection, LOAD_CREDENTIALS, tenant_id)
            )
            assert row is not None  # a foreign key says so
            terms = [terms_from_row(found) for found in await fetch_all(connection, LOAD_TERMS, tenant_id)]
            tenant = TenantSnapshot(
                id=tenant_id,
                name=row[0],
                status=row[1],
                status_reason=row[2],
                pauses=tuple(
                    PauseTerms(*found) for found in await fetch_all(connection, LOAD_PAUSES, tenant_id)
                ),
                call_limits=tuple(
                    LimitTerms(*found) for found in await fetch_all(connection, LOAD_LIMITS, tenant_id)
                ),
                purges=purges_compiled(await fetch_all(connection, LOAD_PURGES, tenant_id)),
                budgets=tuple(terms),
                has_wall=has_tenant_wall(terms),
                book=book.with_contract(await load_contract_rates_async(connection, tenant_id)),
                list_book=book,
                operator_rules=self._operator_rules,
                upstream_headers=headers,
                credential_id=credential_id,
                fingerprint_key=fingerprint_key(tenant_id),
                routers=Routers(await fetch_all(connection, LOAD_POLICIES, tenant_id), book.models),
            )
            if book is self._book:
                self._tenants[tenant_id] = tenant
                self._versions[tenant_id] = versions.get(tenant_id, 0)
                return tenant

    def _credential(self, rows: list[tuple[Any, ...]]) -> tuple[tuple[tuple[str, str], ...], int | None]:
        """Headers and row of the newest credential that opens: the tenant's own, else the operator's row,
        else the setting."""
        for row in rows:
            try:
                return (("x-api-key", open_credential(*row)),), row[1]
            except CannotDecrypt as error:
                log.error("Provider credential %s: %s", row[1], error)
        return self._operator_headers, None

    # --- comparing versions -----------------------------------------------------------------------
    async def _compare(self, connection: Connection) -> None:
        asked_at = monotonic()
        current = await current_versions(connection, [*self._versions, GLOBAL_TENANT_ID])
        for tenant_id, version in list(self._versions.items()):
            if current.get(tenant_id, 0) != version:
                self._forget(tenant_id)
        self._versions[GLOBAL_TENANT_ID] = current.get(GLOBAL_TENANT_ID, 0)
        for key_id, public_id in await fetch_all(connection, LOAD_NEW_IDS, self._ids.newest):
            self._ids.newest = key_id
            self._ids.found(public_id)
        self._compared_at = asked_at

    def _forget(self, tenant_id: int) -> None:
        """Drop what moved; tenant 0 stands for everything."""
        if tenant_id == GLOBAL_TENANT_ID:
            self._book = None
            self._tenants.clear()
            self._versions.clear()
            self._keys.clear()
            self._accepted.clear()
            return
        self._tenants.pop(tenant_id, None)
        self._versions.pop(tenant_id, None)
        for public_id in [known for known, key in self._keys.items() if key.tenant.id == tenant_id]:
            del self._keys[public_id]
        self._accepted = {text: key for text, key in self._accepted.items() if key.tenant.id != tenant_id}


def _compile_key(row: tuple[Any, ...], tenant: TenantSnapshot) -> KeySnapshot:
    (
        key_id,
        public_id,
        _,
        team_id,
        digest,
        pepper_id,
        expires_at,
        revoked_at,
        tags,
        required,
        models,
        cap,
        unbounded,
        lineage_id,
        hold_wait_seconds,
        clamp_floor_tokens,
        as_asked_allowed,
    ) = row
    return KeySnapshot(
        id=key_id,
        public_id=public_id,
        lineage_id=lineage_id,
        tenant=tenant,
        team_id=team_id,
        digest=bytes(digest),
        pepper_id=pepper_id,
        expires_at=expires_at,
        revoked_at=revoked_at,
        pauses=pauses_reaching(tenant.pauses, team_id=team_id, lineage_id=lineage_id),
        call_limits=limits_reaching(tenant.call_limits, team_id=team_id, lineage_id=lineage_id),
        default_tags=tags,
        required_tags=tuple(required),
        allowed_models=frozenset(models),
        max_output_tokens=cap,
        hold_wait_seconds=hold_wait_seconds,
        clamp_floor_tokens=clamp_floor_tokens,
        unbounded_allowed=unbounded,
        as_asked_allowed=as_asked_allowed,
        coverage=covering(tenant.budgets, team_id=team_id, key_id=lineage_id),
        router=tenant.routers.reaching(team_id=team_id, lineage_id=lineage_id),
    )
