"""From rows to a book: once for Django's connections, once for psycopg's async ones."""

from collections.abc import Sequence
from typing import Any

import psycopg
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.rows import tuple_row

from governance.pricing import queries
from governance.pricing.book import PriceBook, compile_book
from governance.pricing.rates import ContractRate, ListRate, ModelFacts
from governance.pricing.tables import PriceBookIncomplete

Row = Sequence[Any]

_NOTHING_LOADED = "No prices are loaded. Load them: manage.py load_prices."


def load_book(connection: BaseDatabaseWrapper, version: int | None = None) -> PriceBook:
    """The book as of load `version`, the newest unless told. PriceBookIncomplete where nothing is loaded."""
    pinned = _pinned(connection, version)
    return compile_book(pinned, read_rates(connection, pinned), read_models(connection, pinned))


def read_rates(connection: BaseDatabaseWrapper, version: int | None = None) -> list[ListRate]:
    """The list rates as of load `version`, the newest unless told: past, present and future ones."""
    pinned = _pinned(connection, version)
    return [ListRate(*row) for row in _fetch(connection, queries.LIST_RATES, version=pinned)]


def read_models(connection: BaseDatabaseWrapper, version: int | None = None) -> list[ModelFacts]:
    """The models as of load `version`, the newest unless told."""
    pinned = _pinned(connection, version)
    return [_model_facts(row) for row in _fetch(connection, queries.MODEL_FACTS, version=pinned)]


def newest_version(connection: BaseDatabaseWrapper) -> int | None:
    """The newest load; None where no prices are loaded."""
    version: int | None = _fetch(connection, queries.NEWEST_VERSION)[0][0]
    return version


def load_contract_rates(connection: BaseDatabaseWrapper, tenant_id: int) -> list[ContractRate]:
    """Every contract rate of a tenant, past and future ones too: what `PriceBook.with_contract` takes."""
    return [ContractRate(*row) for row in _fetch(connection, queries.CONTRACT_RATES, tenant_id=tenant_id)]


async def load_book_async(connection: psycopg.AsyncConnection[Any], version: int | None = None) -> PriceBook:
    """As `load_book`, on a psycopg connection."""
    if version is None:
        version = (await _fetch_async(connection, queries.NEWEST_VERSION))[0][0]
        if version is None:
            raise PriceBookIncomplete(_NOTHING_LOADED)
    rates = await _fetch_async(connection, queries.LIST_RATES, version=version)
    models = await _fetch_async(connection, queries.MODEL_FACTS, version=version)
    return compile_book(version, (ListRate(*row) for row in rates), (_model_facts(row) for row in models))


async def load_contract_rates_async(
    connection: psycopg.AsyncConnection[Any], tenant_id: int
) -> list[ContractRate]:
    """As `load_contract_rates`, on a psycopg connection."""
    rows = await _fetch_async(connection, queries.CONTRACT_RATES, tenant_id=tenant_id)
    return [ContractRate(*row) for row in rows]


def _pinned(connection: BaseDatabaseWrapper, version: int | None) -> int:
    pinned = newest_version(connection) if version is None else version
    if pinned is None:
        raise PriceBookIncomplete(_NOTHING_LOADED)
    return pinned


def _fetch(connection: BaseDatabaseWrapper, query: str, **parameters: int) -> list[Row]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return list(cursor.fetchall())


async def _fetch_async(connection: psycopg.AsyncConnection[Any], query: str, **parameters: int) -> list[Row]:
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(query.encode(), parameters)
        return list(await cursor.fetchall())


def _model_facts(row: Row) -> ModelFacts:
    model_id, aliases, *rest = row
    return ModelFacts(model_id, tuple(aliases), *rest)
