"""One round of measurements. Each runs one load in a process of its own and reads CPU before and after."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

from bench.load import Load
from bench.processes import usage_of_tree
from bench.stack import CHUNK_DELAY_MS, DELTAS, PROJECT, Server, Stack

JSON_CALLERS = 16
STREAM_CALLERS = 64
BARE = "/bare"
LATENCY_CALLS_PER_SECOND = 20
FIRST_STREAMS = 20  # so that what only the first ones need is not counted
SETTLE_SECONDS = 0.5  # what a reply does not wait for is charged to its call all the same
_IDLE_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long each part of a round lasts, in seconds, and how many streams are held open."""

    rounds: int
    warm_up: float
    load: float
    latency: float
    streams: int


FULL = Lengths(rounds=5, warm_up=1.0, load=4.0, latency=10.0, streams=500)
QUICK = Lengths(rounds=2, warm_up=0.5, load=1.0, latency=2.0, streams=100)

type Figures = dict[str, float]


def warm_up(stack: Stack, lengths: Lengths) -> None:
    for server in (stack.passthrough, stack.gateway):
        for stream in (False, True):
            _run(Load(server.port, stack.key, stream, seconds=lengths.warm_up, concurrency=JSON_CALLERS))
    _run(Load(stack.gateway.port, stack.cached_key, False, seconds=lengths.warm_up, concurrency=1))
    _run(Load(stack.gateway.port, stack.poor_key, False, seconds=lengths.warm_up, concurrency=4), expect=429)


def one_round(stack: Stack, lengths: Lengths) -> Figures:
    """Everything that is compared, pass-through and gateway in turn; CPU in ms a call, latency in ms."""
    bare = Load(stack.passthrough.port, "", False, lengths.load, concurrency=JSON_CALLERS, path=BARE)
    figures = _prefixed("bare", _under_load(stack, stack.passthrough, bare))
    for name, stream, callers in (("json", False, JSON_CALLERS), ("stream", True, STREAM_CALLERS)):
        for server in (stack.passthrough, stack.gateway):
            load = Load(server.port, stack.key, stream, seconds=lengths.load, concurrency=callers)
            figures |= _prefixed(f"{name}_{server.name}", _under_load(stack, server, load))
        figures[f"{name}_ratio"] = figures[f"{name}_gateway_cpu_ms"] / figures[f"{name}_passthrough_cpu_ms"]
    hit = Load(stack.gateway.port, stack.cached_key, False, seconds=lengths.load, concurrency=JSON_CALLERS)
    misses = _misses(stack.gateway)
    figures |= _prefixed("hit_gateway", _under_load(stack, stack.gateway, hit))
    figures["hit_ratio"] = figures["hit_gateway_cpu_ms"] / figures["json_passthrough_cpu_ms"]
    if _misses(stack.gateway) > misses:
        sys.exit("Not every call was answered from the response cache.")
    refusal = Load(stack.gateway.port, stack.poor_key, False, seconds=lengths.load, concurrency=JSON_CALLERS)
    figures |= _prefixed("refusal_gateway", _under_load(stack, stack.gateway, refusal, expect=429))
    return figures


def _misses(server: Server) -> int:
    """Calls so far whose answer might have been kept and was not found."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=5) as reply:
        lines = reply.read().decode().splitlines()
    return sum(
        int(float(line.rpartition(" ")[2]))
        for line in lines
        if line.startswith('exchequer_response_cache_total{result="miss"}')
    )


def latencies(stack: Stack, lengths: Lengths) -> dict[str, list[float]]:
    """Milliseconds that a client waits for a JSON reply at 20 calls a second, per server."""
    return {
        server.name: _run(
            Load(server.port, stack.key, False, seconds=lengths.latency, rate=LATENCY_CALLS_PER_SECOND)
        )["latencies_ms"]
        for server in (stack.simulator, stack.passthrough, stack.gateway)
    }


def added_latency(samples: Iterable[dict[str, list[float]]]) -> Figures:
    """What each proxy adds to the simulator's own p50 and p99, over the samples of all rounds."""
    pooled: dict[str, list[float]] = {}
    for sample in samples:
        for name, values in sample.items():
            pooled.setdefault(name, []).extend(values)
    direct = pooled.pop("simulator")
    figures = {}
    for name, values in pooled.items():
        figures[f"added_p50_ms_{name}"] = median(values) - median(direct)
        figures[f"added_p99_ms_{name}"] = _p99(values) - _p99(direct)
    return figures


def open_streams(stack: Stack, lengths: Lengths) -> Figures:
    """Memory and threads of each further open stream."""
    _run(Load(stack.streams_gateway.port, stack.key, False, seconds=lengths.warm_up, concurrency=4))
    with _streams(stack, FIRST_STREAMS):
        before = usage_of_tree(stack.streams_gateway.pid)
        with _streams(stack, lengths.streams):
            during = usage_of_tree(stack.streams_gateway.pid)
    return {
        "kb_per_stream": (during.rss_kb - before.rss_kb) / lengths.streams,
        "threads_per_stream": (during.threads - before.threads) / lengths.streams,
    }


@contextmanager
def _streams(stack: Stack, count: int) -> Iterator[None]:
    """So many streams, begun and waiting for upstream."""
    script = json.dumps({"deltas": DELTAS, "chunk_delay_ms": 2000})
    load = Load(stack.streams_gateway.port, stack.key, True, hold_open=count, script=script)
    process = subprocess.Popen(_command(load), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=PROJECT)
    assert process.stdout is not None
    opened = process.stdout.readline().strip()
    time.sleep(SETTLE_SECONDS)
    yield
    ended, _ = process.communicate(b"")
    if opened != b"open" or json.loads(ended)["statuses"] != {"200": count}:
        sys.exit(f"{count} streams could not be kept open: {opened.decode()} {ended.decode()}")


def memory(stack: Stack) -> Figures:
    """Of the gateway worker, after all that load."""
    return {"rss_mb": usage_of_tree(stack.gateway.pid).rss_kb / 1024}


def desk_pairs(stack: Stack, lengths: Lengths, callers: int) -> Figures:
    """Hold-and-settle pairs through one desk of another process, against the same PostgreSQL."""
    before = usage_of_tree(stack.postgres_pid)
    asked = json.dumps({"callers": callers, "seconds": lengths.load})
    found = json.loads(_output([sys.executable, "-m", "bench.desk_pairs", asked]))
    pairs = found.pop("pairs")
    found["postgres_cpu_ms_per_pair"] = (usage_of_tree(stack.postgres_pid).cpu_ms - before.cpu_ms) / pairs
    return _prefixed("desk", found)


def _under_load(stack: Stack, server: Server, load: Load, expect: int = 200) -> Figures:
    time.sleep(_IDLE_SECONDS)
    before, postgres = usage_of_tree(server.pid), usage_of_tree(stack.postgres_pid)
    result = _run(load, expect)
    time.sleep(SETTLE_SECONDS)
    calls = result["calls"]
    figures = {
        "cpu_ms": (usage_of_tree(server.pid).cpu_ms - before.cpu_ms) / calls,
        "calls_per_second": calls / result["seconds"],
    }
    if server is stack.gateway:
        spent = usage_of_tree(stack.postgres_pid).cpu_ms - postgres.cpu_ms
        figures["postgres_cpu_ms"] = spent / calls
    return figures


def _run(load: Load, expect: int = 200) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_output(_command(load)))
    if set(found["statuses"]) != {str(expect)}:
        sys.exit(f"Expected only status {expect}, got {found['statuses']} for {load}.")
    return found


def _command(load: Load) -> list[str]:
    return [sys.executable, "-m", "bench.load", json.dumps(asdict(load))]


def _output(command: list[str]) -> bytes:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=PROJECT).stdout


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100)[98]


def _prefixed(prefix: str, figures: Figures) -> Figures:
    return {f"{prefix}_{name}": value for name, value in figures.items()}


__all__ = ["CHUNK_DELAY_MS", "DELTAS", "FULL", "QUICK", "Lengths"]
