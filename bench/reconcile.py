"""What `reconcile` costs: a journal and the API server's log of the same requests, generated, on one core.

    python bench/reconcile.py [--bytes 1000000000] [--rounds 1] [--only exact enrich act] [--scratch DIR]

Both logs have about that many bytes. The log has an Event with its request's body for every record of recorded reviews,
and twice as many reads. Each figure is of a whole process `python -m function reconcile`, its start included: with
annotations (the exact join), with --enrich, and without annotations (by act and time). Exit code 1: something is
unexplained, or memory or speed is beyond what docs/reconcile.md promises.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Self

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path[:0] = [ROOT, HERE]

import reviews  # noqa: E402 - found by the path above

from function.record.event_format import EventFormat  # noqa: E402
from function.record.review_format import ReviewFormat  # noqa: E402
from function.review import decode  # noqa: E402

START_NS = 1_790_000_000_000_000_000
STEP_NS = 10_000_000
READS = 2  # for each write
DELAY_NS = 2_000_000  # from the request to its review, and from there to its end
SEGMENT_BYTES = 100 << 20
WRITER = "bench-20260921T141320Z-00000000"
WEBHOOK = "kube-audit-function.kube-audit-function.svc"
RSS_BYTES_MAX = 300 << 20
# What it is called, whether answers annotate, arguments, and Events for each second of CPU at least.
KINDS = {
    "exact": ("exact, by annotations", True, [], 30_000),
    "enrich": ("the same with --enrich", True, ["--enrich"], 10_000),
    "act": ("by act and time", False, [], 20_000),
}


def main() -> int:
    """Generate, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=1_000_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--scratch", default="/var/tmp")  # noqa: S108 - a directory of its own is made there
    options = parser.parse_args()
    ok = True
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        for kind in options.only:
            name, annotated, arguments, rate_min = KINDS[kind]
            sizes = write_pair(scratch, options.bytes, annotated=annotated)
            for _ in range(options.rounds):
                ok &= measured(name, scratch, sizes, arguments, rate_min)
    return 0 if ok else 1


class Sizes:
    """Of what was generated."""

    def __init__(self) -> None:
        self.journal = self.native = self.records = self.events = 0


def write_pair(scratch: str, size_min: int, *, annotated: bool) -> Sizes:
    """Write both logs until the journal has ``size_min`` bytes; the other has about as many."""
    templates = [template(body) for body in reviews.bodies(reviews.MIX)]
    sizes = Sizes()
    directory = f"{scratch}/journal/{WRITER}"
    os.makedirs(directory, exist_ok=True)
    number = segment = 0
    with open(f"{scratch}/native.ndjson", "wb", buffering=1 << 20) as native:
        while sizes.journal < size_min:
            segment += 1
            with open(f"{directory}/audit-{segment:020d}.ndjson", "wb", buffering=1 << 20) as file:
                while file.tell() < min(SEGMENT_BYTES, size_min - sizes.journal):
                    place = f"{WRITER}/{segment}/{file.tell()}" if annotated else ""
                    record, events = templates[number % len(templates)](number, place)
                    file.write(record)
                    native.write(events)
                    sizes.events += events.count(b"\n")
                    sizes.records += 1
                    number += 1
                sizes.journal += file.tell()
        sizes.native = native.tell()
    return sizes


def template(body: bytes) -> Callable[[int, str], tuple[bytes, bytes]]:
    """Return a function of a number and a place: a record's line, and the lines of its Event and of a read."""
    review = decode(body)
    uid = review.request.uid.encode()
    at = START_NS
    line = ReviewFormat().render(review, level="Request", received_ns=at, now_ns=at, cluster="", changes=None)
    event = json.loads(
        EventFormat().render(review, level="Request", received_ns=at, now_ns=at, cluster="", changes=None)
    )
    received = json.loads(line)["requestReceivedTimestamp"].encode()
    code = 201 if review.request.operation == "CREATE" else 200
    event |= {
        "auditID": "AUDIT-ID",
        "stage": "ResponseComplete",
        "requestReceivedTimestamp": "BEGAN",
        "stageTimestamp": "ENDED",
        "sourceIPs": ["10.0.0.3"],
        "userAgent": "bench/1.0 (linux/amd64)",
        "responseStatus": {"metadata": {}, "code": code},
        "annotations": {"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": "", "PLACE": ""},
    }
    if event["verb"] == "patch" and code == 201:
        event["verb"] = "create"
    theirs = compact(event)
    read = {key: event[key] for key in ("kind", "apiVersion", "user", "sourceIPs", "userAgent", "responseStatus")}
    read |= {"level": "Metadata", "auditID": "AUDIT-ID", "stage": "ResponseComplete", "verb": "list"}
    read |= {"requestURI": "/api/v1/pods", "objectRef": {"resource": "pods", "apiVersion": "v1"}}
    read |= {"requestReceivedTimestamp": "BEGAN", "stageTimestamp": "ENDED", "annotations": {}}
    reading = compact(read)

    def made(number: int, place: str) -> tuple[bytes, bytes]:
        began = START_NS + number * STEP_NS
        id_ = b"%08x-0000-4000-8000-%012x" % (number & 0xFFFFFFFF, number)
        times = {b"BEGAN": stamp(began, 6), b"ENDED": stamp(began + 2 * DELAY_NS, 6)}
        note = b'"%b/recorded":"%b"' % (WEBHOOK.encode(), place.encode()) if place else b'"a/b":""'
        record = line.replace(uid, id_, 1).replace(received, stamp(began + DELAY_NS, 9), 1)
        found = theirs.replace(b'"PLACE":""', note, 1).replace(b"AUDIT-ID", b"w-" + id_, 1)
        for read_number in range(READS):
            found += reading.replace(b"AUDIT-ID", b"r%d-%b" % (read_number, id_), 1)
        for name, value in times.items():
            found = found.replace(name, value)
        return record, found

    return made


def compact(value: object) -> bytes:
    """Return one line of JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def stamp(moment_ns: int, digits: int) -> bytes:
    """Return a time with so many digits of a second."""
    second, rest = divmod(moment_ns, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    return f"{text}.{rest:09}"[: 20 + digits].encode() + b"Z"


def measured(name: str, scratch: str, sizes: Sizes, arguments: list[str], rate_min: int) -> bool:
    """Run once; print a line; return whether it kept the promises."""
    index = f"{scratch}/index"
    os.makedirs(index, exist_ok=True)
    command = ["taskset", "-c", "1", sys.executable, "-m", "function", "reconcile", "--temp-dir", index, *arguments]
    command += [f"{scratch}/journal", f"{scratch}/native.ndjson"]
    peak = Peak(index)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    out = subprocess.DEVNULL if arguments else subprocess.PIPE
    with subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, cwd=ROOT) as process, peak:
        text, errors = process.communicate()
    seconds = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    rss = after.ru_maxrss << 10  # of the largest child so far
    rate = sizes.events / cpu
    print(
        f"{name:26} {sizes.journal / 1e9:5.2f} + {sizes.native / 1e9:5.2f} GB, {sizes.records:,} records,"
        f" {sizes.events:,} events: {seconds:6.1f} s, {cpu:6.1f} s of CPU, {rate:8,.0f} events/s of CPU,"
        f" {rss / 2**20:4.0f} MiB at most, index {peak.bytes / 1e9:4.2f} GB",
        flush=True,
    )
    if process.returncode:
        print((text or b"").decode()[-2000:], errors.decode()[-2000:])
    return process.returncode == 0 and rss <= RSS_BYTES_MAX and rate >= rate_min


class Peak(threading.Thread):
    """Watches how large a directory gets."""

    def __init__(self, directory: str) -> None:
        super().__init__(daemon=True)
        self._directory = directory
        self._done = threading.Event()
        self.bytes = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        """Look twice a second."""
        while not self._done.wait(0.5):
            total = 0
            for folder, _, names in os.walk(self._directory):
                for name in names:
                    try:
                        total += os.stat(os.path.join(folder, name)).st_blocks * 512
                    except FileNotFoundError:
                        continue
            self.bytes = max(self.bytes, total)


if __name__ == "__main__":
    sys.exit(main())
