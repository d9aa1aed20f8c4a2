"""`python -m function render`: records of a journal into the other format, line by line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import BinaryIO

from ..record import Format, reading
from ..record.event_format import EventFormat
from ..record.reading import NotARecord, ObservationRecord, ReviewRecord
from ..record.review_format import ReviewFormat
from .command_line import PROGRAM, Parser, say
from .files import opened

__all__ = ["main", "parser"]

EXAMPLES = f"""
{PROGRAM} render --format event journal/*/audit-*.ndjson > events.ndjson
{PROGRAM} show -o json --since 1h | {PROGRAM} render --format event
"""
COMPLAINTS_MAX = 10


def main(argv: list[str]) -> int:
    """Convert, and return the exit code: 0, 1 where lines were left out or a file could not be read."""
    arguments = parser().parse_args(argv)
    target: Format = EventFormat(infer_status=arguments.infer_status) if arguments.format == "event" else ReviewFormat()
    left_out = _LeftOut()
    for name in arguments.segments or ["-"]:
        _convert(name, target, left_out)
    sys.stdout.buffer.flush()
    left_out.end()
    return 1 if left_out.count else 0


def parser() -> Parser:
    """Return the parser of the options."""
    made = Parser(
        f"{PROGRAM} render",
        description="Convert records from SEGMENTs, or from standard input: review format (also kube-audit-rest's) to "
        "Events, or what is in it already. An Event cannot become a review again.",
        examples=EXAMPLES,
        notes="Lines that are no records are left out: exit code 1, the first ten with their reason on standard error.",
    )
    made.add_argument("--format", choices=["event", "review"], default="event", help="what to write (%(default)s)")
    made.add_argument("--infer-status", action="store_true", help="as AUDIT_EVENT_STATUS=inferred: a responseStatus")
    made.add_argument("segments", nargs="*", metavar="SEGMENT", help="files of a journal; - is standard input")
    return made


class _LeftOut:
    """What could not be converted: the first few are named, all are counted."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, where: str, why: str) -> None:
        """Count one line or file."""
        self.count += 1
        if self.count <= COMPLAINTS_MAX:
            say(f"{where}: {why}")

    def end(self) -> None:
        """Say how many there were."""
        if self.count > COMPLAINTS_MAX:
            say(f"… and {self.count - COMPLAINTS_MAX:,} more")
        if self.count:
            say(f"{self.count:,} left out")


def _convert(name: str, target: Format, left_out: _LeftOut) -> None:
    """Write one segment's records."""
    try:
        with opened(name) as source:
            for number, line in _lines(source):
                try:
                    sys.stdout.buffer.write(_converted(line, target))
                except NotARecord as error:
                    left_out.add(f"{name}:{number}", str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        left_out.add(name, error.strerror or "cannot be read")


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
    return record.rendered(target)
