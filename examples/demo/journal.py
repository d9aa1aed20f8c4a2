"""Write a journal of the recorded reviews of one minute of a real cluster, as the function would have written it.

python examples/demo/journal.py DIR
"""

import datetime as dt
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from function.policy import default  # noqa: E402 - found by the path above
from function.record.review_format import ReviewFormat  # noqa: E402
from function.recorder import Recorder  # noqa: E402
from function.redaction import Redactor, default_rules  # noqa: E402

DATA = ROOT / "tests" / "data"


def main(directory: str) -> int:
    """Write one segment, and say where."""
    recorder = Recorder(default(), Redactor(default_rules()), ReviewFormat())
    writer = pathlib.Path(directory) / "demo-20261124T114350Z-00000000"
    writer.mkdir(parents=True, exist_ok=True)
    segment = writer / f"audit-{1:020d}.ndjson"
    with (DATA / "reviews.ndjson").open("rb") as reviews, (DATA / "received.txt").open() as times:
        lines = [_line(recorder, body, time.strip()) for body, time in zip(reviews, times, strict=True)]
    segment.write_bytes(b"".join(lines))
    print(f"{len(lines)} records in {os.fspath(segment)}")
    return 0


def _line(recorder: Recorder, body: bytes, received: str) -> bytes:
    received_ns = int(dt.datetime.fromisoformat(received).timestamp() * 10**6) * 1000
    _, line, _ = recorder.record(body, received_ns=received_ns, cluster="")
    return line or b""


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
