"""A journal of the money rows for the tests of this folder, the simulator, and workers that start at once."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.desk.conftest import desk, fatal, purse, start_desk  # noqa: F401  fixtures
from tests.faults.journal import journal

if TYPE_CHECKING:
    from tests.faults.warm import WarmWorkers
    from tests.harness import Stack


@pytest.fixture
def journalled(owner_connection: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the owner, while every version of the money rows is kept."""
    with journal(owner_connection):
        yield owner_connection


@pytest.fixture(scope="module")
def owner() -> Iterator[psycopg.Connection[Any]]:
    url = os.environ["DATABASE_OWNER_URL"]
    with psycopg.connect(url, autocommit=True) as connection, journal(connection):
        yield connection


@pytest.fixture(scope="module")
def stack(owner: psycopg.Connection[Any]) -> "Iterator[Stack]":
    from tests.harness import start_stack  # needs Django, which is set up after this file is read

    with start_stack(workers=0) as stack:
        yield stack


@pytest.fixture(scope="module")
def warm(stack: "Stack", tmp_path_factory: pytest.TempPathFactory) -> "Iterator[WarmWorkers]":
    from tests.faults.cases import LEASE
    from tests.faults.warm import warm_workers

    assert stack.simulator
    env = {
        **os.environ, **LEASE,
        "ANTHROPIC_API_KEY": "sk-ant-simulated", "ANTHROPIC_BASE_URL": stack.simulator.url,
    }  # fmt: skip
    with warm_workers(tmp_path_factory.mktemp("warm"), env) as warm:
        yield warm
