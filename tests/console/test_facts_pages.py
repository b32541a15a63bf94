"""Calls, ledger, prices and the overview: what they show, and that they never count or change a fact."""

import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from governance.calls.models import Call
from governance.console.decision_words import decision_words
from governance.console.display import Bar, short_usd, window_text
from governance.core.ids import id_floor, uuid7
from governance.core.money import format_usd
from governance.core.periods import TOTAL_ENDS_AT, TOTAL_STARTS_AT
from governance.ledger.models import BudgetPeriod, LedgerEntry
from governance.routing.models import PolicyVersion
from governance.routing.policies import set_enabled
from tenants.scope import platform_scope
from tests.console.cast import COSTS, House, browser, make_call, operator
from tests.tenants.makers import make_member, make_tenant

CALLS = "/admin/calls/call/"
LEDGER = "/admin/ledger/ledgerentry/"
AUDIT = "/admin/audit/auditevent/"


def hours_ago(hours: int) -> UUID:
    moment = datetime.now(UTC) - timedelta(hours=hours)
    return UUID(int=id_floor(int(moment.timestamp() * 1000)).int | uuid7().int & ((1 << 62) - 1))


def test_a_calls_page_says_who_why_how_much_and_from_which_budget(alice: House) -> None:
    page = browser(alice.person("viewer")).get(f"{CALLS}{alice.call.pk}/change/").content.decode()
    total = format_usd(sum(COSTS.values()))
    for text in (
        total,
        *(format_usd(nanos) for nanos in COSTS.values()),
        "1,200",
        "560",
        f"{alice.canary}-key",
        f"{alice.canary}-team",
        f"{alice.canary}-budget",
        f"feature={alice.canary}",
        f"req_{alice.canary}",
        "served",
        "claude-haiku-5-5",
        "from the usage that Claude reported",
    ):
        assert text in page, text


def test_a_refused_calls_page_says_which_budget_and_how_much_was_left(alice: House) -> None:
    figures = {
        "budget_id": alice.budget.pk,
        "period_id": alice.period.pk,
        "limit_nanos": 10_000_000_000,
        "spent_nanos": 9_000_000_001,
        "held_nanos": 500_000_000,
        "needed_nanos": 700_000_000,
    }
    with platform_scope():
        refused = make_call(
            alice, outcome="refused", reason="budget_exhausted", decision={"refused": figures}
        )
    page = browser(alice.person("viewer")).get(f"{CALLS}{refused.pk}/change/").content.decode()
    for text in ("$0.70", "$0.499999999", "$9.000000001", "$0.50 held", f"{alice.canary}-budget"):
        assert text in page, text


def test_what_was_decided_of_a_call_is_told_in_words(alice: House) -> None:
    decided = {
        "cascade": "claude-haiku-5-5 (hedging)",
        "cascade_not": "claude-opus-5-5 (budget_exhausted)",
        "classified": "not (late)",
        "confidence": 70,
        "degraded_from": "claude-opus-5-5",
        "degrade_not": "claude-haiku-5-5 (some_new_reason)",
        "fallback_from": "claude-opus-5-5 (529), claude-sonnet-5-5 (unreachable)",
        "waited_ms": 1234,
        "of_a_newer_release": 5,
    }
    with platform_scope():
        call = make_call(alice, decision=decided)
    answer = browser(alice.person("viewer")).get(f"{CALLS}{call.pk}/change/")
    assert answer.context["decision"] == [
        ("First answer not good enough", "claude-haiku-5-5: it did not commit itself"),
        ("First answer kept, no better one", "claude-opus-5-5: a budget had no room for it"),
        ("How hard the message is", "none: the answer did not come in time"),
        ("How sure it was of its answer", "70 %"),
        ("Not made cheaper", "claude-haiku-5-5: some new reason"),
        ("Cheaper, for want of budget, than", "claude-opus-5-5"),
        (
            "Could not answer, so another did",
            "claude-opus-5-5: the Claude API answered 529; "
            "claude-sonnet-5-5: the Claude API was out of reach",
        ),
        ("of_a_newer_release", "5"),
        ("Waited for room in a budget", "1,234 ms"),
    ]


def test_whatever_the_gateway_decides_has_words() -> None:
    """What a call's page shows by its bare name is what nobody has found words for."""
    said = re.compile(r'decision(?:\[|\.setdefault\()"(\w+)"|\b_say\(exchange, "(\w+)"')
    files = (Path(__file__).parents[2] / "governance" / "gateway").glob("*.py")
    names = {first or second for file in files for first, second in said.findall(file.read_text())}
    assert {"cascade", "fallback_not", "queue_position"} <= names
    shown = dict.fromkeys(names, "x")
    assert {title for title, _ in decision_words(shown)}.isdisjoint(names)


def test_the_shape_of_a_request_is_told_in_words(alice: House) -> None:
    facts = {"v": 1, "bytes": {"sys": 2485, "last": 44}, "words": {"sys": 355}, "n": {"bp5": 1}, "max": 1024}
    with platform_scope():
        call = make_call(alice, facts=facts)
    answer = browser(alice.person("viewer")).get(f"{CALLS}{call.pk}/change/")
    assert answer.context["shape"]["sections"] == [("System prompt", 2485, 355), ("Last message", 44, 0)]
    assert answer.context["shape"]["figures"] == [("Cache breakpoints, 5 minutes", 1), ("max_tokens", 1024)]


def test_a_period_is_named_by_the_days_of_its_own_zone() -> None:
    berlin = "Europe/Berlin"
    november = datetime(2026, 10, 31, 23, tzinfo=UTC), datetime(2026, 11, 30, 23, tzinfo=UTC)
    assert window_text(*november, berlin) == "November 2026"
    assert window_text(november[0], november[0] + timedelta(days=1), berlin) == "2026-11-01"
    assert window_text(november[0], november[0] + timedelta(days=7), berlin) == "2026-11-01 to 2026-11-07"
    assert window_text(TOTAL_STARTS_AT, TOTAL_ENDS_AT, berlin) == "without end"


def test_lists_of_facts_never_count_and_are_read_newest_first_by_id(alice: House) -> None:
    with platform_scope():
        for _ in range(60):
            make_call(alice)
    client = browser(alice.person("viewer"))
    for url in (CALLS, LEDGER):
        with CaptureQueriesContext(
            connection,
        ) as queries:
            first = client.get(url)
        assert not any("COUNT(" in query["sql"] or " OFFSET " in query["sql"] for query in queries)
        rows = first.context["cl"].result_list
        assert [row.pk for row in rows] == sorted((row.pk for row in rows), reverse=True)
        assert len(rows) == 50
        older = first.context["cl"].paginator.older_url
        second = client.get(f"{url}{older}")
        rest = second.context["cl"].result_list
        assert len(rest) == 11
        assert max(row.pk for row in rest) < min(row.pk for row in rows)
        assert second.context["cl"].paginator.older_url is None
        assert second.context["cl"].paginator.newest_url is not None


def test_a_list_shows_the_last_day_unless_told_and_a_search_by_id_looks_everywhere(alice: House) -> None:
    with platform_scope():
        old = make_call(alice, call_id=hours_ago(30))
    client = browser(alice.person("viewer"))

    def shown(query: str) -> set[object]:
        return {row.pk for row in client.get(CALLS + query).context["cl"].result_list}

    assert shown("") == {alice.call.pk}
    assert shown("?window=7d") == {alice.call.pk, old.pk}
    assert shown("?window=nonsense") == {alice.call.pk}
    assert shown(f"?q={old.pk}") == {old.pk}
    assert shown(f"?q=exq_{alice.key.key.public_id}") == {alice.call.pk}
    assert shown(f"?q={alice.canary}-session") == {alice.call.pk}
    assert shown("?q=nobody") == set()
    assert shown("?outcome=refused") == set()
    assert shown("?before=junk") == {alice.call.pk}


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_facts_cannot_be_changed_in_the_console(alice: House, method: str) -> None:
    client = operator()
    for action in ("change", "delete"):
        getattr(client, method)(f"{CALLS}{alice.call.pk}/{action}/", {"cost_nanos": 0, "post": "yes"})
    assert client.post(f"{CALLS}add/", {}).status_code in (403, 404)
    assert Call._base_manager.get(pk=alice.call.pk).cost_nanos == sum(COSTS.values())


def test_a_call_that_does_not_exist_is_not_found(alice: House) -> None:
    client = browser(alice.person("viewer"))
    assert client.get(f"{CALLS}{uuid7()}/change/").status_code == 404
    assert client.get(f"{CALLS}nonsense/change/").status_code == 404


def test_the_audit_page_shows_what_changed(alice: House) -> None:
    client = browser(alice.person("owner"))
    answer = client.get(f"{AUDIT}?q=tenants.apikey:{alice.key.key.pk}&window=all")
    events = answer.context["cl"].result_list
    assert [event.action for event in events] == ["key.issue"]
    page = client.get(f"{AUDIT}{events[0].pk}/change/").content.decode()
    assert alice.key.key.public_id in page
    assert alice.key.text not in page
    history = client.get(f"/admin/tenants/apikey/{alice.key.key.pk}/history/", follow=True)
    assert [event.pk for event in history.context["cl"].result_list] == [events[0].pk]


def test_the_overview_shows_budgets_holds_and_calls(alice: House) -> None:
    page = browser(alice.person("viewer")).get("/admin/").content.decode()
    assert f"{alice.canary}-budget" in page
    assert "$2.00 held" in page
    assert str(alice.call.pk) in page
    assert "First steps" not in page


def test_the_overview_puts_the_fullest_budgets_first(alice: House) -> None:
    with platform_scope():
        BudgetPeriod.objects.filter(pk=alice.period.pk).update(spent_nanos=95_000_000_000)
    answer = browser(alice.person("viewer")).get("/admin/")
    assert [card["name"] for card in answer.context["budgets"]] == [
        f"{alice.canary}-budget",
        f"{alice.canary}-wall",
    ]
    spent = next(item for item in answer.context["figures"] if item["title"] == "Spent this month")
    assert (spent["figure"], spent["note"]) == ("$0.00", "of $100.00")


def test_an_empty_overview_teaches_the_first_steps() -> None:
    tenant = make_tenant("Empty")
    page = browser(make_member(tenant, "admin")).get("/admin/").content.decode()
    assert "First steps" in page
    assert "manage.py issue_key" in page
    assert settings.GATEWAY_PUBLIC_URL in page
    assert "add_credential" not in page  # the operator's work


def test_the_price_book_is_one_table_for_everybody(alice: House) -> None:
    answer = browser(alice.person("viewer", in_team=True)).get("/admin/pricing/pricerow/")
    assert answer.status_code == 200
    rows = answer.context["rows"]
    assert all(len(row["cells"]) == len(answer.context["meters"]) for row in rows)


def test_every_page_forbids_foreign_and_inline_scripts(alice: House) -> None:
    client = operator()
    for url in ("/admin/", CALLS, f"{CALLS}{alice.call.pk}/change/", "/admin/tenants/apikey/add/"):
        policy = client.get(url).headers["content-security-policy"]
        scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
        assert scripts == "script-src 'self' 'unsafe-eval'"
        assert "default-src 'none'" in policy
    assert "script-src" not in client.get("/").headers["content-security-policy"]


def test_our_templates_have_no_script_and_no_event_handler() -> None:
    for template in Path("templates").rglob("*.html"):
        text = template.read_text()
        assert "<script" not in text, template
        assert "oninput=" not in text, template
        assert "onclick=" not in text, template
        assert "|safe" not in text, template


def test_a_bar_never_overflows_and_shows_the_first_cent() -> None:
    assert Bar(1, 0, 100_000_000_000).spent_percent == 1
    assert (Bar(90, 20, 100).spent_percent, Bar(90, 20, 100).held_percent) == (90, 10)
    assert Bar(0, 0, 0).spent_percent == 100
    assert (Bar(74, 0, 100).level, Bar(70, 5, 100).level, Bar(95, 0, 100).level) == ("ok", "warm", "hot")
    assert Bar(60, 50, 100).left_nanos == -10


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "$0.00"),
        (1, "<$0.0001"),
        (50_000, "$0.0001"),
        (37_000_000, "$0.0370"),
        (99_990_000, "$0.1000"),
        (100_000_000, "$0.10"),
        (1_234_567_890_000, "$1,234.57"),
        (-5_000_000_000, "-$5.00"),
    ],
)
def test_short_amounts_are_rounded_to_nearest(nanos: int, text: str) -> None:
    assert short_usd(nanos) == text


def test_the_first_page_leads_to_the_gateways_openapi_document_and_the_refusals(alice: House) -> None:
    page = browser(alice.person("viewer")).get("/admin/").content.decode()
    assert settings.ERROR_PAGES_URL in page
    assert 'href="/openapi.json"' in page
    document = browser(None).get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert {"/v1/messages", "/api/oauth/usage"} <= document["paths"].keys()
    assert alice.canary not in str(document)


def test_an_operator_gives_back_what_a_call_was_charged(alice: House) -> None:
    client, page = operator(), f"/admin/calls/call/{alice.call.pk}/change/"
    give = f"/admin/calls/call/{alice.call.pk}/credit/"
    assert give in client.get(page).content.decode()
    assert "At most" in client.post(give, {"amount_usd": "1,000", "reason": "too much"}).content.decode()
    assert client.post(give, {"amount_usd": "0.001", "reason": "a refusal"}).status_code == 302
    shown = client.get(page).content.decode()
    assert "credit: a refusal" in shown
    assert "$0.007888977, after corrections" in shown
    assert client.post(give, {"amount_usd": "", "reason": "the rest"}).status_code == 302
    assert "now $0.00" in client.get(page).content.decode()


@pytest.mark.parametrize("role", ["owner", "admin"])
def test_nobody_else_gives_back(alice: House, role: str) -> None:
    client, give = browser(alice.person(role)), f"/admin/calls/call/{alice.call.pk}/credit/"
    assert give not in client.get(f"/admin/calls/call/{alice.call.pk}/change/").content.decode()
    assert client.post(give, {"amount_usd": "0.001", "reason": "for me"}).status_code == 403
    assert LedgerEntry._base_manager.filter(call_id=alice.call.pk).count() == 1


def test_the_first_page_names_the_live_policies_whose_model_is_or_will_be_retired(
    alice: House, bob: House
) -> None:
    call_command("load_prices", yes=True, stdout=io.StringIO())
    policy = alice.policy
    rule = {"name": "Old", "then": {"route": {"model": "claude-3-haiku-20240307"}}}
    with platform_scope():  # as it was published while that model was there
        policy.live = PolicyVersion.objects.create(
            policy=policy, number=2, source="as below", document={"rules": [rule]}, published_by="nobody"
        )
        policy.save()

    def told(house: House) -> list[tuple[str, str, str]]:
        rows = browser(house.person("viewer", in_team=True)).get("/admin/").context["retiring"]
        return [(str(row["policy"]), row["model"], row["words"]) for row in rows]

    assert told(alice) == [(str(policy), "claude-3-haiku-20240307", "is retired")]
    assert told(bob) == []
    set_enabled(policy, False)
    assert told(alice) == []
