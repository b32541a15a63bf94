"""The savings page: sums of the calls that a person may see, to the nano-dollar."""

from datetime import timedelta

from governance.core.clock import utcnow
from governance.core.ids import id_floor, uuid7
from governance.core.money import format_usd
from tenants.scope import platform_scope
from tests.console.cast import COSTS, House, browser, make_call

PAGE = "/admin/savings/"
COST = sum(COSTS.values())


def saving_call(house: House, rule: str, savings: dict[str, int]) -> None:
    with platform_scope():
        make_call(
            house,
            rule=rule,
            baseline_nanos=COST + sum(savings.values()),
            decision={"savings": savings},
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
