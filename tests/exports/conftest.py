"""A tenant with books of its own, and prices to keep them by."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django.core.management import call_command

if TYPE_CHECKING:
    from tests.exports.books import Books


@pytest.fixture(scope="session", autouse=True)
def _prices() -> None:
    call_command("load_prices", yes=True, stdout=io.StringIO())


@pytest.fixture
def books(tmp_path: Path) -> "Books":
    from tests.exports.books import Books  # needs Django, which is set up after this file is read
    from tests.harness import make_tenant

    return Books(make_tenant("1000"), tmp_path)
