"""CPU, memory and threads of a process and its descendants, from /proc (Linux only)."""

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a process tree, right now. CPU is user and system time since its start, in ms of 10 ms steps."""

    cpu_ms: float
    rss_kb: int
    threads: int


def usage_of_tree(pid: int) -> Usage:
    """The process with all its living descendants, and the CPU of those that it has waited for."""
    stats = _all_stats()
    children: dict[int, list[int]] = {}
    for child, fields in stats.items():
        children.setdefault(int(fields[1]), []).append(child)
    ticks = pages = threads = 0
    waiting = [pid]
    while waiting:
        current = waiting.pop()
        waiting += children.get(current, [])
        fields = stats[current]
        ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
        threads += int(fields[17])
        pages += int(fields[21])
    return Usage(ticks * 1000 / _TICKS_PER_SECOND, pages * _PAGE_KB, threads)


def _all_stats() -> dict[int, list[str]]:
    """pid → the fields of /proc/PID/stat after the command's name: state, ppid, …"""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[int(path.parent.name)] = text.rpartition(")")[2].split()
    return found
