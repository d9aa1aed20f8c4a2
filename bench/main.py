"""bench/run: what a review costs, beside the floor. See README.md here."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from statistics import mean, median
from typing import Any, NamedTuple

import load
import processes
import reviews
import servers
from load import Bodies, Target
from table import MIX, Case, Round, percentile, table, verdicts

SERVER_CORE, GENERATOR_CORE = 0, 1
DEFAULT_SERVERS = ("floor", "httptools", "uvicorn", "serve", "serve-tls", "functions-framework")
WARM_UP_SECONDS = 1
OTHERS_BUSY_MAX = 0.15


class Variant(NamedTuple):
    """A set of settings to compare, or another checkout."""

    name: str
    environ: dict[str, str]
    tree: str


class Bench:
    """One run: its options, its scratch directory, what has been measured, and whether every answer was right."""

    def __init__(self, options: argparse.Namespace, scratch: str) -> None:
        self.options = options
        self.scratch = scratch
        self.certificates = servers.make_certificates(scratch)
        self.results: dict[Case, list[Round]] = {}
        self.wrong = 0
        self.raw: dict[str, Any] = {}
        self._servers_core, self._generator_core = (None, None) if options.no_pin else (SERVER_CORE, GENERATOR_CORE)
        self._bodies: dict[str, tuple[Bodies, float]] = {}

    def compare(self) -> None:
        """Measure every case once a round, in turn, then print the table."""
        cases = self._cases()
        try:
            for number in range(self.options.rounds):
                for case in cases:
                    progress(f"round {number + 1}/{self.options.rounds}: {' '.join(filter(None, case))}")
                    measured = self._measure(case)
                    self.results.setdefault(case, []).append(measured)
        finally:  # what was measured is worth having, whatever ended the run
            self._show()

    def _show(self) -> None:
        self.raw["rounds"] = [case._asdict() | one._asdict() for case, many in self.results.items() for one in many]
        print("\n" + table(self.results, self.options.rates), *verdicts(self.results), sep="\n")

    def starts(self) -> None:
        """Time starts, each server's beside a bare uvicorn's."""
        names = [name for name in self.options.only if name not in servers.JOURNALLESS]
        times: dict[str, list[float]] = {"uvicorn": [], **{name: [] for name in names}}
        for number in range(self.options.starts + 1):
            for name, measured in times.items():
                with self._running(Case(name, "", "always", MIX)) as server:
                    if number:  # the first start writes the byte code
                        measured.append(server.start_ms)
        self.raw["starts_ms"] = times
        for name, measured in times.items():
            ratio = median(mine / bare for mine, bare in zip(measured, times["uvicorn"], strict=True))
            spread = f"{min(measured):.0f}-{max(measured):.0f}"
            print(f"{name:20} start to first 200: {median(measured):4.0f} ms ({spread})  x bare uvicorn: {ratio:.2f}")

    def large(self) -> None:
        """Small reviews at a fixed rate, alone and then with a 16 MiB one beside them once a second."""
        seconds, rate = self.options.seconds, 200
        recorded = reviews.bodies(MIX)
        size = reviews.parse_size("16MiB")
        huge = [reviews.escaped(recorded, size), *reviews.sized(recorded, size, count=1)]
        large_bodies = load.write_bodies(self.scratch, "large", huge)
        small_bodies, _ = self._written(MIX)
        for name in self.options.only:
            with self._running(Case(name, "", "always", MIX)) as server:
                alone = load.at_rate(server.target, small_bodies, rate, seconds, core=self._generator_core)
                with load.pacing(server.target, large_bodies, 1, seconds, core=self._generator_core) as generator:
                    beside = load.at_rate(server.target, small_bodies, rate, seconds, core=self._generator_core)
                    output, _ = generator.communicate()
                peak = processes.memory(server.target.pid).peak_rss
            large = load.paced(output)
            self.raw[f"large {name}"] = {"alone": alone, "beside": beside, "large": large, "peak_rss_mib": peak}
            for label, run in (("small alone", alone), ("small beside", beside), ("16 MiB, 1/s", large)):
                self._count(run.wrong, run.problems)
                found = run.latencies_ms
                print(
                    f"{name:20} {label:13} p50 {percentile(found, 50):7.2f} p99 {percentile(found, 99):7.2f}"
                    f" max {max(found):7.2f} ms, {len(found)} reviews, {run.wrong} wrong"
                )
            print(f"{name:20} peak RSS {peak:.0f} MiB")

    def soak(self) -> None:
        """Send many reviews; print the memory on the way."""
        bodies, _ = self._written(MIX)
        for name in self.options.only:
            with self._running(Case(name, "", "always", MIX)) as server:
                done = 0
                seen = [(0, processes.rss(server.target.pid))]
                while done < self.options.reviews:
                    run = load.saturate(server.target, bodies, 1, core=self._generator_core)
                    self._count(run.wrong, [])
                    done += run.reviews
                    seen.append((done, processes.rss(server.target.pid)))
                peak = processes.memory(server.target.pid).peak_rss
            self.raw[f"soak {name}"] = {"rss_mib": seen, "peak_rss_mib": peak}
            early = next((one for one in seen if one[0] >= self.options.reviews / 10), seen[-1])
            print(f"{name}: RSS at start {seen[0][1]:.1f}, after {early[0]} reviews {early[1]:.1f},", end=" ")
            print(f"after {seen[-1][0]} {seen[-1][1]:.1f} MiB; peak {peak:.1f}; grown {seen[-1][1] - early[1]:+.1f}")

    def _cases(self) -> list[Case]:
        """Return the rows in the order they run: all of one size together, the floor among them."""
        cases = []
        for size in self.options.sizes:
            for server in self.options.only:
                if server in servers.JOURNALLESS:
                    cases.append(Case(server, "", "", size))
                    continue
                fsyncs = self.options.fsync if size == MIX else self.options.fsync[:1]
                cases += [
                    Case(server, variant.name, fsync, size) for fsync in fsyncs for variant in self.options.variants
                ]
            if self.options.url:
                cases.append(Case(self.options.name, "", "", size))
        return cases

    def _measure(self, case: Case) -> Round:
        bodies, body_bytes = self._written(case.size)
        seconds = self.options.seconds
        with self._running(case) as server:
            warm = load.saturate(
                server.target, bodies, WARM_UP_SECONDS, core=self._generator_core, ids=self.options.ids
            )
            runs = list(self._until_quiet(server.target, bodies))
            run = min(runs, key=lambda one: one.others_busy)
            answered = warm.reviews + sum(one.reviews for one in runs)
            rates = {}
            for rate in self.options.rates if case.size == MIX and case.server not in servers.JOURNALLESS else ():
                rates[rate] = load.at_rate(server.target, bodies, float(rate), seconds, core=self._generator_core)
                answered += len(rates[rate].latencies_ms)
            memory = processes.memory(server.target.pid)
            # The size rows write so much that retention removes some of it.
            has_all = case.size == MIX and server.journal and case.server not in servers.JOURNALLESS
            kept = server.records() / answered if has_all else -1
        wrong = warm.wrong + sum(one.wrong for one in runs) + sum(one.wrong for one in rates.values())
        self._count(wrong, [problem for one in rates.values() for problem in one.problems])
        return Round(
            cpu_us=run.cpu_us,
            per_second=run.per_second,
            p50_ms=run.p50_ms,
            p99_ms=run.p99_ms,
            at_rates={rate: one.latencies_ms for rate, one in rates.items()},
            peak_rss_mib=memory.peak_rss,
            pss_mib=memory.pss,
            start_ms=server.start_ms,
            recorded_share=kept,
            generator_busy=run.generator_busy,
            others_busy=run.others_busy,
            wrong=wrong,
            body_bytes=body_bytes,
        )

    def _until_quiet(self, target: Target, bodies: Bodies) -> Iterator[load.Saturated]:
        """Saturate once, or up to ``--tries`` times while something else uses the machine."""
        for _ in range(self.options.tries):
            run = load.saturate(target, bodies, self.options.seconds, core=self._generator_core, ids=self.options.ids)
            yield run
            if run.others_busy <= OTHERS_BUSY_MAX:
                return

    @contextlib.contextmanager
    def _running(self, case: Case) -> Iterator[servers.Running]:
        if case.server == self.options.name:
            target = Target(self.options.url, self.options.pid, self.options.ca, fixed_uid=False)
            yield servers.Running(target, 0, "")
            return
        variant = next(one for one in self.options.variants if one.name == case.variant or not case.variant)
        environ = {"AUDIT_FSYNC": case.fsync} if case.fsync else {}
        with servers.running(
            case.server,
            environ | self.options.env | variant.environ,
            tree=variant.tree,
            scratch=self.scratch,
            certificates=self.certificates,
            core=self._servers_core,
        ) as server:
            yield server

    def _written(self, size: str) -> tuple[Bodies, float]:
        """Return the files of a size's bodies, and their mean size."""
        if size not in self._bodies:
            bodies = reviews.bodies(size)
            self._bodies[size] = load.write_bodies(self.scratch, size, bodies), mean(map(len, bodies))
        return self._bodies[size]

    def _count(self, wrong: int, problems: list[str]) -> None:
        self.wrong += wrong
        for problem in problems:
            print(f"wrong answer: {problem}", file=sys.stderr)


def main() -> int:
    """Return the exit code: 1 when an answer was wrong, 2 when nothing can be measured here."""
    options = parse()
    if (problem := load.missing_tool() or volatile(options.scratch)) and options.what != "start":
        print(f"bench/run: {problem}", file=sys.stderr)
        return 2
    if not options.no_pin:
        os.sched_setaffinity(0, {GENERATOR_CORE})
    with tempfile.TemporaryDirectory(prefix="kube-audit-bench-", dir=options.scratch) as scratch:
        bench = Bench(options, scratch)
        print(header(options, scratch))
        try:
            {"compare": bench.compare, "start": bench.starts, "large": bench.large, "soak": bench.soak}[options.what]()
        except RuntimeError as error:
            print(f"bench/run: {error}", file=sys.stderr)
            return 2
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"header": header(options, options.scratch), **bench.raw}, file)
    if bench.wrong:
        print(f"{bench.wrong} wrong answers", file=sys.stderr)
    return 1 if bench.wrong else 0


def parse() -> argparse.Namespace:
    """Return the options, completed: quick or full durations, variants resolved, the floor first."""

    def listed(text: str) -> list[str]:
        return [item for item in text.split(",") if item]

    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__)
    parser.add_argument("what", nargs="?", default="compare", choices=("compare", "start", "large", "soak"))
    parser.add_argument("--quick", action="store_true", help="one short round of the mix")
    parser.add_argument("--only", type=listed, help=f"servers: {','.join(servers.COMMANDS)}")
    parser.add_argument("--fsync", type=listed, default=["always", "everysec"])
    parser.add_argument("--sizes", type=listed, help="mix,1KB,10KB,100KB,1MB")
    parser.add_argument("--rates", type=listed, default=["100", "500"], help="fixed rates, a second")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of each measurement")
    parser.add_argument(
        "--tries", type=int, default=1, help="saturate again while other programs run, keep the quietest"
    )
    parser.add_argument("--starts", type=int, default=7, help="start: how many of each server")
    parser.add_argument("--reviews", type=int, default=200_000, help="soak: how many")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for all servers under test")
    parser.add_argument("--variant", action="append", default=[], metavar="NAME:ENV=VALUE,tree=DIR")
    parser.add_argument("--url", help="another webhook, running on this machine, as one more row")
    parser.add_argument("--pid", type=int, help="root of its process tree")
    parser.add_argument("--ca", default="", help="CA file of its certificate")
    parser.add_argument("--name", default="url", help="its name in the table")
    parser.add_argument("--ids", action="store_true", help="a request id in the headers, as proxies give")
    parser.add_argument("--no-pin", action="store_true", help="let the scheduler place server and generator")
    parser.add_argument("--scratch", default="/var/tmp", help="where journals go: a real disk")  # noqa: S108 - a fresh directory is made in it
    parser.add_argument("--json", help="write the raw results here")
    options = parser.parse_args()
    if bool(options.url) != bool(options.pid):
        parser.error("--url and --pid go together")
    short = options.quick
    options.rounds = options.rounds or (1 if short else 3)
    options.seconds = options.seconds or (20 if options.what == "large" else 2 if short else 4)
    options.sizes = options.sizes or ([MIX] if short else [MIX, "1KB", "10KB", "100KB", "1MB"])
    options.only = options.only or (list(DEFAULT_SERVERS) if options.what in ("compare", "start") else ["serve"])
    options.env = dict(pair.split("=", 1) for pair in options.env)
    options.variants = [Variant("", {}, servers.ROOT), *map(variant, options.variant)]
    if unknown := [name for name in options.only if name not in servers.COMMANDS]:
        parser.error(f"no such server: {', '.join(unknown)} (hint: {', '.join(servers.COMMANDS)})")
    return options


def variant(text: str) -> Variant:
    """Return what ``NAME:ENV=VALUE,tree=DIR`` says."""
    name, _, rest = text.partition(":")
    environ = dict(pair.split("=", 1) for pair in filter(None, rest.split(",")))
    return Variant(name, environ, os.path.abspath(environ.pop("tree", servers.ROOT)))


def header(options: argparse.Namespace, scratch: str) -> str:
    """Return where and with what this was measured: figures of two machines do not compare."""
    bodies = reviews.bodies(MIX)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("uvicorn", "uvloop", "httptools"))
    pinning = (
        "not pinned" if options.no_pin else f"servers pinned to core {SERVER_CORE}, generators to core {GENERATOR_CORE}"
    )
    machine = f"{processor()}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
    when = time.strftime("%Y-%m-%d %H:%M")
    disk = f"journals on {filesystem(scratch)}, write + fdatasync {fdatasync_ms(scratch):.2f} ms"
    lines = (
        f"{when}, {machine}, {versions}, revision {revision()}",
        f"mix: {len(bodies)} recorded reviews, median {median(map(len, bodies)):.0f} bytes",
        f"{load.CONNECTIONS} connections at saturation; {pinning}",
        f"{disk}; {options.rounds} rounds in turn, {options.seconds:g} s each; figures are medians of the rounds",
    )
    return "\n".join(lines)


def volatile(directory: str) -> str:
    """Return what is wrong with measuring a journal in ``directory``, empty when nothing is."""
    kind = filesystem(directory)
    return f"{directory} is on {kind}, where fdatasync costs nothing: choose a disk with --scratch" * (kind == "tmpfs")


def filesystem(directory: str) -> str:
    """Return the kind of file system that holds ``directory``."""
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split() for line in file]
    path = os.path.realpath(directory)
    inside = [mount for mount in mounts if os.path.commonpath((path, mount[4])) == mount[4]]
    best = max(inside, key=lambda mount: len(mount[4]))
    return best[best.index("-") + 1]


def fdatasync_ms(directory: str) -> float:
    """Return the median time of a 4 KiB append made durable."""
    times = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(40):
            start = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - start) * 1e3)
    return median(times)


def processor() -> str:
    """Return the processor's name."""
    with open("/proc/cpuinfo") as file:
        return next((line.partition(": ")[2].strip() for line in file if line.startswith("model name")), "?")


def revision() -> str:
    """Return the checkout's revision, with a + when files differ from it."""
    git = functools.partial(subprocess.run, cwd=servers.ROOT, capture_output=True, text=True, check=False)
    changed = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout
    return git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip() + ("+" if changed else "")


def progress(text: str) -> None:
    """Say on a terminal what goes on."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
