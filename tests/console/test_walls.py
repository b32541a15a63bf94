"""No page of the console shows one tenant another's data: every page, every method, every role."""

from typing import Any

import pytest
from django.db.models import Manager
from django.test import Client
from django.urls import reverse

from governance.audit.events import Actor
from governance.audit.models import AuditEvent
from governance.budgets.models import IncreaseRequest
from governance.budgets.requests import ask_for_more
from governance.console import admin as _pages  # noqa: F401  registers them
from governance.console.site import console_site
from governance.ledger.models import LedgerEntry
from tenants.models import ApiKey, Membership
from tenants.scope import TenantScopedManager, platform_scope
from tests.console.cast import House, browser, operator
from tests.tenants.makers import make_user

ACTIONS = {
    "tenants.apikey": ["rotate", "revoke"],
    "tenants.providercredential": ["disable"],
    "budgets.budget": ["close", "top-up", "raise", "end-raise", "transfer", "ask"],
    "budgets.increaserequest": ["approve", "deny"],
    "tenants.pause": ["resume"],
    "limits.calllimit": ["lift"],
    "routing.routingpolicy": ["publish", "preview", "versions", "switch", "roll-back"],
    "pricing.contractprice": ["end"],
    "calls.call": ["credit"],
    "pricing.brokenbound": ["clear"],
    "pricing.refusedname": ["allow"],
    "pricing.seenname": ["refuse"],
}
SHARED = {"pricing.pricerow"}  # list prices are everybody's
OPERATORS_ONLY = {"auth.user", "pricing.brokenbound", "pricing.refusedname", "pricing.seenname"}


def rows_of(house: House) -> dict[str, Any]:
    """Model label → the id of a row of this house. A page without a case fails the crawl."""
    with platform_scope():
        return {
            "tenants.tenant": house.tenant.pk,
            "tenants.team": house.team.pk,
            "tenants.apikey": house.key.key.pk,
            "tenants.membership": Membership.objects.get(pk=house.person("viewer").memberships.get().pk).pk,
            "tenants.providercredential": house.credential.pk,
            "budgets.budget": house.budget.pk,
            "budgets.increaserequest": a_request(house).pk,
            "tenants.pause": house.pause.pk,
            "limits.calllimit": house.call_limit.pk,
            "routing.routingpolicy": house.policy.pk,
            "response_cache.cachepurge": house.purge.pk,
            "calls.call": house.call.pk,
            "ledger.ledgerentry": LedgerEntry.objects.get(call_id=house.call.pk).pk,
            "pricing.contractprice": house.contract.pk,
            "audit.auditevent": AuditEvent.objects.filter(tenant_id=house.tenant.pk).first().pk,
        }


def a_request(house: House) -> IncreaseRequest:
    found = IncreaseRequest.objects.filter(budget=house.budget).first()
    if found is not None:
        return found
    asker = Actor(f"{house.canary}-asker")
    return ask_for_more(house.budget, amount_nanos=1, reason=f"{house.canary}-reason", actor=asker)


def urls_of(label: str, pk: Any) -> list[str]:
    """Every address of a row."""
    name = "admin:" + label.replace(".", "_")
    change = reverse(f"{name}_change", args=[pk])
    pages = [change, reverse(f"{name}_history", args=[pk]), reverse(f"{name}_delete", args=[pk])]
    return pages + [change.replace("/change/", f"/{action}/") for action in ACTIONS.get(label, [])]


def lists_of(label: str) -> list[str]:
    url = reverse("admin:" + label.replace(".", "_") + "_changelist")
    return [url, f"{url}?q=a", reverse("admin:" + label.replace(".", "_") + "_add")]


def test_every_page_of_the_console_has_a_case(alice: House) -> None:
    registered = {model._meta.label_lower for model in console_site._registry}
    assert registered == set(rows_of(alice)) | SHARED | OPERATORS_ONLY
    with_actions = {
        model._meta.label_lower for model, page in console_site._registry.items() if page.actions_detail
    }
    assert with_actions == set(ACTIONS)


def leaks(client: Client, bob: House) -> list[str]:
    """Pages that show this client something of Bob's, whatever it asks of them."""
    found = []
    pages = [reverse("admin:index"), reverse("admin:search") + f"?s={bob.canary[:8]}"]
    pages.append(reverse("admin:calls_call_prompt_cache"))
    for label, pk in rows_of(bob).items():
        pages += lists_of(label) + urls_of(label, pk)
    for page in pages:
        for response in (client.get(page), client.post(page, {"reason": "x", "overlap_seconds": 0})):
            assert response.status_code < 500, page
            if bob.canary in response.content.decode() + str(response.headers):
                found.append(page)
    return found


@pytest.mark.parametrize(
    ("role", "in_team"),
    [("owner", False), ("admin", False), ("viewer", False), ("lead", True), ("viewer", True)],
)
def test_bobs_rows_are_nowhere_in_alices_console(alice: House, bob: House, role: str, in_team: bool) -> None:
    assert leaks(browser(alice.person(role, in_team=in_team)), bob) == []
    bobs_key = ApiKey._base_manager.get(pk=bob.key.key.pk)
    assert bobs_key.revoked_at is bobs_key.replaced_by_id is None


def test_the_crawl_finds_the_leak_when_the_tenant_filter_is_removed(
    alice: House, bob: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin that must fail: managers that know no scope."""
    monkeypatch.setattr(TenantScopedManager, "get_queryset", Manager.get_queryset)
    assert leaks(browser(alice.person("owner")), bob)


def test_the_crawl_would_find_a_leak(alice: House, bob: House) -> None:
    """The same pages do show Bob's canary to Bob: the crawl looks where the data is."""
    client = browser(bob.person("owner"))
    for label, pk in rows_of(bob).items():
        change = client.get(urls_of(label, pk)[0])
        assert bob.canary in change.content.decode(), label
        changelist = client.get(lists_of(label)[0])
        assert bob.canary in changelist.content.decode(), label
        assert alice.canary not in changelist.content.decode()


def test_an_operator_sees_every_tenant(alice: House, bob: House) -> None:
    page = operator().get(reverse("admin:tenants_apikey_changelist")).content.decode()
    assert alice.canary in page
    assert bob.canary in page


def test_charlie_who_belongs_to_nobody_gets_no_page(alice: House) -> None:
    charlie = browser(make_user("charlie"))
    for client in (charlie, Client()):
        for label, pk in rows_of(alice).items():
            for page in [reverse("admin:index"), *lists_of(label), *urls_of(label, pk)]:
                response = client.get(page)
                assert response.status_code == 302, page
                assert response.headers["location"].startswith("/admin/login/")


def test_charlie_cannot_sign_in_and_is_told_what_to_do() -> None:
    charlie = make_user("charlie")
    charlie.set_password("correct horse battery")
    charlie.save()
    answer = Client().post(
        "/admin/login/", {"username": charlie.username, "password": "correct horse battery"}
    )
    assert "belongs to no tenant yet" in answer.content.decode()
    assert "sessionid" not in answer.cookies


def test_a_member_signs_in_without_being_staff(alice: House) -> None:
    user = alice.person("viewer")
    user.is_staff = False
    user.set_password("correct horse battery")
    user.save()
    client = Client()
    answer = client.post("/admin/login/", {"username": user.username, "password": "correct horse battery"})
    assert answer.status_code == 302
    assert client.get("/admin/").status_code == 200


@pytest.mark.parametrize(
    "query", ["digest__startswith=a", "tenant__name__startswith=a", "pepper_id=p1", "created_by__password=x"]
)
def test_filters_that_no_page_offers_are_refused(alice: House, query: str) -> None:
    answer = browser(alice.person("owner")).get(reverse("admin:tenants_apikey_changelist") + f"?{query}")
    assert answer.status_code == 400


def test_a_member_of_one_team_sees_that_team_only(alice: House) -> None:
    from tests.tenants.makers import make_team

    other = make_team(alice.tenant, f"{alice.canary}-secretteam")
    client = browser(alice.person("viewer", in_team=True))
    teams = client.get(reverse("admin:tenants_team_changelist")).content.decode()
    assert f"{alice.canary}-team" in teams
    assert other.name not in teams
    budgets = client.get(reverse("admin:budgets_budget_changelist")).content.decode()
    assert f"{alice.canary}-budget" in budgets
    assert f"{alice.canary}-wall" not in budgets
    assert alice.canary in client.get(reverse("admin:calls_call_changelist")).content.decode()
    ledger = client.get(reverse("admin:ledger_ledgerentry_changelist")).content.decode()
    assert f"{alice.canary}-entry" not in ledger


def test_only_managers_open_credentials_and_the_audit_trail(alice: House) -> None:
    for page in ("admin:tenants_providercredential_changelist", "admin:audit_auditevent_changelist"):
        assert browser(alice.person("admin")).get(reverse(page)).status_code == 200
        for client in (
            browser(alice.person("viewer")),
            browser(alice.person("lead", in_team=True)),
        ):
            assert client.get(reverse(page)).status_code == 403


def test_only_operators_open_the_accounts(alice: House) -> None:
    url = reverse("admin:auth_user_changelist")
    assert operator().get(url).status_code == 200
    assert browser(alice.person("owner")).get(url).status_code == 403
    assert browser(alice.person("owner")).get(reverse("admin:auth_user_add")).status_code == 403
