"""A tenant's contract prices: agreeing on them and ending them.

What has been in force is never changed (a trigger refuses): a mistake is ended and agreed anew, and money
already charged is given back by a credit in the ledger.
"""

from dataclasses import fields
from datetime import datetime

from django.core.exceptions import ValidationError
from django.db import connection, transaction

from governance.audit import events
from governance.core.clock import utcnow
from governance.core.meters import Meter
from governance.pricing.loading import load_book, read_rates
from governance.pricing.models import ContractPrice
from governance.pricing.rates import ANY, ContractRate, Variant
from tenants.models import Tenant


def agree_discount(
    tenant: Tenant,
    discount_ppm: int,
    *,
    model_id: str = ANY,
    effective_from: datetime | None = None,
    effective_to: datetime | None = None,
    note: str = "",
    actor: events.Actor | None = None,
) -> ContractPrice:
    """Take `discount_ppm` (150_000 is 15 %) off list price, on one model or on all, from now unless told.

    A model's own discount goes before the one on every model; they do not add up. An unknown model has none.
    Raises ValidationError.
    """
    return _agree(
        ContractPrice(
            tenant=tenant,
            model_id=_exact_id(model_id),
            discount_ppm=discount_ppm,
            effective_from=effective_from or utcnow(),
            effective_to=effective_to,
            note=note,
        ),
        actor,
    )


def agree_rate(
    tenant: Tenant,
    nanos_per_mtok: int,
    *,
    model_id: str,
    meter: Meter,
    variant: Variant = "standard",
    above_prompt_tokens: int = 0,
    effective_from: datetime | None = None,
    effective_to: datetime | None = None,
    note: str = "",
    actor: events.Actor | None = None,
) -> ContractPrice:
    """Charge an own rate instead of exactly one list rate, from now unless told. Raises ValidationError.

    Other variants of the model (batch, fast, long prompts) keep list price, less its discount if it has one.
    """
    model_id = _exact_id(model_id)
    listed = {(r.model_id, r.meter, r.variant, r.above_prompt_tokens) for r in read_rates(connection)}
    if (model_id, meter, variant, above_prompt_tokens) not in listed:
        raise ValidationError(
            f"{model_id} has no list price that an own rate could replace for {meter}, {variant}, above "
            f"{above_prompt_tokens} prompt tokens."
        )
    return _agree(
        ContractPrice(
            tenant=tenant,
            model_id=model_id,
            meter=meter,
            variant=variant,
            above_prompt_tokens=above_prompt_tokens,
            nanos_per_mtok=nanos_per_mtok,
            effective_from=effective_from or utcnow(),
            effective_to=effective_to,
            note=note,
        ),
        actor,
    )


def end_contract_price(
    price: ContractPrice, *, at: datetime | None = None, actor: events.Actor | None = None
) -> None:
    """Let it end, now unless told (not in the past: the database refuses that)."""
    with transaction.atomic():
        before = _facts(price)
        price.effective_to = at or utcnow()
        price.save(update_fields=["effective_to"])
        events.record(actor, price.tenant_id, "contract_price.end", price, before, _facts(price))


def _agree(price: ContractPrice, actor: events.Actor | None) -> ContractPrice:
    price.full_clean()
    with transaction.atomic():
        price.save()
        events.record(actor, price.tenant_id, "contract_price.agree", price, after=_facts(price))
    return price


def _exact_id(model_id: str) -> str:
    """A contract names a model by its id, so that it means the same when aliases move."""
    if model_id == ANY:
        return ANY
    facts = load_book(connection).model(model_id)
    if facts is None:
        raise ValidationError(f"“{model_id}” is not a model of the price book.")
    return facts.model_id


def _facts(price: ContractPrice) -> dict[str, object]:
    return {field.name: getattr(price, field.name) for field in fields(ContractRate)}
