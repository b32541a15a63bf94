"""The savings page: sums of the calls that a person may see, to the nano-dollar."""

from datetime import timedelta
from typing import Any

from governance.core.clock import utcnow
from governance.core.ids import id_floor, uuid7
from governance.core.money import format_usd
from governance.routing.policies import create_policy, publish, save_draft
from tenants.scope import platform_scope
from tests.console.cast import COSTS, House, browser, make_call, policy_text

PAGE = "/admin/savings/"
COST = sum(COSTS.values())


def saving_call(house: House, rule: str, savings: dict[str, int], **columns: Any) -> None:
    with platform_scope():
        make_call(
            house,
            rule=rule,
            baseline_nanos=COST + sum(savings.values()),
            decision={"savings": savings},
            **columns,
        )


def test_the_layers_of_the_page_add_up_and_are_of_the_own_tenant_only(alice: House, bob: House) -> None:
    saving_call(alice, "Small to Haiku", {"routing": 70_000_000_001, "overhead": -1_000_000_002})
    saving_call(alice, "Small to Haiku", {"response_cache": 5_000_000_000})
    saving_call(bob, "Bob's rule", {"routing": 11_111_111_111})
    page = browser(alice.person("viewer")).get(PAGE).content.decode()
    saved = 70_000_000_001 - 1_000_000_002 + 5_000_000_000
    for text in (
        format_usd(3 * COST + saved),  # with the house's own call, which saved nothing
        format_usd(3 * COST),
        f"− {format_usd(70_000_000_001)}",
        f"+ {format_usd(1_000_000_002)}",
        "Small to Haiku",
        format_usd(saved),
    ):
        assert text in page, text
    assert "Bob&#x27;s rule" not in page
    assert format_usd(11_111_111_111) not in page
    assert "Bob&#x27;s rule" in browser(bob.person("viewer")).get(PAGE).content.decode()


def test_the_clients_own_prompt_caching_is_no_saving_of_ours(alice: House) -> None:
    saving_call(alice, "To Haiku", {"client_cache": 90_000_000_000, "routing": COST})
    page = browser(alice.person("viewer")).get(PAGE).context
    assert page["exact"] == {"as_asked": format_usd(3 * COST), "cost": format_usd(2 * COST)}
    assert page["saved_percent"] == "33.3 %"
    assert page["clients_own"] == format_usd(90_000_000_000)
    assert [(row["words"], row["percent"]) for row in page["layers"]] == [("Another model", "33.3 %")]
    (rule,) = page["rules"]
    assert (rule["saved"], rule["percent"]) == (format_usd(COST), "50.0 %")


def test_rules_are_told_apart_by_their_policy_whichever_version_was_live(alice: House) -> None:
    with platform_scope():
        first = alice.policy.live_id
        again = publish(save_draft(alice.policy, policy_text(alice.canary) + "\n")).policy
        text = policy_text(alice.canary)
        whole = publish(create_policy(alice.tenant, scope="tenant", name="Whole", draft=text)).policy
    for version, saved in ((first, 5), (again.live_id, 7), (whole.live_id, 1)):
        saving_call(alice, "To Haiku", {"routing": saved}, policy_version=version)
    rules = browser(alice.person("viewer")).get(PAGE).context["rules"]
    assert [(row["policy"], row["rule"], row["calls"], row["saved"]) for row in rules] == [
        (f"{alice.canary}-policy", "To Haiku", 2, format_usd(12)),
        ("Whole", "To Haiku", 1, format_usd(1)),
    ]


def test_answers_of_a_policy_itself_are_counted_and_have_no_price(alice: House, bob: House) -> None:
    with platform_scope():
        for house in (alice, alice, bob):
            make_call(house, rule="Hours", reason="template_answer", cost_nanos=0, list_nanos=0, attempts=0)
    answer = browser(alice.person("viewer")).get(PAGE)
    page = answer.context
    assert page["templates"] == 2
    assert "Answered without a model" in answer.content.decode()
    assert page["exact"] == {"as_asked": format_usd(COST), "cost": format_usd(COST)}
    (rule,) = page["rules"]
    assert (rule["calls"], rule["templates"], rule["saved"]) == (2, 2, "—")


def test_the_page_teaches_where_nothing_was_saved_and_looks_only_at_its_window(alice: House) -> None:
    yesterday = id_floor(int((utcnow() - timedelta(hours=30)).timestamp() * 1000)).int
    with platform_scope():
        make_call(
            alice,
            type(alice.call.pk)(int=yesterday | uuid7().int & ((1 << 62) - 1)),
            baseline_nanos=COST + 77,
            decision={"savings": {"routing": 77}},
        )
    client = browser(alice.person("viewer"))
    assert "Nothing was saved" in client.get(PAGE).content.decode()
    assert f"− {format_usd(77)}" in client.get(PAGE + "?window=7d").content.decode()
    assert "Nothing was saved" in client.get(PAGE + "?window=nonsense").content.decode()
