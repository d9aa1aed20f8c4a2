"""`python tests/attack/objects.py SEED FIRST SECONDS PORT`: hostile objects, at the lowest priority.

Each is recorded, or refused for a documented reason. Prints what became of them as JSON.
"""

import asyncio
import contextlib
import json
import os
import pathlib
import random
import re
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

import hostile
import running
from test_review_as_go import Writer

TIMEOUT_SECONDS = 60.0
CALLERS = 3
SMALL_SIZES = [1 << 10, 5 << 10, 30 << 10, 125 << 10, 140 << 10, 300 << 10, 1 << 20, (1 << 20) + 4000]
LARGE_SIZES = [3 << 20, 10 << 20, 30 << 20, 32 << 20, 40 << 20]
# How a server may be set up: what it records, and how.
SETUPS = {
    "review": {},
    "event": {"AUDIT_FORMAT": "event"},
    "changes": {"AUDIT_CHANGES": "1"},
    "everywhere": {"AUDIT_CHANGES": "1", "AUDIT_REDACTION_FILE": "STAR"},
}
LONG_BYTES = 4 << 20
# What no API server sends may be refused so (docs/security.md has the list).
MAY_REFUSE = {400, 413}


def settings(setup, folder):
    """Return the settings of one setup; a redaction file is written to the folder."""
    found = dict(SETUPS[setup])
    if found.get("AUDIT_REDACTION_FILE") == "STAR":
        path = folder / "everywhere.yaml"
        path.write_text(hostile.STAR)
        found["AUDIT_REDACTION_FILE"] = str(path)
    return found


def case(seed, number):
    """Return (what it is, body, uid, whether an API server could have written it)."""
    rng = random.Random(f"{seed} objects {number}")
    if number % 3:
        uid, body = Writer(f"{seed} {number}").review()
        return "as Go writes it", body, uid, True
    family = rng.choice(sorted(hostile.FAMILIES))
    size = rng.choice(SMALL_SIZES if rng.random() < 0.85 else LARGE_SIZES)
    size = max(1000, size - rng.choice([0, 1, 100, 2000, size // 3]))
    uid = f"h{number:09}"
    body = hostile.FAMILIES[family](size).replace(b'"uid":"hostile"', b'"uid":"%b"' % uid.encode(), 1)
    return f"{family}, {size} bytes", body, uid, False


class Objects:
    """Posts cases to a server on kept connections, some at once; of long ones one at a time."""

    def __init__(self, seed, first):
        self.seed = seed
        self.counts = {"objects": 0, "bytes": 0, "recorded": 0, "refused": 0}
        self.refused = {}
        self.spans = []
        self.slowest = (0.0, "")
        self.number = first

    async def post_until(self, port, until, callers):
        """Post until then, or until something is wrong; return the numbers of what is, and why."""
        broken, one_long = [], asyncio.Lock()

        async def caller():
            connection = Kept(port)
            while time.monotonic() < until and not broken:
                number, self.number = self.number, self.number + 1
                what, body, uid, is_go = case(self.seed, number)
                async with one_long if len(body) > LONG_BYTES else contextlib.nullcontext():
                    began = time.monotonic()
                    try:
                        status, answer = await asyncio.wait_for(connection.post(body), TIMEOUT_SECONDS)
                        wrong = self._wrong(status, answer, uid, is_go)
                    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                        wrong = f"it was not answered: {error!r}"
                    self.slowest = max(self.slowest, (time.monotonic() - began, what))
                    self.spans.append((began, time.monotonic(), number, what))
                if wrong:
                    broken.append((number, f"{what}: {wrong}"))
                self.counts["objects"] += 1
                self.counts["bytes"] += len(body)
            connection.close()

        await asyncio.gather(*(caller() for _ in range(callers)))
        return broken

    def _wrong(self, status, answer, uid, is_go):
        if status == 200:
            self.counts["recorded"] += 1
            return "" if b'"uid":"%b"' % uid.encode() in answer else f"it was allowed as {answer[:200]!r}"
        self.counts["refused"] += 1
        self.refused[status] = self.refused.get(status, 0) + 1
        if is_go:
            return f"an API server can write this, and it was answered {status} {answer[:300]!r}"
        return "" if status in MAY_REFUSE else f"it was answered {status} {answer[:300]!r}"


class Kept:
    """A connection that is opened when it is needed."""

    def __init__(self, port):
        self._port = port
        self._streams = None

    async def post(self, body):
        """Return the status and the body of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(running.raw_post(body, "/log-request?timeout=30s"))
        head = await reader.readuntil(b"\r\n\r\n")
        answer = await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
        if b"connection: close" in head:
            self.close()
        return int(head.split()[1]), answer

    def close(self):
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def recorded(server):
    """Return how many lines the journal has, and how many of them are degraded."""
    lines = degraded = 0
    for path in server.journal.glob("*/audit-*.ndjson"):
        with open(path, "rb") as file:
            for line in file:
                lines += line.endswith(b"\n")
                degraded += (
                    b"too_costly" in line or b"too_deep" in line or b"too_large" in line or b"not_unicode" in line
                )
    return lines, degraded


def main(seed, first, seconds, port):
    os.nice(19)
    attack = Objects(seed, int(first))
    broken = asyncio.run(attack.post_until(int(port), time.monotonic() + float(seconds), CALLERS))
    print(
        json.dumps(
            {
                "broken": broken,
                "counts": attack.counts,
                "refused": attack.refused,
                "slowest": attack.slowest,
                "spans": attack.spans,
                "number": attack.number,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
