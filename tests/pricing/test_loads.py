"""Loading prices into the database, and the rules that the database keeps about them."""

import asyncio
import io
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from psycopg import errors

from governance.audit.models import AuditEvent
from governance.core.clock import utcnow
from governance.core.usage import Pass, Usage
from governance.pricing import loading
from governance.pricing.book import PriceBook
from governance.pricing.loads import PricesMoved, apply_load, plan_load
from governance.pricing.models import PriceBookVersion
from tenants.models import TenantVersion
from tenants.versioning import GLOBAL_TENANT_ID
from tests.pricing.files import content, new_model_id, price_file


def load(*models: dict[str, Any], now: datetime | None = None) -> PriceBookVersion:
    """Load a file of these models over whatever is loaded."""
    version = apply_load(price_file(*models), loading.newest_version(connection), now or utcnow())
    assert version is not None
    return version


def input_nanos(model_id: str, version: PriceBookVersion, at: datetime) -> int:
    """What 1,000 input tokens cost at that time in the book as of that load."""
    cost = loading.load_book(connection, version.pk).rate([Pass(model_id, Usage(1000))], at)
    assert cost.unknown_models == ()
    return cost.cost_nanos


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("load_prices", *arguments, stdout=out)
    return out.getvalue()


def test_the_bundled_prices_load_and_loading_them_again_changes_nothing() -> None:
    run("--yes")
    version = loading.newest_version(connection)
    assert (
        run("--yes")
        == "Nothing to change: the prices of claude_prices.json, compiled 2026-11-20 are loaded.\n"
    )
    assert loading.newest_version(connection) == version
    book = loading.load_book(connection)
    assert book.version == version
    assert book.rate([Pass("claude-opus-5-5", Usage(1000))], utcnow()).cost_nanos == 4_000_000
    facts = book.model("claude-haiku-4-5")
    assert facts is not None
    assert (facts.model_id, facts.context_window_tokens) == ("claude-haiku-4-5-20251001", 200_000)


def test_a_changed_price_begins_now_and_every_earlier_book_stays_as_it_was() -> None:
    model_id = new_model_id()
    first_at = utcnow() - timedelta(days=2)
    first = load({"id": model_id}, now=first_at)
    changed_at = utcnow()
    second = load({"id": model_id, "usd_per_mtok": {"input": 3}}, now=changed_at)
    before, after = changed_at - timedelta(hours=1), changed_at + timedelta(hours=1)
    assert [input_nanos(model_id, first, at) for at in (before, after)] == [1_000_000, 1_000_000]
    assert [input_nanos(model_id, second, at) for at in (before, after)] == [1_000_000, 3_000_000]


def test_a_correction_of_the_past_leaves_the_old_book_as_it_was() -> None:
    model_id = new_model_id()
    first = load({"id": model_id})
    second = load(
        {
            "id": model_id,
            "usd_per_mtok": {"input": 3},
            "price_history": [{"until": "2026-10-31", "input": 1}],
        }
    )
    at = datetime(2026, 11, 1, tzinfo=UTC)
    assert input_nanos(model_id, first, at) == 1_000_000
    assert input_nanos(model_id, second, at) == 3_000_000
    assert input_nanos(model_id, second, at - timedelta(seconds=1)) == 1_000_000


def test_a_model_of_an_earlier_load_stays_known_after_a_file_without_it() -> None:
    model_id = new_model_id()
    load({"id": model_id})
    later = load({"id": new_model_id()})
    assert input_nanos(model_id, later, utcnow()) == 1_000_000


def test_a_load_over_prices_that_moved_in_the_meantime_is_refused() -> None:
    plan = plan_load(price_file({"id": new_model_id()}), utcnow())
    load({"id": new_model_id()})
    with pytest.raises(PricesMoved, match="run load_prices again"):
        apply_load(price_file({"id": new_model_id()}), plan.base_version, utcnow())


def test_a_load_is_recorded_and_tells_every_gateway() -> None:
    def global_version() -> int:
        row = TenantVersion.objects.filter(tenant_id=GLOBAL_TENANT_ID).first()
        return row.version if row else 0

    before = global_version()
    version = load({"id": new_model_id()})
    assert global_version() != before
    event = AuditEvent.objects.get(action="prices.load", target_id=str(version.pk))
    assert event.after == {
        "source": "test.json, compiled 2026-11-20",
        "rates_added": 10,
        "rates_closed": 0,
        "models_changed": 1,
    }


def test_the_async_loader_reads_the_same_book() -> None:
    async def read() -> tuple[PriceBook, PriceBook]:
        async with await psycopg.AsyncConnection.connect(os.environ["DATABASE_URL"]) as async_connection:
            book = await loading.load_book_async(async_connection)
            return book, await loading.load_book_async(async_connection, book.version)

    model_id = new_model_id()
    load({"id": model_id})
    book, pinned = asyncio.run(read())
    assert book.version == pinned.version == loading.newest_version(connection)
    served = [Pass(model_id, Usage(1000, 1000, 1000, 1000, 1000), inference_geo="us")]
    expected = loading.load_book(connection).rate(served, utcnow())
    assert book.rate(served, utcnow()) == pinned.rate(served, utcnow()) == expected


OVERLAPPING = """
    INSERT INTO pricing_pricerow (model_id, meter, variant, above_prompt_tokens, nanos_per_mtok, us_geo_ppm,
                                  effective_from, effective_to, added_in_id)
    VALUES (%(model)s, 'input', 'standard', 0, 5, 1000000, '2026-05-01', '2026-06-01', %(version)s)
"""


def test_two_prices_of_the_same_thing_never_overlap(owner_connection: psycopg.Connection[Any]) -> None:
    model_id = new_model_id()
    load({"id": model_id})
    with owner_connection.transaction(force_rollback=True):
        opened = owner_connection.execute(
            "INSERT INTO pricing_pricebookversion (source, digest) VALUES ('x', 'x') RETURNING id"
        ).fetchone()
        with pytest.raises(errors.ExclusionViolation, match="one_price_at_a_time"):
            owner_connection.execute(OVERLAPPING, {"model": model_id, "version": opened[0]})


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE pricing_pricerow SET nanos_per_mtok = 1 WHERE model_id = %(model)s",
        "UPDATE pricing_pricerow SET superseded_in_id = added_in_id WHERE model_id = %(model)s",
        "UPDATE pricing_pricerow SET superseded_in_id = NULL WHERE model_id = %(model)s",
        "DELETE FROM pricing_pricerow WHERE model_id = %(model)s",
        "UPDATE pricing_knownmodel SET context_window_tokens = 1 WHERE model_id = %(model)s",
        "DELETE FROM pricing_knownmodel WHERE model_id = %(model)s",
        "TRUNCATE pricing_pricerow",
        "TRUNCATE pricing_knownmodel",
        "UPDATE pricing_pricebookversion SET source = 'x' WHERE id = %(version)s",
        "DELETE FROM pricing_pricebookversion WHERE id = %(version)s",
        OVERLAPPING,  # into a load that is closed
    ],
)
def test_prices_of_the_past_cannot_be_rewritten_even_by_the_owner(
    owner_connection: psycopg.Connection[Any], statement: str
) -> None:
    model_id = new_model_id()
    version = load({"id": model_id})
    with pytest.raises((errors.RestrictViolation, errors.ForeignKeyViolation)):
        owner_connection.execute(statement.encode(), {"model": model_id, "version": version.pk})


def test_the_app_role_cannot_touch_the_list_of_loads(app_connection: psycopg.Connection[Any]) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        app_connection.execute("UPDATE pricing_pricebookversion SET source = 'x'")


def test_the_command_shows_what_it_changes(tmp_path: Path) -> None:
    model_id = new_model_id()
    file = tmp_path / "prices.json"
    file.write_bytes(content({"id": model_id}))
    assert f"+ {model_id}: new model, active" in run(str(file), "--yes")
    file.write_bytes(content({"id": model_id, "usd_per_mtok": {"output": 7.5}}))
    shown = run(str(file), "--yes")
    assert f"~ {model_id} standard output: $5.00/MTok → $7.50/MTok from now on" in shown
    version = loading.newest_version(connection)
    assert f"Loaded as price version {version}." in shown
    event = AuditEvent.objects.get(action="prices.load", target_id=str(version))
    assert event.actor_name == "manage.py load_prices"
    assert "Nothing to change" in run(str(file))


@pytest.mark.parametrize(("answer", "loaded"), [("no", False), ("", False), ("y", True)])
def test_on_a_terminal_the_command_asks_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, loaded: bool
) -> None:
    model_id = new_model_id()
    file = tmp_path / "prices.json"
    file.write_bytes(content({"id": model_id}))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: answer)
    shown = run(str(file))
    assert (loading.load_book(connection).model(model_id) is not None) == loaded
    assert ("Nothing was changed." in shown) != loaded


@pytest.mark.parametrize("written", [None, b"not json", b"{}"])
def test_a_file_that_cannot_be_used_is_one_sentence_and_changes_nothing(
    tmp_path: Path, written: bytes | None
) -> None:
    version = loading.newest_version(connection)
    file = tmp_path / "prices.json"
    if written is not None:
        file.write_bytes(written)
    with pytest.raises(CommandError, match=r"prices\.json .*\."):
        run(str(file), "--yes")
    assert loading.newest_version(connection) == version
