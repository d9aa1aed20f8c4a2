"""Does the time of a 404 tell anything about a token? Distributions over real sockets, with a test that can see.

Four kinds of wrong request follow each other in random order, round after round, on one connection: first character
wrong, last character wrong, all of them wrong, a cluster that does not exist. Two kinds are compared within each round,
by the sign test: neither outliers nor a machine that becomes slower disturb it. The token has 128 characters, the most
there may be. The same is done first to a server that compares character by character, as one should not: if the test
does not see that, it proves nothing, and the exit code is 2. It is 1 when the real server differs.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import statistics
import sys
import tempfile
import time
from itertools import combinations
from math import erfc, sqrt

import servers

TOKEN = "a0" * 64
WRONG = {
    "first": f"/log-request/prod/b{TOKEN[1:]}",
    "last": f"/log-request/prod/{TOKEN[:-1]}1",
    "all": f"/log-request/prod/{'b1' * 64}",
    "cluster": f"/log-request/nobody/{TOKEN}",
}
# Below this the two are said to differ; six pairs are looked at.
P_DIFFERENT = 0.01 / 6
WARM_UP = 500

_SERVE = """
import sys
import os
from function import logs, startup
from function.clusters.tokens import Clusters
from function.serving import server
from function.serving.bounds import Bounds
{change}
# The delay of those who keep failing would be all there is to see.
service = startup.service_or_exit(os.environ, forwards=True, bounds=Bounds(free_failures=10**9))
logs.configure(service.settings.log_level)
sys.exit(server.serve(service))
"""
_LEAKING = """
def check(self, name, token, right=%r):
    for presented, known in zip(token, right):
        if presented != known:
            return None
    return self._known[name][0] if name in self._known else None
Clusters.check = check
"""


def measure(change: str, samples: int, scratch: str) -> dict[str, list[int]]:
    """Return the nanoseconds of each 404, by kind, of a server started for this."""
    secret = os.path.join(scratch, "secret")
    os.makedirs(secret, exist_ok=True)
    with open(os.path.join(secret, "prod"), "w", encoding="ascii") as file:
        file.write(TOKEN)
    servers.COMMANDS["tokens"] = [servers.PYTHON, "-c", _SERVE.format(change=change)]
    certificates = servers.make_certificates(scratch)
    environ = {"AUDIT_CLUSTERS_DIR": secret}
    with servers.running(
        "tokens", environ, tree=servers.ROOT, scratch=scratch, certificates=certificates, core=0
    ) as server:
        host, port = server.target.url.split("/")[2].split(":")
        return _ask(host, int(port), samples)


def _ask(host: str, port: int, samples: int) -> dict[str, list[int]]:
    requests = {kind: _request(path) for kind, path in WRONG.items()}
    times: dict[str, list[int]] = {kind: [] for kind in WRONG}
    with socket.create_connection((host, port)) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(WARM_UP + samples):
            for kind in random.sample(list(WRONG), len(WRONG)):
                started = time.perf_counter_ns()
                raw.sendall(requests[kind])
                answer = raw.recv(4096)
                elapsed = time.perf_counter_ns() - started
                if not answer.startswith(b"HTTP/1.1 404 ") or not answer.endswith(b"}"):
                    raise RuntimeError(f"not a 404: {answer[:60]!r}")
                if number >= WARM_UP:
                    times[kind].append(elapsed)
    return times


def _request(path: str) -> bytes:
    head = (
        f"POST {path}?timeout=1s HTTP/1.1\r\nHost: audit\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
    )
    return head.encode() + b"{}"


def sign_test(one: list[int], other: list[int]) -> tuple[float, float]:
    """Return z and the two-sided p of the sign test over pairs (normal approximation); ties count for neither."""
    more = sum(a > b for a, b in zip(one, other, strict=True))
    less = sum(a < b for a, b in zip(one, other, strict=True))
    z = (more - less) / sqrt(more + less) if more + less else 0.0
    return z, erfc(abs(z) / sqrt(2))


def report(title: str, times: dict[str, list[int]]) -> set[tuple[str, str]]:
    """Print the distributions and return the pairs that differ."""
    print(f"{title}: {len(times['first'])} of each kind, µs")
    for kind, found in times.items():
        points = statistics.quantiles(found, n=100)
        print(
            f"  {kind:8} p10 {points[9] / 1e3:7.2f}  p50 {points[49] / 1e3:7.2f}  p90 {points[89] / 1e3:7.2f}"
            f"  p99 {points[98] / 1e3:7.2f}"
        )
    different = set()
    for one, other in combinations(times, 2):
        z, p = sign_test(times[one], times[other])
        gap = statistics.median(a - b for a, b in zip(times[one], times[other], strict=True))
        verdict = "DIFFERENT" if p < P_DIFFERENT else "the same"
        print(f"  {one:8} {other:8} median {gap:+6.0f} ns apart, z {z:+6.2f}, p {p:.3g}: {verdict}")
        if p < P_DIFFERENT:
            different.add((one, other))
    return different


def main() -> int:
    """Measure the control and the real server; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000, help="of each kind (%(default)s)")
    parser.add_argument("--scratch", default="/var/tmp", help="where journals go (%(default)s)")  # noqa: S108 - a directory is made in it
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        leaking = report("compared character by character", measure(_LEAKING % TOKEN, options.samples, scratch))
        real = report("as it is", measure("", options.samples, scratch))
    if ("first", "last") not in leaking:
        print("the test did not see the leak that it was given: more --samples, or a quieter machine")
        return 2
    return 1 if real else 0


if __name__ == "__main__":
    sys.exit(main())
