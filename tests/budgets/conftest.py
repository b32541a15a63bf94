"""A real desk, as in tests/desk. Conftests load before Django is set up, hence the imports inside."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from governance.desk.desk import Desk


@pytest.fixture
async def start_desk() -> "AsyncIterator[Callable[..., Awaitable[Desk]]]":
    """Starts desks that must not fail, and stops them at the end."""
    from governance.desk.desk import Desk

    started: list[Desk] = []
    broken: list[BaseException] = []

    async def start(url: str, worker: str = "test") -> Desk:
        desk = Desk(url, worker, on_fatal=broken.append)
        await desk.start()
        started.append(desk)
        return desk

    yield start
    for desk in started:
        await desk.stop(5)
    assert broken == []
