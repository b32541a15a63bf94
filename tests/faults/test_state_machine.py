"""Budgets and ledger against an oracle: any order of holds, shrinks, settlements, sweeps and changed limits.

Two desks on one database, driven from a loop in a thread of its own, so that Hypothesis stays synchronous.
After every step the rows must say what the oracle (oracle.py) says; after every run the checker reads the
journal. MODEL_STEPS=100000 takes so many steps instead of the few thousand of `make test`.
"""

import asyncio
import json
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.conf import settings as django_settings
from django.db import transaction
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from governance.budgets.adjustments import AdjustmentRefused, end_raise, raise_limit, top_up, transfer
from governance.budgets.limits import apply_to_live_periods
from governance.budgets.models import Budget
from governance.calls.records import AttemptRecord
from governance.desk import statements
from governance.desk.connection import connect
from governance.desk.desk import Desk
from governance.desk.items import Held, PlaceHold, Refused, Settlement, Shrink
from governance.desk.sweeper import Sweeper
from tenants.models import Tenant
from tenants.scope import platform_scope
from tests.desk.conftest import Purse
from tests.faults.broken import broken_function
from tests.faults.checker import check
from tests.faults.evidence import collect
from tests.faults.oracle import OpenHold, Row, admit, carried

STEPS_PER_RUN = 40
STEPS = int(os.environ.get("MODEL_STEPS") or 1600)
DAY = datetime(2026, 3, 28, tzinfo=UTC)
YEAR = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
"""The periods are days around a change of clocks in Europe; the database's clock starts here."""
KINDS = (("day", "hard", 1000), ("year", "hard", 1500), ("year", "soft", 300))
PERCENTS = (50, 100)
SET_CLOCK = (
    "CREATE OR REPLACE FUNCTION exchequer_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$ SELECT {} $$"
)

amounts = st.integers(1, 700)
which_desk = st.integers(0, 1)
which_budget = st.integers(0, 2)
which_legs = st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True)
some = st.integers(0, 1000)


def make_budgets(tenant_id: int) -> list[Budget]:
    """A hard one by the day, a hard one by the year, a soft one by the year, of a tenant of its own."""
    with platform_scope(), transaction.atomic():
        tenant = Tenant(pk=tenant_id, name=f"Model {tenant_id}", slug=f"model-{tenant_id}")
        tenant.save(force_insert=True)
        return [
            Budget.objects.create(
                tenant=tenant, name=f"{period} {enforcement}", scope="tenant", period=period,
                limit_nanos=limit, enforcement=enforcement, alert_percents=[*PERCENTS],
            )
            for period, enforcement, limit in KINDS
        ]  # fmt: skip


class World:
    """Two desks, a sweeper and a loop: made once, used by every run."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.fatal: list[BaseException] = []
        self.desks = [
            Desk(django_settings.DATABASE_URL, f"model-{i}", on_fatal=self.fatal.append) for i in range(2)
        ]
        for desk in self.desks:
            self.run(desk.start())
        self.sweeper = Sweeper(
            self.desks[0], django_settings.DATABASE_URL, heartbeat_seconds=60, stale_seconds=60
        )

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def set_clock(self, now: datetime | None) -> None:
        value = f"timestamptz '{now.isoformat()}'" if now else "clock_timestamp()"
        self.connection.execute(SET_CLOCK.format(value))

    def close(self) -> None:
        for desk in self.desks:
            self.run(desk.stop(5))
        self.set_clock(None)
        self.loop.call_soon_threadsafe(self.loop.stop)


@dataclass
class Swept:
    """What is charged for a hold that a sweeper resolved, and what the operator bears of it."""

    charged: int
    overrun: int = 0


class BudgetsAndLedger(RuleBasedStateMachine):
    """One tenant: a budget by the day, of which two days are used, one by the year, and a soft one."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        world = self.world
        self.now = DAY
        world.set_clock(self.now)
        self.purse = purse = Purse(world.connection)
        self.budgets = make_budgets(purse.tenant_id)
        a_day = timedelta(days=1)
        windows = ((0, DAY, DAY + a_day), (0, DAY + a_day, DAY + 2 * a_day), (1, *YEAR), (2, *YEAR))
        self.rows = []
        for which, starts_at, ends_at in windows:
            budget, hard = self.budgets[which], which < 2
            identifier = purse.period(
                budget.limit_nanos, hard=hard, starts_at=starts_at, ends_at=ends_at, budget_id=budget.pk
            )
            limit = budget.limit_nanos
            self.rows.append(Row(identifier, limit, starts_at, ends_at, hard, now=DAY, budget=which))
        self.open: list[OpenHold] = []
        self.resolved: list[tuple[OpenHold, PlaceHold]] = []
        self.placed: dict[Any, PlaceHold] = {}
        self.entries: list[tuple[str, int]] = []
        self.swept: dict[Any, Swept] = {}
        self.attempts: dict[UUID, list[AttemptRecord]] = {}
        self.raised_until: dict[int, datetime] = {}

    # --- what may happen -----------------------------------------------------------------------
    @rule(desk=which_desk, legs=which_legs, wanted=st.lists(amounts, min_size=1, max_size=5))
    def hold(self, desk: int, legs: list[int], wanted: list[int]) -> None:
        """Several at once on one desk: admitted in the order of their arrival."""
        self._hold(desk, legs, wanted)

    def _hold(self, desk: int, legs: list[int], wanted: list[int]) -> None:
        rows = tuple(self.rows[i] for i in legs)
        orders = [self.purse.hold(amount, *(row.id for row in rows)) for amount in wanted]
        for order, answer in zip(orders, self._place([(desk, order) for order in orders]), strict=True):
            refusing, closed, figures = admit(rows, order.amount_nanos, self.now)
            if refusing is None:
                assert answer == Held(order.id, figures, self.world.desks[desk].lease_id)
                self._opened(order, rows, desk)
            else:
                assert isinstance(answer, Refused)
                assert (answer.period_id, answer.figures, answer.closed) == (refusing.id, figures, closed)

    @rule(desk=which_desk, legs=which_legs, off_by=st.integers(-1, 1))
    def hold_what_is_left(self, desk: int, legs: list[int], off_by: int) -> None:
        """The whole room of the tightest row, one nano-dollar less, or one more."""
        room = min((self.rows[i].left for i in legs if self.rows[i].hard), default=100)
        self._hold(desk, legs, [max(1, room + off_by)])

    @rule(legs=which_legs, amount=amounts, count=st.integers(2, 6))
    def race(self, legs: list[int], amount: int, count: int) -> None:
        """The same hold on both desks at once: whoever is first, as many fit as fit."""
        rows = tuple(self.rows[i] for i in legs)
        orders = [(i % 2, self.purse.hold(amount, *(row.id for row in rows))) for i in range(count)]
        answers = self._place(orders)
        expected = sum(admit(rows, amount, self.now)[0] is None for _ in range(count))
        assert sum(isinstance(answer, Held) for answer in answers) == expected
        for (desk, order), answer in zip(orders, answers, strict=True):
            if isinstance(answer, Held):
                self._opened(order, rows, desk)

    @precondition(lambda self: self.open)
    @rule(pick=some, amount=amounts)
    def shrink(self, pick: int, amount: int) -> None:
        hold = self.open[pick % len(self.open)]
        shrunk = self._on(hold.desk, lambda desk: desk.shrink(Shrink(hold.id, amount, _ids(hold))))
        assert shrunk == (amount < hold.amount)
        if shrunk:
            for row in hold.legs:
                row.held -= hold.amount - amount
            hold.amount = amount

    @precondition(lambda self: self.open)
    @rule(pick=some, kind=st.sampled_from(["below", "exact", "above", "void"]), by=st.integers(1, 900))
    def settle(self, pick: int, kind: str, by: int) -> None:
        hold = self._take(pick)
        cost = {"below": max(0, hold.amount - by), "exact": hold.amount, "above": hold.amount + by, "void": 0}
        assert self._on(hold.desk, lambda desk: desk.settle(self._settlement(hold, kind, cost[kind])))
        self._charged(hold, cost[kind], "void" if kind == "void" else "charge")

    @precondition(lambda self: self.open)
    @rule(pick=some, cost=st.integers(0, 900), amount=amounts, legs=which_legs, dies=st.booleans())
    def a_call_goes_on_with_another_attempt(
        self, pick: int, cost: int, amount: int, legs: list[int], dies: bool
    ) -> None:
        """The ended attempt's hold shrinks, the next one follows it, then the ended one is settled. Or the
        worker dies before that, with two holds of one call."""
        ended = self.open[pick % len(self.open)]
        cost = min(cost, ended.amount)
        rows = tuple(self.rows[i] for i in legs)
        order = self._following(ended, amount, rows)
        if cost < ended.amount:
            assert self._on(ended.desk, lambda desk: desk.shrink(Shrink(ended.id, cost, _ids(ended))))
            for row in ended.legs:
                row.held -= ended.amount - cost
            ended.amount = cost
        [answer] = self._place([(ended.desk, order)])
        refusing = admit(rows, amount, self.now)[0]
        assert isinstance(answer, Held) == (refusing is None)
        if not isinstance(answer, Held):
            return
        self._opened(order, rows, ended.desk)
        if dies and ended.desk == 1:
            return self.the_second_worker_dies_and_is_swept()
        self.open.remove(ended)
        self.resolved.append((ended, self.placed[ended.id]))
        settlement = replace(self._settlement(ended, "exact" if cost else "void", cost), call=None)
        assert self._on(ended.desk, lambda desk: desk.settle(settlement))
        self._charged(ended, cost, "charge" if cost else "void")
        self.attempts.setdefault(settlement.attempt.call_id, []).append(settlement.attempt)

    def _following(self, ended: OpenHold, amount: int, rows: tuple[Row, ...]) -> PlaceHold:
        """The hold of the next attempt of that hold's call."""
        before = self.placed[ended.id]
        memo = json.loads(before.memo)
        memo["number"] = memo.get("number", 1) + 1
        order = self.purse.hold(amount, *(row.id for row in rows))
        held = Held(ended.id, None, self.world.desks[ended.desk].lease_id)
        return replace(order, memo=json.dumps(memo | {"purpose": "fallback"}), follows=held)

    @precondition(lambda self: self.open)
    @rule(pick=some, amount=amounts, legs=which_legs)
    def settle_and_hold_at_once(self, pick: int, amount: int, legs: list[int]) -> None:
        """A settlement makes room for the hold that comes with it."""
        hold = self._take(pick)
        rows = tuple(self.rows[i] for i in legs)
        order = self.purse.hold(amount, *(row.id for row in rows))

        async def both() -> tuple[bool, Held | Refused]:
            desk = self.world.desks[hold.desk]
            settled = desk.settle(self._settlement(hold, "exact", hold.amount))
            return await settled, await desk.place_hold(order)

        settled, answer = self.world.run(both())
        assert settled
        self._charged(hold, hold.amount, "charge")
        if admit(rows, amount, self.now)[0] is None:
            assert isinstance(answer, Held)
            self._opened(order, rows, hold.desk)
        else:
            assert isinstance(answer, Refused)

    @precondition(lambda self: self.resolved)
    @rule(pick=some, desk=which_desk, cost=st.integers(0, 900))
    def settle_again(self, pick: int, desk: int, cost: int) -> None:
        """Too late: somebody was first. Nothing moves, unless a sweeper was, which did not know the cost."""
        hold, _ = self.resolved[pick % len(self.resolved)]
        assert not self._on(desk, lambda one: one.settle(self._settlement(hold, "exact", cost)))
        if hold.id in self.swept:
            self._told_late(hold, self.swept[hold.id], cost)

    @rule()
    def the_second_worker_dies_and_is_swept(self) -> None:
        desk = self.world.desks[1]
        self.world.connection.execute(
            "UPDATE desk_workerlease SET swept_at = now(), epoch = epoch + 1 WHERE id = %s", [desk.lease_id]
        )

        async def sweep() -> None:
            connection = await connect(
                django_settings.DATABASE_URL,
                transaction_timeout_seconds=5,
                lock_timeout_seconds=2,
                name="model",
            )
            await self.world.sweeper._settle_orphans(connection)
            await connection.close()

        self.world.run(sweep())
        for hold in [hold for hold in self.open if hold.desk == 1]:
            self.open.remove(hold)
            self.resolved.append((hold, self.placed[hold.id]))
            self._charged(hold, hold.amount, "charge")
            self.swept[hold.id] = Swept(hold.amount)

    @precondition(lambda self: self.open)
    @rule(pick=some)
    def the_connection_is_lost_before_a_settlement(self, pick: int) -> None:
        hold = self._take(pick)
        desk = self.world.desks[hold.desk]
        assert desk._link._connection
        self.world.connection.execute(
            "SELECT pg_terminate_backend(%s)", [desk._link._connection.info.backend_pid]
        )
        assert self._on(hold.desk, lambda desk: desk.settle(self._settlement(hold, "exact", hold.amount)))
        self._charged(hold, hold.amount, "charge")

    @rule(which=which_budget, limit=st.integers(0, 2500))
    def change_a_limit(self, which: int, limit: int) -> None:
        budget = self.budgets[which]
        budget.limit_nanos = limit
        with platform_scope(), transaction.atomic():
            budget.save(update_fields=["limit_nanos"])
            apply_to_live_periods(budget)
        for row in self._live(which):
            row.add(0, limit)

    @rule(which=which_budget, amount=amounts)
    def top_up_a_budget(self, which: int, amount: int) -> None:
        row = self._current(which)
        if row is not None:
            top_up(self.budgets[which], amount_nanos=amount, reason="paid")
            row.add(amount, self.budgets[which].limit_nanos)

    @rule(which=which_budget, amount=amounts, hours=st.integers(1, 30))
    def raise_a_limit(self, which: int, amount: int, hours: int) -> None:
        """Refused while another raise runs; those that have ended are forgotten."""
        until = self.now + timedelta(hours=hours)
        more = {"amount_nanos": amount, "until": until, "reason": "launch"}
        if self._raised(which):
            with pytest.raises(AdjustmentRefused, match="raised already"):
                raise_limit(self.budgets[which], **more)
            return
        raise_limit(self.budgets[which], **more)
        self.raised_until[which] = until
        for row in self._live(which):
            row.raised, row.raised_until = amount, until

    @rule(which=which_budget)
    def end_a_raise(self, which: int) -> None:
        if not self._raised(which):
            with pytest.raises(AdjustmentRefused, match="No raise"):
                end_raise(self.budgets[which], reason="over")
            return
        end_raise(self.budgets[which], reason="over")
        del self.raised_until[which]
        for row in self._live(which):
            row.raised, row.raised_until = 0, None

    @rule(source=which_budget, getter=which_budget, amount=amounts)
    def transfer_between(self, source: int, getter: int, amount: int) -> None:
        """Only what is neither spent nor held, a raise left out."""
        giving, getting = self._current(source), self._current(getter)
        if giving is None or getting is None:
            return
        pair = self.budgets[source], self.budgets[getter]
        if source == getter or amount > giving.limit - giving.spent - giving.held:
            with pytest.raises(AdjustmentRefused):
                transfer(*pair, amount_nanos=amount, reason="campaign")
            return
        transfer(*pair, amount_nanos=amount, reason="campaign")
        giving.add(-amount, self.budgets[source].limit_nanos)
        getting.add(amount, self.budgets[getter].limit_nanos)
        self.entries += [("transfer", -amount), ("transfer", amount)]

    @rule(hours=st.integers(1, 20))
    def time_passes(self, hours: int) -> None:
        self.now += timedelta(hours=hours)
        self.world.set_clock(self.now)
        for row in self.rows:
            row.now = self.now

    # --- what must hold ------------------------------------------------------------------------
    @invariant()
    def the_rows_say_what_the_oracle_says(self) -> None:
        said = self.world.connection.execute(
            "SELECT id, spent_nanos, held_nanos, limit_nanos, added_nanos, raised_nanos, raised_until"
            " FROM ledger_budgetperiod WHERE tenant_id = %s ORDER BY id",
            [self.purse.tenant_id],
        ).fetchall()
        assert said == [
            (row.id, row.spent, row.held, row.limit, row.added, row.raised, row.raised_until)
            for row in self.rows
        ]
        assert self.purse.open_holds() == {hold.id for hold in self.open}
        assert not self.world.fatal

    def teardown(self) -> None:
        assert sorted(self.purse.entries()) == sorted(self.entries)
        crossed = self.world.connection.execute(
            "SELECT period_id, percent FROM ledger_thresholdcrossing WHERE tenant_id = %s",
            [self.purse.tenant_id],
        ).fetchall()
        assert sorted(crossed) == sorted((row.id, percent) for row in self.rows for percent in row.crossed)
        assert check(collect(self.world.connection, [self.purse.tenant_id])) == []

    # --- helpers -------------------------------------------------------------------------------
    def _live(self, which: int) -> list[Row]:
        return [row for row in self.rows if row.budget == which and row.ends_at > self.now]

    def _current(self, which: int) -> Row | None:
        """The row of now; None on the third day, of which the machine has no row."""
        live = (row for row in self._live(which) if row.starts_at <= self.now)
        return next(live, None)

    def _raised(self, which: int) -> bool:
        until = self.raised_until.get(which)
        return until is not None and until > self.now

    def _place(self, orders: list[tuple[int, PlaceHold]]) -> list[Held | Refused]:
        async def place() -> list[Held | Refused]:
            return await asyncio.gather(*(self.world.desks[i].place_hold(order) for i, order in orders))

        return self.world.run(place())

    def _on(self, desk: int, ask: Callable[[Desk], "asyncio.Future[bool]"]) -> bool:
        async def answer() -> bool:
            return await ask(self.world.desks[desk])

        return self.world.run(answer())

    def _opened(self, order: PlaceHold, rows: tuple[Row, ...], desk: int) -> None:
        self.open.append(OpenHold(order.id, order.amount_nanos, rows, desk))
        self.placed[order.id] = order

    def _take(self, pick: int) -> OpenHold:
        hold = self.open.pop(pick % len(self.open))
        self.resolved.append((hold, self.placed[hold.id]))
        return hold

    def _settlement(self, hold: OpenHold, kind: str, cost: int) -> Settlement:
        order = self.placed[hold.id]
        charge = self.purse.charge(order, cost, held=hold.amount)
        memo = json.loads(order.memo)
        attempt, call = charge.attempt, charge.call
        assert call
        attempt.call_id = call.id = UUID(memo["call"])
        attempt.number = memo.get("number", 1)
        if kind == "void":
            attempt.cost_nanos = attempt.list_nanos = call.cost_nanos = call.list_nanos = 0
        for name in ("attempts", "held_nanos", "cost_nanos", "list_nanos"):
            earlier = sum(
                getattr(row, name, 1) for row in self.attempts.get(call.id, ()) if row.id != hold.id
            )
            setattr(call, name, getattr(call, name) + earlier)
        if kind != "void":
            return charge
        return Settlement.void(
            hold_id=hold.id, held_nanos=hold.amount, period_ids=_ids(hold), attempt=charge.attempt,
            call=charge.call, reason="the oracle says so",
        )  # fmt: skip

    def _charged(self, hold: OpenHold, cost: int, kind: str) -> None:
        amount = carried(hold, cost)
        for row in hold.legs:
            row.held -= hold.amount
            row.spend(amount, PERCENTS)
        self.entries.append((kind, amount))
        if cost > amount:
            self.entries.append(("overrun", cost - amount))

    def _told_late(self, hold: OpenHold, swept: Swept, cost: int) -> None:
        if cost > hold.amount + swept.overrun:
            self.entries.append(("overrun", cost - hold.amount - swept.overrun))
            swept.overrun = cost - hold.amount
        elif cost < swept.charged:
            self.entries.append(("credit", cost - swept.charged))
            for row in hold.legs:
                row.spent -= swept.charged - cost
            swept.charged = cost


def _ids(hold: OpenHold) -> tuple[int, ...]:
    return tuple(row.id for row in hold.legs)


@pytest.fixture
def world(journalled: psycopg.Connection[Any]) -> Iterator[World]:
    world = World(journalled)
    yield world
    world.close()


def run_machine(world: World, steps: int, phases: Sequence[Phase] = tuple(Phase)) -> None:
    """So many steps, in runs of STEPS_PER_RUN. AssertionError, with the shortest story, if the two differ."""
    machine = type("Machine", (BudgetsAndLedger,), {"world": world})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, steps // STEPS_PER_RUN),
            stateful_step_count=STEPS_PER_RUN,
            suppress_health_check=list(HealthCheck),
            database=None,
            phases=phases,
        ),
    )


def test_whatever_happens_in_whatever_order_the_rows_say_what_the_oracle_says(world: World) -> None:
    run_machine(world, STEPS)


def test_the_machine_notices_admission_that_is_off_by_a_nano_dollar(world: World) -> None:
    """The twin that must fail: the same function with one sign of one comparison changed."""
    off = ("amounts[i] > limits[leg]", "amounts[i] >= limits[leg]")
    with broken_function(world.connection, statements.ADMIT, *off), pytest.raises(AssertionError):
        run_machine(world, 2000, [Phase.generate])


def test_the_machine_notices_a_raise_that_does_not_end(world: World) -> None:
    """The twin that must fail: admission that forgets to look at the raise's last moment."""
    forgets = ("CASE WHEN p.raised_until > at THEN p.raised_nanos ELSE 0 END", "p.raised_nanos")
    story = type("Machine", (BudgetsAndLedger,), {"world": world})()

    def raised_and_over() -> None:
        story.raise_a_limit(which=1, amount=500, hours=2)
        story.hold_what_is_left(desk=0, legs=[2], off_by=0)
        story.settle(pick=0, kind="below", by=200)
        story.time_passes(hours=3)
        story.hold_what_is_left(desk=0, legs=[2], off_by=1)

    with broken_function(world.connection, statements.ADMIT, *forgets), pytest.raises(AssertionError):
        raised_and_over()
    assert [breach.rule for breach in check(collect(world.connection, [story.purse.tenant_id]))] == ["I1"]
