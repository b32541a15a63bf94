"""Tenants, budgets, credentials, contract prices, members and accounts in the browser."""

import re

import pytest
from django.contrib.auth.models import User

from governance.audit.models import AuditEvent
from governance.budgets.models import Budget
from governance.ledger.models import BudgetPeriod
from governance.pricing.models import ContractPrice
from tenants.credentials import open_credential
from tenants.models import Membership, ProviderCredential, Team, Tenant
from tests.console.cast import House, browser, operator
from tests.tenants.makers import make_user

CLAUDE_KEY = "sk-ant-api03-planted-in-a-form-9x7z"


def budget_form(house: House, **changes: object) -> dict[str, object]:
    return {
        "tenant": house.tenant.pk,
        "scope": "key",
        "each": "",
        "team": "",
        "key": house.key.key.pk,
        "named": "",
        "models": "",
        "period": "day",
        "week_start": "",
        "zone": "",
        "cap": "",
        "limit_usd": "2.50",
        "enforcement": "hard",
        "name": "",
        "alerts": "50, 90",
    } | changes


def budgets_of(house: House) -> list[Budget]:
    return list(Budget._base_manager.filter(tenant=house.tenant).order_by("pk"))


def test_a_tenant_is_made_with_its_hard_budget() -> None:
    name = f"New {make_user().username}"
    form = {"name": name, "time_zone": "Europe/Berlin", "monthly_limit_usd": "1,250.75"}
    assert operator().post("/admin/tenants/tenant/add/", form).status_code == 302
    tenant = Tenant._base_manager.get(name=name)
    budget = Budget._base_manager.get(tenant=tenant)
    assert (budget.scope, budget.period, budget.enforcement) == ("tenant", "month", "hard")
    assert (budget.limit_nanos, budget.time_zone) == (1_250_750_000_000, "Europe/Berlin")


@pytest.mark.parametrize("limit", ["", "-1", "lots", "0.0000000001", "1e30", "NaN"])
def test_a_tenant_without_a_proper_limit_is_not_made(limit: str) -> None:
    name = f"New {make_user().username}"
    form = {"name": name, "time_zone": "UTC", "monthly_limit_usd": limit}
    assert operator().post("/admin/tenants/tenant/add/", form).status_code == 200
    assert not Tenant._base_manager.filter(name=name).exists()


def test_only_operators_make_tenants_or_change_their_status(alice: House) -> None:
    owner = browser(alice.person("owner"))
    form = {"name": "x", "time_zone": "UTC", "monthly_limit_usd": "1"}
    assert owner.post("/admin/tenants/tenant/add/", form).status_code == 403
    change = f"/admin/tenants/tenant/{alice.tenant.pk}/change/"
    owner.post(change, {"name": alice.canary, "time_zone": "Asia/Tokyo", "status": "closed"})
    tenant = Tenant._base_manager.get(pk=alice.tenant.pk)
    assert (tenant.status, tenant.time_zone) == ("active", "Asia/Tokyo")
    paused = {"name": alice.canary, "time_zone": "UTC", "status": "paused", "status_reason": "unpaid"}
    assert operator().post(change, paused).status_code == 302
    tenant.refresh_from_db()
    assert (tenant.status, tenant.status_reason) == ("paused", "unpaid")
    event = AuditEvent.objects.filter(tenant_id=tenant.pk, action="tenant.change").first()
    assert event.after["status"] == "paused"


def test_a_team_is_made_in_a_tenant_that_one_manages(alice: House, bob: House) -> None:
    client = browser(alice.person("admin"))
    assert (
        client.post("/admin/tenants/team/add/", {"tenant": bob.tenant.pk, "name": "Spies"}).status_code == 200
    )
    assert (
        client.post("/admin/tenants/team/add/", {"tenant": alice.tenant.pk, "name": "Search"}).status_code
        == 302
    )
    assert Team._base_manager.get(name="Search", tenant=alice.tenant).slug == "search"
    assert not Team._base_manager.filter(name="Spies").exists()


def test_a_budget_is_set_changed_and_closed(alice: House) -> None:
    client = browser(alice.person("admin"))
    assert client.post("/admin/budgets/budget/add/", budget_form(alice)).status_code == 302
    budget = budgets_of(alice)[-1]
    assert (budget.scope, budget.scope_ref, budget.period) == ("key", str(alice.key.key.pk), "day")
    assert (budget.limit_nanos, budget.alert_percents) == (2_500_000_000, [50, 90])
    change = {"limit_usd": "7", "name": "Seven a day", "alerts": "80"}
    assert client.post(f"/admin/budgets/budget/{budget.pk}/change/", change).status_code == 302
    budget.refresh_from_db()
    assert (budget.limit_nanos, budget.name, budget.alert_percents) == (7_000_000_000, "Seven a day", [80])
    assert client.post(f"/admin/budgets/budget/{budget.pk}/close/").status_code == 302
    budget.refresh_from_db()
    assert budget.closed_at is not None
    actions = AuditEvent.objects.filter(target_type="budgets.budget", target_id=str(budget.pk))
    assert [event.action for event in actions] == ["budget.close", "budget.change", "budget.create"]


def test_adding_a_budget_never_changes_one_that_is_there(alice: House) -> None:
    form = budget_form(alice, scope="team", team=alice.team.pk, key="", limit_usd="1")
    answer = browser(alice.person("admin")).post("/admin/budgets/budget/add/", form)
    assert "change its limit instead" in answer.content.decode()
    assert Budget._base_manager.get(pk=alice.budget.pk).limit_nanos == alice.budget.limit_nanos


def test_a_lowered_limit_is_in_force_in_the_live_period(alice: House) -> None:
    client = browser(alice.person("admin"))
    change = {"limit_usd": "1", "name": "x", "alerts": ""}
    assert client.post(f"/admin/budgets/budget/{alice.budget.pk}/change/", change).status_code == 302
    period = BudgetPeriod._base_manager.get(pk=alice.period.pk)
    assert period.limit_nanos == 1_000_000_000
    assert period.ceiling_nanos == period.spent_nanos + period.held_nanos


def test_the_last_wall_of_a_tenant_stays(alice: House) -> None:
    wall = next(budget for budget in budgets_of(alice) if budget.scope == "tenant")
    answer = browser(alice.person("owner")).post(f"/admin/budgets/budget/{wall.pk}/close/")
    assert "only hard budget" in answer.content.decode()
    wall.refresh_from_db()
    assert wall.closed_at is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit_usd": "-3"},
        {"limit_usd": "many"},
        {"key": ""},
        {"scope": "team"},
        {"scope": "session"},
        {"period": "fortnight"},
        {"alerts": "0"},
        {"alerts": "half"},
        {"enforcement": "medium"},
    ],
)
def test_a_wrong_budget_is_explained_on_the_form(alice: House, wrong: dict[str, object]) -> None:
    before = len(budgets_of(alice))
    answer = browser(alice.person("admin")).post("/admin/budgets/budget/add/", budget_form(alice, **wrong))
    assert answer.status_code == 200
    assert answer.context["errors"]
    assert len(budgets_of(alice)) == before


def test_no_budget_crosses_tenants(alice: House, bob: House) -> None:
    before = len(budgets_of(bob)), len(budgets_of(alice))
    for client in (browser(alice.person("owner")), operator()):
        for form in (
            budget_form(alice, key=bob.key.key.pk),
            budget_form(alice, scope="team", team=bob.team.pk),
            budget_form(bob, key=alice.key.key.pk),
        ):
            assert client.post("/admin/budgets/budget/add/", form).status_code == 200
    assert (len(budgets_of(bob)), len(budgets_of(alice))) == before


def test_leads_and_viewers_set_no_budgets(alice: House) -> None:
    for client in (browser(alice.person("lead", in_team=True)), browser(alice.person("viewer"))):
        assert client.post("/admin/budgets/budget/add/", budget_form(alice)).status_code == 403
        change = f"/admin/budgets/budget/{alice.budget.pk}/change/"
        assert client.get(change).status_code == 200
        assert client.post(change, {"limit_usd": "9999", "name": "x"}).status_code == 403
        assert client.post(f"/admin/budgets/budget/{alice.budget.pk}/close/").status_code == 403


def test_a_credential_goes_in_and_never_comes_out(alice: House) -> None:
    client = browser(alice.person("admin"))
    form = {"tenant": alice.tenant.pk, "label": "fresh", "claude_key": CLAUDE_KEY}
    answer = client.post("/admin/tenants/providercredential/add/", form)
    assert answer.status_code == 302
    row = ProviderCredential._base_manager.get(tenant=alice.tenant, label="fresh")
    opened = open_credential(row.tenant_id, row.pk, row.encryption_key_id, bytes(row.ciphertext))
    assert opened == CLAUDE_KEY
    pages = [
        client.get("/admin/tenants/providercredential/").content.decode(),
        client.get(f"/admin/tenants/providercredential/{row.pk}/change/").content.decode(),
    ]
    assert all("9x7z" in page for page in pages)
    assert not any(CLAUDE_KEY in page or "planted" in page for page in pages)
    assert client.post(f"/admin/tenants/providercredential/{row.pk}/disable/").status_code == 302
    row.refresh_from_db()
    assert row.disabled_at is not None


def test_a_refused_credential_form_does_not_echo_the_secret(alice: House) -> None:
    form = {"tenant": alice.tenant.pk, "label": "", "claude_key": CLAUDE_KEY}
    answer = browser(alice.person("admin")).post("/admin/tenants/providercredential/add/", form)
    assert answer.status_code == 200
    assert CLAUDE_KEY not in answer.content.decode()
    assert "claude_key" in answer.wsgi_request.sensitive_post_parameters


def test_only_the_operator_adds_a_credential_for_everybody(alice: House) -> None:
    form = {"tenant": "", "label": f"{alice.canary}-all", "claude_key": CLAUDE_KEY}
    for client in (browser(alice.person("owner")), browser(alice.person("viewer"))):
        assert client.post("/admin/tenants/providercredential/add/", form).status_code in (200, 403)
    assert not ProviderCredential._base_manager.filter(label=form["label"]).exists()
    assert operator().post("/admin/tenants/providercredential/add/", form).status_code == 302
    ProviderCredential._base_manager.get(label=form["label"], tenant=None).delete()


def test_only_operators_agree_on_prices_and_end_them(alice: House, bob: House) -> None:
    form = {"tenant": alice.tenant.pk, "model_id": "*", "discount_percent": "50", "note": "gift"}
    owner = browser(alice.person("owner"))
    assert owner.post("/admin/pricing/contractprice/add/", form).status_code == 403
    assert owner.post(f"/admin/pricing/contractprice/{alice.contract.pk}/end/").status_code == 403
    client = operator()
    overlapping = client.post("/admin/pricing/contractprice/add/", form)
    assert "Another contract price covers part of that time" in overlapping.content.decode()
    assert client.post(f"/admin/pricing/contractprice/{alice.contract.pk}/end/").status_code == 302
    assert client.post("/admin/pricing/contractprice/add/", form).status_code == 302
    price = ContractPrice._base_manager.get(tenant=alice.tenant, note="gift")
    assert price.discount_ppm == 500_000


def test_members_are_added_by_operators_and_changed_by_owners(alice: House, bob: House) -> None:
    user = make_user("newcomer")
    add = {"user": user.pk, "tenant": alice.tenant.pk, "team": "", "role": "viewer"}
    assert browser(alice.person("owner")).post("/admin/tenants/membership/add/", add).status_code == 403
    assert operator().post("/admin/tenants/membership/add/", add | {"role": "lead"}).status_code == 200
    mixed = operator().post("/admin/tenants/membership/add/", add | {"team": bob.team.pk, "role": "lead"})
    assert "is a team of another tenant" in mixed.content.decode()
    assert operator().post("/admin/tenants/membership/add/", add).status_code == 302
    row = Membership._base_manager.get(user=user)
    change = f"/admin/tenants/membership/{row.pk}/change/"
    assert browser(alice.person("admin")).post(change, {"role": "owner"}).status_code == 403
    assert browser(alice.person("owner")).post(change, {"role": "admin"}).status_code == 302
    row.refresh_from_db()
    assert row.role == "admin"
    delete = f"/admin/tenants/membership/{row.pk}/delete/"
    assert browser(alice.person("admin")).post(delete, {"post": "yes"}).status_code == 403
    assert browser(alice.person("owner")).post(delete, {"post": "yes"}).status_code == 302
    assert not Membership._base_manager.filter(user=user).exists()
    events = AuditEvent.objects.filter(tenant_id=alice.tenant.pk, action__startswith="membership.")
    assert [event.action for event in events] == [
        "membership.remove",
        "membership.change",
        "membership.add",
    ]


def test_accounts_are_audited_without_their_passwords() -> None:
    name = f"account-{make_user().username}"
    password = "correct-horse-battery-7"
    form = {"username": name, "password1": password, "password2": password, "usable_password": "true"}
    assert operator().post("/admin/auth/user/add/", form).status_code == 302
    user = User.objects.get(username=name)
    changed = {"password1": password + "x", "password2": password + "x", "usable_password": "true"}
    assert operator().post(f"/admin/auth/user/{user.pk}/password/", changed).status_code == 302
    events = AuditEvent.objects.filter(target_type="auth.user", target_id=str(user.pk))
    assert [event.action for event in events] == ["user.password", "user.add"]
    assert not any(re.search("horse|pbkdf2|argon2", f"{event.before} {event.after}") for event in events)
