"""From measured rounds to the table. Pure: numbers in, text out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

FLOOR, UVICORN = "floor", "uvicorn"
MIX = "mix"


class Case(NamedTuple):
    """One row: what was run, and with what."""

    server: str
    variant: str
    fsync: str  # empty where the server keeps no journal
    size: str


class Round(NamedTuple):
    """What one round measured of one case."""

    cpu_us: float
    per_second: float
    p50_ms: float
    p99_ms: float
    at_rates: dict[str, list[float]]  # rate a second → latencies in ms, counted from when each review was due
    peak_rss_mib: float
    pss_mib: float
    start_ms: float  # 0: it ran already
    recorded_share: float  # records in the journal for each review answered, -1 where there is no journal to read
    generator_busy: float
    others_busy: float
    wrong: int
    body_bytes: float  # mean


Rounds = Mapping[Case, Sequence[Round]]


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def ratio_to(base: str, case: Case, rounds: Rounds) -> float | None:
    """Return CPU per review over that of the server ``base`` at the same size, the median of the rounds' own ratios.

    None where ``base`` was not measured. Each round compares with the base beside it in time.
    """
    bases = next((many for other, many in rounds.items() if other.server == base and other.size == case.size), ())
    ratios = [mine.cpu_us / other.cpu_us for mine, other in zip(rounds[case], bases, strict=False)]
    return median(ratios) if ratios else None


def table(rounds: Rounds, rates: Sequence[str]) -> str:
    """Return the rows, medians over the rounds; `bench/README.md` says what each column means."""
    head = ["server", "variant", "fsync", "size", "µs/review", "min-max", "x floor", "x uvicorn", "ns/byte"]
    head += ["reviews/s", "p50/p99 ms"]
    head += [f"@{rate}/s p50/p99" for rate in rates]
    head += ["RSS MiB", "PSS MiB", "start ms", "kept", "gen", "others", "wrong"]
    return _aligned([head, *(_row(case, rounds, rates) for case in rounds)])


def _row(case: Case, rounds: Rounds, rates: Sequence[str]) -> list[str]:
    measured = rounds[case]
    cpu = [one.cpu_us for one in measured]
    ratios = [ratio_to(base, case, rounds) for base in (FLOOR, UVICORN)]
    body_bytes = measured[0].body_bytes
    row = [case.server, case.variant, case.fsync, case.size]
    row += [f"{median(cpu):.1f}", f"{min(cpu):.1f}-{max(cpu):.1f}"]
    row += [f"{ratio:.2f}" if ratio else "-" for ratio in ratios]
    row += [f"{median(cpu) * 1e3 / body_bytes:.2f}", f"{median(one.per_second for one in measured):.0f}"]
    row.append(f"{median(one.p50_ms for one in measured):.2f}/{median(one.p99_ms for one in measured):.2f}")
    for rate in rates:
        pooled = [latency for one in measured for latency in one.at_rates.get(rate, ())]
        row.append(f"{percentile(pooled, 50):.2f}/{percentile(pooled, 99):.2f}" if pooled else "-")
    starts = [one.start_ms for one in measured if one.start_ms]
    kept = measured[0].recorded_share
    row += [f"{max(one.peak_rss_mib for one in measured):.1f}", f"{max(one.pss_mib for one in measured):.1f}"]
    row += [f"{median(starts):.0f}" if starts else "-", f"{kept:.0%}" if kept >= 0 else "-"]
    row += [f"{max(one.generator_busy for one in measured):.0%}", f"{max(one.others_busy for one in measured):.2f}"]
    return [*row, str(sum(one.wrong for one in measured))]


# What the project promises, as ratios within one run: (server, CPU per review over the floor's, on the mix).
CPU_RATIOS_MAX = {"serve": 2.1, "serve-tls": 2.5, "functions-framework": 3.4}
SERVE_RSS_MIB_MAX = 45 * 1e6 / (1 << 20)
SERVE_RSS_SIZES = (MIX, "1KB", "10KB", "100KB")
START_RATIO_MAX = 2.0


def verdicts(rounds: Rounds) -> list[str]:
    """Return a line for each promise that this run can tell about: ``met`` or ``MISSED``, promise, measured."""
    lines = []
    for case in rounds:
        ratio = ratio_to(FLOOR, case, rounds)
        bound = CPU_RATIOS_MAX.get(case.server)
        if ratio and bound and case.size == MIX and not case.variant:
            lines.append(_verdict(f"CPU per review, {case.server} {case.fsync}, x floor", ratio, bound))
    rss = [
        one.peak_rss_mib
        for case, measured in rounds.items()
        if case.server == "serve" and not case.variant and case.size in SERVE_RSS_SIZES
        for one in measured
    ]
    if rss:
        lines.append(_verdict("peak RSS, serve, reviews up to 100 KB, MiB", max(rss), SERVE_RSS_MIB_MAX))
    return lines + _start_verdict(rounds) + _per_byte_verdict(rounds)


def _start_verdict(rounds: Rounds) -> list[str]:
    starts = {
        server: [one.start_ms for case, measured in rounds.items() if case.server == server for one in measured]
        for server in ("serve", UVICORN)
    }
    if not all(starts.values()):
        return []
    ratio = median(starts["serve"]) / median(starts[UVICORN])
    return [_verdict("start to first 200, serve, x bare uvicorn", ratio, START_RATIO_MAX)]


def _per_byte_verdict(rounds: Rounds) -> list[str]:
    costs = [
        (measured[0].body_bytes, median(one.cpu_us for one in measured) * 1e3 / measured[0].body_bytes)
        for case, measured in rounds.items()
        if case.server == "serve" and not case.variant and case.size != MIX
    ]
    costs.sort()
    pairs = list(itertools.pairwise(costs))
    if not pairs:
        return []
    worst = max(larger[1] / smaller[1] for smaller, larger in pairs)
    return [_verdict("CPU per byte, serve, worst step to the next larger size, x", worst, 1.05)]


def _verdict(what: str, measured: float, bound: float) -> str:
    return f"{'met   ' if measured <= bound else 'MISSED'} {what}: {measured:.2f} (at most {bound:.2f})"


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = 4  # names are read from the left, numbers from the right
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
