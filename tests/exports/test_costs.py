"""The cost export: tokens are what it counts, and to the nano-dollar it is what the ledger says."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext

from governance.exports import focus
from governance.pricing.contracts import agree_discount, agree_rate
from tenants.scope import platform_scope
from tests.exports.books import (
    HAIKU,
    LAST_MONTH,
    NOON,
    OPUS,
    SONNET,
    THIS_MONTH,
    Books,
    billed_nanos,
    id_at,
    used,
)


def by_meter(rows: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    return {row["SkuMeter"]: row for row in rows if row["SkuMeter"]}


def test_tokens_are_what_an_export_counts(books: Books) -> None:
    """Cases I3: ConsumedQuantity is the tokens of each class, and a price is per million of them."""
    for _ in range(2):
        books.charge(used(SONNET, 1_000, 200, 30, 5_000, 700, 3), team="Search")
    rows = books.export()
    assert {name: (row["ConsumedQuantity"], row["ConsumedUnit"]) for name, row in by_meter(rows).items()} == {
        "Input Tokens": ("2000.0", "Tokens"),
        "Cache Write Input Tokens (5m)": ("400.0", "Tokens"),
        "Cache Write Input Tokens (1h)": ("60.0", "Tokens"),
        "Cache Read Input Tokens": ("10000.0", "Tokens"),
        "Output Tokens": ("1400.0", "Tokens"),
        "Web Search Requests": ("6.0", "Requests"),
    }
    output = by_meter(rows)["Output Tokens"]
    assert (output["PricingQuantity"], output["PricingUnit"]) == ("0.0014", "1000000 Tokens")
    assert (output["ListUnitPrice"], output["BilledCost"]) == ("10.0", "0.014")
    assert (output["SkuId"], output["SkuPriceId"]) == (
        "claude-sonnet-5-5/output",
        "claude-sonnet-5-5/output/standard",
    )
    assert (output["x_RequestCount"], output["x_KeyId"]) == ("2", books.key.public_id)
    assert (output["SubAccountId"], output["SubAccountName"]) == ("team-0", "Search")
    search = by_meter(rows)["Web Search Requests"]
    assert (search["PricingQuantity"], search["PricingUnit"]) == ("0.006", "1000 Requests")
    assert (search["ListUnitPrice"], search["ListCost"]) == ("10.0", "0.06")
    assert billed_nanos(rows) == books.nanos()


def test_a_file_adds_up_to_the_ledger_whatever_is_in_it(books: Books) -> None:
    """Contract prices with odd fractions, passes of two models, bounds, whole holds, overruns, credits."""
    with platform_scope():
        since = datetime(2026, 1, 1, tzinfo=UTC)
        agree_discount(books.account.tenant, 123_457, effective_from=since)
        agree_rate(books.account.tenant, 98_765_433, model_id=HAIKU, meter="input", effective_from=since)
    noon = NOON.replace(day=28)  # Haiku 5.5 was there on all of these days
    first = books.charge(used(HAIKU, 1_001, 77, 13, 20_003, 333), at=noon, team="A")
    books.charge(used(HAIKU, 7, 0, 0, 0, 1), at=noon, team="A")
    several = books.charge(
        used(HAIKU, 11, output := 0), used(OPUS, 13, 0, 0, 0, 17, inference_geo="us"), at=noon, team="B"
    )
    books.charge(
        used(SONNET, 101, 0, 0, 0, 3), at=noon, call_id=several.call_id, call_goes_on=True
    )  # another attempt of the same call
    books.charge(used(SONNET, 500, 0, 0, 0, 4_096), at=noon, basis="bounded")
    books.charge(at=noon, basis="full_hold", amount_nanos=123_456_789)
    over = books.charge(used(OPUS, 9_999, 0, 0, 0, 999), at=noon, amount_nanos=1_000_001)
    books.correct(first, "credit", -7, at=noon, reason="goodwill")
    books.correct(several, "correction", 1_003, at=noon, reason="rated again with price version 9")
    books.correct(over, "overrun", 555, at=noon, reason="cost above the hold")  # the operator's: in no row
    rows = books.export()
    assert output == 0
    assert billed_nanos(rows) == books.nanos() > 0
    kinds = {row["x_ChargeKind"] for row in rows}
    assert kinds == {"usage", "rounding", "whole_hold", "operator_share", "credit", "correction"}
    # A row with a unit price is that price × its quantity, to the last digit: nothing hides in it.
    with localcontext(prec=80):
        for row in rows:
            if row["x_ChargeKind"] == "usage":
                quantity = Decimal(row["PricingQuantity"])
                assert Decimal(row["ContractedUnitPrice"]) * quantity == Decimal(row["ContractedCost"])
                assert Decimal(row["ListUnitPrice"]) * quantity == Decimal(row["ListCost"])
                assert row["BilledCost"] == row["EffectiveCost"] == row["ContractedCost"]
            else:
                assert (row["ConsumedQuantity"], row["PricingUnit"], row["SkuPriceId"]) == ("", "", "")
    kind = {row["x_ChargeKind"]: row for row in rows}
    assert kind["whole_hold"]["BilledCost"] == "0.123456789"
    assert kind["whole_hold"]["x_Basis"] == "full_hold"
    assert Decimal(kind["operator_share"]["BilledCost"]) < 0
    rounding = [Decimal(row["BilledCost"]) for row in rows if row["x_ChargeKind"] == "rounding"]
    assert all(0 < part * 10**9 < 2 for part in rounding)
    bounded = [row for row in rows if row["x_Basis"] == "bounded"]
    assert {row["SkuMeter"] for row in bounded} >= {"Input Tokens", "Output Tokens"}


def test_an_attempt_of_several_passes_is_one_request(books: Books) -> None:
    books.charge(used(SONNET, 10), used(OPUS, 5), used(SONNET, 20))
    rows = {row["SkuId"]: (row["ConsumedQuantity"], row["x_RequestCount"]) for row in books.export()}
    assert rows == {f"{SONNET}/input": ("30.0", "1"), f"{OPUS}/input": ("5.0", "1")}


def test_a_price_variant_is_a_sku_price_of_its_own(books: Books) -> None:
    at = NOON.replace(day=28)
    for served in (
        used(HAIKU, 100),
        used(HAIKU, 100_001),
        used(HAIKU, 100, service_tier="batch"),
        used(OPUS, 100),
        used(OPUS, 100, speed="fast"),
        used(OPUS, 100, inference_geo="us"),
    ):
        books.charge(served, at=at)
    rows = {row["SkuPriceId"]: row for row in books.export()}
    assert {name: row["ListUnitPrice"] for name, row in rows.items()} == {
        f"{HAIKU}/input/standard": "0.1",
        f"{HAIKU}/input/standard/above-100000": "0.5",
        f"{HAIKU}/input/batch": "0.05",
        f"{OPUS}/input/standard": "4.0",
        f"{OPUS}/input/fast": "8.0",
        f"{OPUS}/input/standard/us": "4.4",
    }
    assert {row["SkuId"] for row in rows.values()} == {f"{HAIKU}/input", f"{OPUS}/input"}
    abroad = rows[f"{OPUS}/input/standard/us"]
    assert (abroad["RegionId"], abroad["RegionName"]) == ("us", "United States")
    assert '"x_TokenCacheAction":"Uncached"' in abroad["SkuPriceDetails"]


def test_a_cost_that_no_price_explains_is_a_row_of_its_own(books: Books) -> None:
    """A contract that was agreed on afterwards does not change what was charged, and the file says so."""
    books.charge(used(SONNET, 1_000_000))
    with platform_scope():
        agree_discount(books.account.tenant, 500_000, effective_from=LAST_MONTH)
    rows = {row["x_ChargeKind"]: row["BilledCost"] for row in books.export()}
    assert rows == {"usage": "1.0", "unexplained": "1.0"}


def test_a_correction_is_a_row_in_the_month_that_it_was_made_in(books: Books) -> None:
    """FOCUS calls only what corrects an earlier billing period a Correction."""
    earlier = books.charge(used(SONNET, 1_000_000), at=LAST_MONTH - timedelta(hours=1), team="Search")
    later = books.charge(used(SONNET, 1_000_000), team="Search")
    books.correct(earlier, "correction", -250_000_000, at=NOON, reason="rated again")
    books.correct(later, "credit", -1_000_000, at=NOON, reason="goodwill")
    rows = {row["x_ChargeKind"]: row for row in books.export()}
    correction, credit = rows["correction"], rows["credit"]
    assert (correction["ChargeClass"], correction["BilledCost"]) == ("Correction", "-0.25")
    assert correction["x_CorrectedPeriodStart"] < focus.instant(LAST_MONTH)
    assert (correction["SubAccountName"], correction["x_KeyName"]) == ("Search", "test")
    assert (credit["ChargeClass"], credit["ChargeCategory"], credit["BilledCost"]) == ("", "Credit", "-0.001")
    assert credit["ChargeDescription"] == f"{SONNET}: Credit: goodwill"
    assert billed_nanos(list(rows.values())) == books.nanos()


def test_what_costs_nothing_because_nothing_was_asked_of_claude_is_no_row(books: Books) -> None:
    """A kept answer and a refusal are calls without a charge."""
    books.charge(used(SONNET, 10))
    for cache, outcome in (("hit", "served"), ("off", "refused")):
        row = {"tenant_id": books.tenant_id, "key_id": books.key.pk, "at": NOON, "xact": 1}
        books.call(id_at(NOON), team=None, cache=cache, outcome=outcome, **row)
    assert len(books.export()) == 1


def test_every_mandatory_column_is_there_and_ours_come_last(books: Books) -> None:
    books.charge(used(SONNET, 10), team="Search", tags={"feature": "faq"})
    (row,) = books.export()
    header = books.path.read_bytes().split(b"\r\n", 1)[0].decode().split(",")
    assert len(focus.MANDATORY) == 21
    assert set(focus.MANDATORY) < set(header)
    ours = [name for name in header if name.startswith("x_")]
    assert header[-len(ours) :] == ours
    may_be_null = {"ChargeClass", "InvoiceId", "RegionId", "RegionName", "x_CorrectedPeriodStart"}
    assert {name for name, cell in row.items() if not cell} == may_be_null
    assert (row["ChargeCategory"], row["PricingCategory"], row["ChargeFrequency"]) == (
        "Usage",
        "Standard",
        "Usage-Based",
    )
    assert (row["BillingPeriodStart"], row["BillingPeriodEnd"]) == (
        focus.instant(LAST_MONTH),
        focus.instant(THIS_MONTH),
    )
    assert row["ChargePeriodEnd"] == focus.instant(NOON.replace(hour=0) + timedelta(days=1))
    assert (row["ServiceName"], row["Tags"], row["BillingCurrency"]) == (
        "Claude API",
        '{"feature": "faq"}',
        "USD",
    )
