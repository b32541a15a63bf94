"""The checker says nothing about an honest run, and finds each rule that is broken in its evidence."""

import asyncio
import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import psycopg

from governance.desk.desk import Desk
from governance.desk.items import Settlement, Shrink
from tests.desk.conftest import Purse
from tests.faults.checker import RULES, check, stuck
from tests.faults.evidence import Evidence, collect, price_nanos

USAGE = {"input_tokens": 3, "output_tokens": 40}


async def an_honest_run(desk: Desk, purse: Purse, journalled: psycopg.Connection[Any]) -> Evidence:
    """Six calls on two budgets: exact charges, one void, one hold that is shrunk, one that stays open."""
    legs = purse.period(limit=10**7), purse.period(limit=10**7)
    bill: list[dict[str, Any]] = []
    for number in range(7):
        hold = purse.hold(300_000, *legs, tag=str(number))
        await desk.place_hold(hold)
        if number == 6:
            break
        if number == 1:
            await desk.shrink(Shrink(hold.id, 250_000, legs))
        charge = purse.charge(hold, 0 if number == 2 else price_nanos(USAGE))
        assert charge.call
        charge.call.tags = json.dumps({"call": str(number)})
        charge.attempt.upstream_request_id = f"req-{number}"
        if number == 2:
            charge = Settlement.void(
                hold_id=hold.id, held_nanos=300_000, period_ids=legs, attempt=charge.attempt,
                call=charge.call, reason="refused",
            )  # fmt: skip
        else:
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            bill.append({"script_id": str(number), "request_id": f"req-{number}", "at": at, "usage": USAGE})
        assert await desk.settle(charge)
    return collect(journalled, [purse.tenant_id], bill)


async def test_an_honest_run_is_sound(desk: Desk, purse: Purse, journalled: psycopg.Connection[Any]) -> None:
    evidence = await an_honest_run(desk, purse, journalled)
    assert check(evidence) == []
    assert len(evidence.bill) == 5
    assert len(list(evidence.steps())) == 2 * (1 + 7 + 6 + 1)  # made, placed, resolved, shrunk: two legs
    await asyncio.sleep(0.05)
    assert len(stuck(evidence, 0)) == 1
    assert stuck(evidence, 60) == []


def _change(rows: list[Any], index: int, **values: Any) -> None:
    rows[index] = rows[index]._replace(**values)


def _journal(evidence: Evidence, which: Callable[[Any], bool]) -> int:
    return next(i for i, row in enumerate(evidence.journal) if which(row))


def _over_the_limit(evidence: Evidence) -> None:
    place = max(i for i, row in enumerate(evidence.journal) if row.period_id)
    _change(evidence.journal, place, limit_nanos=1)


def _billed_without_hold(evidence: Evidence) -> None:
    evidence.bill.append({**evidence.bill[0], "script_id": "nobody's"})


def _billed_before_its_hold(evidence: Evidence) -> None:
    evidence.bill[0] = {**evidence.bill[0], "at": "2026-01-01T00:00:00+00:00"}


def _billed_twice(evidence: Evidence) -> None:
    evidence.bill.append(evidence.bill[0])


def _entry_without_hold(evidence: Evidence) -> None:
    evidence.entries.append(evidence.entries[0]._replace(id=uuid4(), amount_nanos=0))


def _entry_missing(evidence: Evidence) -> None:
    del evidence.entries[0]


def _another_amount(evidence: Evidence) -> None:
    _change(evidence.entries, 0, amount_nanos=evidence.entries[0].amount_nanos - 1)


def _spent_without_entry(evidence: Evidence) -> None:
    _change(evidence.periods, 0, spent_nanos=evidence.periods[0].spent_nanos + 1)


def _one_leg_less(evidence: Evidence) -> None:
    _change(evidence.entries, 0, period_ids=evidence.entries[0].period_ids[:1])


def _corrects_nothing(evidence: Evidence) -> None:
    credit = evidence.entries[0]._replace(id=uuid4(), kind="credit", amount_nanos=-1, corrects_id=uuid4())
    evidence.entries.append(credit)


def _more_back_than_charged(evidence: Evidence) -> None:
    first = evidence.entries[0]
    credit = first._replace(
        id=uuid4(), kind="credit", amount_nanos=-first.amount_nanos - 1, corrects_id=first.id
    )
    evidence.entries.append(credit)


def _guard_gone(evidence: Evidence) -> None:
    evidence.unguarded_tables.append("ledger_ledgerentry")


def _mispriced(evidence: Evidence) -> None:
    place = next(i for i, one in enumerate(evidence.attempts) if one.upstream_request_id == "req-0")
    _change(evidence.attempts, place, cost_nanos=1)


def _charged_above_its_hold(evidence: Evidence) -> None:
    place = next(i for i, one in enumerate(evidence.entries) if one.kind == "charge")
    _change(evidence.entries, place, held_nanos=1)


def _released_too_little(evidence: Evidence) -> None:
    place = _journal(evidence, lambda row: row.hold_id and row.after is None)
    _change(evidence.journal, place, before=evidence.journal[place].before - 1)


def _outside_its_period(evidence: Evidence) -> None:
    _change(evidence.periods, 0, ends_at=datetime(2021, 1, 1, tzinfo=UTC))


def _overlapping_periods(evidence: Evidence) -> None:
    first = evidence.periods[0]
    evidence.periods.append(
        first._replace(id=0, starts_at=first.starts_at + timedelta(1), spent_nanos=0, held_nanos=0)
    )


def _call_missing(evidence: Evidence) -> None:
    evidence.calls[:] = [call for call in evidence.calls if call.tag != "0"]


def _billed_more(evidence: Evidence) -> None:
    evidence.bill[0] = {**evidence.bill[0], "usage": {**USAGE, "output_tokens": 41}}


def _call_charged_twice(evidence: Evidence) -> None:
    place = next(i for i, call in enumerate(evidence.calls) if call.tag == "1")
    _change(evidence.calls, place, tag="0")


def _call_says_less(evidence: Evidence) -> None:
    _change(evidence.calls, 0, cost_nanos=evidence.calls[0].cost_nanos + 5)


def _crossing_of_a_figure_never_had(evidence: Evidence) -> None:
    made = type("Crossing", (), {"percent": 50, "period_id": evidence.periods[0].id, "spent_nanos": 77})
    evidence.crossings.append(made())


def _attempt_left_out(evidence: Evidence) -> None:
    _change(evidence.attempts, 0, number=0)


def _call_in_two_rows(evidence: Evidence) -> None:
    evidence.calls.append(evidence.calls[0])


def _attempts_without_a_row(evidence: Evidence) -> None:
    evidence.attempts.append(evidence.attempts[0]._replace(call_id=uuid4(), cost_nanos=0))


def _second_attempt_before_its_hold(evidence: Evidence) -> None:
    first, second = evidence.bill[:2]
    call_id = next(call.id for call in evidence.calls if call.tag == first["script_id"])
    place = next(i for i, one in enumerate(evidence.entries) if one.id == evidence.attempts[1].id)
    _change(evidence.attempts, 1, call_id=call_id)
    _change(evidence.entries, place, call_id=call_id)
    evidence.bill[1] = {**second, "script_id": first["script_id"], "at": first["at"]}


def _added_without_a_fact(evidence: Evidence) -> None:
    _change(evidence.periods, 0, added_nanos=5)


def _raised_without_a_fact(evidence: Evidence) -> None:
    _change(evidence.periods, 0, raised_nanos=5, raised_until=datetime(2099, 1, 1, tzinfo=UTC))


def _raise_that_is_not_on_its_period(evidence: Evidence) -> None:
    period, until = evidence.periods[0], datetime(2099, 1, 1, tzinfo=UTC)
    evidence.adjustments.append(_fact("raise", None, 5, budget_id=period.budget_id, until=until))


def _transfer_of_one_side(evidence: Evidence) -> None:
    period = evidence.periods[0]
    _change(evidence.periods, 0, added_nanos=-5)
    fact = _fact("transfer", period.id, -5, budget_id=period.budget_id)
    evidence.adjustments.append(fact)
    evidence.entries.append(_transfer_entry(evidence, fact))


def _transfer_that_the_ledger_does_not_know(evidence: Evidence) -> None:
    giving, getting = evidence.periods
    facts = [_fact("transfer", giving.id, -5), _fact("transfer", getting.id, 5)]
    facts[0].other_id, facts[1].other_id = facts[1].id, facts[0].id
    evidence.adjustments += facts
    _change(evidence.periods, 0, added_nanos=-5)
    _change(evidence.periods, 1, added_nanos=5)
    evidence.entries.append(_transfer_entry(evidence, facts[0]))


def _transfer_that_nobody_made(evidence: Evidence) -> None:
    evidence.entries.append(_transfer_entry(evidence, _fact("transfer", evidence.periods[0].id, 5)))


def _fact(kind: str, period_id: int | None, amount_nanos: int, **values: Any) -> SimpleNamespace:
    given = {"budget_id": 0, "subject": "", "until": None, "other_id": None} | values
    return SimpleNamespace(id=uuid4(), kind=kind, period_id=period_id, amount_nanos=amount_nanos, **given)


def _transfer_entry(evidence: Evidence, fact: SimpleNamespace) -> Any:
    return evidence.entries[0]._replace(
        id=fact.id, kind="transfer", call_id=fact.id, period_ids=[fact.period_id],
        amount_nanos=fact.amount_nanos, basis=None, held_nanos=0,
    )  # fmt: skip


TAMPERINGS = [
    ("I1", _over_the_limit),
    ("I2", _billed_without_hold),
    ("I2", _billed_before_its_hold),
    ("I2", _billed_twice),
    ("I2", _second_attempt_before_its_hold),
    ("I3", _entry_without_hold),
    ("I3", _entry_missing),
    ("I4", _another_amount),
    ("I4", _spent_without_entry),
    ("I5", _one_leg_less),
    ("I6", _corrects_nothing),
    ("I6", _more_back_than_charged),
    ("I6", _guard_gone),
    ("I7", _mispriced),
    ("I7", _charged_above_its_hold),
    ("I8", _released_too_little),
    ("I9", _outside_its_period),
    ("I9", _overlapping_periods),
    ("I10", _call_missing),
    ("I10", _billed_more),
    ("I10", _call_charged_twice),
    ("I11", _call_says_less),
    ("I11", _crossing_of_a_figure_never_had),
    ("I12", _attempt_left_out),
    ("I12", _call_in_two_rows),
    ("I12", _attempts_without_a_row),
    ("I13", _added_without_a_fact),
    ("I13", _raised_without_a_fact),
    ("I13", _raise_that_is_not_on_its_period),
    ("I13", _transfer_of_one_side),
    ("I13", _transfer_that_the_ledger_does_not_know),
    ("I13", _transfer_that_nobody_made),
]


async def test_each_broken_rule_is_found(
    desk: Desk, purse: Purse, journalled: psycopg.Connection[Any]
) -> None:
    """The checker's own twins: the same evidence with one thing wrong."""
    honest = await an_honest_run(desk, purse, journalled)
    missed = []
    for rule, tamper in TAMPERINGS:
        evidence = Evidence(**{name: copy.copy(value) for name, value in vars(honest).items()})
        tamper(evidence)
        if rule not in {breach.rule for breach in check(evidence)}:
            missed.append((rule, tamper.__name__))
    assert missed == []
    assert {rule for rule, _ in TAMPERINGS} == set(RULES)
