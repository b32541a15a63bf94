"""Top-ups, raises that end by themselves, and transfers: what admission makes of them."""

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.db import connection, connections

from governance.audit.models import AuditEvent
from governance.budgets.adjustments import AdjustmentRefused, end_raise, raise_limit, top_up, transfer
from governance.budgets.limits import close_budget, create_tenant_with_wall, set_budget
from governance.budgets.models import Budget
from governance.budgets.periods import PeriodRow, PeriodRows
from governance.budgets.terms import LOAD_TERMS, OPEN_PERIOD, Leg, terms_from_row
from governance.calls.records import AttemptRecord, CallRecord
from governance.core.ids import uuid7
from governance.desk.desk import Desk
from governance.desk.items import Figures, Held, PlaceHold, Refused, Settlement
from governance.ledger.audit import audit
from governance.ledger.kinds import Basis
from governance.ledger.models import Adjustment, BudgetPeriod, LedgerEntry
from tenants.models import Tenant
from tenants.scope import platform_scope
from tenants.tenants import create_tenant
from tests.desk.conftest import a_memo
from tests.harness import wait_until

LATER = timedelta(hours=1)
_names = itertools.count()
_at: list[tuple[asyncio.Runner, Desk]] = []


@pytest.fixture
def tenant() -> Tenant:
    with platform_scope():
        return create_tenant_with_wall(f"Purse {next(_names)}", limit_nanos=100)


def budget_of(tenant: Tenant, period: str = "month", limit_nanos: int = 100, **options: Any) -> Budget:
    with platform_scope():
        return set_budget(tenant, scope="tenant", period=period, limit_nanos=limit_nanos, **options)


def each_user(tenant: Tenant, limit_nanos: int = 100, **options: Any) -> Budget:
    with platform_scope():
        return set_budget(
            tenant, scope="end_user", each=True, period="month", limit_nanos=limit_nanos, **options
        )


@pytest.fixture(autouse=True)
def desk() -> Iterator[None]:
    """One desk a test: a hold whose desk has stopped belongs to whoever sweeps next."""
    broken: list[BaseException] = []
    opened = Desk(settings.DATABASE_URL, "adjust", on_fatal=broken.append)
    with asyncio.Runner() as runner:
        runner.run(opened.start())
        _at[:] = [(runner, opened)]
        yield
        runner.run(opened.stop(5))
    assert broken == []


def at_the_desk(work: Callable[[Desk], Awaitable[Any]]) -> Any:
    """Run with the test's desk, on its loop."""
    [(runner, desk)] = _at

    async def run() -> Any:
        return await work(desk)

    return runner.run(run())


def row_of(budget: Budget, subject: str = "") -> PeriodRow:
    """The period row of now, as a gateway finds or makes it."""

    async def run() -> PeriodRow:
        async with await psycopg.AsyncConnection.connect(settings.DATABASE_URL, autocommit=True) as opened:
            found = await (await opened.execute(LOAD_TERMS, [budget.tenant_id])).fetchall()
            terms = next(t for t in map(terms_from_row, found) if t.id == budget.pk)
            [row] = await PeriodRows().ensure(opened, [Leg(terms, subject)])
            return row

    return asyncio.run(run())


def order(budget: Budget, amount: int, *rows: PeriodRow) -> PlaceHold:
    return PlaceHold(uuid7(), budget.tenant_id, tuple(row.id for row in rows), amount, 1, a_memo())


def hold(budget: Budget, amount: int, subject: str = "") -> Held | Refused:
    placed = order(budget, amount, row_of(budget, subject))
    answer: Held | Refused = at_the_desk(lambda desk: desk.place_hold(placed))
    return answer


def settle(budget: Budget, held: PlaceHold, cost: int) -> bool:
    call = CallRecord(
        id=uuid7(), tenant_id=budget.tenant_id, key_id=7, endpoint="messages", outcome="served", status=200,
        reason="served", cost_nanos=cost,
    )  # fmt: skip
    attempt = AttemptRecord(
        id=held.id, call_id=call.id, tenant_id=budget.tenant_id, key_id=7, held_nanos=held.amount_nanos,
        cost_nanos=cost, list_nanos=cost, price_version=1,
    )  # fmt: skip
    charge = Settlement.charge(
        hold_id=held.id, basis=Basis.EXACT, held_nanos=held.amount_nanos, period_ids=held.period_ids,
        attempt=attempt, call=call,
    )  # fmt: skip
    resolved: bool = at_the_desk(lambda desk: desk.settle(charge))
    return resolved


def figures(budget: Budget, subject: str = "") -> BudgetPeriod:
    with platform_scope():
        row: BudgetPeriod = BudgetPeriod.objects.get(budget_id=budget.pk, subject=subject)
    return row


def now() -> datetime:
    return datetime.now(UTC)


def test_a_top_up_adds_to_the_current_period_and_to_no_other(tenant: Tenant) -> None:
    budget = budget_of(tenant)
    fact = top_up(budget, amount_nanos=40, reason="a launch")
    assert figures(budget).limit_nanos == 140
    assert isinstance(hold(budget, 140), Held)
    with connection.cursor() as cursor:
        following = row_of(budget).period.ends_at
        cursor.execute(OPEN_PERIOD, [budget.pk, "", following, following + timedelta(days=31)])
    with platform_scope():
        assert BudgetPeriod.objects.get(budget_id=budget.pk, starts_at=following).limit_nanos == 100
        event = AuditEvent.objects.get(target_id=str(budget.pk), action="budget.top_up")
    assert (fact.period_id, event.after) == (
        row_of(budget).id,
        {"amount": "$0.00000004", "reason": "a launch"},
    )


def test_a_total_budget_is_prepaid_by_top_ups(tenant: Tenant) -> None:
    """cases E8: no period, and only what was paid in may be spent."""
    budget = budget_of(tenant, "total", 0)
    assert isinstance(hold(budget, 1), Refused)
    for amount in (30, 12):
        top_up(budget, amount_nanos=amount, reason="invoice 7")
    answer = hold(budget, 42)
    assert isinstance(answer, Held)
    assert answer.tightest == Figures(42, 0, 42)
    refused = hold(budget, 1)
    assert isinstance(refused, Refused)
    assert refused.figures == Figures(42, 0, 42)


def test_a_changed_limit_keeps_what_was_added(tenant: Tenant) -> None:
    """cases E7: config edits never touch spend, nor what was added."""
    budget = budget_of(tenant)
    top_up(budget, amount_nanos=40, reason="a launch")
    placed = order(budget, 60, row_of(budget))
    at_the_desk(lambda desk: desk.place_hold(placed))
    assert settle(budget, placed, 55)
    for limit, expected in ((200, 240), (10, 50), (100, 140)):
        budget_of(tenant, limit_nanos=limit)
        row = figures(budget)
        assert (row.limit_nanos, row.spent_nanos, row.held_nanos) == (expected, 55, 0)
        assert row.ceiling_nanos == max(expected, 55)


def test_a_raise_ends_although_no_process_does_anything(tenant: Tenant) -> None:
    budget = budget_of(tenant)
    until = now() + timedelta(seconds=1.5)
    raise_limit(budget, amount_nanos=50, until=until, reason="a demo")
    placed = order(budget, 130, row_of(budget))
    assert isinstance(at_the_desk(lambda desk: desk.place_hold(placed)), Held)
    before = figures(budget)
    wait_until(lambda: now() > until, 5)
    refused = hold(budget, 1)
    assert isinstance(refused, Refused)
    assert refused.figures == Figures(100, 0, 130)
    assert figures(budget) == before
    assert settle(budget, placed, 130)
    assert (figures(budget).spent_nanos, figures(budget).ceiling_nanos) == (130, 130)
    raise_limit(budget, amount_nanos=50, until=now() + LATER, reason="another demo")
    assert isinstance(hold(budget, 20), Held)
    assert isinstance(hold(budget, 1), Refused)


def test_a_settlement_under_a_raise_leaves_room_up_to_the_raised_limit(tenant: Tenant) -> None:
    """A charge sets the ceiling back to the limit; admission lifts it again, as far as the raise."""
    budget = budget_of(tenant)
    raise_limit(budget, amount_nanos=50, until=now() + LATER, reason="a demo")
    for cost in (60, 50):
        placed = order(budget, cost, row_of(budget))
        assert isinstance(at_the_desk(lambda desk, placed=placed: desk.place_hold(placed)), Held)
        assert settle(budget, placed, cost)
    assert isinstance(hold(budget, 41), Refused)
    assert isinstance(hold(budget, 40), Held)
    row = figures(budget)
    assert (row.spent_nanos, row.held_nanos, row.ceiling_nanos) == (110, 40, 150)


def test_a_charge_above_its_hold_may_use_a_raise(tenant: Tenant) -> None:
    budget = budget_of(tenant)
    raise_limit(budget, amount_nanos=50, until=now() + LATER, reason="a demo")
    placed = order(budget, 90, row_of(budget))
    at_the_desk(lambda desk: desk.place_hold(placed))
    assert settle(budget, placed, 160)
    assert figures(budget).spent_nanos == 150
    with platform_scope():
        overrun = LedgerEntry.objects.get(tenant_id=tenant.pk, kind="overrun")
    assert overrun.amount_nanos == 10


def test_a_raise_holds_for_periods_that_begin_before_it_ends(tenant: Tenant) -> None:
    budget = budget_of(tenant, "day")
    raise_limit(budget, amount_nanos=50, until=now() + timedelta(days=2), reason="a week of demos")
    first = row_of(budget)
    tomorrow = first.period.ends_at
    with connection.cursor() as cursor:
        cursor.execute(OPEN_PERIOD, [budget.pk, "", tomorrow, tomorrow + timedelta(days=1)])
    with platform_scope():
        rows = BudgetPeriod.objects.filter(budget_id=budget.pk)
        assert {(row.limit_nanos, row.raised_nanos) for row in rows} == {(100, 50)}
        assert len(rows) == 2
    end_raise(budget, reason="cancelled")
    assert {(row.raised_nanos, row.raised_until) for row in rows.all()} == {(0, None)}
    with connection.cursor() as cursor:
        after = tomorrow + timedelta(days=1)
        cursor.execute(OPEN_PERIOD, [budget.pk, "", after, after + timedelta(days=1)])
    assert {row.raised_nanos for row in rows.all()} == {0}
    assert isinstance(hold(budget, 101), Refused)


def test_one_raise_runs_at_a_time(tenant: Tenant) -> None:
    budget = budget_of(tenant)
    with pytest.raises(AdjustmentRefused, match="No raise is running"):
        end_raise(budget, reason="?")
    raise_limit(budget, amount_nanos=50, until=now() + LATER, reason="a demo")
    with pytest.raises(AdjustmentRefused, match="End that raise first"):
        raise_limit(budget, amount_nanos=1, until=now() + LATER, reason="a demo")
    end_raise(budget, reason="over early")
    raise_limit(budget, amount_nanos=1, until=now() + LATER, reason="a smaller one")
    assert figures_or_none(budget) is None
    assert isinstance(hold(budget, 102), Refused)
    assert isinstance(hold(budget, 101), Held)


def figures_or_none(budget: Budget) -> BudgetPeriod | None:
    with platform_scope():
        row: BudgetPeriod | None = BudgetPeriod.objects.filter(budget_id=budget.pk).first()
    return row


def test_a_subjects_pot_is_topped_up_and_raised_alone(tenant: Tenant) -> None:
    budget = each_user(tenant)
    top_up(budget, amount_nanos=5, subject="ann", reason="asked for")
    raise_limit(budget, amount_nanos=7, subject="ben", until=now() + LATER, reason="asked for")
    limits = {user: hold(budget, 1_000, user) for user in ("ann", "ben", "")}
    assert {user: answer.figures.limit_nanos for user, answer in limits.items()} == {  # type: ignore[union-attr]
        "ann": 105,
        "ben": 107,
        "": 100,
    }
    with pytest.raises(AdjustmentRefused, match="one pot for all"):
        top_up(budget_of(tenant), amount_nanos=5, subject="ann", reason="asked for")


def test_a_transfer_takes_only_what_is_neither_spent_nor_held(tenant: Tenant) -> None:
    source, target = budget_of(tenant, "month"), budget_of(tenant, "week", 10)
    placed = order(source, 50, row_of(source))
    at_the_desk(lambda desk: desk.place_hold(placed))
    assert settle(source, placed, 30)
    assert isinstance(hold(source, 25), Held)
    raise_limit(source, amount_nanos=500, until=now() + LATER, reason="no money of its own to give")
    with pytest.raises(AdjustmentRefused, match=r"can give \$0\.000000045: of"):
        transfer(source, target, amount_nanos=46, reason="too much")
    gave, got = transfer(source, target, amount_nanos=45, reason="search needs it")
    assert (figures(source).limit_nanos, figures(target).limit_nanos) == (55, 55)
    assert (gave.amount_nanos, got.amount_nanos) == (-45, 45)
    assert (gave.other_id, got.other_id) == (got.pk, gave.pk)
    with platform_scope():
        entries = LedgerEntry.objects.filter(tenant_id=tenant.pk, kind="transfer").order_by("pk")
        assert [(e.pk, e.amount_nanos, e.call_id, e.period_ids) for e in entries] == [
            (gave.pk, -45, gave.pk, [gave.period_id]),
            (got.pk, 45, gave.pk, [got.period_id]),
        ]
    assert audit(tenant.pk) == (2, [])


def test_the_audit_finds_a_limit_that_no_adjustment_explains(tenant: Tenant, owner_connection: Any) -> None:
    budget = budget_of(tenant)
    top_up(budget, amount_nanos=5, reason="asked for")
    owner_connection.execute(
        "UPDATE ledger_budgetperiod SET added_nanos = 6 WHERE budget_id = %s", [budget.pk]
    )
    _, [difference] = audit(tenant.pk)
    assert "has 6 added, its adjustments say 5" in str(difference)
    owner_connection.execute(
        "UPDATE ledger_budgetperiod SET added_nanos = 5 WHERE budget_id = %s", [budget.pk]
    )


def test_adjustments_are_facts(tenant: Tenant, owner_connection: Any, app_connection: Any) -> None:
    fact = top_up(budget_of(tenant), amount_nanos=5, reason="asked for")
    for change in ("UPDATE ledger_adjustment SET amount_nanos = 6", "DELETE FROM ledger_adjustment"):
        with pytest.raises(psycopg.errors.RestrictViolation):
            owner_connection.execute(f"{change} WHERE id = %s", [fact.pk])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app_connection.execute(f"{change} WHERE id = %s", [fact.pk])


def in_threads(works: list[Callable[[], Any]]) -> list[Any]:
    """Run each in a thread with a database connection of its own → results or errors, in order."""
    results: list[Any] = [None] * len(works)
    go = threading.Barrier(len(works))

    def run(index: int) -> None:
        go.wait()
        try:
            results[index] = works[index]()
        except Exception as error:
            results[index] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_transfers_race_with_holds_and_with_each_other_and_nothing_is_given_twice(tenant: Tenant) -> None:
    source = budget_of(tenant, "month", 100)
    targets = [budget_of(tenant, period, 0) for period in ("week", "quarter", "total")]
    row = row_of(source)

    def holds() -> list[Held | Refused]:
        async def place(desk: Desk) -> list[Held | Refused]:
            return await asyncio.gather(*(desk.place_hold(order(source, 10, row)) for _ in range(20)))

        answers: list[Held | Refused] = at_the_desk(place)
        return answers

    gifts = [
        lambda target=target: transfer(source, target, amount_nanos=20, reason="race")
        for target in targets * 3
    ]
    answers, *given = in_threads([holds, *gifts])
    held = sum(isinstance(answer, Held) for answer in answers)
    transferred = sum(not isinstance(result, Exception) for result in given)
    assert {type(result) for result in given if isinstance(result, Exception)} <= {AdjustmentRefused}
    final = figures(source)
    assert final.held_nanos == held * 10
    assert final.limit_nanos == 100 - 20 * transferred
    assert 0 <= final.left_nanos < 20
    assert (
        sum(figures(target).limit_nanos for target in targets if figures_or_none(target)) == 20 * transferred
    )
    assert audit(tenant.pk)[1] == []


def test_transfers_in_both_directions_at_once_do_not_deadlock(tenant: Tenant) -> None:
    one, other = budget_of(tenant, "month", 1000), budget_of(tenant, "week", 1000)
    there = [lambda: transfer(one, other, amount_nanos=1, reason="there") for _ in range(8)]
    back = [lambda: transfer(other, one, amount_nanos=1, reason="back") for _ in range(8)]
    results = in_threads([work for pair in zip(there, back, strict=True) for work in pair])
    assert [result for result in results if isinstance(result, Exception)] == []
    assert (figures(one).limit_nanos, figures(other).limit_nanos) == (1000, 1000)


def test_adjustments_that_cannot_be_are_one_clear_sentence_each(tenant: Tenant) -> None:
    budget = budget_of(tenant)
    with platform_scope():
        other = create_tenant(f"Other {next(_names)}")
    theirs = budget_of(other)
    for work, words in [
        (lambda: top_up(budget, amount_nanos=0, reason="x"), "above zero"),
        (lambda: top_up(budget, amount_nanos=1, reason="  "), "Say why"),
        (lambda: top_up(budget, amount_nanos=1, reason="x" * 257), "256 characters"),
        (lambda: top_up(budget, amount_nanos=2**63 - 1, reason="x"), "more money than"),
        (lambda: raise_limit(budget, amount_nanos=1, until=now(), reason="x"), "moment that is to come"),
        (lambda: transfer(budget, theirs, amount_nanos=1, reason="x"), "one tenant"),
        (lambda: transfer(budget, budget, amount_nanos=1, reason="x"), "the same one"),
    ]:  # fmt: skip
        with pytest.raises(AdjustmentRefused, match=words):
            work()
    set_budget(tenant, scope="tenant", period="year", limit_nanos=1)
    close_budget(budget)
    with pytest.raises(AdjustmentRefused, match="is closed"):
        top_up(budget, amount_nanos=1, reason="x")
    with platform_scope():
        assert Adjustment.objects.filter(tenant_id=tenant.pk).count() == 0


def test_a_call_that_costs_nothing_is_never_refused_for_money(tenant: Tenant) -> None:
    """cases B7: zero price needs no budget."""
    budget = budget_of(tenant)
    assert isinstance(hold(budget, 100), Held)
    budget_of(tenant, limit_nanos=10)
    assert isinstance(hold(budget, 1), Refused)
    assert isinstance(hold(budget, 0), Held)
