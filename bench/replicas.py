"""What more replicas bring: one process and two, each saturated, with journals of their own and with one for both.

    bench/run replicas [--rounds 3] [--seconds 4] [--fsync always,everysec] [--scratch DIR]

Nothing is pinned: servers and generators share the cores, as the pods of one node do. Exit code 1: an answer was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import load
import reviews
import servers
from load import Bodies, Saturated
from table import MIX

ROWS = {"1 process": (1, False), "2 processes": (2, False), "2 processes, one volume": (2, True)}


def main() -> int:
    """Measure; print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--fsync", default="always,everysec")
    parser.add_argument("--scratch", default="/var/tmp")  # noqa: S108 - a directory of its own is made there
    options = parser.parse_args()
    if missing := load.missing_tool():
        print(missing, file=sys.stderr)
        return 2
    wrong = 0
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        bodies = load.write_bodies(scratch, MIX, reviews.bodies(MIX))
        certificates = servers.make_certificates(scratch)
        print(f"{os.cpu_count()} cores, {load.CONNECTIONS} connections a process; medians of {options.rounds} rounds")
        for fsync in options.fsync.split(","):
            rounds: dict[str, list[list[Saturated]]] = {row: [] for row in ROWS}
            for _ in range(options.rounds):
                for row, (count, shared) in ROWS.items():
                    rounds[row].append(saturated(count, shared, fsync, scratch, certificates, bodies, options.seconds))
            wrong += show(fsync, rounds)
    return 1 if wrong else 0


def saturated(
    count: int,
    shared: bool,
    fsync: str,
    scratch: str,
    certificates: servers.Certificates,
    bodies: Bodies,
    seconds: float,
) -> list[Saturated]:
    """Saturate so many processes at once; return what each did."""
    with contextlib.ExitStack() as stack:
        environ = {"AUDIT_FSYNC": fsync}
        if shared:
            environ["AUDIT_JOURNAL_DIR"] = stack.enter_context(tempfile.TemporaryDirectory(dir=scratch))
        started = [
            stack.enter_context(
                servers.running(
                    "serve", environ, tree=servers.ROOT, scratch=scratch, certificates=certificates, core=None
                )
            )
            for _ in range(count)
        ]
        with ThreadPoolExecutor(count) as threads:
            runs = [threads.submit(load.saturate, one.target, bodies, seconds, core=None) for one in started]
            return [run.result() for run in runs]


def show(fsync: str, rounds: dict[str, list[list[Saturated]]]) -> int:
    """Print a line for each row; return how many answers were wrong."""
    base = median(sum(one.per_second for one in runs) for runs in rounds["1 process"])
    for row, many in rounds.items():
        per_second = median(sum(one.per_second for one in runs) for runs in many)
        cpu_us = median(sum(one.cpu_us for one in runs) / len(runs) for runs in many)
        p99_ms = median(max(one.p99_ms for one in runs) for runs in many)
        times = per_second / base
        print(f"{fsync:8} {row:24} {per_second:8.0f}/s {times:5.2f} x  {cpu_us:5.1f} us of CPU  p99 {p99_ms:5.2f} ms")
    return sum(one.wrong for many in rounds.values() for runs in many for one in runs)


if __name__ == "__main__":
    sys.exit(main())
