"""What asking the past costs: `history`, `at`, `diff`, `gaps` on a generated journal, with and without an index.

    python bench/history.py [--bytes 1000000000] [--rounds 3] [--only TEXT] [--scratch DIR]

The journal repeats a recorded minute of a real cluster, each time with other uids, in one of a hundred namespaces:
objects of one name are created, changed, deleted, and created again. Each figure is of a whole process, its start
included.
Exit code 1: something is slower, or needs more memory, than docs/investigating.md promises.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from statistics import median

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path[:0] = [ROOT, HERE]

import reviews  # noqa: E402 - found by the path above

from function.record.review_format import ReviewFormat  # noqa: E402
from function.review import decode  # noqa: E402

START_NS = 1_800_000_000_000_000_000
STEP_NS = 10_000_000
SEGMENT_BYTES = 100 << 20
NAMESPACES = 100
WRITER = "bench-20270115T080000Z-00000000"
_UID = re.compile(rb"\b([0-9a-f]{8})(-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\b")

# What is asked, the CPU seconds that it may take without and with an index (None: not asked with one), and the MB.
HALF = "@half"
UNBOUND = math.inf
QUESTIONS: list[tuple[str, list[str], float | None, float | None, int | None]] = [
    ("history deploy/web -n shop-03", ["history", "deploy/web", "-n", "shop-03"], 15.0, 0.3, 200),
    ("history secret/db -n shop-07 -p", ["history", "secret/db", "-n", "shop-07", "-p"], 15.0, 0.3, 200),
    ("blame svc/web -n shop-03", ["blame", "svc/web", "-n", "shop-03"], 15.0, 0.3, 200),
    ("at HALF deploy/web -n shop-03", ["at", HALF, "deploy/web", "-n", "shop-03"], 15.0, 0.3, 200),
    ("at HALF -n shop-03", ["at", HALF, "-n", "shop-03"], None, 1.0, None),
    ("diff HALF HALF+10s -n shop-03", ["diff", HALF, HALF + "+10", "-n", "shop-03"], None, 1.0, None),
    ("at HALF --all", ["at", HALF, "--all"], None, UNBOUND, None),
    ("at END --all", ["at", HALF + "+1e8", "--all"], None, UNBOUND, None),
    ("who alice", ["who", "alice"], None, 1.0, 200),
    ("gaps", ["gaps"], None, None, None),
]


def main() -> int:
    """Generate, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=1_000_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", metavar="TEXT", help="what has this in its name, such as --all")
    parser.add_argument("--scratch", default="/var/tmp")  # noqa: S108 - a directory of its own is made there
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        journal, index = f"{scratch}/journal", f"{scratch}/index.sqlite"
        size, count = write_journal(journal, options.bytes)
        print(f"{size / 1e6:.0f} MB, {count:,} records; seconds of a process, of its CPU, MB of memory", flush=True)
        seconds, cpu, rss, _ = measured(["history", "deploy/web", "-n", "shop-00", "--index-file", index], journal)
        print(f"{'building the index':42} {figures(seconds, cpu, rss)}, {os.path.getsize(index) / 1e6:.0f} MB on disk")
        ok = True
        half_ns = middle_ns(count)
        for name, asked, plain_max, indexed_max, mb_max in QUESTIONS:
            if options.only not in name:
                continue
            arguments = [placed(argument, half_ns) for argument in asked]
            line, found, outputs = f"{name:42}", [], []
            for with_index, most in ((False, plain_max), (True, indexed_max)):
                if with_index and indexed_max is None:
                    continue
                extra = ["--index-file", index] if with_index else []
                runs = [measured([*arguments, *extra], journal) for _ in range(options.rounds if with_index else 1)]
                seconds, cpu, rss = (median(run[number] for run in runs) for number in range(3))
                outputs.append(runs[0][3])
                line += f" {'with index' if with_index else ''} {figures(seconds, cpu, rss)}"
                found.append((most is None or cpu <= most) and (mb_max is None or rss <= mb_max))
            ok &= all(found) and outputs[0] == outputs[-1]
            note = "" if outputs[0] == outputs[-1] else "  NOT THE SAME ANSWER"
            print(line + ("" if all(found) else "  TOO MUCH") + note, flush=True)
    return 0 if ok else 1


def middle_ns(count: int) -> int:
    """Return a time about the middle of the journal, when things went on in the namespace that is asked about."""
    each = len(reviews.bodies(reviews.MIX))
    cycle = count // each // 2 // NAMESPACES * NAMESPACES + 3
    return START_NS + (cycle * each + each // 2) * STEP_NS


def figures(seconds: float, cpu: float, rss: float) -> str:
    """Return them for a table."""
    return f"{seconds:7.2f} s {cpu:7.2f} s {rss:5.0f} MB"


def placed(argument: str, half_ns: int) -> str:
    """Return an argument with the time in the middle of the journal, or some seconds later, in place of its name."""
    if not argument.startswith(HALF):
        return argument
    seconds = half_ns / 1e9 + float(argument.removeprefix(HALF) or 0)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def write_journal(journal: str, size_min: int) -> tuple[int, int]:
    """Write segments of at least ``size_min`` bytes; return their bytes and records."""
    target = ReviewFormat()
    bodies = reviews.bodies(reviews.MIX)
    os.makedirs(f"{journal}/{WRITER}")
    size = number = segment = cycle = 0
    lines: list[bytes] = []
    while size < size_min or lines:
        segment += 1
        with open(f"{journal}/{WRITER}/audit-{segment:020d}.ndjson", "wb") as file:
            while file.tell() < SEGMENT_BYTES and (lines or size + file.tell() < size_min):
                lines = lines or [renewed(body, cycle) for body in reversed(bodies)]
                cycle += len(lines) == len(bodies)
                at = START_NS + number * STEP_NS
                review = decode(lines.pop())
                file.write(target.render(review, level="Request", received_ns=at, now_ns=at, cluster="", changes=None))
                number += 1
            size += file.tell()
    return size, number


def renewed(body: bytes, cycle: int) -> bytes:
    """Return a review of other objects: other uids, in one of the namespaces."""
    body = _UID.sub(lambda found: b"%08x%b" % ((int(found[1], 16) + cycle) & 0xFFFFFFFF, found[2]), body)
    return body.replace(b'"shop"', b'"shop-%02d"' % (cycle % NAMESPACES))


def measured(arguments: list[str], journal: str) -> tuple[float, float, float, bytes]:
    """Return the seconds of a process, its CPU seconds, its memory in MB, and what it printed."""
    command = [sys.executable, "-m", "function", *arguments, "--journal", journal]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        assert process.stderr is not None  # noqa: S101 - the same
        printed, said = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(arguments)}: exit code {process.returncode}: {said.decode()}")
    return time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, printed


if __name__ == "__main__":
    sys.exit(main())
