"""`python -m function show`: options, output, progress, following."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import re
import select
import sys
from collections.abc import Iterator

from ...configuration.units import format_bytes, parse_seconds
from ...record import reading
from ...record.reading import NotARecord, Record
from ..journals import Source, merged, sources
from ..progress import Progress
from .filtering import Filter, candidates
from .text import readable

__all__ = ["main"]

FIELDS = ("name", "user", "verb", "resource", "namespace", "cluster")
POLL_MS = 250
PROGRESS_AFTER_SECONDS = 2.0
# A record is written when its answer is due: up to so long after it was received, behind later ones.
OUT_OF_ORDER_SECONDS = 60


def main(arguments: list[str]) -> int:
    """Show, and return the exit code: 0, 1 where something could not be read, 2 for usage, 130 when interrupted."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    show = _Show(options)
    try:
        show.run()
        sys.stdout.buffer.flush()
    except KeyboardInterrupt:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.buffer.flush()
        show.report()
        return 0 if options.follow else 130
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        _say(f"{error.filename or 'journal'}: {error.strerror}")
        return 1
    show.report()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m function show", description="Show the records of journals.")
    parser.add_argument("paths", nargs="+", metavar="DIR", help="a journal, one writer's directory, or a segment")
    parser.add_argument("--follow", "-f", action="store_true", help="go on with what is written from now on")
    parser.add_argument("--since", type=_since, help="a duration such as 10m, or an RFC 3339 time", default=None)
    for field in FIELDS:
        parser.add_argument(f"--{field}", action="append", default=[], help="exact, or with *; may be repeated")
    parser.add_argument("--changes", action="store_true", help="below each record, what it changed")
    parser.add_argument("--output", choices=["text", "json"], default="text", help="json: the lines as they are")
    return parser


def _since(text: str) -> dt.datetime:
    """Return the moment that a duration or a time says."""
    if re.match(r"\d{4}-", text):
        try:
            moment = dt.datetime.fromisoformat(text)
        except ValueError:
            raise argparse.ArgumentTypeError("not an RFC 3339 time such as 2026-01-31T12:00:00Z") from None
        if moment.tzinfo is None:
            raise argparse.ArgumentTypeError("a time needs its zone: Z, or an offset such as +01:00")
        return moment.astimezone(dt.UTC)
    try:
        return dt.datetime.now(dt.UTC) - dt.timedelta(seconds=parse_seconds(text, days=True))
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError("neither a duration such as 10m nor an RFC 3339 time") from None


class _Show:
    """One run: what is wanted, where it is read, how many lines were no records."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        since_ns = int(options.since.timestamp() * 1e6) * 1000 if options.since else 0
        self._filter = Filter({field: getattr(options, field) for field in FIELDS}, since_ns)
        self._seek_ns = max(0, since_ns - OUT_OF_ORDER_SECONDS * 10**9)
        self._sources: dict[str, Source] = {}
        self._no_records = 0
        self._terminal = sys.stdout.isatty()
        self._colour = self._terminal and not os.environ.get("NO_COLOR")
        self._progress = Progress("", after=PROGRESS_AFTER_SECONDS, shown=format_bytes, quiet=self._terminal)
        self._done = self._total = 0

    def run(self) -> None:
        """Print what is there; with --follow, then what comes."""
        self._find()
        self._total = sum(source.remaining() for source in self._sources.values())
        self._print()
        self._progress.end()
        while self._options.follow:
            sys.stdout.buffer.flush()
            if _reader_left_within(POLL_MS):
                return
            self._find()
            self._print()

    def report(self) -> None:
        """Say what was left out."""
        if self._no_records:
            _say(f"{self._no_records} lines are no records, and not shown")

    def _find(self) -> None:
        for path in sources(self._options.paths):
            if path not in self._sources:
                self._sources[path] = source = Source(path)
                if self._seek_ns:
                    source.seek(self._seek_ns)

    def _print(self) -> None:
        out = sys.stdout.buffer
        for record in merged(list(self._sources.values()), self._records):
            if self._options.output == "json":
                out.write(record.line + b"\n")
            else:
                text = readable(record, colour=self._colour, with_changes=self._options.changes)
                out.write(f"{text}\n".encode(errors="backslashreplace"))
            if self._terminal:
                out.flush()

    def _records(self, source: Source) -> Iterator[Record]:
        for block in source.blocks():
            for line in candidates(block, self._filter.needles):
                try:
                    record = reading.read(line)
                except NotARecord:
                    self._no_records += 1
                    continue
                if self._filter.wants(record):
                    yield record
            self._done += len(block)
            self._progress.show(self._done, self._total)


def _reader_left_within(milliseconds: int) -> bool:
    """Wait, and return whether standard output's reader is gone."""
    poller = select.poll()
    poller.register(sys.stdout.fileno(), 0)  # errors and hang-ups are always told
    return bool(poller.poll(milliseconds))


def _say(text: str) -> None:
    print(text, file=sys.stderr)
