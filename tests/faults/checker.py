"""Do the ledger and the provider's bill agree, at every commit? The invariants I1 to I13, one function each.

    breaches = check(collect(connection, tenants, bill_lines))
    assert breaches == []

The functions read an Evidence (evidence.py) and share nothing with the code they judge: no model, no
price book, no query of the ledger's own audit. tests/faults/test_checker.py breaks each rule once, by hand.

I1   holds are admitted only into room, and no hard budget is ever above its limit
I2   a call is on the bill only if its hold was committed before, and so is each further attempt of it
I3   a hold resolves exactly once
I4   spent is the sum of entries, held the sum of open holds, after every single commit
I5   all budgets of a call carry the same amount
I6   facts are immutable; corrections name what they correct; credits never exceed the charge
I7   an exact charge is the price of what was used; no charge is negative or above its hold
I8   what was held equals what was settled and released
I9   a call belongs to the period of its hold; periods of a budget do not overlap
I10  every billed call is charged, once, for no less than its bill
I11  what is shown (calls, crossings) is what the ledger had at some commit
I12  a call is the sum of its attempts, in one row
I13  a limit is moved by facts alone: top-ups, raises that end, transfers that give what they take
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

from tests.faults.evidence import Evidence, price_nanos

RESOLVING = ("charge", "void")
MOVES_SPENDING = ("charge", "void", "credit", "correction")


@dataclass(frozen=True, slots=True)
class Breach:
    """A broken invariant, and where."""

    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"


def check(evidence: Evidence) -> list[Breach]:
    """Every breach that the evidence shows; none when it is sound. Open holds are no breach: see `stuck`."""
    return [Breach(rule, what) for rule, look in RULES.items() for what in look(evidence)]


def stuck(evidence: Evidence, seconds: float) -> list[Any]:
    """Holds that are open for longer than that."""
    assert evidence.asked_at is not None
    since = evidence.asked_at - timedelta(seconds=seconds)
    return [hold for hold in evidence.open_holds if hold.placed_at < since]


def _room(evidence: Evidence) -> Iterator[str]:
    placed: dict[tuple[int, int], int] = defaultdict(int)
    for row in evidence.journal:
        if row.hold_id is not None and row.before is None:
            for leg in row.period_ids:
                placed[row.xact, leg] += row.after
    for step in evidence.steps():
        spent, held, limit = step.after
        if not step.hard or spent + held <= limit:
            continue
        over = f"period {step.period_id} had {spent} spent and {held} held of {limit} at {step.at}"
        if placed[step.xact, step.period_id]:
            yield f"{over}, after a hold was admitted"
        elif spent + held > max(limit, step.before[0] + step.before[1]):
            yield over


def _hold_before_dispatch(evidence: Evidence) -> Iterator[str]:
    attempts_of = Counter(attempt.call_id for attempt in evidence.attempts)
    placed_at = {hold: moves[0].at for hold, moves in evidence.hold_moves().items()}
    holds_of: dict[Any, list[datetime]] = defaultdict(list)
    for entry in evidence.entries:
        if entry.id in placed_at:
            holds_of[entry.call_id].append(placed_at[entry.id])
    ids = {call.tag: call.id for call in evidence.calls if call.tag}
    for hold in evidence.open_holds:  # not settled yet: its memo says whose it is
        tag = (hold.memo.get("tags") or {}).get("call")
        if tag is not None and ids.setdefault(tag, UUID(hold.memo["call"])) == UUID(hold.memo["call"]):
            attempts_of[ids[tag]] += 1
            if hold.id in placed_at:
                holds_of[ids[tag]].append(placed_at[hold.id])
    times = Counter(line["script_id"] for line in evidence.bill)
    seen: Counter[Any] = Counter()
    for line in sorted(evidence.bill, key=lambda line: str(line["at"])):
        tag = line["script_id"]
        call_id = ids.get(tag)
        holds = sorted(holds_of.get(call_id, ()))
        if call_id is None or not holds:
            yield f"call {tag} is on the bill and had no hold"
            continue
        if times[tag] > attempts_of[call_id]:
            yield f"call {tag} is {times[tag]} times on the bill, with {attempts_of[call_id]} attempts"
            continue
        hold_at = holds[min(seen[tag], len(holds) - 1)]
        seen[tag] += 1
        if hold_at - timedelta(milliseconds=1) > datetime.fromisoformat(line["at"]):
            yield f"call {tag} was billed at {line['at']}, before its hold at {hold_at}"


def _resolves_once(evidence: Evidence) -> Iterator[str]:
    entries = Counter(entry.id for entry in evidence.entries if entry.kind in RESOLVING)
    still_open = {hold.id for hold in evidence.open_holds}
    moves = evidence.hold_moves()
    for hold_id, rows in moves.items():
        deletions = sum(row.after is None for row in rows)
        if deletions != entries[hold_id] or deletions + (hold_id in still_open) != 1:
            yield (
                f"hold {hold_id} was deleted {deletions} times, has {entries[hold_id]} entries and is "
                f"{'still' if hold_id in still_open else 'not'} open"
            )
    for entry_id in entries.keys() - moves.keys():
        yield f"entry {entry_id} resolves a hold that never was"


def _sums(evidence: Evidence) -> Iterator[str]:
    spent: dict[tuple[int, int], int] = defaultdict(int)
    held: dict[tuple[int, int], int] = defaultdict(int)
    for entry in evidence.entries:
        if entry.kind in MOVES_SPENDING:
            for leg in entry.period_ids:
                spent[entry.xact, leg] += entry.amount_nanos
    for row in evidence.journal:
        for leg in row.period_ids or ():
            held[row.xact, leg] += (row.after or 0) - (row.before or 0)
    last: dict[int, tuple[int, int]] = {}
    for step in evidence.steps():
        key = step.xact, step.period_id
        moved = step.after[0] - step.before[0], step.after[1] - step.before[1]
        facts = spent.pop(key, 0), held.pop(key, 0)
        last[step.period_id] = step.after[:2]
        if moved != facts:
            yield f"transaction {key[0]} moved (spent, held) of period {key[1]} by {moved}, its facts {facts}"
    for facts_of in (spent, held):
        for (xact, leg), amount in facts_of.items():
            if amount:
                yield f"transaction {xact} has facts of {amount} on period {leg}, which did not move"
    for period in evidence.periods:
        now = period.spent_nanos, period.held_nanos
        if last.get(period.id, (0, 0)) != now:
            yield f"period {period.id} says {now}, its newest version {last.get(period.id)}"


def _same_legs(evidence: Evidence) -> Iterator[str]:
    moves = evidence.hold_moves()
    for entry in evidence.entries:
        rows = moves.get(entry.id)
        if entry.kind in RESOLVING and rows and sorted(entry.period_ids) != sorted(rows[0].period_ids):
            yield f"entry {entry.id} was charged to {entry.period_ids}, held on {rows[0].period_ids}"


def _immutable(evidence: Evidence) -> Iterator[str]:
    for table in evidence.unguarded_tables:
        yield f"{table} has no trigger that refuses changes"
    known = {entry.id for entry in evidence.entries}
    left: dict[Any, int] = defaultdict(int)
    for entry in evidence.entries:
        if entry.kind in ("credit", "correction", "overrun") and entry.corrects_id not in known:
            yield f"{entry.kind} {entry.id} corrects {entry.corrects_id}, which does not exist"
        left[entry.call_id] += entry.amount_nanos
    for call_id, nanos in left.items():
        if nanos < 0:
            yield f"call {call_id} got {-nanos} more back than it was charged"


def _price(evidence: Evidence) -> Iterator[str]:
    lines = {line["request_id"]: line for line in evidence.bill}
    attempts = {attempt.id: attempt for attempt in evidence.attempts}
    for entry in evidence.entries:
        if entry.kind != "charge":
            continue
        if not 0 <= entry.amount_nanos <= entry.held_nanos:
            yield f"charge {entry.id} is {entry.amount_nanos} of a hold of {entry.held_nanos}"
        attempt = attempts.get(entry.id)
        line = attempt and lines.get(attempt.upstream_request_id)
        if attempt is None:
            yield f"charge {entry.id} has no attempt"
        elif line and entry.basis == "exact" and attempt.cost_nanos != price_nanos(line["usage"]):
            yield f"charge {entry.id} is {attempt.cost_nanos}, its bill {price_nanos(line['usage'])}"


def _clears(evidence: Evidence) -> Iterator[str]:
    moves = evidence.hold_moves()
    for entry in evidence.entries:
        rows = moves.get(entry.id)
        if entry.kind not in RESOLVING or not rows:
            continue
        left = sum((row.after or 0) - (row.before or 0) for row in rows)
        released = rows[-1].before if rows[-1].after is None else None
        if left != 0 or released != entry.held_nanos:
            yield f"hold {entry.id}: {released} released, {entry.held_nanos} in its entry, {left} left"
    for hold in evidence.open_holds:
        rows = moves.get(hold.id) or []
        if rows and rows[-1].after != hold.amount_nanos:
            yield f"hold {hold.id} is {hold.amount_nanos}, its journal says {rows[-1].after}"


def _periods(evidence: Evidence) -> Iterator[str]:
    window = {period.id: (period.starts_at, period.ends_at) for period in evidence.periods}
    for hold_id, rows in evidence.hold_moves().items():
        for leg in rows[0].period_ids:
            starts_at, ends_at = window.get(leg, (None, None))
            if starts_at is None or not starts_at <= rows[0].at < ends_at:
                yield f"hold {hold_id} of {rows[0].at} is on period {leg}, {starts_at} to {ends_at}"
    of_budget: dict[Any, list[Any]] = defaultdict(list)
    for period in evidence.periods:
        of_budget[period.budget_id, period.subject].append(period)
    for periods in of_budget.values():
        for one, next_one in pairwise(sorted(periods, key=lambda period: period.starts_at)):
            if one.ends_at > next_one.starts_at:
                yield f"periods {one.id} and {next_one.id} of budget {one.budget_id} overlap"


def _billed(evidence: Evidence) -> Iterator[str]:
    charged: dict[Any, int] = defaultdict(int)
    for entry in evidence.entries:
        if entry.kind in (*MOVES_SPENDING, "overrun"):
            charged[entry.call_id] += entry.amount_nanos
    of_tag: dict[str, list[Any]] = defaultdict(list)
    for call in evidence.calls:
        if call.tag:
            of_tag[call.tag].append(call)
    pending = {(hold.memo.get("tags") or {}).get("call") for hold in evidence.open_holds}
    billed: dict[str, int] = defaultdict(int)
    for line in evidence.bill:
        billed[line["script_id"]] += price_nanos(line["usage"])
    for tag, nanos in billed.items():
        if tag not in of_tag and tag not in pending:
            yield f"call {tag} is lost: billed {nanos}, not in the ledger"
        elif tag in of_tag and tag not in pending and sum(charged[c.id] for c in of_tag[tag]) < nanos:
            yield f"call {tag} was billed {nanos}, charged {sum(charged[c.id] for c in of_tag[tag])}"
    for tag, calls in of_tag.items():
        if sum(charged[call.id] > 0 for call in calls) > 1:
            yield f"call {tag} is charged {len(calls)} times"


def _shown(evidence: Evidence) -> Iterator[str]:
    costs: dict[Any, int] = defaultdict(int)
    charges: dict[Any, int] = defaultdict(int)
    for attempt in evidence.attempts:
        costs[attempt.call_id] += attempt.cost_nanos
    # What is learned after a charge at a bound stands in entries alone: a call's row is never changed.
    exact = {entry.id for entry in evidence.entries if entry.kind == "charge" and entry.basis == "exact"}
    for entry in evidence.entries:
        if entry.kind in RESOLVING or (entry.kind == "overrun" and entry.corrects_id in exact):
            charges[entry.call_id] += entry.amount_nanos
    for call in evidence.calls:
        if not call.cost_nanos == costs[call.id] == charges[call.id]:
            yield (
                f"call {call.id} says {call.cost_nanos}, its attempts {costs[call.id]}, "
                f"its entries {charges[call.id]}"
            )
    versions = {(row.period_id, row.spent) for row in evidence.journal if row.period_id is not None}
    for crossing in evidence.crossings:
        if (crossing.period_id, crossing.spent_nanos) not in versions:
            yield f"{crossing.percent} % of period {crossing.period_id} was crossed at a figure it never had"


def _adds_up(evidence: Evidence) -> Iterator[str]:
    sums: dict[Any, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for attempt in evidence.attempts:
        counts = attempt.number > 0  # else a hold that was given back without a try
        row = (counts, counts * attempt.held_nanos, attempt.cost_nanos, attempt.list_nanos)
        sums[attempt.call_id] = [a + b for a, b in zip(sums[attempt.call_id], row, strict=True)]
    for call_id, times in Counter(call.id for call in evidence.calls).items():
        if times > 1:
            yield f"call {call_id} has {times} rows"
    for call_id in sums.keys() - {call.id for call in evidence.calls}:
        if call_id not in {UUID(hold.memo["call"]) for hold in evidence.open_holds}:
            yield f"call {call_id} has attempts and no row"
    for call in evidence.calls:
        says, found = [call.attempts, call.held_nanos, call.cost_nanos, call.list_nanos], sums[call.id]
        # A call that was refused because the ledger's answer to its hold was lost counts no attempt.
        if says != found and not (call.attempts == 0 and says[2:] == found[2:] == [0, 0]):
            yield f"call {call.id} says (attempts, held, cost, list) {says}, its attempts {found}"


def _adjusted(evidence: Evidence) -> Iterator[str]:
    facts = {fact.id: fact for fact in evidence.adjustments}
    added: Counter[int] = Counter()
    for fact in facts.values():
        if fact.period_id is not None:
            added[fact.period_id] += fact.amount_nanos
    for period in evidence.periods:
        if period.added_nanos != added[period.id]:
            yield f"period {period.id} has {period.added_nanos} added, its adjustments say {added[period.id]}"
        raised = period.raised_nanos if _is_ahead(period.raised_until, evidence) else 0
        if period.ends_at > _asked_at(evidence) and raised != _raise_of(period, evidence):
            yield f"period {period.id} is raised by {raised}, its raises say {_raise_of(period, evidence)}"
    moved = {entry.id: entry for entry in evidence.entries if entry.kind == "transfer"}
    for fact in facts.values():
        if fact.kind != "transfer":
            continue
        other, entry = facts.get(fact.other_id), moved.pop(fact.id, None)
        if other is None or (other.other_id, other.amount_nanos) != (fact.id, -fact.amount_nanos):
            yield f"transfer {fact.id} of {fact.amount_nanos} has no other side"
        if entry is None or (entry.amount_nanos, entry.period_ids) != (fact.amount_nanos, [fact.period_id]):
            yield f"transfer {fact.id} is not in the ledger as it was made"
    for entry_id in moved:
        yield f"the ledger has a transfer {entry_id} that nobody made"


def _raise_of(period: Any, evidence: Evidence) -> int:
    """By how much its budget's raises raise it at the moment of the evidence."""
    ended = {fact.other_id for fact in evidence.adjustments if fact.kind == "raise_end"}
    return sum(
        fact.amount_nanos
        for fact in evidence.adjustments
        if fact.kind == "raise"
        and (fact.budget_id, fact.subject) == (period.budget_id, period.subject)
        and fact.id not in ended
        and _is_ahead(fact.until, evidence)
    )


def _is_ahead(moment: datetime | None, evidence: Evidence) -> bool:
    return moment is not None and moment > _asked_at(evidence)


def _asked_at(evidence: Evidence) -> datetime:
    assert evidence.asked_at is not None
    return evidence.asked_at


RULES: dict[str, Callable[[Evidence], Iterator[str]]] = {
    "I1": _room,
    "I2": _hold_before_dispatch,
    "I3": _resolves_once,
    "I4": _sums,
    "I5": _same_legs,
    "I6": _immutable,
    "I7": _price,
    "I8": _clears,
    "I9": _periods,
    "I10": _billed,
    "I11": _shown,
    "I12": _adds_up,
    "I13": _adjusted,
}
