"""Send a handful of recorded reviews through a running function, find each in the journal, and show them."""

import glob
import json
import os
import pathlib
import shutil
import sys
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from function.commands.show.columns import HEADER, Columns  # noqa: E402 - found by the path above
from function.commands.show.text import cells  # noqa: E402 - as above
from function.record.reading import read  # noqa: E402

REVIEWS = pathlib.Path(__file__).with_name("reviews.ndjson")
START_SECONDS, RECORD_SECONDS = 20.0, 10.0


def main(url: str, journal_dir: str) -> int:
    """Return 0 when every review was answered and found again."""
    _wait_until_ready(url)
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else 0
    columns = Columns(HEADER, width=width, colour=terminal and not os.environ.get("NO_COLOR"))
    reviews = REVIEWS.read_bytes().splitlines()
    rows = []
    for review in reviews:
        uid = json.loads(review)["request"]["uid"]
        answer = _post(f"{url}/log-request?timeout=10s", review)
        if (answer["response"]["uid"], answer["response"]["allowed"]) != (uid, True):
            print(f"unexpected answer: {answer}", file=sys.stderr)
            return 1
        rows.append(cells(read(_record(journal_dir, uid))))
        columns.see(rows[-1])
    print(columns.header(), *(line for row in rows for line in columns.lines(row)), sep="\n")
    print(f"\n{len(reviews)} reviews answered, {len(reviews)} records found in {journal_dir}")
    return 0


def _wait_until_ready(url: str) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > until:
                sys.exit(f"the function at {url} is not ready after {START_SECONDS:g} s")
            time.sleep(0.1)


def _post(url: str, body: bytes) -> dict:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def _record(journal_dir: str, uid: str) -> bytes:
    """Return the newest record of the review ``uid``, as it is in the journal."""
    until = time.monotonic() + RECORD_SECONDS
    while time.monotonic() < until:
        for path in sorted(glob.glob(f"{journal_dir}/*/audit-*.ndjson"), key=os.path.getmtime, reverse=True):
            for line in reversed(pathlib.Path(path).read_bytes().splitlines()):
                if uid.encode() in line:
                    return line
        time.sleep(0.05)
    sys.exit(f"no record of {uid} in {journal_dir}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
