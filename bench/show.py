"""What reading the journal costs: the first screen, and filtering, of a journal of recorded reviews on one core.

    python bench/show.py [--bytes 1000000000] [--rounds 3] [--scratch DIR]

Each figure is the time of a whole process `python -m function show`, its start included.
"""

from __future__ import annotations

import argparse
import os
import resource
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

START_NS = 1_790_000_000_000_000_000
STEP_NS = 10_000_000
SEGMENT_BYTES = 100 << 20
SCREEN_LINES = 50
FILTERS = (
    ["--user", "nobody@example.com"],
    ["--user", "system:kube-scheduler"],
    ["--resource", "deployments", "--namespace", "shop"],
    ["--user", "nobody*"],
    ["--verb", "deletecollection"],
    ["--verb", "delet*"],
)


def main() -> int:
    """Measure; print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=1_000_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", default="/var/tmp")  # noqa: S108 - a directory of its own is made there
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as journal:
        size, last_ns = write_journal(journal, options.bytes)
        print(f"{size / 1e6:.0f} MB in {len(os.listdir(f'{journal}/bench-writer'))} segments")
        first = median(first_screen(journal) for _ in range(options.rounds))
        print(f"{'first screen':50} {first:6.2f} s")
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(last_ns / 1e9 - 5))
        late = median(whole(journal, ["--since", since])[0] for _ in range(options.rounds))
        print(f"{'--since, the last 5 s of it':50} {late:6.2f} s")
        for wanted in FILTERS:
            runs = [whole(journal, wanted) for _ in range(options.rounds)]
            seconds, cpu = median(run[0] for run in runs), median(run[1] for run in runs)
            rates = f"{size / seconds / 1e6:5.0f} MB/s, {size / cpu / 1e6:5.0f} MB per second of CPU"
            print(f"{' '.join(wanted):50} {seconds:6.2f} s, {rates}, {runs[0][2]} records", flush=True)
    return 0


def write_journal(journal: str, size_min: int) -> tuple[int, int]:
    """Write segments of recorded reviews of at least ``size_min`` bytes; return their bytes, and the last time."""
    target = ReviewFormat()
    decoded = [decode(body) for body in reviews.bodies(reviews.MIX)]
    directory = f"{journal}/bench-writer"
    os.mkdir(directory)
    size = number = segment = 0
    while size < size_min:
        segment += 1
        with open(f"{directory}/audit-{segment:020d}.ndjson", "wb") as file:
            while file.tell() < min(SEGMENT_BYTES, size_min - size):
                at = START_NS + number * STEP_NS
                review = decoded[number % len(decoded)]
                file.write(
                    target.render(review, level="Request", received_ns=at, now_ns=at, cluster="bench", changes=None)
                )
                number += 1
            size += file.tell()
    return size, START_NS + number * STEP_NS


def first_screen(journal: str) -> float:
    """Return the seconds until a screen of lines was there."""
    started = time.monotonic()
    with subprocess.Popen(command(journal), stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        lines = [process.stdout.readline() for _ in range(SCREEN_LINES)]
        seconds = time.monotonic() - started
        process.stdout.close()
    if not all(lines) or process.returncode:
        raise SystemExit(f"only {sum(map(bool, lines))} lines, exit code {process.returncode}")
    return seconds


def whole(journal: str, wanted: list[str]) -> tuple[float, float, int]:
    """Return the seconds that a whole run takes, its CPU seconds (others' load is not in them), and its records."""
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    finished = subprocess.run([*command(journal), *wanted], stdout=subprocess.PIPE, cwd=ROOT, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - started, cpu, finished.stdout.count(b"\n")


def command(journal: str) -> list[str]:
    """Return the command that shows the journal, on one core."""
    return ["taskset", "-c", "1", sys.executable, "-m", "function", "show", journal]


if __name__ == "__main__":
    sys.exit(main())
