"""A tenant's contract prices in the database: agreed, in force, ended, and never rewritten."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.db.utils import IntegrityError
from psycopg import errors

from governance.audit.models import AuditEvent
from governance.core.clock import utcnow
from governance.core.usage import Pass, Usage
from governance.pricing import loading
from governance.pricing.contracts import agree_discount, agree_rate, end_contract_price
from governance.pricing.loads import apply_load
from governance.pricing.models import ContractPrice
from tenants.models import Tenant, TenantVersion
from tenants.scope import platform_scope
from tests.pricing.files import new_model_id, price_file
from tests.tenants.makers import make_tenant


@pytest.fixture(autouse=True)
def _as_the_operator() -> Iterator[None]:
    with platform_scope():
        yield


@pytest.fixture
def model_id() -> str:
    """A model of the test's own, at $1 in and $5 out."""
    name = new_model_id()
    apply_load(price_file({"id": name}), loading.newest_version(connection), utcnow())
    return name


def nanos(tenant: Tenant, model_id: str, usage: Usage, **served: str) -> int:
    rates = loading.load_contract_rates(connection, tenant.pk)
    book = loading.load_book(connection).with_contract(rates)
    return book.rate([Pass(model_id, usage, **served)], utcnow()).cost_nanos  # type: ignore[arg-type]


def settings_version(tenant: Tenant) -> int:
    row = TenantVersion.objects.filter(tenant_id=tenant.pk).first()
    return row.version if row else 0


def test_a_discount_is_charged_to_its_tenant_and_to_no_other(model_id: str) -> None:
    alice, bob = make_tenant("Alice"), make_tenant("Bob")
    agree_discount(alice, 150_000)
    assert nanos(alice, model_id, Usage(1000, output_tokens=1000)) == 5_100_000
    assert nanos(bob, model_id, Usage(1000, output_tokens=1000)) == 6_000_000


def test_an_own_rate_replaces_exactly_one_list_rate(model_id: str) -> None:
    alice = make_tenant("Alice")
    agree_rate(alice, 800_000_000, model_id=model_id, meter="input")
    assert nanos(alice, model_id, Usage(1000)) == 800_000
    assert nanos(alice, model_id, Usage(1000), inference_geo="us") == 880_000
    assert nanos(alice, model_id, Usage(1000), service_tier="batch") == 500_000
    assert nanos(alice, model_id, Usage(output_tokens=1000)) == 5_000_000


def test_a_change_of_terms_reaches_the_gateways_and_the_audit_trail() -> None:
    alice = make_tenant("Alice")
    before = settings_version(alice)
    price = agree_discount(alice, 150_000, note="Contract of November")
    agreed = settings_version(alice)
    end_contract_price(price)
    assert len({before, agreed, settings_version(alice)}) == 3
    trail = AuditEvent.objects.filter(tenant_id=alice.pk, target_id=str(price.pk)).order_by("pk")
    actions = trail.filter(action__startswith="contract_price").values_list("action", flat=True)
    assert list(actions) == ["contract_price.agree", "contract_price.end"]


def test_an_ended_contract_gives_way_to_the_next(model_id: str) -> None:
    alice = make_tenant("Alice")
    price = agree_discount(alice, 150_000, effective_from=utcnow() - timedelta(days=1))
    end_contract_price(price)
    assert nanos(alice, model_id, Usage(1000)) == 1_000_000
    agree_discount(alice, 250_000, effective_from=price.effective_to)
    assert nanos(alice, model_id, Usage(1000)) == 750_000


def test_two_terms_for_the_same_thing_never_overlap(model_id: str) -> None:
    alice = make_tenant("Alice")
    agree_discount(alice, 150_000)
    with pytest.raises(ValidationError, match="end it first"):
        agree_discount(alice, 200_000, effective_from=utcnow() + timedelta(days=9))
    agree_discount(alice, 200_000, model_id=model_id)  # a narrower one is another thing
    overlapping = ContractPrice(tenant=alice, discount_ppm=1, effective_from=utcnow())
    with pytest.raises(IntegrityError, match="one_contract_price_at_a_time"):
        overlapping.save()


@pytest.mark.parametrize(
    "terms",
    [
        {},
        {"discount_ppm": 1, "nanos_per_mtok": 1},
        {"discount_ppm": 1_000_001},
        {"discount_ppm": -1},
        {"discount_ppm": 1, "meter": "input"},
        {"discount_ppm": 1, "above_prompt_tokens": 100},
        {"nanos_per_mtok": -1, "model_id": "claude-opus-5-5", "meter": "input", "variant": "standard"},
        {"nanos_per_mtok": 1},
        {"nanos_per_mtok": 1, "meter": "input", "variant": "standard"},
        {"nanos_per_mtok": 1, "model_id": "claude-opus-5-5", "variant": "standard"},
    ],
)
def test_the_database_refuses_terms_that_mean_nothing(terms: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match="contract_is_discount_or_rate"):
        ContractPrice(tenant=make_tenant(), effective_from=utcnow(), **terms).save()


def test_terms_name_a_model_that_exists_by_its_id() -> None:
    alice = make_tenant("Alice")
    with pytest.raises(ValidationError, match="not a model of the price book"):
        agree_discount(alice, 150_000, model_id="claude-nova-1")


def test_an_own_rate_needs_a_list_rate_to_replace(model_id: str) -> None:
    with pytest.raises(ValidationError, match="no list price that an own rate could replace"):
        agree_rate(make_tenant(), 1, model_id=model_id, meter="input", variant="fast")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE pricing_contractprice SET discount_ppm = 1 WHERE id = %(id)s",
        "UPDATE pricing_contractprice SET effective_from = now() WHERE id = %(id)s",
        "UPDATE pricing_contractprice SET effective_to = now() - interval '2 minutes' WHERE id = %(id)s",
        "DELETE FROM pricing_contractprice WHERE id = %(id)s",
    ],
)
def test_terms_that_have_been_in_force_are_not_rewritten(
    owner_connection: psycopg.Connection[Any], statement: str
) -> None:
    price = agree_discount(make_tenant(), 150_000, effective_from=utcnow() - timedelta(days=1))
    with pytest.raises(errors.RestrictViolation, match="end it and agree on another"):
        owner_connection.execute(statement.encode(), {"id": price.pk})


def test_terms_that_have_not_begun_may_still_change_or_go() -> None:
    price = agree_discount(make_tenant(), 150_000, effective_from=utcnow() + timedelta(days=1))
    price.discount_ppm = 200_000
    price.save()
    assert ContractPrice._base_manager.get(pk=price.pk).discount_ppm == 200_000
    price_id = price.pk
    price.delete()
    assert not ContractPrice._base_manager.filter(pk=price_id).exists()
