"""What compressing a closed segment costs and gains, on recorded reviews: bytes, and CPU to write and to read.

    python bench/archive.py [--bytes 100000000] [--rounds 3]

First the recorded reviews as they are, each once: how small a real stream becomes. Then so many bytes of them with
uids, times and resourceVersions of their own: how fast a whole segment is. Level 3 is what the function uses.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
import time
import uuid
from collections.abc import Callable
from statistics import median

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path[:0] = [ROOT]

from function.journal import content  # noqa: E402 - found by the path above

LEVELS = (1, 3, 6, 9)
_UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NUMBER = re.compile(rb'("resourceVersion":")[0-9]+')
BLOCK_BYTES = 1 << 20


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=100_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with open(os.path.join(ROOT, "tests", "data", "reviews.ndjson"), "rb") as file:
        once = file.read()
    records = once.count(b"\n")
    many = another(once, options.bytes)
    print("| level | bytes a record | ratio | a segment's ratio | compress, MB/s of CPU | read, MB/s of CPU |")
    print("|---|---|---|---|---|---|")
    for level in LEVELS:
        content.LEVEL = level
        small = b"".join(content.compressed([once], len(once)))
        sizes, writing, reading = [], [], []
        for _ in range(options.rounds):
            packed, seconds = timed(lambda: b"".join(content.compressed(blocks(many), len(many))))
            writing.append(len(many) / seconds / 1e6)
            sizes.append(len(packed))
            _, seconds = timed(lambda packed=packed: sum(map(len, content.decompressed([packed], "-"))))
            reading.append(len(many) / seconds / 1e6)
        print(
            f"| {level} | {len(small) / records:.0f} | {len(once) / len(small):.0f} "
            f"| {len(many) / median(sizes):.0f} | {median(writing):.0f} | {median(reading):.0f} |"
        )
    return 0


def another(once: bytes, size: int) -> bytes:
    """Return about ``size`` bytes of the same reviews again and again, each time with numbers of their own."""
    numbers = random.Random(1)
    parts, total = [], 0
    while total < size:
        ids: dict[bytes, bytes] = {}
        part = _UUID.sub(
            lambda one, ids=ids: ids.setdefault(one[0], str(uuid.UUID(int=numbers.getrandbits(128))).encode()), once
        )
        part = _NUMBER.sub(lambda one: one[1] + str(numbers.randrange(10**6, 10**8)).encode(), part)
        parts.append(part)
        total += len(part)
    return b"".join(parts)


def blocks(data: bytes) -> list[bytes]:
    """Return the data as a segment is read."""
    return [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]


def timed(work: Callable[[], object]) -> tuple[object, float]:
    """Return what the work returns, and its CPU seconds."""
    before = time.process_time()
    result = work()
    return result, time.process_time() - before


if __name__ == "__main__":
    raise SystemExit(main())
