"""A tenant with one row of everything, each with a canary in its texts, and people with every role."""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.test import Client

from governance.budgets.limits import set_budget
from governance.budgets.models import Budget
from governance.calls.models import Attempt, Call
from governance.core.ids import uuid7
from governance.core.periods import period_at
from governance.ledger.models import BudgetPeriod, LedgerEntry
from governance.limits.limits import set_limit
from governance.limits.models import CallLimit
from governance.pricing.contracts import agree_discount
from governance.pricing.models import ContractPrice
from governance.response_cache.models import CachePurge
from governance.response_cache.purges import purge
from governance.routing.models import RoutingPolicy
from governance.routing.policies import create_policy, publish
from tenants.credentials import add_credential
from tenants.keys import IssuedKey, issue_key
from tenants.models import Pause, ProviderCredential, Team, Tenant
from tenants.pauses import pause
from tenants.scope import platform_scope
from tests.tenants.makers import make_member, make_team, make_tenant, make_user

LIMIT_NANOS = 100_000_000_000
COSTS = {"input": 1_234_567, "cache_read": 89, "output": 7_654_321}


@dataclass
class House:
    """One tenant and what belongs to it; `canary` is in every text of it."""

    canary: str
    tenant: Tenant
    team: Team
    key: IssuedKey
    credential: ProviderCredential
    budget: Budget
    period: BudgetPeriod
    contract: ContractPrice
    call: Call
    pause: Pause
    call_limit: CallLimit
    policy: RoutingPolicy
    purge: CachePurge

    def person(self, role: str, *, in_team: bool = False) -> User:
        return make_member(self.tenant, role, team=self.team if in_team else None)


def make_house(name: str) -> House:
    canary = f"{name}{secrets.token_hex(6)}"
    tenant = make_tenant(canary)
    team = make_team(tenant, f"{canary}-team")
    with platform_scope():
        key = issue_key(tenant, f"{canary}-key", team=team, default_tags={"feature": canary})
        credential = add_credential(tenant, f"{canary}-credential", f"sk-ant-api03-{canary}-{name[:4]}")
        set_budget(tenant, scope="tenant", period="month", limit_nanos=LIMIT_NANOS, name=f"{canary}-wall")
        budget = set_budget(
            tenant,
            scope="team",
            ref=str(team.pk),
            period="day",
            limit_nanos=LIMIT_NANOS,
            name=f"{canary}-budget",
        )
        contract = agree_discount(tenant, 150_000, note=f"{canary}-contract")
        now = period_at(datetime.now(UTC), "day", "UTC")
        period = BudgetPeriod.objects.create(
            tenant_id=tenant.pk,
            budget_id=budget.pk,
            starts_at=now.starts_at,
            ends_at=now.ends_at,
            limit_nanos=LIMIT_NANOS,
            ceiling_nanos=LIMIT_NANOS,
            spent_nanos=sum(COSTS.values()),
            held_nanos=2_000_000_000,
        )
        paused = pause(tenant, f"{canary}-pause", scope="tag", ref=f"feature={canary}")
        call_limit = set_limit(tenant, {"requests_per_minute": 100}, scope="tenant", model=f"{canary}-model")
        policy = create_policy(
            tenant, scope="team", ref=str(team.pk), name=f"{canary}-policy", draft=policy_text(canary)
        )
        policy = publish(policy, note=f"{canary}-note").policy
        purged = purge(tenant, "tag", f"feature={canary}")
        house = House(
            canary,
            tenant,
            team,
            key,
            credential,
            budget,
            period,
            contract,
            None,  # type: ignore[arg-type]
            paused,
            call_limit,
            policy,
            purged,
        )
        house.call = make_call(house)
    return house


def policy_text(canary: str) -> str:
    return f"rules:\n  - name: {canary}-rule\n    then: {{max_tokens: {{cap: 500}}}}\n"


def make_call(house: House, call_id: UUID | None = None, **columns: Any) -> Call:
    """A served call with its attempt and ledger entry. Run in a scope that sees the tenant."""
    call_id, attempt_id, now = call_id or uuid7(), uuid7(), datetime.now(UTC)
    key = house.key.key
    cost = sum(COSTS.values())
    shared: dict[str, Any] = {"at": now, "xact": 1, "tenant_id": house.tenant.pk, "key_id": key.pk}
    money: dict[str, Any] = {"held_nanos": 3 * cost, "cost_nanos": cost, "list_nanos": cost}
    Attempt.objects.create(
        id=attempt_id,
        call_id=call_id,
        number=1,
        purpose="answer",
        requested_model="claude-haiku-5-5",
        served_model="claude-haiku-5-5",
        input_tokens=1200,
        cache_read_input_tokens=34,
        output_tokens=560,
        usage_source="message",
        basis="exact",
        cost_by_meter=COSTS,
        price_version=1,
        upstream_status=200,
        upstream_request_id=f"req_{house.canary}",
        stop_reason="end_turn",
        duration_ms=800,
        **shared,
        **money,
    )
    LedgerEntry.objects.create(
        id=attempt_id,
        kind="charge",
        basis="exact",
        call_id=call_id,
        period_ids=[house.period.pk],
        amount_nanos=cost,
        held_nanos=3 * cost,
        list_nanos=cost,
        price_version=1,
        reason=f"{house.canary}-entry",
        **shared,
    )
    facts: dict[str, Any] = {
        "team_id": house.team.pk,
        "tags": {"feature": house.canary},
        "session": f"{house.canary}-session",
        "endpoint": "/v1/messages",
        "requested_model": "claude-haiku-5-5",
        "served_model": "claude-haiku-5-5",
        "stream": False,
        "outcome": "served",
        "status": 200,
        "reason": "served",
        "cache": "off",
        "decision": {},
        "attempts": 1,
        "facts": {},
        "duration_ms": 900,
    }
    return Call.objects.create(id=call_id, **{**shared, **money, **facts, **columns})


def browser(user: User | None) -> Client:
    client = Client(REMOTE_ADDR="192.0.2.7")
    if user is not None:
        client.force_login(user)
    return client


def operator() -> Client:
    return browser(make_user("operator", superuser=True))
