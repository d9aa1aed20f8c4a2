"""What forwarding costs: records/s and CPU of the forwarder's own process, for each sink, on one core.

    python bench/forward.py [--records 30000] [--sinks elasticsearch,audit-webhook] [--failing 0.01,0.2] [--json FILE]

A journal of recorded reviews is forwarded by `python -m function forward --once` to a receiver that reads each
request and answers at once, in a process of its own on the other core. With --failing each sink is measured again for
each share, while that share of the answers, drawn at random, is 503 (UNAVAILABLE): what counts is the ratio.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path[:0] = [ROOT, HERE]

import forward_receivers  # noqa: E402 - found by the path above
import reviews  # noqa: E402

from function.journal import Limits  # noqa: E402
from function.journal.writer import Writer  # noqa: E402
from function.record.event_format import EventFormat  # noqa: E402
from function.record.review_format import ReviewFormat  # noqa: E402
from function.review import decode  # noqa: E402

SINKS = ("audit-webhook", "elasticsearch", "cloudevents", "google-cloud-logging", "otlp")
PREFIX = {"audit-webhook": "WEBHOOK"}
START_NS = 1_790_000_000_000_000_000


class Silent:
    """Nobody watches the writer here."""

    def wrote(self, records: int, size: int) -> None: ...
    def synced(self, seconds: float) -> None: ...
    def failed(self, operation: str) -> None: ...
    def lost(self, reason: str, records: int) -> None: ...
    def torn(self, size: int) -> None: ...


def main() -> int:
    """Measure each sink; print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=30_000)
    parser.add_argument("--sinks", default=",".join(SINKS))
    parser.add_argument("--failing", default="", help="shares of the answers that fail, such as 0.01,0.2")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", default="")
    options = parser.parse_args()
    shares = [float(share) for share in options.failing.split(",") if share]
    rows = {sink: measure(sink, options.records, shares, options.rounds) for sink in options.sinks.split(",")}
    print(f"{'sink':22} {'records/s':>10} {'CPU µs/record':>14} {'peak RSS MiB':>13} {'bytes/record':>13}")
    for sink, row in rows.items():
        print(f"{sink:22} {row['per_second']:10.0f} {row['cpu_us']:14.0f} {row['rss_mib']:13.0f} {row['bytes']:13.0f}")
    if shares:
        print(f"\n{'sink':22} {'failing':>10} {'records/s':>14} {'of the rate without':>20}")
    for sink, row in rows.items():
        for share in shares:
            rate = row["failing"][share]
            print(f"{sink:22} {share:10.0%} {rate:14.0f} {rate / row['per_second']:20.0%}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=2)
    return 0


def measure(sink: str, records: int, shares: list[float], rounds: int) -> dict[str, Any]:
    """Forward ``records`` to ``sink``, once for each of ``shares`` too; return what it took, starts left out."""
    with tempfile.TemporaryDirectory() as journal:
        size = write_journal(journal, records, is_event=sink == "audit-webhook")
        found = [{share: runs(sink, journal, records, share) for share in (0.0, *shares)} for _ in range(rounds)]

    def median(value: Callable[[dict[str, Any], dict[str, Any]], float], share: float = 0.0) -> float:
        return statistics.median(value(*by_share[share]) for by_share in found)

    return {
        "per_second": records / median(seconds),
        "cpu_us": median(lambda idle, full: full["cpu"] - idle["cpu"]) / records * 1e6,
        "rss_mib": median(lambda _, full: full["rss_mib"]),
        "bytes": size / records,
        "failing": {share: records / median(seconds, share) for share in shares},
    }


def seconds(idle: dict[str, Any], full: dict[str, Any]) -> float:
    """Return how long forwarding took, without the start of the process."""
    return float(full["seconds"] - idle["seconds"])


def runs(sink: str, journal: str, records: int, share: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Forward an empty journal, then ``journal``, to a receiver that fails ``share`` of its answers."""
    context = multiprocessing.get_context("spawn")
    listening = context.Queue()
    receiver = context.Process(target=forward_receivers.run, args=(sink, listening, share), daemon=True)
    receiver.start()
    environ = environment(sink, journal, listening.get(timeout=20))
    try:
        idle = forward(environ | {"AUDIT_JOURNAL_DIR": os.path.join(journal, "empty")})
        full = forward(environ)
    finally:
        receiver.terminate()
        receiver.join()
    if f" {records} forwarded" not in full["said"]:
        raise SystemExit(f"{sink}: not all was forwarded: {full['said']}")
    shutil.rmtree(os.path.join(journal, "forwarding"))  # the next run starts from the beginning
    return idle, full


def forward(environ: dict[str, str]) -> dict[str, Any]:
    """Run the forwarder to its end; return wall time, CPU time, peak memory, and what it said."""
    os.makedirs(environ["AUDIT_JOURNAL_DIR"], exist_ok=True)
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "function", "forward", "--once"],
        cwd=ROOT,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),  # noqa: PLW1509 - no threads here
    )
    said = process.stdout.read().decode() if process.stdout else ""
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    return {
        "seconds": time.perf_counter() - started,
        "cpu": usage.ru_utime + usage.ru_stime,
        "rss_mib": usage.ru_maxrss / 1024,
        "said": said,
    }


def environment(sink: str, journal: str, port: int) -> dict[str, str]:
    """Return the settings that forward ``journal`` to the receiver on ``port``."""
    prefix = PREFIX.get(sink, sink.upper().replace("-", "_"))
    environ = {
        "AUDIT_JOURNAL_DIR": journal,
        "AUDIT_FORMAT": "event" if sink == "audit-webhook" else "review",
        "AUDIT_FORWARD_TO": sink,
        f"AUDIT_{prefix}_URL": f"http://127.0.0.1:{port}/",
        "AUDIT_LOG_LEVEL": "warning",
    }
    if sink == "google-cloud-logging":
        environ["AUDIT_GOOGLE_CLOUD_LOGGING_PROJECT"] = "bench-project"
    return environ


def write_journal(journal: str, records: int, *, is_event: bool) -> int:
    """Write ``records`` recorded reviews, each with a uid of its own; return their bytes."""
    target = EventFormat() if is_event else ReviewFormat()
    bodies = reviews.bodies(reviews.MIX)
    writer = Writer(journal, host="bench", limits=Limits(100 << 20, 0, 0, 0), every_second=True, observer=Silent())
    writer.tick()
    size = 0
    for start in range(0, records, 500):
        lines = []
        for number in range(start, min(start + 500, records)):
            review = decode(bodies[number % len(bodies)])
            uid = review.request.uid.encode()
            received = START_NS + number * 1_000_000
            line = target.render(
                review, level="Request", received_ns=received, now_ns=received, cluster="bench", changes=None
            )
            lines.append(line.replace(uid, b"%08d" % number + uid[8:], 1))
        size += sum(map(len, lines))
        writer.store(lines)
    writer.close()
    return size


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())
