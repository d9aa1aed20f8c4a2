"""`reconcile --enrich`: our records, in their order, as Events with what the API server's log has of them."""

from __future__ import annotations

from typing import BinaryIO

from ...configuration.units import format_bytes
from ...native.enrichment import enriched
from ...record.reading import NotARecord
from ..progress import Progress
from .index import Index
from .indexing import Indexing
from .inputs import Journal
from .joining import Join

__all__ = ["write"]

PROGRESS_AFTER_SECONDS = 2.0

_PAIRS = "SELECT p.place, p.how, p.id, t.origin FROM pairs p JOIN theirs t ON t.id = p.id ORDER BY p.place"
_EARLIER = "SELECT t.origin FROM stages s JOIN theirs t ON t.id = s.earlier WHERE s.id = ? ORDER BY t.stage"


def write(index: Index, join: Join, indexing: Indexing, journal: Journal, out: BinaryIO) -> None:
    """Write a line for each record that was compared. Raises `OSError`."""
    bar = Progress("", after=PROGRESS_AFTER_SECONDS, shown=format_bytes, quiet=out.isatty())
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        bar.show(done, journal.bytes)

    pairs = index.rows(_PAIRS)
    following = next(pairs, None)
    for place, record in journal.again(indexing.last_place, progress):
        if not indexing.wants(record):
            continue
        while following is not None and following[0] < place:
            following = next(pairs, None)
        origin, how, earlier = b"", "", []
        if following is not None and following[0] == place:
            origin, how = following[3] or b"", following[1]
            earlier = [row[0] for row in index.rows(_EARLIER, following[2])] if join.has_stages else []
        try:
            out.write(enriched(record, origin, how, earlier))
        except NotARecord:
            journal.no_records += 1
    bar.end()
    out.flush()
