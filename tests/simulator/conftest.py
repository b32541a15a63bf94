"""One simulator with a bill for all these tests; each test finds its own lines by a tag."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import anthropic
import pytest

from governance.simulator.launch import RunningSimulator, running_simulator


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSimulator]:
    bill: Path = tmp_path_factory.mktemp("simulator") / "bill.jsonl"
    with running_simulator(bill=bill) as running:
        yield running


@pytest.fixture
def client(simulator: RunningSimulator) -> Iterator[anthropic.Anthropic]:
    """The real SDK with a key of its own, so that no test reads the prompt cache of another. No retries."""
    key = f"sim-{uuid.uuid4().hex}"
    with anthropic.Anthropic(api_key=key, base_url=simulator.url, max_retries=0) as client:
        yield client


@pytest.fixture
def tag() -> str:
    return uuid.uuid4().hex
