"""What `reconcile` reads: records with their places, and the API server's log from files, directories, gzip."""

from __future__ import annotations

import bisect
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from ...journal.content import GZIPPED
from ...journal.segments import readable_number
from ...native.claims import Place
from ...native.event import Event
from ...native.reading import Malformed, read
from ...record import reading
from ...record.reading import NotARecord, Record
from ..files import opened
from ..journals import Source, sources

__all__ = ["CannotRun", "Journal", "Located", "NativeLog", "native_files"]

BLOCK_BYTES = 1 << 17  # stays in the cache of a core
_GZIP = b"\x1f\x8b"
# What CloudWatch leaves in the bucket that it exports to.
_NOT_LOGS = frozenset(["aws-logs-write-test"])


class CannotRun(Exception):  # noqa: N818 - the caller's action is one: say it, and end with 2
    """The input cannot be read, or not be told apart. The text names the file and the line."""


class Located(NamedTuple):
    """A record and its place: a number that grows in the order of reading."""

    place: int
    record: Record


class _Segment(NamedTuple):
    start: int  # the place of its first byte
    source: int
    number: int


class Journal:
    """The records of some journals, in the order of writers, segments and lines."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._sources = [Source(path) for path in sources(paths)]
        self._segments: list[_Segment] = []
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._by_name: dict[tuple[str, int], int] = {}
        self.no_records = 0
        self.bytes = sum(source.remaining() for source in self._sources)

    def located(self, progress: Callable[[int], None]) -> Iterator[Located]:
        """Return every record of a request. Raises `OSError`.

        Lines that are no records are counted in ``no_records``.
        """
        end = 0
        for index, source in enumerate(self._sources):
            for number, offset, block in source.placed_blocks():
                if not self._segments or self._segments[-1][1:] != (index, number):
                    self._add(_Segment(end - offset, index, number))
                start = self._segments[-1].start + offset
                end = self._ends[-1] = start + len(block)
                yield from self._records(start, block)
                progress(len(block))

    def again(self, until: int, progress: Callable[[int], None]) -> Iterator[Located]:
        """Return the same records once more, those before the place ``until``; what has come since is not there."""
        fresh = Journal.__new__(Journal)
        fresh.__dict__ |= {"no_records": 0, "_sources": [Source(source.path) for source in self._sources]}
        fresh.__dict__ |= {"_segments": [], "_starts": [], "_by_name": {}}
        known = {(segment.source, segment.number): segment.start for segment in self._segments}
        for index, source in enumerate(fresh._sources):  # noqa: SLF001 - its own kind
            for number, offset, block in source.placed_blocks():
                start = known.get((index, number))
                if start is None or start + offset > until:
                    break
                yield from (one for one in self._records(start + offset, block) if one.place <= until)
                progress(len(block))

    def place_of(self, place: Place) -> int | None:
        """Return the place that an annotation names, None where nothing was read there."""
        number = self._by_name.get((place.directory, place.segment))
        if number is None:
            return None
        found = self._starts[number] + place.offset
        return found if found < self._ends[number] else None

    def spelled(self, place: int) -> str:
        """Return a place as annotations spell it: directory, segment, byte."""
        segment = self._segment(place)
        path = self._sources[segment.source].path
        directory = path if os.path.isdir(path) else os.path.dirname(path)
        number = segment.number or readable_number(os.path.basename(path)) or 0
        return f"{os.path.basename(directory)}/{number or os.path.basename(path)}/{place - segment.start}"

    def record_at(self, place: int) -> Record:
        """Return the record at a place that was read. Raises `OSError`, `NotARecord`."""
        segment = self._segment(place)
        return reading.read(self._sources[segment.source].line_at(segment.number, place - segment.start))

    # -- steps ----------------------------------------------------------------------------------------------------

    def _add(self, segment: _Segment) -> None:
        self._segments.append(segment)
        self._starts.append(segment.start)
        self._ends.append(segment.start)
        path = self._sources[segment.source].path
        if os.path.isdir(path):
            name = (os.path.basename(path), segment.number)
        else:
            name = (os.path.basename(os.path.dirname(path)), readable_number(os.path.basename(path)) or 0)
        self._by_name.setdefault(name, len(self._segments) - 1)

    def _segment(self, place: int) -> _Segment:
        return self._segments[bisect.bisect_right(self._starts, place) - 1]

    def _records(self, start: int, block: bytes) -> Iterator[Located]:
        read_ = reading.read
        for line in block.split(b"\n")[:-1]:
            try:
                record = read_(line)
                if record.observed is None:  # what a watch saw is no request, and answers to none of theirs
                    yield Located(start, record)
            except NotARecord:
                self.no_records += bool(line.strip())
            start += len(line) + 1


def native_files(paths: Sequence[str]) -> list[str]:
    """Return the files that ``paths`` are, or have below them, in the order of their names. Raises `OSError`."""
    found: dict[str, None] = {}
    for path in paths:
        if path == "-" or not os.path.isdir(path):
            if path != "-":
                os.stat(path)
            found[path] = None
            continue
        for folder, folders, names in os.walk(path):
            folders.sort()
            found.update((os.path.join(folder, name), None) for name in sorted(names) if name not in _NOT_LOGS)
    return list(found)


class NativeLog:
    """The Events of some files, one after the other."""

    def __init__(self, files: Sequence[str], *, wrapping: str, with_origin: bool, skip_malformed: bool) -> None:
        self._files = files
        self._wrapping = wrapping
        self._with_origin = with_origin
        self._skip_malformed = skip_malformed
        self.bytes = sum(os.path.getsize(path) for path in files if path != "-")
        self.malformed: list[str] = []
        self.malformed_count = 0
        self.torn: list[str] = []

    def events(self, progress: Callable[[int], None]) -> Iterator[Event]:
        """Return every Event. Raises `CannotRun` for what is malformed, unless that may be skipped."""
        for path in self._files:
            try:
                yield from self._of_file(path, progress)
            except Malformed as error:
                self._malformed(f"{path}:{error.line}: {error.why}")
            except (EOFError, zlib.error, gzip.BadGzipFile):
                self._malformed(f"{path}: not a whole gzip file: cut short?")
            except OSError as error:
                raise CannotRun(f"{path}: {error.strerror or 'cannot be read'}") from None

    def _of_file(self, path: str, progress: Callable[[int], None]) -> Iterator[Event]:
        for found in read(_blocks(path, progress), self._wrapping, with_origin=self._with_origin):
            if found.malformed:
                self._malformed(f"{path}:{found.line}: {found.malformed}")
            elif found.torn:
                self.torn.append(f"{path}:{found.line}")
            yield from found.events

    def _malformed(self, text: str) -> None:
        if not self._skip_malformed:
            raise CannotRun(f"{text}; hint: --skip-malformed goes on without it")
        self.malformed_count += 1
        if len(self.malformed) < 10:
            self.malformed.append(text)


def _blocks(path: str, progress: Callable[[int], None]) -> Iterator[bytes]:
    """Return the bytes of a file, decompressed where it is gzip."""
    # What is called .gz is not always gzip: some tools decompress what they fetch.
    with open(path, "rb") if path.endswith(GZIPPED) else opened(path) as raw:
        first = raw.peek(2)[:2] if isinstance(raw, io.BufferedReader) else b""
        source: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=raw) if first == _GZIP else raw
        position = 0
        while block := source.read(BLOCK_BYTES):
            if path != "-":
                progress(raw.tell() - position)
                position = raw.tell()
            yield block
