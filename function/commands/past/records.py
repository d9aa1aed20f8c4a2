"""The records that a command about the past asks for: chosen, merged by time, with a progress bar."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from ...configuration.units import format_bytes
from ...record import reading
from ...record.reading import NotARecord, Record
from ..journals import Source, Stream, merged, opened_sources
from ..progress import Progress
from ..show.filtering import Filter, candidates
from .index import Index, Unusable
from .selection import DEFINITIONS, Select

__all__ = ["Journals"]

PROGRESS_AFTER_SECONDS = 2.0
# A record is written when its answer is due: up to so long after it was received, behind later ones.
OUT_OF_ORDER_NS = 60 * 10**9


class Journals:
    """Some journals, read as one; with the index in the file ``index``, where that is not empty."""

    def __init__(self, paths: Sequence[str], index: str = "") -> None:
        """Find what to read. Raises `OSError`."""
        self._sources = opened_sources(paths)
        self._index = index
        self.paths = [source.path for source in self._sources]
        self.no_records = 0
        self._done = self._total = 0
        self._progress = Progress("", after=PROGRESS_AFTER_SECONDS, shown=format_bytes)
        heads = [head for source in self._sources if (head := source.head())]
        # When the first record was received, 0 where there is none.
        self.started_ns = min(heads, default=0)

    def records(self, select: Select) -> Iterator[Record]:
        """Return the records that are wanted, by time. Raises `OSError`."""
        if self._index and select.is_narrow:
            try:
                indexed = self._up_to_date().records(select)
            except Unusable as error:
                print(f"{error}; reading the journal without it", file=sys.stderr)
            else:
                yield from indexed
                return
        yield from self._read_through(select)

    def _up_to_date(self) -> Index:
        if any(isinstance(source, Stream) for source in self._sources):
            raise Unusable("standard input has no index")
        index = Index(self._index)
        self.no_records += index.update(self._sources, self._progress.show)
        self._progress.end()
        return index

    def _read_through(self, select: Select) -> Iterator[Record]:
        wanted = _filter(select)
        needles = list(wanted.needles)
        if select.with_definitions and needles:
            # The name's alternatives come first, and a definition has none of the others.
            needles = [(*needles[0], b'"%b"' % DEFINITIONS.encode())]
        if select.since_ns:
            for source in self._sources:
                source.seek(max(0, select.since_ns - OUT_OF_ORDER_NS))
        self._total = sum(source.remaining() for source in self._sources)

        def of(source: Source) -> Iterator[Record]:
            for block in source.blocks():
                for line in candidates(block, needles):
                    record = self._read(line)
                    if record is not None and (
                        wanted.wants(record) or (select.with_definitions and record.object.resource == DEFINITIONS)
                    ):
                        yield record
                self._done += len(block)
                self._progress.show(self._done, self._total)

        yield from merged(self._sources, of)
        self._progress.end()

    def write(self, select: Select) -> int:
        """Print the records that are wanted as they are, and return the exit code. Raises `OSError`."""
        for record in self.records(select):
            sys.stdout.buffer.write(record.line + b"\n")
        sys.stdout.buffer.flush()
        return 0

    def report(self) -> None:
        """Say on standard error what was left out."""
        self._progress.end()
        if self.no_records:
            print(f"{self.no_records} lines are no records, and left out", file=sys.stderr)

    def _read(self, line: bytes) -> Record | None:
        try:
            return reading.read(line)
        except NotARecord:
            self.no_records += bool(line.strip())
            return None


def _filter(select: Select) -> Filter:
    wanted = {
        field: [] if value is None else [value]
        for field, value in (
            ("name", select.name),
            ("namespace", select.namespace),
            ("cluster", select.cluster),
            ("user", select.user),
        )
    }
    return Filter(wanted, select.since_ns)
