"""One gateway with its simulator for all tests of this folder that only need a sound one."""

from collections.abc import Iterator

import pytest

from tests.harness import Account, Stack, make_tenant, start_stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    with start_stack() as running:
        yield running


@pytest.fixture
def account() -> Account:
    return make_tenant()
