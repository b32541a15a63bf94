"""Budgets in the browser: every scope and period, moving limits, pots of an `each` budget, requests."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from governance.audit.events import Actor
from governance.budgets.adjustments import top_up
from governance.budgets.limits import set_budget
from governance.budgets.models import Budget, IncreaseRequest
from governance.budgets.requests import ask_for_more
from governance.console.budget_page import PERIODS_SHOWN
from governance.ledger.models import Adjustment, BudgetPeriod
from tenants.scope import platform_scope
from tests.console.cast import House, browser
from tests.console.test_rules_pages import budget_form, budgets_of

ADD = "/admin/budgets/budget/add/"
REQUESTS = "/admin/budgets/increaserequest/"


def page_of(budget: Budget, action: str = "change") -> str:
    return f"/admin/budgets/budget/{budget.pk}/{action}/"


def errors_in(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def wall_of(house: House) -> Budget:
    return next(budget for budget in budgets_of(house) if budget.scope == "tenant")


def each_user(house: House, **options: Any) -> Budget:
    with platform_scope():
        return set_budget(
            house.tenant,
            scope="end_user",
            each=True,
            period="month",
            limit_nanos=1_000_000_000,
            name=f"{house.canary}-each",
            **options,
        )


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"scope": "end_user", "key": "", "named": "ann"}, {"scope_ref": "ann", "each": False}),
        ({"scope": "end_user", "key": "", "each": "on", "cap": "7"}, {"each": True, "subjects_max": 7}),
        ({"scope": "tag", "key": "", "named": "feature = search"}, {"scope_ref": "feature=search"}),
        (
            {"scope": "tag", "key": "", "named": "feature", "each": "on"},
            {"scope_ref": "feature", "each": True},
        ),
        ({"scope": "session", "key": "", "each": "on"}, {"scope_ref": ""}),
        ({"scope": "key", "key": "", "each": "on"}, {"scope_ref": "", "each": True}),
        ({"models": "opus, haiku"}, {"models_only": ["haiku", "opus"]}),
        ({"period": "week", "week_start": "6"}, {"week_starts_on": 6}),
        ({"period": "quarter", "zone": "Asia/Tokyo"}, {"time_zone": "Asia/Tokyo", "period": "quarter"}),
    ],
)
def test_every_scope_and_period_can_be_set_in_the_form(
    alice: House, fields: dict[str, str], kept: dict[str, Any]
) -> None:
    answer = browser(alice.person("admin")).post(ADD, budget_form(alice, **fields))
    assert answer.status_code == 302, errors_in(answer.content.decode())[:3_000]
    budget = budgets_of(alice)[-1]
    assert {name: getattr(budget, name) for name in kept} == kept


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"scope": "end_user", "key": ""}, "Say which one"),
        ({"scope": "end_user", "named": "ann"}, "the budget is on something else"),
        ({"scope": "tenant", "key": "", "each": "on"}, "A budget on each tenant cannot be"),
        ({"scope": "tag", "key": "", "named": "feature"}, "write it like feature=search"),
        ({"scope": "tag", "key": "", "named": "feature=x", "each": "on"}, "without a value"),
        ({"models": "claude-opsu"}, "neither a model with a price nor a tier"),
        ({"week_start": "6"}, "Only a week has a first day"),
        ({"cap": "5"}, "Only a budget on each subject has a cap"),
        ({"budget": "12", "limit": "1"}, "This form cannot set budget, limit"),
    ],
)
def test_a_combination_that_cannot_be_is_one_clear_sentence(
    alice: House, fields: dict[str, str], words: str
) -> None:
    """cases A10: nothing that was filled in is dropped without a word."""
    before = budgets_of(alice)
    answer = browser(alice.person("admin")).post(ADD, budget_form(alice, **fields))
    assert answer.status_code == 200
    assert words in errors_in(answer.content.decode())
    assert budgets_of(alice) == before


def test_a_budget_on_some_models_stands_beside_the_one_on_all(alice: House) -> None:
    client = browser(alice.person("admin"))
    assert client.post(ADD, budget_form(alice)).status_code == 302
    assert client.post(ADD, budget_form(alice, models="opus")).status_code == 302
    again = client.post(ADD, budget_form(alice, models="opus"))
    assert "is such a budget already" in again.content.decode()
    assert "opus only" in client.get("/admin/budgets/budget/").content.decode()


def test_an_admin_tops_up_raises_and_ends_a_raise(alice: House) -> None:
    client, budget = browser(alice.person("admin")), alice.budget
    assert client.post(page_of(budget, "top-up"), {"amount_usd": "5", "reason": "launch"}).status_code == 302
    until = datetime.now(UTC) + timedelta(days=1)
    raised = {"amount_usd": "2", "until": until.strftime("%Y-%m-%dT%H:%M"), "reason": "a demo"}
    assert client.post(page_of(budget, "raise"), raised).status_code == 302
    html = client.get(page_of(budget)).content.decode()
    assert "raised by $2.00 until" in html
    assert "launch" in html
    assert "$107.00" in html  # 100, topped up and raised
    assert client.post(page_of(budget, "end-raise"), {"reason": "no demo"}).status_code == 302
    html = client.get(page_of(budget)).content.decode()
    assert "$105.00" in html
    assert "$107.00" not in html
    again = client.post(page_of(budget, "end-raise"), {"reason": "again"})
    assert "No raise is running" in again.content.decode()


def test_an_admin_transfers_between_two_budgets_and_both_pages_say_so(alice: House) -> None:
    client, source, target = browser(alice.person("admin")), alice.budget, wall_of(alice)
    form = {"amount_usd": "10", "to": target.pk, "to_subject": "", "reason": f"{alice.canary}-move"}
    assert client.post(page_of(source, "transfer"), form).status_code == 302
    for budget in (source, target):
        assert f"{alice.canary}-move" in client.get(page_of(budget)).content.decode()
    too_much = client.post(page_of(source, "transfer"), form | {"amount_usd": "1000"})
    assert "can give" in too_much.content.decode()
    assert target.name in client.get(page_of(source)).content.decode()
    # Who sees one budget only is not told the name of the other.
    lead = browser(alice.person("lead", in_team=True)).get(page_of(source)).content.decode()
    assert f"{alice.canary}-move" in lead
    assert target.name not in lead


def test_a_transfer_reaches_no_budget_of_another_tenant(alice: House, bob: House) -> None:
    form = {"amount_usd": "1", "to": bob.budget.pk, "to_subject": "", "reason": "theft"}
    answer = browser(alice.person("owner")).post(page_of(alice.budget, "transfer"), form)
    assert answer.status_code == 200
    assert not Adjustment._base_manager.filter(tenant_id__in=[alice.tenant.pk, bob.tenant.pk]).exists()


@pytest.mark.parametrize(("role", "in_team"), [("viewer", False), ("lead", True), ("viewer", True)])
def test_who_only_looks_moves_no_limit(alice: House, role: str, in_team: bool) -> None:
    client = browser(alice.person(role, in_team=in_team))
    until = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M")
    form = {"amount_usd": "5", "reason": "mine", "until": until, "to": wall_of(alice).pk, "to_subject": ""}
    for action in ("top-up", "raise", "end-raise", "transfer", "close"):
        assert client.post(page_of(alice.budget, action), form).status_code == 403, action
    assert not Adjustment._base_manager.filter(tenant_id=alice.tenant.pk).exists()
    html = client.get(page_of(alice.budget)).content.decode()
    assert "/ask/" in html
    assert "/top-up/" not in html


def test_a_lead_asks_an_admin_approves_and_both_see_it(alice: House) -> None:
    lead, admin = browser(alice.person("lead", in_team=True)), browser(alice.person("admin"))
    asked = lead.post(page_of(alice.budget, "ask"), {"amount_usd": "30", "reason": "two more weeks"})
    assert asked.status_code == 302
    request = IncreaseRequest._base_manager.get(budget=alice.budget)
    assert "1 open request" in admin.get(page_of(alice.budget)).content.decode()
    for client in (lead, admin):
        assert "two more weeks" in client.get(REQUESTS).content.decode()
    answer = {"granted": "top_up", "amount_usd": "20", "until": "", "answer": "twenty will do"}
    assert lead.post(f"{REQUESTS}{request.pk}/approve/", answer).status_code == 403
    assert admin.post(f"{REQUESTS}{request.pk}/approve/", answer).status_code == 302
    html = lead.get(f"{REQUESTS}{request.pk}/change/").content.decode()
    assert "twenty will do" in html
    assert "$20.00, top up this period" in html
    period = BudgetPeriod._base_manager.get(pk=alice.period.pk)
    assert period.limit_nanos == 120_000_000_000
    again = admin.post(f"{REQUESTS}{request.pk}/approve/", answer)
    assert "has approved this request already" in again.content.decode()


def test_a_denied_request_tells_its_asker_why(alice: House) -> None:
    lead, admin = browser(alice.person("lead", in_team=True)), browser(alice.person("admin"))
    lead.post(page_of(alice.budget, "ask"), {"amount_usd": "30", "reason": "more"})
    request = IncreaseRequest._base_manager.get(budget=alice.budget)
    url = f"{REQUESTS}{request.pk}/deny/"
    assert lead.post(url, {"answer": "yes"}).status_code == 403
    assert admin.post(url, {"answer": ""}).status_code == 200
    assert admin.post(url, {"answer": "the year is closed"}).status_code == 302
    assert "the year is closed" in lead.get(REQUESTS).content.decode()


def test_requests_on_budgets_that_one_does_not_see_are_not_shown(alice: House) -> None:
    with platform_scope():
        ask_for_more(wall_of(alice), amount_nanos=1, reason="on the wall", actor=Actor("viewer", user_id=1))
    assert "on the wall" in browser(alice.person("viewer")).get(REQUESTS).content.decode()
    member = browser(alice.person("viewer", in_team=True)).get(REQUESTS).content.decode()
    assert "on the wall" not in member
    assert "Nobody asks for more" in member


def test_the_pots_of_an_each_budget_are_paged_and_found(alice: House) -> None:
    budget, client = each_user(alice), browser(alice.person("viewer"))
    assert "No call has been charged" in client.get(page_of(budget)).content.decode()
    with platform_scope():
        for number in range(PERIODS_SHOWN + 5):
            top_up(budget, amount_nanos=1, subject=f"user-{number:03}", reason="x")
    first = client.get(page_of(budget)).content.decode()
    assert "user-028" in first
    older = re.search(r'href="\?(before=\d+)"', first)
    assert older is not None
    second = client.get(f"{page_of(budget)}?{older[1]}").content.decode()
    shown = [set(re.findall(r"<td>(user-\d+)</td>", html)) for html in (first, second)]
    assert len(shown[0]) == PERIODS_SHOWN
    assert shown[0] | shown[1] == {f"user-{number:03}" for number in range(PERIODS_SHOWN + 5)}
    assert not shown[0] & shown[1]
    one = client.get(f"{page_of(budget)}?subject=user-003").content.decode()
    assert set(re.findall(r"<td>(user-\d+)</td>", one)) == {"user-003"}
    assert "“nobody” has no pot" in client.get(f"{page_of(budget)}?subject=nobody").content.decode()
    assert "fullest of 29" in client.get("/admin/budgets/budget/").content.decode()


def test_the_cap_of_an_each_budget_can_be_changed(alice: House) -> None:
    budget, client = each_user(alice), browser(alice.person("admin"))
    change = {"limit_usd": "1", "name": "Each", "alerts": "", "cap": "12"}
    fixed = client.post(page_of(budget), change | {"period": "day"})
    assert "This form cannot set period" in errors_in(fixed.content.decode())
    assert client.post(page_of(budget), change).status_code == 302
    budget.refresh_from_db()
    assert (budget.subjects_max, budget.each, budget.scope_ref) == (12, True, "")


def test_the_pots_of_keys_and_teams_go_by_their_names(alice: House, bob: House) -> None:
    with platform_scope():
        budget = set_budget(alice.tenant, scope="key", each=True, period="day", limit_nanos=1_000_000_000)
    client, key = browser(alice.person("admin")), alice.key.key
    form = {"amount_usd": "5", "reason": "launch"}
    assert client.post(page_of(budget, "top-up"), form | {"subject": key.public_id}).status_code == 302
    row = BudgetPeriod._base_manager.get(budget_id=budget.pk)
    assert row.subject == str(key.lineage_id)
    html = client.get(f"{page_of(budget)}?subject={key.public_id}").content.decode()
    assert f"<td>{key.name}</td>" in html
    for stranger in (bob.key.key.public_id, "nonsense"):
        answer = client.post(page_of(budget, "top-up"), form | {"subject": stranger})
        assert answer.status_code == 200
        assert "No key has the id" in errors_in(answer.content.decode())
        assert bob.key.key.name not in answer.content.decode()
    assert BudgetPeriod._base_manager.filter(budget_id=budget.pk).count() == 1
