"""Corrections: one more entry that names its charge, never more than was charged, and every sum agrees."""

import io
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction

from governance.audit.models import AuditEvent
from governance.budgets.limits import set_budget
from governance.budgets.sums import ledger_sums
from governance.core.clock import utcnow
from governance.core.ids import uuid7
from governance.desk.corrections import CreditRefused, correct, credit_call, locked
from governance.ledger.audit import audit
from governance.ledger.kinds import EntryKind
from governance.ledger.models import LedgerEntry
from governance.pricing.loading import newest_version
from governance.pricing.loads import apply_load
from tenants.scope import platform_scope
from tests.gateway.asking import ASK, post, script
from tests.harness import Account, Stack, make_tenant
from tests.pricing.files import new_model_id, price_file

LONG = {**ASK, "messages": [{"role": "user", "content": "word " * 2_000}]}
USAGE = {"input_tokens": 1_000, "output_tokens": 60}
TODAY = datetime.now(UTC).replace(hour=0, minute=0).isoformat()


def served_by(stack: Stack, account: Account, model: str, **options: Any) -> LedgerEntry:
    """The charge of a call that this model served."""
    assert post(stack, account, LONG, headers=script(model_served=model, usage=USAGE)).status_code == 200
    account.wait_for_calls(1)
    (charge,) = account.entries()
    return charge


def load(model: str, **changes: Any) -> None:
    apply_load(price_file({"id": model, **changes}), newest_version(connection), utcnow())


def run(command: str, account: Account | None = None, *arguments: str) -> str:
    out = io.StringIO()
    tenant = ["--tenant", account.tenant.slug] if account else []
    call_command(command, *tenant, *arguments, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def rerate(account: Account, *arguments: str) -> str:
    return run("rerate", account, "--since", TODAY, *arguments)


def kinds(account: Account) -> list[tuple[str, int]]:
    return [(entry.kind, entry.amount_nanos) for entry in account.entries()]


def assert_books_agree(account: Account) -> None:
    """The period rows, the auditor and ledger_sum say what the entries add up to."""
    spent = sum(entry.amount_nanos for entry in account.entries() if entry.kind != "overrun")
    assert account.period().spent_nanos == spent
    assert audit(account.tenant.pk)[1] == []
    assert ledger_sums(account.tenant.pk)["spent_nanos"] == spent
    for entry in account.entries():
        if entry.kind in ("credit", "correction"):
            assert (entry.period_ids, entry.corrects_id) == ([account.period().pk], account.entries()[0].pk)


# --- Re-rating --------------------------------------------------------------------------------------
def test_a_model_that_got_its_price_late_is_rated_again(stack: Stack, account: Account) -> None:
    """Cases A13, B7: charged at the dearest price at first, then what it really costs, once."""
    model = new_model_id()
    charge = served_by(stack, account, model)
    load(model)  # $1 and $5
    right = 1_000 * 1_000 + 60 * 5_000
    assert charge.amount_nanos > right
    dry = rerate(account, "--dry-run")
    assert "1 would be corrected" in dry
    assert model in dry
    assert kinds(account) == [("charge", charge.amount_nanos)]
    assert "1 corrected" in rerate(account)
    assert kinds(account) == [("charge", charge.amount_nanos), ("correction", right - charge.amount_nanos)]
    correction = account.entries()[1]
    assert correction.price_version > charge.price_version
    assert correction.list_nanos + charge.list_nanos == right
    assert f"price version {correction.price_version}" in correction.reason
    assert_books_agree(account)
    assert "0 corrected" in rerate(account)  # again: nothing
    assert len(account.entries()) == 2
    assert AuditEvent.objects.filter(action="prices.rerate", tenant_id=account.tenant.pk).count() == 1


def test_a_price_that_was_too_low_is_made_up_as_far_as_the_budget_carries(stack: Stack) -> None:
    """Upwards too: what a hard budget cannot carry is the operator's, and no budget is overspent."""
    account, model = make_tenant("0.05"), new_model_id()
    load(model)
    charge = served_by(stack, account, model)
    with platform_scope():
        set_budget(account.tenant, scope="tenant", period="month", limit_nanos=charge.amount_nanos + 700_000)
    dearer = {
        "usd_per_mtok": {"input": 3, "output": 5},
        "price_history": [{"until": "2026-01-31", "input": 1}],
    }
    load(model, **dearer)
    rerate(account)
    assert kinds(account) == [("charge", 1_300_000), ("correction", 700_000), ("overrun", 1_300_000)]
    assert account.period().spent_nanos == account.period().limit_nanos
    assert_books_agree(account)
    # Cheaper again than that: the operator is relieved first.
    dearer["usd_per_mtok"] = {"input": 2, "output": 5}
    load(model, **dearer, released="2026-01-02")
    load(model, usd_per_mtok={"input": 2}, price_history=[{"until": "2026-02-28", "input": 3}])
    rerate(account)
    assert kinds(account)[3:] == [("overrun", -1_000_000)]
    assert_books_agree(account)
    assert "0 corrected" in rerate(account)


def test_every_pass_is_rated_again_at_its_own_model(stack: Stack) -> None:
    account, model = make_tenant("100", unbounded_allowed=True), new_model_id()
    passes = [
        {"type": "compaction", "model": model, "input_tokens": 1_000, "output_tokens": 0},
        {"type": "message", "input_tokens": 10, "output_tokens": 10},
    ]
    usage = {"input_tokens": 10, "output_tokens": 10, "iterations": passes}
    ask = {**LONG, "compaction": {"type": "auto"}}
    assert post(stack, account, ask, headers=script(usage=usage)).status_code == 200
    account.wait_for_calls(1)
    load(model)
    rerate(account)
    right = 1_000 * 1_000 + 10 * 2_000 + 10 * 10_000
    assert sum(entry.amount_nanos for entry in account.entries()) == right
    assert_books_agree(account)


def test_what_was_charged_right_or_without_usage_is_left_alone(stack: Stack, account: Account) -> None:
    for scripted in ({"usage": USAGE}, {"fault": "garbage_json"}):
        assert post(stack, account, LONG, headers=script(**scripted)).status_code == 200
    account.wait_for_calls(2)
    assert "1 attempts were rated again; 0 corrected" in rerate(account)
    assert len(account.entries()) == 2


def test_a_date_that_is_none_is_refused_with_a_sentence(account: Account) -> None:
    with pytest.raises(CommandError, match="is no date"):
        run("rerate", account, "--since", "yesterday")


# --- Credits ----------------------------------------------------------------------------------------
def test_a_credit_gives_back_and_never_more_than_was_charged(stack: Stack, account: Account) -> None:
    charge = served_by(stack, account, "claude-haiku-5-5")
    with platform_scope():
        credit_call(charge.call_id, amount_nanos=30_000, reason="a refusal that Claude does not bill")
        with pytest.raises(CreditRefused, match="At most"):
            credit_call(charge.call_id, amount_nanos=charge.amount_nanos, reason="too much")
        for amount, reason in ((None, " "), (0, "nothing"), (-5, "a charge in disguise")):
            with pytest.raises(CreditRefused):
                credit_call(charge.call_id, amount_nanos=amount, reason=reason)
        with pytest.raises(CreditRefused, match="0"):
            credit_call(uuid7(), amount_nanos=None, reason="nobody's call")
    assert_books_agree(account)
    assert "Gave back" in run("credit", None, "--call", str(charge.call_id), "--reason", "goodwill")
    assert kinds(account)[1:] == [("credit", -30_000), ("credit", 30_000 - charge.amount_nanos)]
    assert account.period().spent_nanos == 0
    assert_books_agree(account)
    with pytest.raises(CommandError, match="At most"):
        run("credit", None, "--call", str(charge.call_id), "--reason", "again")
    events = AuditEvent.objects.filter(action="charge.credit", tenant_id=account.tenant.pk)
    assert events.count() == 2


def test_the_database_itself_refuses_a_credit_above_its_charge(stack: Stack, account: Account) -> None:
    """The constraint, without our code before it."""
    charge = served_by(stack, account, "claude-haiku-5-5")
    with platform_scope():
        for kind in (EntryKind.CREDIT, EntryKind.CORRECTION):
            with pytest.raises(IntegrityError, match="more than is left"), transaction.atomic():
                correct(locked(charge), kind, -charge.amount_nanos - 1, reason="too much")
    assert len(account.entries()) == 1


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (lambda row: row | {"corrects_id": None}, "names the charge"),
        (lambda row: row | {"corrects_id": uuid7()}, "names the charge"),
        (lambda row: row | {"tenant_id": row["tenant_id"] + 1}, "names the charge"),
        (lambda row: row | {"call_id": uuid7()}, "names the charge"),
        (lambda row: row | {"period_ids": []}, "legs of its charge"),
        (lambda row: row | {"amount_nanos": 1}, "credit_gives_back"),
    ],
)
def test_a_credit_that_is_not_about_its_charge_is_refused_by_the_database(
    stack: Stack,
    account: Account,
    app_connection: "psycopg.Connection[Any]",
    change: Callable[[dict[str, Any]], dict[str, Any]],
    refusal: str,
) -> None:
    charge = served_by(stack, account, "claude-haiku-5-5")
    row: dict[str, Any] = {
        "id": uuid7(),
        "kind": "credit",
        "tenant_id": charge.tenant_id,
        "call_id": charge.call_id,
        "period_ids": charge.period_ids,
        "amount_nanos": -1,
        "held_nanos": 0,
        "list_nanos": 0,
        "price_version": 1,
        "corrects_id": charge.pk,
        "reason": "x",
        "at": utcnow(),
        "xact": 1,
    }
    wrong = change(row)
    names = ", ".join(wrong)
    with pytest.raises(psycopg.errors.CheckViolation, match=refusal):
        app_connection.execute(
            f"INSERT INTO ledger_ledgerentry ({names}) VALUES ({', '.join(['%s'] * len(wrong))})",
            list(wrong.values()),
        )


def test_credits_at_the_same_time_never_pass_the_charge_together(stack: Stack, account: Account) -> None:
    """Two thirds of the charge, twice at once: one of them is refused."""
    charge = served_by(stack, account, "claude-haiku-5-5")
    amount, results = charge.amount_nanos * 2 // 3, []

    def give() -> None:
        try:
            with platform_scope():
                results.append(credit_call(charge.call_id, amount_nanos=amount, reason="both"))
        except CreditRefused as error:
            results.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=give) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(result, list) for result in results) == 1
    assert_books_agree(account)


def test_a_credit_makes_room_in_its_budget(stack: Stack) -> None:
    account = make_tenant("0.03")
    usage = {"input_tokens": 9_000, "output_tokens": 64}
    ask = {**LONG, "max_tokens": 500}
    assert post(stack, account, ask, headers=script(usage=usage)).status_code == 200
    account.wait_for_calls(1)
    assert post(stack, account, ask).status_code == 429
    (charge,) = account.entries()
    with platform_scope():
        credit_call(charge.call_id, amount_nanos=None, reason="goodwill")
    assert post(stack, account, ask).status_code == 200
