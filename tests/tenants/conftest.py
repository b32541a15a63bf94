"""Alice's and Bob's tenants. Conftests load before Django is set up, hence the imports inside."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tenants.models import Tenant


@pytest.fixture
def alice() -> "Tenant":
    """Alice's tenant."""
    from tests.tenants.makers import make_tenant

    return make_tenant("Alice")


@pytest.fixture
def bob() -> "Tenant":
    """Bob's tenant, which Alice must never see."""
    from tests.tenants.makers import make_tenant

    return make_tenant("Bob")
