"""Loading a price file: plan the changes, show them, apply them in one transaction."""

from dataclasses import asdict, dataclass
from datetime import datetime

from django.db import connection, transaction

from governance.audit import events
from governance.pricing.changes import Changes, find_changes
from governance.pricing.loading import newest_version, read_models, read_rates
from governance.pricing.models import KnownModel, PriceBookVersion, PriceRow
from governance.pricing.price_file import PriceFile
from governance.pricing.rates import ListRate

_LOAD_LOCK = 0x7072696365  # "price": one load at a time


class PricesMoved(RuntimeError):
    """Somebody else loaded prices since the plan was made."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load would do to the prices of load `base_version` (None: there are none yet)."""

    base_version: int | None
    changes: Changes


def plan_load(price_file: PriceFile, now: datetime) -> Plan:
    """Compare the file with the newest prices. Undated changes begin at `now` (aware)."""
    version = newest_version(connection)
    rates = [] if version is None else read_rates(connection, version)
    models = [] if version is None else read_models(connection, version)
    return Plan(version, find_changes(rates, models, price_file.rates, price_file.models, now))


def apply_load(
    price_file: PriceFile, base_version: int | None, now: datetime, actor: events.Actor | None = None
) -> PriceBookVersion | None:
    """Apply the file to the prices of `base_version`; returns the new version, None where nothing changes.

    The plan is made again at `now`, under a lock, so that it holds at the moment it is applied. Raises
    PricesMoved where other prices than those of `base_version` are the newest.
    """
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOAD_LOCK])
        plan = plan_load(price_file, now)
        if plan.base_version != base_version:
            raise PricesMoved("Other prices were loaded in the meantime; run load_prices again.")
        if not plan.changes:
            return None
        version = PriceBookVersion.objects.create(source=price_file.source[:200], digest=price_file.digest)
        _write(plan.changes, version)
        counts = {
            "rates_closed": len(plan.changes.rates_closed),
            "rates_added": len(plan.changes.rates_added),
            "models_changed": len(plan.changes.models_added),
        }
        events.record(actor, None, "prices.load", version, after={"source": version.source, **counts})
        return version


def _write(changes: Changes, version: PriceBookVersion) -> None:
    for rate in changes.rates_closed:
        _close(rate, version)
    KnownModel.objects.filter(
        model_id__in=[facts.model_id for facts in changes.models_closed], superseded_in=None
    ).update(superseded_in=version)
    PriceRow.objects.bulk_create(PriceRow(**asdict(rate), added_in=version) for rate in changes.rates_added)
    KnownModel.objects.bulk_create(
        KnownModel(**{**asdict(facts), "aliases": list(facts.aliases)}, added_in=version)
        for facts in changes.models_added
    )


def _close(rate: ListRate, version: PriceBookVersion) -> None:
    closed = PriceRow.objects.filter(**asdict(rate), superseded_in=None).update(superseded_in=version)
    assert closed == 1, f"{rate} names {closed} current rows"
