"""Where the time of one review goes at a low rate, where processes sleep between calls: part by part, and whole.

    bench/run parts [--rate 40] [--seconds 10] [--rounds 3] [--url URL --ca FILE --name NAME]

One caller, one kept connection over TLS. Prints each server's latency, of rounds in turn, beside the floor of a webhook
that records (durable_floor.py) and, with --url, beside another webhook; then the parts of ours. Not pinned: how cores
wake each other is what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import mean, median
from typing import NamedTuple
from urllib.parse import urlsplit

import main as bench
import reviews
import servers
from table import MIX, percentile

SYNC = "write + fdatasync alone"
# From one time to the next: what lies between.
PARTS = {
    "received": "sent, the kernel, the loop awake, TLS",
    "received last": "the rest of the request",
    "submit": "parsing, policy, redaction, rendering",
    "hand over": "until the loop's turn ends",
    "handed over": "handing over",
    "taken": "the thread awake",
    "write": "its Python",
    "written": "write",
    "sync": "its Python",
    "synced": "fdatasync",
    "call": "its Python",
    "finish": "handing back, the loop awake",
    "answer": "settling the group",
    "got": "answering, TLS, the kernel, the caller awake",
}


class Timed(NamedTuple):
    """When a request was sent and its answer was read, in the seconds of ``perf_counter``."""

    sent: float
    got: float


Call = Callable[[bytes], Timed]


class Row(NamedTuple):
    """A server to measure: its command, and settings."""

    name: str
    server: str
    fsync: str
    stamps: str = ""


def main() -> int:
    """Measure; print; return the exit code."""
    parser = argparse.ArgumentParser(prog="bench/run parts", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--rate", type=float, default=40)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--url", help="another webhook, running on this machine")
    parser.add_argument("--ca", help="the CA of its certificate")
    parser.add_argument("--name", default="url", help="its name in the table")
    parser.add_argument("--tree", default=servers.ROOT, help="another checkout, as rows of their own")
    parser.add_argument("--scratch", default="/var/tmp")  # noqa: S108 - a directory of its own is made there
    options = parser.parse_args()
    if problem := bench.volatile(options.scratch):
        print(f"bench/run parts: {problem}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="kube-audit-bench-", dir=options.scratch) as scratch:
        run = Run(options, scratch)
        run.measure()
        run.show()
    return 0


class Run:
    """One run: its options, and what has been measured."""

    def __init__(self, options: argparse.Namespace, scratch: str) -> None:
        self._options = options
        self._scratch = scratch
        self._certificates = servers.make_certificates(scratch)
        self._bodies = [body + b"\n" for body in reviews.bodies(MIX)]
        self._took: dict[str, list[list[float]]] = {}  # by row and round, in µs
        self._parts: dict[str, list[dict[str, float]]] = {}

    def measure(self) -> None:
        """Measure every row once a round, in turn."""
        servers.COMMANDS["stamped-tls"] = [servers.PYTHON, os.path.join(servers.HERE, "stamped.py")]
        servers.COMMANDS["durable-floor-tls"] = [servers.PYTHON, os.path.join(servers.HERE, "durable_floor.py")]
        for number in range(self._options.rounds):
            bench.progress(f"round {number + 1}/{self._options.rounds}")
            for row in self._rows():
                self._measure(row)
            self._add(SYNC, self._syncs())

    def show(self) -> None:
        """Print the latencies, then the parts."""
        options = argparse.Namespace(**vars(self._options), no_pin=True)
        print(bench.header(options, self._scratch))
        print(f"{options.rate:g} reviews a second on one kept connection; µs; ratios are medians of the rounds'\n")
        first = next(iter(self._took))
        print(f"{'':34} {'p50':>6} {'p90':>6} {'p99':>6} {'mean':>6}  p50 x {first}")
        for name, rounds in self._took.items():
            every = [one for took in rounds for one in took]
            figures = " ".join(f"{percentile(every, share):6.0f}" for share in (50, 90, 99))
            ratio = median(median(mine) / median(its) for mine, its in zip(rounds, self._took[first], strict=True))
            print(f"{name:34} {figures} {mean(every):6.0f}  {ratio:.2f}")
        for name, parts in self._parts.items():
            print(f"\n{name}, its parts (p50, mean; µs)")
            for number, label in enumerate(PARTS.values()):
                values = [one[str(number)] for one in parts if str(number) in one]
                if values:
                    print(f"  {label:40} {median(values):6.0f} {mean(values):6.0f}")
            collected = sum(one.get("collected", 0.0) for one in parts)
            print(f"  {'the garbage collector, in all of these':40} {'':6} {collected / max(1, len(parts)):6.1f}")

    def _rows(self) -> Iterator[Row]:
        if self._options.url:
            yield Row(self._options.name, "", "")
        for fsync in ("always", "everysec"):
            yield Row(f"floor that records, {fsync}", "durable-floor-tls", fsync)
            yield Row(f"serve, TLS, {fsync}", "serve-tls", fsync)
            yield Row(f"serve, {fsync}", "serve", fsync)
            if self._options.tree != servers.ROOT:
                yield Row(f"serve, TLS, {fsync}, other tree", "serve-tls", fsync)
            yield Row(f"stamped, TLS, {fsync}", "stamped-tls", fsync, os.path.join(self._scratch, "stamps"))

    def _measure(self, row: Row) -> None:
        if not row.server:
            self._add(row.name, self._call(self._options.url, self._options.ca))
            return
        tree = self._options.tree if row.name.endswith("other tree") else servers.ROOT
        with servers.running(
            row.server,
            {"AUDIT_FSYNC": row.fsync, "STAMPS_FILE": row.stamps},
            tree=tree,
            scratch=self._scratch,
            certificates=self._certificates,
            core=None,
        ) as server:
            timed = self._call(server.target.url, server.target.ca)
        if row.stamps:
            with open(row.stamps) as file:
                self._parts.setdefault(row.name, []).extend(parts_of(map(json.loads, file), timed))
        else:
            self._add(row.name, timed)

    def _add(self, name: str, timed: list[Timed]) -> None:
        self._took.setdefault(name, []).append([(one.got - one.sent) * 1e6 for one in timed])

    def _call(self, url: str, ca: str | None) -> list[Timed]:
        """Call at the rate; return the times of each, without the first second."""
        timed = []
        with connection(url, ca) as call:
            for number in self._paced():
                body = self._bodies[number % len(self._bodies)]
                timed.append(call(body))
        return timed[int(self._options.rate) :]

    def _syncs(self) -> list[Timed]:
        """Append and sync at the rate, in one thread that sleeps meanwhile."""
        timed = []
        with tempfile.TemporaryFile(dir=self._scratch, buffering=0) as file:
            for number in self._paced():
                sent = time.perf_counter()
                file.write(self._bodies[number % len(self._bodies)])
                os.fdatasync(file.fileno())
                timed.append(Timed(sent, time.perf_counter()))
        return timed[int(self._options.rate) :]

    def _paced(self) -> Iterator[int]:
        start = time.perf_counter()
        for number in range(int(self._options.rate * (self._options.seconds + 1))):
            if (wait := start + number / self._options.rate - time.perf_counter()) > 0:
                time.sleep(wait)
            yield number


@contextmanager
def connection(url: str, ca: str | None) -> Iterator[Call]:
    """Yield what sends one review and waits for its answer. It raises `RuntimeError` for any answer but 200."""
    parts = urlsplit(url)
    head = (
        f"POST {parts.path or '/'}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        "User-Agent: kube-apiserver-admission\r\nContent-Type: application/json\r\nContent-Length: "
    ).encode()
    plain = socket.create_connection((parts.hostname, parts.port), timeout=30)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    context = ssl.create_default_context(cafile=ca) if ca else None
    with context.wrap_socket(plain, server_hostname=parts.hostname) if context else plain as raw:

        def call(body: bytes) -> Timed:
            request = b"%b%d\r\n\r\n%b" % (head, len(body), body)
            sent = time.perf_counter()
            raw.sendall(request)
            answer = raw.recv(65536)
            got = time.perf_counter()
            while b'"allowed"' not in answer or answer.count(b"{") > answer.count(b"}"):
                if not (more := raw.recv(65536)):
                    break
                answer += more
                got = time.perf_counter()
            if not answer.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"{url} answered {answer[:200]!r}")
            return Timed(sent, got)

        yield call


def parts_of(stamps: Iterator[dict[str, float]], timed: list[Timed]) -> Iterator[dict[str, float]]:
    """Yield for each request how long each of `PARTS` took, by its number, in µs. ``stamps`` may have more of them."""
    noted = list(stamps)
    for sent, got in timed:
        one = next((stamp for stamp in noted if sent <= stamp["received"] <= got), None)
        if one is None:
            continue
        at, parts = sent, {"collected": one.get("collected", 0.0) * 1e6}
        for number, name in enumerate(PARTS):
            until = got if name == "got" else one.get(name)
            if until is not None and until >= at:  # else it is of another time: a sync of everysec
                parts[str(number)] = (until - at) * 1e6
                at = until
        yield parts


if __name__ == "__main__":
    sys.exit(main())
