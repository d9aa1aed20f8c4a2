"""`python -m function render`: records of a journal into the other format, line by line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import BinaryIO

from ..record import Format, reading
from ..record.event_format import EventFormat
from ..record.reading import NotARecord, ObservationRecord, ReviewRecord
from ..record.review_format import ReviewFormat
from .files import opened

__all__ = ["main"]

USAGE = """%(prog)s --format {event,review} [--infer-status] [SEGMENT ...] [< SEGMENT]

Reads records in the review format (also kube-audit-rest's) from SEGMENTs, or from standard input, and writes them in
the format asked for to standard output. Events are already in the event format, and pass through there; what `watch`
observed has a form of its own, which it keeps beside reviews.
Lines that are no records (a torn tail, another program's) are reported by number, counted, and left out; exit code 1.
"""


def main(argv: list[str]) -> int:
    """Convert, and return the exit code: 0, 1 where lines were left out or a file could not be read, 2 for usage."""
    parser = argparse.ArgumentParser("python -m function render", usage=USAGE)
    parser.add_argument("--format", choices=["event", "review"], default="event")
    parser.add_argument("--infer-status", action="store_true")
    parser.add_argument("segments", nargs="*", metavar="SEGMENT")
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    target: Format = EventFormat(infer_status=arguments.infer_status) if arguments.format == "event" else ReviewFormat()
    try:
        left_out = sum([_convert(name, target) for name in arguments.segments or ["-"]])
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # the reader has seen enough
        sys.stderr.close()
        return 1
    if left_out:
        print(f"{left_out} left out", file=sys.stderr)
    return 1 if left_out else 0


def _convert(name: str, target: Format) -> int:
    """Write one segment's records, and return how many lines (or files) were left out."""
    left_out = 0
    try:
        with opened(name) as source:
            for number, line in _lines(source):
                try:
                    sys.stdout.buffer.write(_converted(line, target))
                except NotARecord as error:
                    left_out += _report(f"{name}:{number}", str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        left_out += _report(name, error.strerror or "cannot be read")
    return left_out


def _lines(source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in enumerate(source, start=1) if line.strip())


def _converted(line: bytes, target: Format) -> bytes:
    """Return the line in the target's format. Raises `NotARecord`."""
    record = reading.read(line)
    if isinstance(record, ObservationRecord):  # no review, and none can be made of it
        return record.event() if isinstance(target, EventFormat) else record.line + b"\n"
    if not isinstance(record, ReviewRecord):
        if isinstance(target, EventFormat):
            return record.line + b"\n"
        raise NotARecord("an Event: it cannot become a review again")
    return target.render(
        record.review(),
        level=record.level,
        received_ns=record.received_ns,
        now_ns=record.received_ns,  # the only moment that a record knows
        cluster=record.cluster,
        changes=record.changes or None,
    )


def _report(where: str, why: str) -> int:
    print(f"{where}: {why}", file=sys.stderr)
    return 1
