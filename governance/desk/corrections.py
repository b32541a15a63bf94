"""Taking back what was charged, or charging what was not: one more entry, which names the charge.

The entry moves the charge's own periods, closed ones too: what a period says is what its calls cost. Books
that are kept by date find the entry under its own date. What a hard budget cannot carry of a correction
upwards is the operator's overrun, as with any cost above its hold.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from governance.audit import events
from governance.core.ids import uuid7
from governance.core.money import format_usd
from governance.ledger.kinds import EntryKind
from governance.ledger.models import LedgerEntry

_LOCK = "SELECT 1 FROM ledger_budgetperiod WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE"
_ROOM = """
SELECT min(limit_nanos + CASE WHEN raised_until > exchequer_now() THEN raised_nanos ELSE 0 END
           - spent_nanos - held_nanos)
FROM ledger_budgetperiod WHERE id = ANY(%s) AND ceiling_nanos IS NOT NULL
"""
_CORRECT = "SELECT ledger_correct(%s, %s, %s, %s, %s, %s, %s)"


class CreditRefused(ValueError):
    """A credit that cannot be given so; the text says why."""


@dataclass(frozen=True, slots=True)
class Account:
    """What a charge amounts to after everything that corrects it. Nano-dollars; take it under `locked`."""

    charge: LedgerEntry
    credits: int
    corrections: int
    overruns: int
    list_corrections: int

    @property
    def left_nanos(self) -> int:
        """Of the tenant's money: what a credit may still give back."""
        return self.charge.amount_nanos + self.corrections + self.credits

    @property
    def cost_nanos(self) -> int:
        """What the attempt cost by the books, whoever bears it; credits do not change a cost."""
        return self.charge.amount_nanos + self.corrections + self.overruns

    @property
    def list_nanos(self) -> int:
        return self.charge.list_nanos + self.list_corrections


def locked(charge: LedgerEntry) -> Account:
    """The account of a charge; its periods stay locked until the transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute(_LOCK, [charge.period_ids])
    sums = dict.fromkeys(EntryKind.values, 0)
    list_corrections = 0
    for entry in LedgerEntry.objects.filter(corrects_id=charge.pk, tenant_id=charge.tenant_id):
        sums[entry.kind] += entry.amount_nanos
        list_corrections += entry.list_nanos if entry.kind == EntryKind.CORRECTION else 0
    return Account(
        charge,
        sums[EntryKind.CREDIT],
        sums[EntryKind.CORRECTION],
        sums[EntryKind.OVERRUN],
        list_corrections,
    )


def credit_call(
    call_id: UUID, *, amount_nanos: int | None, reason: str, actor: events.Actor | None = None
) -> list[LedgerEntry]:
    """Give back so much of what a call was charged, or all that is left where `amount_nanos` is None.

    Run in a scope that sees the tenant. CreditRefused for more than is left, for nothing, without a reason.
    """
    reason = reason.strip()
    if not reason:
        raise CreditRefused("Say why: the reason stands in the ledger.")
    if amount_nanos is not None and amount_nanos <= 0:
        raise CreditRefused("A credit is above zero.")
    with transaction.atomic():
        charges = list(LedgerEntry.objects.filter(call_id=call_id, kind=EntryKind.CHARGE).order_by("pk"))
        accounts = [locked(charge) for charge in charges]
        left_nanos = sum(account.left_nanos for account in accounts)
        wanted = left_nanos if amount_nanos is None else amount_nanos
        if wanted > left_nanos or not wanted:
            raise CreditRefused(
                f"At most {format_usd(left_nanos)} can be given back: that is what is left of the charge."
            )
        given = []
        for account in accounts:
            part = min(wanted, account.left_nanos)
            if part:
                entry = correct(account, EntryKind.CREDIT, -part, reason=reason)
                events.record(actor, entry.tenant_id, "charge.credit", entry, after=_facts(entry))
                given.append(entry)
                wanted -= part
    return given


def settle_difference(account: Account, *, cost_nanos: int, list_nanos: int, prices: int, why: str) -> int:
    """Bring a charge to what it should have cost; what was added (below zero: taken back), 0 if it is right.

    Run in the transaction of `locked`. A lower cost first relieves the operator of an overrun. Of a higher
    one every leg carries the same, as much as the tightest hard budget can; the rest is an overrun.
    """
    difference = cost_nanos - account.cost_nanos
    if difference < 0:
        overrun = -min(account.overruns, -difference)
        carried = -min(account.left_nanos, overrun - difference)
    else:
        carried = min(difference, _room(account.charge.period_ids))
        overrun = difference - carried
    list_change = list_nanos - account.list_nanos
    if carried:
        correct(account, EntryKind.CORRECTION, carried, reason=why, list_nanos=list_change, prices=prices)
    if overrun:
        correct(account, EntryKind.OVERRUN, overrun, reason=why, prices=prices)
    return carried + overrun


def correct(
    account: Account,
    kind: EntryKind,
    amount_nanos: int,
    *,
    reason: str,
    list_nanos: int = 0,
    prices: int | None = None,
) -> LedgerEntry:
    """Write one entry on a charge. IntegrityError where it takes back more than is left."""
    charge = account.charge
    entry_id = uuid7()
    parameters: list[Any] = [
        charge.pk,
        entry_id,
        kind.value,
        amount_nanos,
        list_nanos,
        charge.price_version if prices is None else prices,
        reason[:256],
    ]
    with connection.cursor() as cursor:
        cursor.execute(_CORRECT, parameters)
    entry: LedgerEntry = LedgerEntry.objects.get(pk=entry_id)
    return entry


def _room(period_ids: list[int]) -> int:
    """What the tightest hard budget of these locked periods has left; without one, no limit."""
    with connection.cursor() as cursor:
        cursor.execute(_ROOM, [period_ids])
        (room,) = cursor.fetchone()
    return 2**63 - 1 if room is None else max(0, int(room))


def _facts(entry: LedgerEntry) -> dict[str, object]:
    return {
        "call_id": entry.call_id,
        "corrects_id": entry.corrects_id,
        "amount_nanos": entry.amount_nanos,
        "reason": entry.reason,
    }
