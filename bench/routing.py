"""What the rules of a policy cost a call: CPU of `Router.route` with 50 rules, alone in one process.

    python -m bench.routing             µs a call, by what the last rule does and how long the message is
    python -m bench.routing --profile   where the time goes, for a message of 100 words

The rules are of ten kinds (tags, tiers, words, keywords, features, times of day, budget use, turns, models,
latency). All but the last are asked and do not match, which is the dearest case.
"""

import argparse
import cProfile
import pstats
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

import governance.pricing
from governance.pricing.price_file import read_price_file
from governance.routing.document import Policy
from governance.routing.facts import CallFacts
from governance.routing.router import Router, compile_router
from governance.routing.rules import CompiledInput

RULES, ROUNDS, CALLS_A_ROUND = 50, 15, 400
LAST: dict[str, dict[str, Any]] = {
    "no rule matches": {"when": {"stream": True}, "then": {"concise": True}},
    "a tier and a cap": {"then": {"route": {"tier": "haiku"}, "max_tokens": {"cap": 2_000}}},
    "the heuristic and a cap": {"then": {"route": {"heuristic": True}, "max_tokens": {"cap": 2_000}}},
}
_MESSAGE = (
    *("please", "tell", "me", "why", "the", "new", "catalogue", "of", "our", "shop", "is", "late", "and"),
    *("what", "is", "known", "about", "the", "deliveries", "of", "this", "week", "from", "the", "two"),
    *("suppliers", "in", "the", "north", "and", "whether", "anybody", "has", "spoken", "with", "them"),
)


def rule(number: int) -> dict[str, Any]:
    """One of ten kinds that do not match the call below."""
    kinds: list[dict[str, Any]] = [
        {"tags": {"endpoint": f"endpoint-{number}"}},
        {"tiers": ["sonnet"], "words": {"at_most": 3}},
        {"keywords": {"any": [f"poem{number}", f"red herring {number}", "bees"]}},
        {"has": ["tools", "thinking"]},
        {"time": {"zone": "Europe/Berlin", "from": "22:00", "to": "06:00"}},
        {"budget_used": {"at_least": 95}},
        {"turn": "later", "bytes": {"at_least": 50_000}},
        {"models": ["claude-opus-4-8"]},
        {"tiers": ["opus"], "words": {"at_least": 5_000}},
        {"latency": ["batch"], "tiers": ["opus", "sonnet"]},
    ]
    return {"name": f"rule {number}", "when": kinds[number % 10], "then": {"route": {"tier": "haiku"}}}


def router(last: dict[str, Any]) -> Router:
    """RULES rules, of which `last` is the last."""
    path = Path(governance.pricing.__file__).parent / "data" / "claude_prices.json"
    rules = [*map(rule, range(RULES - 1)), {"name": "last", **last}]
    policy = msgspec.convert({"rules": rules}, Policy)
    models = read_price_file(path.name, path.read_bytes()).models
    return compile_router([CompiledInput(1, 1, policy)], models=models)


def call(words: int) -> CallFacts:
    """A question to Opus, by day."""
    text = " ".join([_MESSAGE[number % len(_MESSAGE)] for number in range(words)])
    return CallFacts(
        model="claude-opus-5-5",
        tags={"endpoint": "faq", "feature": "search"},
        key_public_id="Abcdefg1",
        team_id=7,
        now=datetime(2026, 11, 20, 12, tzinfo=UTC),
        body_bytes=len(text) + 300,
        stream=False,
        first_turn=True,
        max_tokens=4_096,
        text=text,
        features=frozenset({"system"}),
        budget_used_percent=20,
    )


def cpu_us(work: Callable[[], object], rounds: int = ROUNDS, calls: int = CALLS_A_ROUND) -> list[float]:
    """CPU of one call in each round, in microseconds, the least first."""
    found = []
    for _ in range(rounds):
        begun = time.process_time_ns()
        for _ in range(calls):
            work()
        found.append((time.process_time_ns() - begun) / calls / 1_000)
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.routing", description=__doc__)
    parser.add_argument("--profile", action="store_true")
    if parser.parse_args().profile:
        _profile()
        return
    table = Table(
        title=f"µs of CPU a call, {RULES} rules: least (median) of {ROUNDS} rounds of {CALLS_A_ROUND}"
    )
    table.add_column("last rule")
    sizes = (10, 30, 100, 400)
    for words in sizes:
        table.add_column(f"{words} words", justify="right")
    for name, last in LAST.items():
        compiled, cells = router(last), []
        for words in sizes:
            facts = call(words)
            took = cpu_us(partial(compiled.route, facts))
            cells.append(f"{took[0]:.1f} ({median(took):.1f})")
        table.add_row(name, *cells)
    Console().print(table)


def _profile() -> None:
    compiled, facts = router(LAST["the heuristic and a cap"]), call(100)
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(5_000):
        compiled.route(facts)
    profile.disable()
    pstats.Stats(profile).sort_stats("tottime").print_stats(20)


if __name__ == "__main__":
    main()
