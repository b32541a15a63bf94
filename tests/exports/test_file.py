"""The file: whole or not there, always the same bytes, one tenant's only, and nothing a spreadsheet runs."""

import csv
import os
import stat
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError
from django.db import connection
from django.test.utils import CaptureQueriesContext

from governance.core.clock import utcnow
from governance.exports import facts, focus, items, months
from governance.ledger.models import Hold
from tenants.scope import platform_scope
from tests.exports.books import (
    LAST_MONTH,
    MONTH,
    NOON,
    SONNET,
    THIS_MONTH,
    Books,
    billed_nanos,
    id_at,
    run,
    used,
)
from tests.harness import make_tenant


def test_two_exports_of_a_closed_month_are_byte_identical(books: Books) -> None:
    """Whatever happens meanwhile: what comes later is of a later month."""
    for hour in range(30):
        at = NOON + timedelta(hours=hour)
        charge = books.charge(used(SONNET, 10 + hour, 0, 0, 0, 5), at=at, team="AB"[hour % 2])
    books.export()
    first = books.path.read_bytes()
    books.charge(used(SONNET, 1_000), at=THIS_MONTH)
    books.correct(charge, "correction", -1, at=THIS_MONTH + timedelta(seconds=1), reason="late")
    books.export()
    assert books.path.read_bytes() == first
    assert first.count(b"\r\n") == 1 + 2 * 2 * 2  # two days, teams and meters


def test_a_month_is_exactly_what_was_written_between_its_ends(books: Books) -> None:
    moment = timedelta(microseconds=1)
    inside = [books.charge(used(SONNET, 1), at=at) for at in (LAST_MONTH, THIS_MONTH - moment)]
    for at in (LAST_MONTH - moment, THIS_MONTH):
        books.charge(used(SONNET, 1_000), at=at)
    rows = books.export()
    assert [row["ConsumedQuantity"] for row in rows] == ["1.0", "1.0"]
    assert billed_nanos(rows) == sum(entry.amount_nanos for entry in inside)
    assert rows[0]["ChargePeriodStart"] == focus.instant(LAST_MONTH)
    assert rows[1]["ChargePeriodEnd"] == focus.instant(THIS_MONTH)


@pytest.mark.parametrize("days_open", [0.1, 3, 40], ids=lambda days: f"{days} days")
def test_a_charge_is_of_the_day_that_it_was_written_on_however_old_its_call(
    books: Books, days_open: float
) -> None:
    """An id is as old as its hold, and a hold may outlast an outage."""
    books.charge(used(SONNET, 1), at=NOON - timedelta(days=days_open), written_at=NOON)
    books.charge(used(SONNET, 1), at=NOON)
    (row,) = books.export()
    assert (row["ConsumedQuantity"], row["ChargePeriodStart"][:10]) == ("2.0", f"{NOON:%Y-%m-%d}")


def test_many_pages_lose_and_double_nothing(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "ENTRIES_AT_ONCE", 3)
    monkeypatch.setattr(facts, "ENTRIES_COUNTED_AT_ONCE", 4)
    for hour in range(23):
        books.charge(used(SONNET, 1), at=NOON - timedelta(hours=hour, minutes=1))
    rows = books.export()
    assert sum(Decimal(row["ConsumedQuantity"]) for row in rows) == 23
    assert "23 ledger entries" in books.said


def test_another_tenants_calls_are_never_in_the_file(books: Books) -> None:
    """Bob's facts of the same hour, team and key name; and Alice's are not in Bob's."""
    bob = Books(make_tenant("1000"), books.folder / "bob")
    bob.folder.mkdir()
    for whose, tokens in ((books, 1), (bob, 1_000)):
        whose.charge(used(SONNET, tokens), team="Search", tags={"whose": whose.account.tenant.slug})
    (alices,), (bobs,) = books.export(), bob.export()
    assert (alices["ConsumedQuantity"], bobs["ConsumedQuantity"]) == ("1.0", "1000.0")
    for text, other in ((books.path.read_text(), bob), (bob.path.read_text(), books)):
        assert other.account.tenant.slug not in text
        assert other.key.public_id not in text


def test_what_people_wrote_never_runs_in_a_spreadsheet(books: Books) -> None:
    books.charge(used("@SUM(A1)", 1), team="=cmd|' /C calc'!A0", key=books.new_key("+1+1"))
    charge = books.charge(used(SONNET, 1), team='-2+3, "quoted"', key=books.new_key("=1+1"))
    books.correct(charge, "credit", -1, at=NOON, reason='=HYPERLINK("http://evil")\nsecond line')
    books.charge(used(SONNET, 1), team="＝1+1")  # as a Japanese keyboard has it
    rows = books.export()
    assert len(rows) == 4
    names = {row["SubAccountName"] for row in rows} | {row["x_KeyName"] for row in rows}
    wide = "'＝1+1"
    assert names == {"'=cmd|' /C calc'!A0", '\'-2+3, "quoted"', "'=1+1", "'+1+1", wide, "test"}
    with books.path.open(newline="") as file:
        header, *cells = csv.reader(file)
    for line in cells:
        for column, cell in zip(header, line, strict=True):
            assert not cell.startswith(("=", "+", "-", "@")) or Decimal(cell) < 0, column


def test_tags_tell_rows_apart_as_far_as_asked(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    for user in range(4):
        books.charge(used(SONNET, 1), tags={"feature": "faq", "user": f"u{user}"})
    assert len(books.export()) == 4
    (row,) = books.export("--tag", "feature")
    assert (row["Tags"], row["ConsumedQuantity"]) == ('{"feature": "faq"}', "4.0")
    (row,) = books.export("--no-tags")
    assert (row["Tags"], row["x_RequestCount"]) == ("{}", "4")
    monkeypatch.setattr(items, "ITEMS_PER_DAY_MAX", 3)
    with pytest.raises(CommandError, match="--tag feature, or none: --no-tags"):
        books.export()


def test_a_call_that_goes_on_counts_to_its_team(books: Books) -> None:
    """It has no row yet, for that comes with its last attempt: its open hold knows."""
    team, call_id = books.team("Search"), id_at(NOON)
    memo = {"call": str(call_id), "team": team.pk, "tags": {"feature": "faq"}}
    with platform_scope():
        Hold.objects.create(
            id=id_at(NOON), tenant_id=books.tenant_id, period_ids=[], amount_nanos=1, price_version=1,
            lease_id=0, memo=memo,
        )  # fmt: skip
    books.charge(used(SONNET, 1), call_id=call_id, call_goes_on=True)
    (row,) = books.export()
    assert (row["SubAccountName"], row["Tags"]) == ("Search", '{"feature": "faq"}')


@pytest.mark.parametrize("lost", ["a kind of entry", "a page"])
def test_a_file_that_would_differ_from_the_ledger_is_not_written(
    books: Books, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    charge = books.charge(used(SONNET, 1_000))
    books.correct(charge, "credit", -1, at=NOON, reason="goodwill")
    books.export()
    before = books.path.read_bytes()
    if lost == "a page":
        monkeypatch.setattr(facts, "_page", lambda *arguments: (None, []))
    else:
        monkeypatch.setattr(facts, "_MONEY", ("charge",))
    with pytest.raises(CommandError, match=r"add up to \$.* and the ledger to \$.*, so no file was written"):
        books.export()
    assert books.path.read_bytes() == before
    assert [path.name for path in books.folder.iterdir()] == ["costs.csv"]  # and nothing half-written beside


def test_no_bar_is_drawn_where_nobody_watches(books: Books, capfd: pytest.CaptureFixture[str]) -> None:
    books.charge(used(SONNET, 1))
    books.export()
    assert capfd.readouterr().err == ""


def test_a_month_without_charges_is_a_header_and_a_sentence(books: Books) -> None:
    assert books.export() == []
    assert books.path.read_bytes().decode() == ",".join(focus.COLUMNS) + "\r\n"
    assert "has no charges" in books.said


def test_a_month_is_not_complete_while_somebody_writes(
    books: Books, app_connection: "psycopg.Connection[Any]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry of the month's last moment may be in a transaction that has not committed."""
    monkeypatch.setattr(months, "SETTLED_SECONDS_MAX", 0.2)
    charge = books.charge(used(SONNET, 1_000))
    with app_connection.transaction():
        app_connection.execute(
            "INSERT INTO ledger_ledgerentry SELECT (%s::uuid), kind, basis, tenant_id, key_id, call_id,"
            " period_ids, amount_nanos, held_nanos, list_nanos, price_version, corrects_id, reason, at, xact"
            " FROM ledger_ledgerentry WHERE id = %s",
            [id_at(NOON), charge.pk],
        )
        with pytest.raises(CommandError, match="may not be complete"):
            books.export()
    monkeypatch.undo()
    assert billed_nanos(books.export()) == books.nanos() == 2 * charge.amount_nanos


def test_an_export_keeps_no_snapshot_and_every_read_has_a_time_limit(books: Books) -> None:
    books.charge(used(SONNET, 1))
    with CaptureQueriesContext(connection) as seen:
        books.export()
    statements = [query["sql"] for query in seen]
    reading = [index for index, sql in enumerate(statements) if 'FROM "ledger_ledgerentry"' in sql]
    assert reading
    assert not any("REPEATABLE" in sql or "DECLARE" in sql for sql in statements)
    assert all("statement_timeout" in statements[index - 1] for index in reading)


@pytest.mark.parametrize(
    ("tenant", "month", "arguments", "sentence"),
    [
        ("nobody-of-that-name", MONTH, [], "No tenant has the slug or name"),
        (None, "2026-13", [], "is no month; write it like"),
        (None, "October", [], "is no month; write it like"),
        (None, "2998-01", [], "has not begun yet"),
        (None, "9999-12", [], "has not begun yet"),
        (None, f"{THIS_MONTH:%Y-%m}", [], "is not over.*--until-now"),
        (None, MONTH, ["--to", "/nowhere/costs.csv"], "/nowhere/costs.csv cannot be written: No such file"),
    ],
)
def test_what_cannot_be_exported_is_a_sentence(
    books: Books, tenant: str | None, month: str, arguments: list[str], sentence: str
) -> None:
    with pytest.raises(CommandError, match=sentence):
        run(tenant or books.account.tenant.slug, month, *arguments)


def test_what_is_no_ordinary_file_is_never_replaced(books: Books) -> None:
    """--to /dev/null, as root."""
    os.mkfifo(books.path)
    for path in (books.path, books.folder):
        with pytest.raises(CommandError, match="cannot be written: It is there and no ordinary file"):
            run(books.account.tenant.slug, MONTH, "--to", str(path))
    assert stat.S_ISFIFO(books.path.stat().st_mode)
    assert list(books.folder.iterdir()) == [books.path]


def test_a_link_still_leads_to_its_file_whatever_its_name(books: Books) -> None:
    real = books.folder / f"{'x' * 251}.csv"
    books.path.symlink_to(real)
    books.charge(used(SONNET, 1))
    assert len(books.export()) == 1
    assert books.path.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600


def test_of_a_month_that_runs_there_is_what_there_was_so_far(books: Books) -> None:
    now = utcnow()
    charge = books.charge(used(SONNET, 1_000), at=max(THIS_MONTH, now - timedelta(seconds=5)))
    books.charge(used(SONNET, 1), at=now + timedelta(hours=1))  # by somebody else's clock: not yet
    rows = books.export("--until-now", month=f"{THIS_MONTH:%Y-%m}")
    assert billed_nanos(rows) == charge.amount_nanos
    assert "until" in books.said
