"""What a report costs: the process that writes it, the file, and a browser that opens it.

    bench/run report [--bytes 360000000] [--rounds 3] [--scratch DIR]

The journal is that of bench/history.py; the default is about 100,000 records. A Chromium on the PATH, or in CHROMIUM,
opens the page; without one that figure is left out.
Exit code 1: the file is larger, or opens later, than docs/report.md promises.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import tempfile
from statistics import median

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "tests")]

import browser  # noqa: E402 - found by the path above
from history import figures, measured, write_journal  # noqa: E402

FILE_MB_MAX = 5.0
OPEN_SECONDS_MAX = 2.0


def main() -> int:
    """Generate, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=360_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", default="/var/tmp")  # noqa: S108 - a directory of its own is made there
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        journal, page = f"{scratch}/journal", pathlib.Path(scratch) / "audit.html"
        size, count = write_journal(journal, options.bytes)
        asked = ["report", "--since", "2027-01-01", "--until", "2027-12-31", "-o", os.fspath(page)]
        runs = [measured(asked, journal) for _ in range(options.rounds)]
        print(f"{size / 1e6:.0f} MB, {count:,} records; seconds of a process, of its CPU, MB of memory")
        print(f"report  {figures(*(median(run[number] for run in runs) for number in range(3)))}")
        size_mb = page.stat().st_size / 1e6
        print(f"the file is {size_mb:.2f} MB")
        seconds = opened(page, options.rounds)
    return 0 if size_mb <= FILE_MB_MAX and seconds <= OPEN_SECONDS_MAX else 1


def opened(page: pathlib.Path, rounds: int) -> float:
    """Return after how many seconds a browser has the page ready, 0 where there is no browser."""
    if browser.found() is None:
        print("no Chromium: not opened")
        return 0.0
    with browser.browser() as chromium:
        seconds = median(chromium.page().open(page.as_uri()) for _ in range(rounds))
    print(f"ready in Chromium after {seconds:.2f} s")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
