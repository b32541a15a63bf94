"""One gateway with its simulator for all tests of this folder that only need a sound one."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.harness import Account, Stack


@pytest.fixture(scope="session")
def stack() -> "Iterator[Stack]":
    from tests.harness import start_stack  # needs Django, which is set up after this file is read

    with start_stack() as running:
        yield running


@pytest.fixture
def account() -> "Account":
    from tests.harness import make_tenant

    return make_tenant()
