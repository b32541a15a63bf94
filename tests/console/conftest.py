"""Alice's and Bob's houses. Conftests load before Django is set up, hence the imports inside."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.console.cast import House


@pytest.fixture
def alice() -> "House":
    from tests.console.cast import make_house

    return make_house("alice")


@pytest.fixture
def bob() -> "House":
    from tests.console.cast import make_house

    return make_house("bob")
