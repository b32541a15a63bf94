"""The commands that move a limit: thin over adjustments.py, one clear sentence for what is refused."""

import io

import pytest
from django.core.management import CommandError, call_command

from governance.audit.models import AuditEvent
from governance.budgets.limits import set_budget
from governance.budgets.models import Budget
from governance.core.money import usd_to_nanos
from governance.ledger.models import Adjustment, BudgetPeriod, limit_now
from tenants.models import Tenant
from tenants.scope import platform_scope
from tests.harness import make_tenant
from tests.tenants.makers import make_team


def run(*arguments: str) -> str:
    output = io.StringIO()
    call_command(*arguments, stdout=output)
    return output.getvalue().strip()


@pytest.fixture
def tenant() -> Tenant:
    return make_tenant("10").tenant


def of_team(tenant: Tenant, name: str, usd: str) -> Budget:
    team = make_team(tenant, name)
    with platform_scope():
        return set_budget(
            tenant, scope="team", ref=str(team.pk), period="month", limit_nanos=usd_to_nanos(usd), name=name
        )


def limit(budget: Budget, subject: str = "") -> int:
    with platform_scope():
        rows = BudgetPeriod.objects.filter(budget_id=budget.pk, subject=subject)
        return int(rows.annotate(now_nanos=limit_now()).get().now_nanos)


def test_top_up_adds_to_the_current_period_and_is_remembered(tenant: Tenant) -> None:
    budget = of_team(tenant, "Search", "5")
    said = run(
        "top_up", "--tenant", tenant.slug, "--budget", "Search", "--usd", "2.50", "--reason", "invoice 7"
    )
    assert said == "Search: $2.50 more in its current period."
    assert limit(budget) == usd_to_nanos("7.50")
    with platform_scope():
        fact = Adjustment.objects.get(budget_id=budget.pk)
    assert (fact.reason, fact.actor_name) == ("invoice 7", "manage.py top_up")
    assert AuditEvent.objects.filter(tenant_id=tenant.pk, action="budget.top_up").count() == 1


def test_raise_limit_raises_until_a_moment_and_ends_when_told(tenant: Tenant) -> None:
    budget = of_team(tenant, "Search", "5")
    run("top_up", "--tenant", tenant.slug, "--budget", "Search", "--usd", "1", "--reason", "a row to look at")
    common = ["raise_limit", "--tenant", tenant.slug, "--budget", str(budget.pk), "--reason", "launch"]
    assert "$3.00 more until" in run(*common, "--by-usd", "3", "--until", "2027-01-01T00:00")
    assert limit(budget) == usd_to_nanos("9")
    with pytest.raises(CommandError, match="raised already"):
        run(*common, "--by-usd", "1", "--until", "2027-01-01T00:00")
    run(*common, "--end")
    assert limit(budget) == usd_to_nanos("6")


def test_transfer_moves_what_is_not_spent_and_no_more(tenant: Tenant) -> None:
    search, ads = of_team(tenant, "Search", "5"), of_team(tenant, "Ads", "1")
    common = ["transfer", "--tenant", tenant.slug, "--from", "Search", "--to", "Ads", "--reason", "campaign"]
    assert run(*common, "--usd", "2") == "$2.00 moved from Search to Ads."
    assert (limit(search), limit(ads)) == (usd_to_nanos("3"), usd_to_nanos("3"))
    with pytest.raises(CommandError, match=r"can give \$3\.00"):
        run(*common, "--usd", "4")


def test_one_pot_of_a_budget_on_each_is_named_as_people_name_it(tenant: Tenant) -> None:
    team = make_team(tenant, "Search")
    with platform_scope():
        budget = set_budget(
            tenant, scope="team", each=True, subjects_max=9, period="day", limit_nanos=10**9, name="Each team"
        )
    run(
        "top_up", "--tenant", tenant.slug, "--budget", "Each team", "--subject", "Search", "--usd", "1",
        "--reason", "demo day",
    )  # fmt: skip
    assert limit(budget, str(team.pk)) == 2 * 10**9


@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [
        ("top_up", ["--budget", "Nowhere", "--usd", "1"], "no open budget"),
        ("top_up", ["--budget", "Search", "--usd", "lots"], "lots"),
        ("top_up", ["--budget", "Search", "--usd", "0"], "above zero"),
        ("raise_limit", ["--budget", "Search", "--by-usd", "1"], "until when"),
        ("raise_limit", ["--budget", "Search", "--by-usd", "1", "--until", "soon"], "2026-12-24T18:00"),
        ("raise_limit", ["--budget", "Search", "--end"], "No raise is running"),
        ("transfer", ["--from", "Search", "--to", "Search", "--usd", "1"], "another budget"),
    ],
)
def test_what_cannot_be_done_is_one_clear_sentence(
    tenant: Tenant, command: str, arguments: list[str], sentence: str
) -> None:
    of_team(tenant, "Search", "5")
    with pytest.raises(CommandError, match=sentence):
        run(command, "--tenant", tenant.slug, *arguments, "--reason", "because")


def test_the_budget_of_another_tenant_is_not_found(tenant: Tenant) -> None:
    others = of_team(make_tenant().tenant, "Theirs", "5")
    for reference in ("Theirs", str(others.pk)):
        with pytest.raises(CommandError, match="no open budget"):
            run("top_up", "--tenant", tenant.slug, "--budget", reference, "--usd", "1", "--reason", "x")
