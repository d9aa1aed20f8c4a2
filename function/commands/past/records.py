"""The records that a command about the past asks for: chosen, merged by time, with a progress bar."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ...configuration.units import format_bytes
from ...record import reading
from ...record.reading import NotARecord, Record
from ..journals import Source, merged, opened_sources
from ..progress import Progress
from ..show.filtering import Filter, candidates

__all__ = ["OUT_OF_ORDER_NS", "Journals", "Select"]

PROGRESS_AFTER_SECONDS = 2.0
# A record is written when its answer is due: up to so long after it was received, behind later ones.
OUT_OF_ORDER_NS = 60 * 10**9
DEFINITIONS = "customresourcedefinitions"


class Select(NamedTuple):
    """Which records are wanted: those with each of the values that are given. Empty ones ask for nothing.

    ``with_definitions`` adds those of CustomResourceDefinitions: they tell what else a kind is called.
    """

    name: str = ""
    namespace: str | None = None
    cluster: str | None = None
    user: str = ""
    since_ns: int = 0
    with_definitions: bool = False


class Journals:
    """Some journals, read as one."""

    def __init__(self, paths: Sequence[str]) -> None:
        """Find what is to be read. Raises `OSError`."""
        self._sources = opened_sources(paths)
        self.no_records = 0
        self._done = self._total = 0
        self._progress = Progress("", after=PROGRESS_AFTER_SECONDS, shown=format_bytes)
        heads = [head for source in self._sources if (head := source.head())]
        # When the first record was received, 0 where there is none.
        self.started_ns = min(heads, default=0)

    def records(self, select: Select) -> Iterator[Record]:
        """Return the records that are wanted, by time. Raises `OSError`."""
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
        "name": [select.name] if select.name else [],
        "namespace": [] if select.namespace is None else [select.namespace],
        "cluster": [] if select.cluster is None else [select.cluster],
        "user": [select.user] if select.user else [],
    }
    return Filter(wanted, select.since_ns)
