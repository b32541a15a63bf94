"""The named moments of a call at which a worker can be made to die or to fail.

The points live here and not in the code path. A point wraps a function of the gateway in the one worker
process that a test arms, after its fork (warm_workers.py): so production code has no line for it, pays
nothing, and holds no switch that an environment variable, a setting or a request could turn on. The price is
that a point follows the code by name: a function that was renamed fails `install`, loudly, and the test
with it.

`kill` is SIGKILL to itself: no handler runs, no buffer is flushed. `raise` is an exception nobody expects.
`lose` cuts the line to PostgreSQL after a batch was sent and written, before its answer is read. Each fires
once. Before it does, it appends its name to a file, so that a test knows that it came that far.
"""

import functools
import importlib
import inspect
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

type Action = Literal["kill", "raise", "lose"]
type Ledger = Literal["nothing", "full_hold", "bounded", "exact", "void"]

_on_the_wire: set[bytes] = set()
"""The statements of the batch that is being sent."""


class InjectedFault(Exception):
    """What `raise` raises. No code catches it by name."""


@dataclass(frozen=True)
class Point:
    """Where a worker dies, and what the ledger may say of the call afterwards.

    `number`: the fault of the catalogue (README.md). `killed`, `raised`: every outcome that is right; the
    checker judges the figures. `billed`: whether upstream has billed the call by then.
    """

    where: str
    side: Literal["before", "after"]
    number: int
    billed: bool
    killed: tuple[Ledger, ...]
    raised: tuple[Ledger, ...]
    lost: tuple[Ledger, ...] = ()
    modes: tuple[str, ...] = ("json", "stream")
    when: Callable[..., bool] = lambda *_: True
    pause_seconds: float = 0.0
    script: tuple[tuple[str, Any], ...] = ()
    policy: str = ""
    asks: str | None = None
    """The model that is asked for, where a policy gives the call several attempts."""


def _holds(_: Any, __: Any, batch: Any) -> bool:
    return bool(batch.holds)


def _settlements(_: Any, __: Any, batch: Any) -> bool:
    return bool(batch.settlements)


def _shrinks(_: Any, __: Any, batch: Any) -> bool:
    return bool(batch.shrinks)


def _answering(_: Any, taken: Any, __: Any) -> bool:
    return bool(taken.holds)


def _sending(name: bytes) -> Callable[..., bool]:
    return lambda *_: name in _on_the_wire


def _event(name: str) -> Point:
    """After the bytes of that event were read and before they are passed on."""
    mark = f"event: {name}\n".encode()
    return Point(
        "governance.gateway.sse:StreamTap.feed", "after", 4, True, ("full_hold",),
        ("full_hold", "bounded", "exact"), modes=("stream",), when=lambda _, chunk: mark in chunk,
    )  # fmt: skip


_GATEWAY, _DESK, _UPSTREAM = "governance.gateway", "governance.desk", "governance.upstream"
_NOTHING: tuple[Ledger, ...] = ("nothing",)
_FULL: tuple[Ledger, ...] = ("full_hold",)
_EXACT: tuple[Ledger, ...] = ("exact",)
_REFUSED = (("error", {"type": "overloaded_error"}),)


def _between(where: str, side: Literal["before", "after"], *killed: str) -> Point:
    """Of a call whose first attempt fails and whose second, with another model, has a hold too. `killed`:
    what became of the two."""
    return Point(
        f"{_GATEWAY}.{where}", side, 25, False, ("+".join(killed),), ("void+exact", "void", "void+void"),  # type: ignore[arg-type]
        script=(("error", {"type": "overloaded_error", "times": 1}),), asks="claude-sonnet-5-5",
        policy="rules: [{name: fall back, then: {fallbacks: [{model: claude-haiku-4-5}]}}]",
    )  # fmt: skip


def _judging(side: Literal["before", "after"], killed: str, raised: str) -> Point:
    """Of a call whose answer is judged by the model that gave it."""
    return Point(
        f"{_GATEWAY}.cascade:confidence_in", side, 25, True, (killed,), (raised,),  # type: ignore[arg-type]
        modes=("json",), asks="claude-sonnet-5-5",
        policy="rules: [{name: cheap first, then: {route: {cascade: {first: {model: claude-haiku-4-5}, "
        "then: {tier: opus}, confidence: {at_least: 1}}}}}]",
    )  # fmt: skip


POINTS: dict[str, Point] = {
    "request.before_read": Point(f"{_GATEWAY}.pipeline:read", "before", 1, False, _NOTHING, _NOTHING),
    "hold.before_queue": Point(f"{_DESK}.desk:Desk.place_hold", "before", 1, False, _NOTHING, _NOTHING),
    "hold.before_commit": Point(
        f"{_DESK}.desk:write", "before", 1, False, _NOTHING, _NOTHING, when=_holds
    ),
    "hold.sent": Point(
        f"{_DESK}.wire:_answers", "before", 1, False, ("nothing", "full_hold"), ("nothing", "full_hold"),
        ("void",),
        when=_sending(b"admit"),
    ),
    "hold.after_commit": Point(f"{_DESK}.desk:write", "after", 2, False, _FULL, _FULL, when=_holds),
    "hold.after_answer": Point(
        f"{_DESK}.desk:Desk._answer", "after", 2, False, _FULL, _FULL, when=_answering
    ),
    "dispatch.before": Point(f"{_UPSTREAM}.client:Upstream.send", "before", 2, False, _FULL, _FULL),
    "dispatch.sent": Point(
        f"{_UPSTREAM}.connection:Reply.begun", "before", 3, True, _FULL, _FULL, pause_seconds=0.1
    ),
    "headers.received": Point(f"{_GATEWAY}.relay:relay", "before", 3, True, _FULL, _FULL),
    "body.received": Point(
        f"{_UPSTREAM}.connection:Reply.read_all", "after", 5, True, _FULL, _FULL, modes=("json",)
    ),
    "event.message_start": _event("message_start"),
    "event.content_block_start": _event("content_block_start"),
    "event.content_block_delta": _event("content_block_delta"),
    "event.content_block_stop": _event("content_block_stop"),
    "event.message_delta": _event("message_delta"),
    "event.message_stop": _event("message_stop"),
    "shrink.before": Point(
        f"{_GATEWAY}.attempt:Attempt.shrink", "before", 4, True, _FULL, ("full_hold", "bounded"),
        modes=("stream",),
    ),
    "shrink.after_commit": Point(
        f"{_DESK}.desk:write", "after", 4, True, _FULL, ("full_hold", "exact"), modes=("stream",),
        when=_shrinks,
    ),
    "settle.before": Point(f"{_GATEWAY}.attempt:Attempt.charge", "before", 5, True, _FULL, _FULL),
    "settle.before_queue": Point(f"{_GATEWAY}.gateway:Gateway.settle", "before", 5, True, _FULL, _FULL),
    "settle.after_queue": Point(
        f"{_GATEWAY}.gateway:Gateway.settle", "after", 5, True, _FULL, ("exact", "full_hold")
    ),
    "settle.before_commit": Point(
        f"{_DESK}.desk:write", "before", 6, True, _FULL, _FULL, when=_settlements
    ),
    "settle.sent": Point(
        f"{_DESK}.wire:_answers", "before", 6, True, ("full_hold", "exact"), ("full_hold", "exact"),
        ("exact",),
        when=_sending(b"settle"),
    ),
    "settle.after_commit": Point(f"{_DESK}.desk:write", "after", 6, True, _EXACT, _EXACT, when=_settlements),
    "void.before": Point(
        f"{_GATEWAY}.attempt:Attempt.void", "before", 25, False, _FULL, _FULL, script=_REFUSED
    ),
    "between.ended": _between("earlier:Earlier.ended", "after", "full_hold"),
    "between.next_bound": _between("other_model:ask_instead", "after", "full_hold"),
    "between.next_held": _between("earlier:Earlier.give_way_to", "before", "full_hold", "full_hold"),
    "between.settled": _between("earlier:Earlier.give_way_to", "after", "void", "full_hold"),
    "judge.before": _judging("before", "full_hold", "exact"),
    "judge.after": _judging("after", "exact+full_hold", "exact+exact"),
}  # fmt: skip

SWEEP_POINTS: dict[str, Point] = {
    "sweep.after_mark": Point(f"{_DESK}.sweeper:Sweeper._settle_orphans", "before", 7, False, _FULL, _FULL),
    "sweep.after_claim": Point(f"{_DESK}.sweeper:charge_of_orphan", "before", 7, False, _FULL, _FULL),
    "sweep.before_commit": Point(f"{_DESK}.desk:write", "before", 7, False, _FULL, _FULL, when=_settlements),
    "sweep.after_commit": Point(f"{_DESK}.desk:write", "after", 7, False, _FULL, _FULL, when=_settlements),
}


def install(name: str, action: Action, report: str) -> None:
    """Arm one point in this process. `report`: the file that it appends its name to when it fires."""
    point = (POINTS | SWEEP_POINTS)[name]
    left = [1]

    def fire(*arguments: Any) -> None:
        if not left:
            return
        left.clear()
        if point.pause_seconds or action == "lose":
            time.sleep(point.pause_seconds or 0.1)  # what was written leaves and arrives
        file = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, f"{name}\n".encode())
        os.close(file)
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "raise":
            raise InjectedFault(name)
        [connection] = arguments
        with socket.socket(fileno=os.dup(connection.socket)) as line:
            while select.select([line], [], [], 0)[0] and line.recv(1 << 16):
                pass  # the answer has arrived, and nobody hears it
            line.shutdown(socket.SHUT_RDWR)

    if point.where.endswith("wire:_answers"):
        _watch_the_wire()
    owner, attribute, original = find(point.where)
    setattr(owner, attribute, _wrapped(original, point, fire))


def find(where: str) -> tuple[Any, str, Callable[..., Any]]:
    """(owner, attribute, function) of "module:Class.method". AttributeError when it was renamed."""
    module, _, path = where.partition(":")
    owner: Any = importlib.import_module(module)
    *holders, attribute = path.split(".")
    for holder in holders:
        owner = getattr(owner, holder)
    return owner, attribute, getattr(owner, attribute)


def _wrapped(original: Callable[..., Any], point: Point, fire: Callable[..., None]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def call_async(*arguments: Any, **named: Any) -> Any:
            due = point.when(*arguments)
            if due and point.side == "before":
                fire(*arguments)
            result = await original(*arguments, **named)
            if due and point.side == "after":
                fire()
            return result

        return call_async

    @functools.wraps(original)
    def call(*arguments: Any, **named: Any) -> Any:
        due = point.when(*arguments)
        if due and point.side == "before":
            fire(*arguments)
        result = original(*arguments, **named)
        if due and point.side == "after":
            fire()
        return result

    return call


def _watch_the_wire() -> None:
    """Remember which statements are being sent, for the points between sending and hearing."""
    from governance.desk import wire

    original = wire.run

    async def run(pgconn: Any, calls: Any) -> Any:
        _on_the_wire.clear()
        _on_the_wire.update(name for name, _ in calls)
        return await original(pgconn, calls)

    wire.run = run
