"""`python -m function render`: records of a journal into the other format, line by line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from . import Format
from .event import EventFormat
from .record import NotARecord, decode_record
from .review import ReviewFormat

__all__ = ["main"]

USAGE = """%(prog)s --format {event,review} [--infer-status] [SEGMENT ...] [< SEGMENT]

Reads records in the review format (also kube-audit-rest's) from SEGMENTs, or from standard input, and writes them in
the format asked for to standard output. Events are already in the event format, and pass through there.
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
        print(f"{left_out} left out", file=sys.stderr)  # noqa: T201 - a command reports on stderr
    return 1 if left_out else 0


def _convert(name: str, target: Format) -> int:
    """Write one segment's records, and return how many lines (or files) were left out."""
    try:
        source = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: SIM115 - closed below, stdin is not
    except OSError as error:
        return _report(name, error.strerror or "cannot be opened")
    left_out = 0
    try:
        for number, line in _lines(source):
            try:
                sys.stdout.buffer.write(_converted(line, target))
            except NotARecord as error:
                left_out += _report(f"{name}:{number}", str(error))
    finally:
        if source is not sys.stdin.buffer:
            source.close()
    return left_out


def _lines(source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in enumerate(source, start=1) if line.strip())


class _Kind(msgspec.Struct):
    kind: str
    apiVersion: str  # noqa: N815 - Kubernetes' own spelling
    auditID: str  # noqa: N815


_kind = msgspec.json.Decoder(_Kind).decode


def _converted(line: bytes, target: Format) -> bytes:
    """Return the line in the target's format. Raises `NotARecord`."""
    if _is_event(line):
        if isinstance(target, EventFormat):
            return line if line.endswith(b"\n") else line + b"\n"
        raise NotARecord("an Event: it cannot become a review again")
    record = decode_record(line)
    if record.received_ns is None:
        raise NotARecord("an AdmissionReview, but no record: it has no requestReceivedTimestamp")
    return target.render(
        record.review,
        level=record.level,
        received_ns=record.received_ns,
        now_ns=record.received_ns,  # the only moment that a record knows
        cluster=record.cluster,
        changes=record.changes,
    )


def _is_event(line: bytes) -> bool:
    if not line.startswith(b'{"kind":"Event"'):
        return False
    try:
        return _kind(line).apiVersion.startswith("audit.k8s.io/")
    except (msgspec.DecodeError, RecursionError):
        return False


def _report(where: str, why: str) -> int:
    print(f"{where}: {why}", file=sys.stderr)  # noqa: T201 - a command reports on stderr
    return 1
