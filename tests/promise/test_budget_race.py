"""A hard budget under a storm from four gateway workers: not one nano-dollar over, and used to the end."""

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from governance.budgets.limits import set_budget
from governance.calls.models import Call
from governance.core.money import NANOS_PER_USD, usd_to_nanos
from governance.ledger.audit import audit
from governance.ledger.models import BudgetPeriod
from governance.pricing.contracts import agree_rate
from tenants.keys import issue_key
from tenants.scope import platform_scope
from tenants.tenants import create_team
from tests.harness import Account, Stack, make_tenant, start_stack, wait_until
from tests.promise.load import MODEL, Reply, a_call, storm, varied_storm

BOUND_NANOS = NANOS_PER_USD // 100
TOKENS = 1000
_FAST_SWEEP = {"EXCHEQUER_LEASE_HEARTBEAT_SECONDS": "0.5", "EXCHEQUER_LEASE_STALE_SECONDS": "2"}


def charge_output_only(account: Account) -> None:
    """1,000 output tokens are $0.01 and input is free, so that a bound is exactly max_tokens."""
    for meter in ("input", "cache_write_5m", "cache_write_1h", "cache_read"):
        agree_rate(account.tenant, 0, model_id="claude-haiku-4-5-20251001", meter=meter)
    agree_rate(account.tenant, usd_to_nanos("10"), model_id="claude-haiku-4-5-20251001", meter="output")


@dataclass
class Storm:
    """One tenant with $1.00, ten keys with $0.15 each, and a price that makes every bound $0.01."""

    account: Account
    keys: list[str]

    @classmethod
    def prepare(cls) -> "Storm":
        account = make_tenant("1.00")
        with platform_scope():
            charge_output_only(account)
            issued = [issue_key(account.tenant, f"key-{number}") for number in range(10)]
            for one in issued:
                set_budget(
                    account.tenant,
                    scope="key",
                    ref=str(one.key.pk),
                    period="day",
                    limit_nanos=15 * BOUND_NANOS,
                )
        return cls(account, [one.text for one in issued])

    def run(
        self, stack: Stack, *, output_tokens: int, after: tuple[int, object] | None = None
    ) -> list[Reply]:
        usage = {"input_tokens": 3, "output_tokens": output_tokens}
        return asyncio.run(
            storm(
                stack.urls,
                self.keys,
                calls=1000,
                concurrency=200,
                body=a_call(max_tokens=TOKENS),
                script={"usage": usage, "latency_ms": 20, "tag": self.account.tenant.slug},
                after=[after] if after else [],
            )
        )

    def settled(self) -> None:
        wait_until(lambda: not self.account.holds(), 60, "Something stayed held.")

    def _refused(self) -> list[Call]:
        """Calls that a budget refused, as recorded."""
        return [call for call in self.account.calls() if call.reason.startswith("budget_")]

    def rows(self) -> list[BudgetPeriod]:
        with platform_scope():
            return list(BudgetPeriod.objects.filter(tenant_id=self.account.tenant.pk))

    def check_never_over(self) -> None:
        assert all(row.spent_nanos + row.held_nanos <= row.limit_nanos for row in self.rows())
        assert audit(self.account.tenant.pk)[1] == []

    def check_refusals(self, replies: list[Reply]) -> None:
        """Each refusal names one locked read, in which the bound did not fit."""
        expected = sum(reply.status == 429 for reply in replies)
        wait_until(lambda: len(self._refused()) >= expected, 5, "A refusal was not recorded.")
        refused = self._refused()
        assert len(refused) == expected
        for one in refused:
            figures = one.decision["refused"]
            taken = figures["spent_nanos"] + figures["held_nanos"] + figures["ahead_nanos"]
            assert taken + BOUND_NANOS > figures["limit_nanos"]
        for reply in replies:
            if reply.status == 429:
                assert reply.error["type"] == "billing_error"
                assert re.search(r"could cost up to \$0\.01;", reply.error["message"])


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with start_stack(workers=4, env=_FAST_SWEEP) as stack:
        yield stack


def test_a_storm_of_calls_at_their_bound_is_served_to_the_last_cent_and_not_beyond(stack: Stack) -> None:
    storm = Storm.prepare()
    replies = storm.run(stack, output_tokens=TOKENS)
    storm.settled()
    assert {reply.status for reply in replies} == {200, 429}, {r.body for r in replies if r.status >= 500}
    assert sum(reply.status == 200 for reply in replies) == 100
    assert storm.account.period().spent_nanos == NANOS_PER_USD
    assert len(stack.bill(storm.account.tenant.slug)) == 100
    storm.check_never_over()
    storm.check_refusals(replies)


def test_a_storm_of_calls_at_a_third_of_their_bound_is_charged_what_they_cost_and_never_over(
    stack: Stack,
) -> None:
    storm = Storm.prepare()
    replies = storm.run(stack, output_tokens=333)
    storm.settled()
    served = sum(reply.status == 200 for reply in replies)
    assert served > 100, "the room that cheap calls give back was not used"
    assert storm.account.period().spent_nanos == served * 333 * 10_000
    storm.check_never_over()
    storm.check_refusals(replies)


def test_a_storm_in_which_a_worker_is_killed_overspends_nothing_and_loses_nothing(stack: Stack) -> None:
    storm = Storm.prepare()
    victim = stack.workers[3]

    def kill_and_start_again() -> None:
        victim.kill()
        victim.start()

    replies = storm.run(stack, output_tokens=TOKENS, after=(40, kill_and_start_again))
    storm.settled()
    billed = stack.bill(storm.account.tenant.slug)
    charged = [entry for entry in storm.account.entries() if entry.kind == "charge"]
    assert any(reply.status == 0 for reply in replies), (
        "the killed worker had no calls: the test proves nothing"
    )
    assert len(billed) <= len(charged) <= 100
    assert sum(entry.amount_nanos for entry in charged) == storm.account.period().spent_nanos <= NANOS_PER_USD
    storm.check_never_over()


def test_the_model_of_the_storm_costs_its_bound(stack: Stack) -> None:
    assert MODEL == "claude-haiku-4-5"
    storm = Storm.prepare()
    with storm.account.client(stack) as client:
        client.messages.create(**a_call(max_tokens=TOKENS))  # type: ignore[call-overload]
    [call] = storm.account.wait_for_calls(1)
    assert call.held_nanos == BOUND_NANOS


SMALLEST, LARGEST, TOKEN_NANOS = 600, 1000, 10_000


@pytest.mark.parametrize(
    ("calls", "at_once"),
    [pytest.param(600, 150, id="short"), pytest.param(10_000, 2_000, id="long", marks=pytest.mark.soak)],
)
def test_a_storm_over_four_legs_uses_the_limit_up_to_less_than_one_call_and_passes_none(
    stack: Stack, calls: int, at_once: int
) -> None:
    """cases A2, A11. Tenant, team, key by day and by month; of what is asked for, a fifth finds no money."""
    limit = calls * 360 * TOKEN_NANOS
    account = make_tenant("1")
    tag = account.tenant.slug
    keys = []
    with platform_scope():
        charge_output_only(account)
        set_budget(account.tenant, scope="tenant", period="month", limit_nanos=limit)
        for team_number in range(2):
            team = create_team(account.tenant, f"Team {team_number}")
            set_budget(
                account.tenant, scope="team", ref=str(team.pk), period="month", limit_nanos=limit * 2 // 3
            )
            for _ in range(2):
                issued = issue_key(account.tenant, "storm", team=team, hold_wait_seconds=300)
                for period, of_key in (("day", limit // 3), ("month", limit // 2)):
                    set_budget(
                        account.tenant, scope="key", ref=str(issued.key.pk), period=period, limit_nanos=of_key
                    )
                keys.append(issued.text)
    chance = random.Random(7)
    orders = []
    for number in range(calls):
        max_tokens = chance.randint(SMALLEST, LARGEST)
        usage = {"input_tokens": 3, "output_tokens": max_tokens * chance.randint(10, 100) // 100}
        script = {"usage": usage, "latency_ms": chance.randint(5, 200), "tag": tag}
        orders.append(
            (stack.urls[number % 4], keys[number % len(keys)], a_call(max_tokens=max_tokens), script)
        )
    began = time.monotonic()
    replies = asyncio.run(varied_storm(orders, concurrency=at_once))
    seconds = time.monotonic() - began
    said = [reply for reply in replies if reply.status != 200]
    statuses = Counter((reply.status, str(reply.error or reply.headers)[:60]) for reply in said)
    logs = "".join(worker.log_text()[-1000:] for worker in stack.workers)
    assert {reply.status for reply in replies} == {200, 429}, f"{statuses}\n{logs}"

    def recorded() -> int:
        with platform_scope():
            return Call.objects.filter(tenant_id=account.tenant.pk).count()

    wait_until(lambda: recorded() >= calls, 60, lambda: f"{recorded()} of {calls} calls are recorded.")
    wait_until(lambda: not account.holds(), 60)
    with platform_scope():
        rows = list(BudgetPeriod.objects.filter(tenant_id=account.tenant.pk))
    assert len(rows) == 1 + 2 + 8
    assert all(row.spent_nanos <= row.limit_nanos and row.held_nanos == 0 for row in rows)
    assert audit(account.tenant.pk)[1] == []
    bill = stack.bill(tag)
    spent = account.period().spent_nanos
    assert spent == sum(line["usage"]["output_tokens"] for line in bill) * TOKEN_NANOS
    assert limit - SMALLEST * TOKEN_NANOS < spent <= limit
    assert sum(reply.status == 200 for reply in replies) == len(bill)
    refused = [call for call in account.calls() if call.reason in ("budget_exhausted", "budget_held")]
    assert len(refused) == sum(reply.status == 429 for reply in replies)
    for call in refused:
        figures = call.decision["refused"]
        taken = figures["spent_nanos"] + figures["held_nanos"] + figures["ahead_nanos"]
        assert taken + figures["needed_nanos"] > figures["limit_nanos"]
    waited = sorted(call.decision.get("waited_ms", 0) for call in account.calls())
    print(
        f"{calls} calls, {at_once} at once, in {seconds:.1f} s: {len(bill)} served, {len(refused)} refused, "
        f"{(limit - spent) / limit:.6%} of the limit left, waited p50 {waited[calls // 2]} ms, "
        f"p99 {waited[calls * 99 // 100]} ms"
    )
