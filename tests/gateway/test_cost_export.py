"""The cost export of calls as the gateway makes them."""

import csv
from decimal import Decimal
from pathlib import Path

from django.core.management import call_command

from governance.budgets.sums import ledger_sums
from governance.core.clock import utcnow
from governance.desk.corrections import credit_call
from tenants.scope import platform_scope
from tests.gateway.asking import ASK, post, script
from tests.harness import Stack, make_tenant


def test_an_export_of_real_calls_is_what_ledger_sum_says(stack: Stack, tmp_path: Path) -> None:
    """Cases I3: tokens of every class, several passes, a whole hold and a credit; a refusal is no row."""
    account = make_tenant("1", unbounded_allowed=True)
    passes = [
        {"type": "compaction", "model": "claude-haiku-5-5", "input_tokens": 900, "output_tokens": 30},
        {"type": "message", "input_tokens": 10, "output_tokens": 10},
    ]
    for scripted in (
        {"usage": {"input_tokens": 1_000, "cache_read_input_tokens": 4_321, "output_tokens": 60}},
        {"usage": {"input_tokens": 10, "output_tokens": 10, "iterations": passes}},
        {"fault": "garbage_json"},
    ):
        ask = {**ASK, "messages": [{"role": "user", "content": "word " * 2_000}]}
        headers = {**script(**scripted), "exchequer-tags": "feature=faq"}
        assert post(stack, account, ask, headers=headers).status_code == 200
    assert post(stack, account, {**ASK, "max_tokens": 120_000}).status_code == 429
    account.wait_for_calls(4)
    with platform_scope():
        credit_call(account.calls()[0].pk, amount_nanos=12_345, reason="goodwill")
    path = tmp_path / "costs.csv"
    call_command(
        "export_costs", tenant=account.tenant.slug, month=f"{utcnow():%Y-%m}", to=str(path), until_now=True
    )
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    billed = sum(Decimal(row["BilledCost"]) for row in rows)
    assert billed * 10**9 == ledger_sums(account.tenant.pk)["spent_nanos"]
    tokens = {(row["SkuId"], row["ConsumedQuantity"]) for row in rows if row["ConsumedUnit"] == "Tokens"}
    assert tokens == {
        ("claude-sonnet-5-5/input", "1010.0"),
        ("claude-sonnet-5-5/cache_read", "4321.0"),
        ("claude-sonnet-5-5/output", "70.0"),
        ("claude-haiku-5-5/input", "900.0"),
        ("claude-haiku-5-5/output", "30.0"),
    }
    assert {row["x_ChargeKind"] for row in rows} == {"usage", "whole_hold", "credit"}
    assert {row["Tags"] for row in rows} == {'{"feature": "faq"}'}
