"""CPU and memory of a process tree, and of the machine, from /proc."""

from __future__ import annotations

import os
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")


class Memory(NamedTuple):
    """Of a process tree, in MiB."""

    peak_rss: float  # VmHWM of the largest process
    pss: float  # proportional set sizes, summed over the tree, now


def tree(pid: int) -> list[int]:
    """Return ``pid`` and all its living descendants."""
    found = [pid]
    for parent in found:
        found += _children(parent)
    return found


def cpu_seconds(pid: int) -> float:
    """Return user + system time of the tree, ended and reaped children included."""
    return sum(_ticks(member) for member in tree(pid)) / TICKS


def memory(pid: int) -> Memory:
    """Return what the tree holds and has held."""
    members = tree(pid)
    peak = max(_kilobytes(f"/proc/{member}/status", "VmHWM:") for member in members)
    pss = sum(_kilobytes(f"/proc/{member}/smaps_rollup", "Pss:") for member in members)
    return Memory(peak / 1024, pss / 1024)


def rss(pid: int) -> float:
    """Return the resident memory of the largest process of the tree, now, in MiB."""
    return max(_kilobytes(f"/proc/{member}/status", "VmRSS:") for member in tree(pid)) / 1024


def machine_cpu_seconds() -> float:
    """Return the busy time of all cores since boot."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                children += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        pass  # it ended meanwhile: nothing of it is left to measure
    return children


def _ticks(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # reaped: its parent has it in cutime and cstime
    return sum(map(int, fields[11:15]))


def _kilobytes(path: str, key: str) -> int:
    try:
        with open(path) as file:
            return next((int(line.split()[1]) for line in file if line.startswith(key)), 0)
    except (FileNotFoundError, ProcessLookupError):
        return 0
