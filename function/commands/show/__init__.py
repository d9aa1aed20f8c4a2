"""`python -m function show`: options, output, progress, following."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import itertools
import json
import os
import select
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from ...configuration.units import format_bytes
from ...record import reading
from ...record.reading import NotARecord, Record
from ..archives import fetched, is_archive
from ..command_line import PROGRAM, Parser, default_journal, moment_or_age, say, stop_writing, write_table
from ..journals import Source, merged, sources
from ..progress import Progress
from . import text
from .columns import HEADER, WIDE_HEADER, Columns
from .counting import COLUMNS, Counts
from .filtering import FIELDS, Filter, candidates
from .silence import explained

__all__ = ["main", "parser"]

EXAMPLES = f"""
{PROGRAM} show --since 1h
{PROGRAM} show --follow --user 'sa:*' --resource secrets
{PROGRAM} show --resource pods/exec --since 2026-01-31T12:00:00Z --until 2026-01-31T13:00:00Z
{PROGRAM} show --verb delete --changes -n 20
{PROGRAM} show --count user,verb
{PROGRAM} show -o json --resource rolebindings | jq .request.object
"""
POLL_MS = 250
PROGRESS_AFTER_SECONDS = 2.0
# A record is written when its answer is due: up to so long after it was received, behind later ones.
OUT_OF_ORDER_SECONDS = 60
# What is found at first, so much or for so long, says how wide columns must be.
ROWS_SEEN = 200
FIRST_ROWS_SECONDS = 0.3
# So many records are read again where none was wanted, to say what there is.
RECORDS_EXPLAINED = 20_000


def main(arguments: list[str]) -> int:
    """Show, and return the exit code: 0, 1 where nothing is there or it could not be read, 130 when interrupted."""
    options = _checked(parser(), arguments)
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
        stop_writing()
        return 0
    except OSError as error:
        say(f"{error.filename or 'journal'}: {error.strerror}{_hint(error)}")
        return 1
    return show.report()


def parser() -> Parser:
    """Return the parser of the options."""
    made = Parser(f"{PROGRAM} show", description="Print the records of journals.", examples=EXAMPLES,
                  notes="docs/reading.md is the manual, with a cookbook.")  # fmt: skip
    made.add_argument("paths", nargs="*", metavar="DIR", help="a journal, one writer's directory, a segment, or "
                      "an archive's URL; default: AUDIT_JOURNAL_DIR, else ./journal")  # fmt: skip
    made.add_argument("--follow", "-f", action="store_true", help="go on with what is written from now on")
    made.add_argument("--since", type=moment_or_age, metavar="TIME", help="a duration such as 10m, or an RFC 3339 time")
    made.add_argument("--until", type=moment_or_age, metavar="TIME", help="records before then")
    which = made.add_argument_group("filters", "exact, or with *; repeat one for OR, different ones must all match")
    helps = {"user": "sa:NAMESPACE/NAME is a service account", "group": "one of the user's groups",
             "resource": "pods, pods/exec, deployments.apps, */scale", "uid": "the request's"}  # fmt: skip
    for field in FIELDS:
        which.add_argument(f"--{field}", action="append", default=[], help=helps.get(field))
    made.add_argument("-n", "--last", type=_count, metavar="NUMBER", help="only the last so many")
    made.add_argument("--changes", action="store_true", help="below each record, what it changed")
    made.add_argument("-o", "--output", choices=["text", "wide", "json", "yaml", "name"], default="text",
                      help="wide: everything in full; json: the lines as they are; name: for kubectl")  # fmt: skip
    made.add_argument("--count", type=_columns, metavar="COLUMN,…", help=f"count them by {', '.join(COLUMNS)}")
    made.add_argument("--no-headers", action="store_true", help="no names of columns")
    return made


def _count(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError("not a number from 1 on")
    return min(int(value), sys.maxsize)


def _columns(value: str) -> list[str]:
    columns = value.split(",")
    for column in columns:
        if column not in COLUMNS:
            raise argparse.ArgumentTypeError(f"{column!r} is none of {', '.join(COLUMNS)}")
    return columns


def _checked(options_parser: Parser, arguments: list[str]) -> argparse.Namespace:
    options: argparse.Namespace = options_parser.parse_args(arguments)
    if options.follow and (options.until or options.count):
        options_parser.error(f"--follow never ends: it cannot go with {'--until' if options.until else '--count'}")
    if options.count and options.output not in ("text", "json"):
        options_parser.error("--count goes with -o json, or without -o")
    if options.count and (options.changes or options.last):
        options_parser.error("--count counts all records: it goes with neither --changes nor -n")
    if options.changes and options.output not in ("text", "wide"):
        options_parser.error("--changes goes with the outputs text and wide")
    if not options.paths:
        options.paths = [default_journal()]
    if options.follow and any(map(is_archive, options.paths)):
        options_parser.error("--follow goes with a journal: nothing is added to what was fetched of an archive")
    return options


def _ns(moment: dt.datetime | None) -> int:
    return int(moment.timestamp() * 10**9) if moment else 0


def _only(names: Sequence[str]) -> str:
    """Return the name where there is one, and no pattern."""
    return names[0] if len(names) == 1 and "*" not in names[0] else ""


def _place(source: Source, number: int, offset: int) -> str:
    try:
        return source.place(number, offset)
    except FileNotFoundError:  # retention was faster
        return f"{source.path}, in a segment that is gone"


def _hint(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return " (hint: name the journal, which is the function's AUDIT_JOURNAL_DIR)"
    return ""


class _Show:
    """One run: what is wanted, where it is read, what was found."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        since_ns = int(options.since.timestamp() * 1e6) * 1000 if options.since else 0
        self._until_ns = int(options.until.timestamp() * 1e6) * 1000 if options.until else 0
        self._wanted = {field: getattr(options, field) for field in FIELDS}
        self._filter = Filter(self._wanted, since_ns, self._until_ns)
        self._seek_ns = max(0, since_ns - OUT_OF_ORDER_SECONDS * 10**9)
        self._sources: dict[str, Source] = {}
        self._fetched_paths: list[str] | None = None
        self._no_records = 0
        self._first_no_record = ""
        self._found = False
        self._terminal = sys.stdout.isatty()
        self._progress = Progress("", after=PROGRESS_AFTER_SECONDS, shown=format_bytes, quiet=self._terminal)
        self._done = self._total = 0
        self._write = self._writer()

    def run(self) -> None:
        """Print what is there; with --follow, then what comes."""
        self._find()
        self._total = sum(source.remaining() for source in self._sources.values())
        if self._options.follow and not self._sources:
            say(f"{self._options.paths[0]}: no records yet; waiting")
        if self._options.count:
            self._print_counts()
        else:
            self._write(self._wanted_now(last=self._options.last))
        self._progress.end()
        while self._options.follow:
            sys.stdout.buffer.flush()
            if _reader_left_within(POLL_MS):
                return
            self._find()
            self._write(self._wanted_now())

    def report(self) -> int:
        """Say what was left out and why nothing was shown; return the exit code."""
        if self._no_records:
            lines = "1 line is no record" if self._no_records == 1 else f"{self._no_records:,} lines are no records"
            say(f"{lines}, and not shown; {self._first_no_record}")
        if self._options.follow or self._found:
            return 0
        if not self._sources:
            where = ", ".join(self._options.paths)
            say(f"{where}: no journal, or one without records yet: there is no file audit-….ndjson in it or one "
                "directory below (hint: name the function's AUDIT_JOURNAL_DIR)")  # fmt: skip
            return 1
        for sentence in explained(itertools.islice(self._unfiltered(), RECORDS_EXPLAINED), self._wanted):
            say(sentence)
        return 0

    def _find(self) -> None:
        for path in sources(self._fetched()):
            if path not in self._sources:
                self._sources[path] = source = Source(path)
                if self._seek_ns:
                    source.seek(self._seek_ns)

    def _fetched(self) -> list[str]:
        if self._fetched_paths is None:
            self._fetched_paths = fetched(
                self._options.paths,
                since_ns=_ns(self._options.since),
                until_ns=_ns(self._options.until),
                cluster=_only(self._options.cluster),
            )
        return self._fetched_paths

    def _wanted_now(self, last: int | None = None) -> Iterable[Record]:
        """Return the wanted records from where the last call stopped."""
        found = self._seen(merged(list(self._sources.values()), self._records))
        return deque(found, last) if last else found

    def _seen(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            self._found = True
            yield record

    def _records(self, source: Source) -> Iterator[Record]:
        for number, offset, block in source.placed_blocks():
            for line in candidates(block, self._filter.needles):
                try:
                    record = reading.read(line)
                except NotARecord as error:
                    self._no_records += 1
                    if not self._first_no_record:
                        at = offset + block.find(line)
                        self._first_no_record = f"the first is {_place(source, number, at)}: {error}"
                    continue
                if self._until_ns and record.received_ns > self._until_ns + OUT_OF_ORDER_SECONDS * 10**9:
                    return
                if self._filter.wants(record):
                    yield record
            self._done += len(block)
            self._progress.show(self._done, self._total)

    def _unfiltered(self) -> Iterator[Record]:
        """Yield records of all sources, wanted or not."""
        for path in self._sources:
            for block in Source(path).blocks():
                for line in block.splitlines():
                    with contextlib.suppress(NotARecord):
                        yield reading.read(line)

    # -- output -------------------------------------------------------------------------------------------------------

    def _writer(self) -> Callable[[Iterable[Record]], None]:
        output = self._options.output
        if output in ("text", "wide"):
            return _Rows(self._options, terminal=self._terminal).write
        one = {"json": _json, "yaml": _yaml, "name": _name}[output]

        def write(records: Iterable[Record]) -> None:
            for record in records:
                sys.stdout.buffer.write(one(record))
                if self._terminal:
                    sys.stdout.buffer.flush()

        return write

    def _print_counts(self) -> None:
        counts = Counts(self._options.count)
        for record in self._wanted_now():
            counts.add(record)
        self._progress.end()
        if self._options.output == "json":
            sys.stdout.write(json.dumps(counts.objects(), indent=2) + "\n")
        elif self._found:
            write_table(counts.table()[self._options.no_headers :], right=[0])
        sys.stdout.flush()


def _json(record: Record) -> bytes:
    return record.line + b"\n"


def _name(record: Record) -> bytes:
    return f"{text.name(record)}\n".encode(errors="backslashreplace")


def _yaml(record: Record) -> bytes:
    import yaml  # noqa: PLC0415 - the other outputs start faster without

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    try:
        shown = yaml.dump(json.loads(record.line), Dumper=dumper, sort_keys=False, width=120)
    except RecursionError:  # an object deeper than that library goes: JSON is YAML
        return b"---\n" + _json(record)
    return b"---\n" + str(shown).encode()


class _Rows:
    """Rows of text, their columns as wide as the first of them need, wider where a later one needs it."""

    def __init__(self, options: argparse.Namespace, *, terminal: bool) -> None:
        wide = options.output == "wide"
        self._cells = text.wide_cells if wide else text.cells
        self._terminal = terminal
        self._with_changes = options.changes
        self._header_is_wanted = not options.no_headers
        self._is_started = False
        self._columns = Columns(
            WIDE_HEADER if wide else HEADER,
            width=shutil.get_terminal_size().columns if terminal and not wide else 0,
            colour=terminal and not os.environ.get("NO_COLOR"),
        )

    def write(self, records: Iterable[Record]) -> None:
        following = iter(records)
        for record in itertools.chain(self._first(following), following):
            for line in self._columns.lines(self._cells(record)):
                self._line(line)
            for change in text.changed(record) if self._with_changes else ():
                self._line(f"    {change}")
            if self._terminal:
                sys.stdout.buffer.flush()

    def _first(self, following: Iterator[Record]) -> list[Record]:
        """Take the first rows, make the columns wide enough for all of them, and print their header."""
        first: list[Record] = []
        if self._is_started:
            return first
        until = time.monotonic() + FIRST_ROWS_SECONDS
        for record in following:
            first.append(record)
            self._columns.see(self._cells(record))
            if len(first) == ROWS_SEEN or time.monotonic() > until:
                break
        if first:
            self._is_started = True
            if self._header_is_wanted:
                self._line(self._columns.header())
        return first

    def _line(self, line: str) -> None:
        sys.stdout.buffer.write(f"{line}\n".encode(errors="backslashreplace"))


def _reader_left_within(milliseconds: int) -> bool:
    """Wait, and return whether standard output's reader is gone."""
    poller = select.poll()
    poller.register(sys.stdout.fileno(), 0)  # errors and hang-ups are always reported
    return bool(poller.poll(milliseconds))
