"""A journal of the money rows for the tests of this folder, and tenants whose every row it has."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.desk.conftest import desk, fatal, purse, start_desk  # noqa: F401  fixtures
from tests.faults.journal import journal


@pytest.fixture
def journalled(owner_connection: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the owner, while every version of the money rows is kept."""
    with journal(owner_connection):
        yield owner_connection
