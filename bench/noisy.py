"""One cluster at twenty times the others' rate, and what the others notice.

Two quiet clusters send at a fixed rate, alone and then beside a noisy one, in turn. Latency counts from when a review
was due (see openloop.py). The promise: the quiet ones' p99 is at most 1.5 times that of their quiet minutes, and
nothing of theirs is refused. The exit code is 1 when it is broken.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from statistics import median

import load
import reviews
import servers
from load import Paced, Target
from table import percentile

TOKENS = {name: f"{name}token0123456789abcdefghijkl" for name in ("noisy", "quiet1", "quiet2")}
QUIET = ("quiet1", "quiet2")
TIMES = 20
RATIO_MAX = 1.5


class Bench:
    """The server under test, and what its clusters noticed."""

    def __init__(self, target: Target, bodies: load.Bodies, rate: float, seconds: float) -> None:
        self._target = target
        self._bodies = bodies
        self._rate = rate
        self._seconds = seconds

    def run(self, *, noisy: bool) -> tuple[list[Paced], Paced | None]:
        """Return what each quiet cluster noticed, and the noisy one if it was there."""
        with contextlib.ExitStack() as stack:
            generators = [stack.enter_context(self._pacing(name, self._rate)) for name in QUIET]
            if noisy:
                generators.append(stack.enter_context(self._pacing("noisy", TIMES * self._rate)))
            found = [load.paced(generator.communicate()[0]) for generator in generators]
        return found[:2], found[2] if noisy else None

    def _pacing(self, cluster: str, rate: float):  # noqa: ANN202 - a context manager of a process
        base, _, query = self._target.url.partition("?")
        target = self._target._replace(url=f"{base}/{cluster}/{TOKENS[cluster]}?{query}")
        return load.pacing(target, self._bodies, rate, self._seconds, core=1)


def main() -> int:
    """Measure in rounds, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=20, help="of each quiet cluster, a second (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scratch", default="/var/tmp", help="where journals go (%(default)s)")  # noqa: S108 - a directory is made in it
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        secret = os.path.join(scratch, "secret")
        os.makedirs(secret)
        for name, token in TOKENS.items():
            with open(os.path.join(secret, name), "w", encoding="ascii") as file:
                file.write(token)
        bodies = load.write_bodies(scratch, "mix", reviews.bodies(reviews.MIX))
        certificates = servers.make_certificates(scratch)
        with servers.running(
            "serve",
            {"AUDIT_CLUSTERS_DIR": secret},
            tree=servers.ROOT,
            scratch=scratch,
            certificates=certificates,
            core=0,
        ) as server:
            return _compare(Bench(server.target, bodies, options.rate, options.seconds), options)


def _compare(bench: Bench, options: argparse.Namespace) -> int:
    alone: list[float] = []
    beside: list[float] = []
    ratios = []
    wrong = 0
    bench.run(noisy=True)  # warm
    for number in range(options.rounds):
        before, _ = bench.run(noisy=False)
        during, noisy = bench.run(noisy=True)
        quiet = [latency for one in before for latency in one.latencies_ms]
        disturbed = [latency for one in during for latency in one.latencies_ms]
        alone += quiet
        beside += disturbed
        ratios.append(percentile(disturbed, 99) / percentile(quiet, 99))
        wrong += sum(one.wrong for one in (*before, *during))
        print(
            f"round {number + 1}: quiet clusters p50/p99 alone {percentile(quiet, 50):.2f}/{percentile(quiet, 99):.2f}"
            f" ms, beside the noisy one {percentile(disturbed, 50):.2f}/{percentile(disturbed, 99):.2f} ms"
            f" ({noisy.wrong if noisy else 0} of its reviews refused)"
        )
    ratio = percentile(beside, 99) / percentile(alone, 99)
    print(
        f"all: {len(alone)} and {len(beside)} reviews of the quiet ones, p50/p99 {percentile(alone, 50):.2f}/"
        f"{percentile(alone, 99):.2f} and {percentile(beside, 50):.2f}/{percentile(beside, 99):.2f} ms"
    )
    print(f"p99 beside over alone: {ratio:.2f} of all, {median(ratios):.2f} median of the rounds (at most {RATIO_MAX})")
    print(f"refused or wrong for the quiet clusters: {wrong} (at most 0)")
    return int(wrong > 0 or min(ratio, median(ratios)) > RATIO_MAX)


if __name__ == "__main__":
    sys.exit(main())
