"""The figures of all rounds as a table for people and as JSON for comparisons over time."""

import json
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.stack import PROJECT


@dataclass(frozen=True, slots=True)
class Row:
    """One printed figure: its name in the rounds, its title, unit and, where there is one, its limit."""

    name: str
    title: str
    unit: str
    limit: float | None = None
    at_least: bool = False


ROWS = [
    Row("bare_cpu_ms", "the bare server, CPU", "ms"),
    Row("json_gateway_cpu_ms", "JSON call, gateway CPU", "ms", 0.35),
    Row("json_passthrough_cpu_ms", "JSON call, pass-through CPU", "ms"),
    Row("json_ratio", "JSON call, gateway / pass-through", "×", 2.5),
    Row("json_gateway_calls_per_second", "JSON calls, one gateway process", "/s", 2_000, at_least=True),
    Row("json_passthrough_calls_per_second", "JSON calls, pass-through", "/s"),
    Row("json_gateway_postgres_cpu_ms", "JSON call, PostgreSQL CPU", "ms"),
    Row("stream_gateway_cpu_ms", "20-delta stream, gateway CPU", "ms", 0.70),
    Row("stream_passthrough_cpu_ms", "20-delta stream, pass-through CPU", "ms"),
    Row("stream_ratio", "20-delta stream, gateway / pass-through", "×", 2.0),
    Row("stream_gateway_calls_per_second", "streams, one gateway process", "/s"),
    Row("stream_gateway_postgres_cpu_ms", "20-delta stream, PostgreSQL CPU", "ms"),
    Row("hit_gateway_cpu_ms", "answer from the cache, gateway CPU", "ms", 0.20),
    Row("hit_ratio", "answer from the cache, gateway / pass-through", "×"),
    Row("hit_gateway_calls_per_second", "answers from the cache, one gateway process", "/s"),
    Row("hit_gateway_postgres_cpu_ms", "answer from the cache, PostgreSQL CPU", "ms"),
    Row("refusal_gateway_cpu_ms", "refusal, gateway CPU", "ms"),
    Row("refusal_gateway_calls_per_second", "refusals, one gateway process", "/s"),
    Row("refusal_gateway_postgres_cpu_ms", "refusal, PostgreSQL CPU", "ms"),
    Row("added_p50_ms_gateway", "latency added at 20/s, p50", "ms", 3.0),
    Row("added_p99_ms_gateway", "latency added at 20/s, p99", "ms", 10.0),
    Row("added_p50_ms_passthrough", "the same, pass-through, p50", "ms"),
    Row("added_p99_ms_passthrough", "the same, pass-through, p99", "ms"),
    Row("kb_per_stream", "open stream, memory", "KB", 40),
    Row("threads_per_stream", "open stream, threads", "", 0),
    Row("rss_mb", "gateway worker, memory", "MB", 90),
    Row("desk_pairs_per_second", "desk, holds and settlements", "pairs/s"),
    Row("desk_cpu_ms_per_pair", "desk, its process's CPU a pair", "ms"),
    Row("desk_postgres_cpu_ms_per_pair", "desk, PostgreSQL CPU a pair", "ms"),
    Row("desk_hold_p99_ms", "desk, wait for a hold, p99", "ms"),
]


def show(rounds: list[dict[str, float]], load: str) -> None:
    """Medians of the rounds, their range, and whether each limit is kept."""
    table = Table(title=f"What a governed call costs: medians of {len(rounds)} rounds", caption=load)
    for title in ("", "median", "lowest", "highest", "must be"):
        table.add_column(title, justify="left" if not title else "right")
    for row in ROWS:
        values = [figures[row.name] for figures in rounds if row.name in figures]
        if values:
            middle = median(values)
            shown = (f"{_number(middle)} {row.unit}", _number(min(values)), _number(max(values)))
            table.add_row(row.title, *shown, _verdict(row, middle))
    Console().print(table)


def _verdict(row: Row, value: float) -> str:
    if row.limit is None:
        return ""
    kept = value >= row.limit if row.at_least else value <= row.limit
    colour = "green" if kept else "red"
    return f"[{colour}]{'≥' if row.at_least else '≤'} {_number(row.limit)} {'✓' if kept else '✗'}[/]"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def save(rounds: list[dict[str, float]], load: str) -> Path:
    """.local/bench/TIME.json: the medians, every round, and the machine."""
    now = datetime.now(UTC)
    report: dict[str, Any] = {
        "at": now.isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": {
            "cpus": os.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "load_average": os.getloadavg(),
        },
        "load": load,
        "medians": {
            row.name: median(values)
            for row in ROWS
            if (values := [figures[row.name] for figures in rounds if row.name in figures])
        },
        "rounds": rounds,
    }
    path = PROJECT / ".local" / "bench" / f"{now:%Y%m%dT%H%M%SZ}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    return path


def _commit() -> str | None:
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=PROJECT)
    return done.stdout.strip() or None
