"""Setting budgets, and the period rows that follow."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from governance.audit.models import AuditEvent
from governance.budgets.limits import BudgetRefused, close_budget, set_budget
from governance.budgets.models import Budget
from governance.budgets.periods import BudgetClosed, PeriodRow, PeriodRows
from governance.budgets.terms import LOAD_TERMS, BudgetTerms, Leg, covering, has_tenant_wall, terms_from_row
from governance.ledger.models import BudgetPeriod
from tenants.models import Tenant
from tenants.scope import platform_scope
from tenants.tenants import create_team, create_tenant

_names = itertools.count()


@pytest.fixture
def tenant() -> Tenant:
    with platform_scope():
        tenant = create_tenant(f"Alice {next(_names)}", time_zone="Europe/Berlin")
        set_budget(tenant, scope="tenant", period="month", limit_nanos=100)
    return tenant


def terms(connection: psycopg.Connection[Any], tenant: Tenant) -> list[BudgetTerms]:
    return [terms_from_row(row) for row in connection.execute(LOAD_TERMS, [tenant.pk])]


def legs(connection: psycopg.Connection[Any], tenant: Tenant) -> list[Leg]:
    return [Leg(budget) for budget in terms(connection, tenant)]


def ensure(rows: PeriodRows, legs: list[Leg]) -> tuple[PeriodRow, ...]:
    async def run() -> tuple[PeriodRow, ...]:
        async with await psycopg.AsyncConnection.connect(
            settings.DATABASE_URL, autocommit=True
        ) as connection:
            return await rows.ensure(connection, legs)

    return asyncio.run(run())


def test_setting_a_budget_twice_changes_its_limit_and_says_so_in_the_audit_trail(tenant: Tenant) -> None:
    with platform_scope():
        budget = set_budget(tenant, scope="tenant", period="month", limit_nanos=250)
        assert Budget.objects.filter(tenant=tenant).count() == 1
        event = AuditEvent.objects.filter(target_id=str(budget.pk), action="budget.change").get()
    assert (event.before, event.after) == ({"limit": "$0.0000001"}, {"limit": "$0.00000025"})


def test_a_changed_limit_is_in_force_in_the_live_period(app_connection: Any, tenant: Tenant) -> None:
    [known] = ensure(PeriodRows(), legs(app_connection, tenant))
    app_connection.execute(
        "UPDATE ledger_budgetperiod SET spent_nanos = 40, held_nanos = 50 WHERE id = %s", [known.id]
    )
    with platform_scope():
        set_budget(tenant, scope="tenant", period="month", limit_nanos=50)
        row = BudgetPeriod.objects.get(pk=known.id)
    assert (row.limit_nanos, row.ceiling_nanos, row.left_nanos) == (50, 90, -40)


def test_the_only_hard_budget_of_a_tenant_cannot_be_closed(tenant: Tenant) -> None:
    with platform_scope():
        wall = Budget.objects.get(tenant=tenant)
        with pytest.raises(BudgetRefused, match="only hard budget"):
            close_budget(wall)
        set_budget(tenant, scope="tenant", period="day", limit_nanos=10)
        close_budget(wall)
        assert Budget.objects.get(pk=wall.pk).closed_at is not None


def test_a_budget_cannot_name_another_tenants_team(tenant: Tenant) -> None:
    with platform_scope():
        bob = create_tenant(f"Bob {next(_names)}")
        team = create_team(bob, "Search")
    with pytest.raises(BudgetRefused, match="has no team"):
        set_budget(tenant, scope="team", ref=str(team.pk), period="day", limit_nanos=1)


def test_the_period_of_a_budget_keeps_its_time_zone(tenant: Tenant) -> None:
    with pytest.raises(BudgetRefused, match="would overlap"):
        set_budget(tenant, scope="tenant", period="month", limit_nanos=1, time_zone="UTC")


def test_a_call_is_covered_by_the_budgets_of_its_tenant_its_team_and_its_key(
    app_connection: Any, tenant: Tenant
) -> None:
    with platform_scope():
        ours, theirs = create_team(tenant, "Ours"), create_team(tenant, "Theirs")
        for team in (ours, theirs):
            set_budget(tenant, scope="team", ref=str(team.pk), period="day", limit_nanos=1)
    all_terms = terms(app_connection, tenant)
    with_team = [leg.budget for leg in covering(all_terms, team_id=ours.pk, key_id=1).legs]
    assert [budget.scope_ref for budget in with_team] == ["", str(ours.pk)]
    alone = covering(all_terms, team_id=None, key_id=1)
    assert ([leg.budget.scope for leg in alone.legs], alone.by_call) == (["tenant"], ())
    assert has_tenant_wall(all_terms)
    assert not has_tenant_wall(with_team[1:])


def test_a_period_row_is_made_once_by_the_databases_clock_in_the_budgets_zone(
    app_connection: Any, tenant: Tenant
) -> None:
    rows = PeriodRows()
    budgets = legs(app_connection, tenant)
    assert rows.known(budgets, datetime.now(UTC)) is None
    first = ensure(rows, budgets)
    assert first == rows.known(budgets, datetime.now(UTC))
    assert [row.id for row in first] == [row.id for row in ensure(PeriodRows(), budgets)]
    assert first[0].period.starts_at.astimezone(UTC).hour in (22, 23)  # midnight in Berlin
    assert rows.known(budgets, datetime.now(UTC) + timedelta(days=40)) is None
    rows.forget(first[0])
    assert rows.known(budgets, datetime.now(UTC)) is None


def test_a_period_that_ended_is_forgotten_once_however_many_calls_say_so(
    app_connection: Any, tenant: Tenant
) -> None:
    rows = PeriodRows()
    budgets = legs(app_connection, tenant)
    [ended] = ensure(rows, budgets)
    rows.forget(ended)
    [again] = ensure(rows, budgets)
    rows.forget(ended)
    assert rows.known(budgets, datetime.now(UTC)) == (again,)


def test_rows_of_subjects_are_kept_up_to_a_number_the_longest_unused_goes_first(
    app_connection: Any, tenant: Tenant
) -> None:
    with platform_scope():
        budget = set_budget(tenant, scope="end_user", each=True, period="day", limit_nanos=10)
    [each] = [found for found in terms(app_connection, tenant) if found.id == budget.pk]
    ann, ben, eve, nobody = (Leg(each, user) for user in ("ann", "ben", "eve", ""))
    rows, now = PeriodRows(subject_rows_max=2), datetime.now(UTC)
    for leg in (nobody, ann, ben):
        ensure(rows, [leg])
    assert rows.known([ann], now) is not None
    made = ensure(rows, [eve])
    assert [leg for leg in (ann, ben, eve, nobody) if rows.known([leg], now) is None] == [ben]
    rows.forget(made[0])
    assert rows.known([eve], now) is None


def test_a_key_without_budgets_that_ask_who_is_calling_has_its_legs_ready(
    app_connection: Any, tenant: Tenant
) -> None:
    with platform_scope():
        set_budget(tenant, scope="key", each=True, period="day", limit_nanos=10)
    ready = covering(terms(app_connection, tenant), team_id=None, key_id=7)
    assert ([leg.subject for leg in ready.legs], ready.by_call) == (["", "7"], ())
    with platform_scope():
        set_budget(tenant, scope="tenant", period="day", models_only=["opus"], limit_nanos=10)
        set_budget(tenant, scope="team", each=True, period="day", limit_nanos=10)
    asked = covering(terms(app_connection, tenant), team_id=None, key_id=7)
    assert len(asked.by_call) == 1
    assert asked.legs[-1].subject == ""  # keys of no team share one pot


def test_a_second_wall_on_some_models_is_no_wall(tenant: Tenant) -> None:
    with platform_scope():
        set_budget(tenant, scope="tenant", period="day", models_only=["opus"], limit_nanos=10)
        wall = Budget.objects.get(tenant=tenant, period="month")
        with pytest.raises(BudgetRefused, match="only hard budget"):
            close_budget(wall)


def test_a_budget_on_each_needs_a_wall_above_it() -> None:
    with platform_scope():
        bare = create_tenant(f"Bare {next(_names)}")
        with pytest.raises(BudgetRefused, match="needs a hard budget above it"):
            set_budget(bare, scope="end_user", each=True, period="day", limit_nanos=10)
        assert not Budget.objects.filter(tenant=bare).exists()


def test_a_period_of_a_closed_budget_is_not_made(app_connection: Any, tenant: Tenant) -> None:
    with platform_scope():
        set_budget(tenant, scope="tenant", period="day", limit_nanos=10)
        budgets = legs(app_connection, tenant)
        close_budget(Budget.objects.get(tenant=tenant, period="day"))
    with pytest.raises(BudgetClosed):
        ensure(PeriodRows(), budgets)


def test_the_command_set_budget_says_what_it_did_and_what_is_wrong(tenant: Tenant) -> None:
    out = StringIO()
    arguments = ["--tenant", tenant.slug, "--scope", "tenant", "--period", "day", "--enforcement", "soft"]
    call_command("set_budget", *arguments, "--limit-usd", "12.50", stdout=out)
    assert out.getvalue().strip() == f"{tenant.name}, day: $12.50 a day, soft."
    with pytest.raises(CommandError, match="cannot be below zero"):
        call_command("set_budget", *arguments, "--limit-usd=-1")
    with pytest.raises(CommandError, match="more than nine decimals"):
        call_command("set_budget", *arguments, "--limit-usd", "0.0000000001")


def test_a_tenants_ledger_starts_at_zero(tenant: Tenant) -> None:
    out = StringIO()
    call_command("ledger_sum", "--tenant", tenant.slug, "--json", stdout=out)
    assert out.getvalue().strip() == '{"spent_usd": "0.00", "held_usd": "0.00", "calls": 0, "by_meter": {}}'
