"""The entries of a sealed directory's tree, from an edge on: what proofs are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..transparency import statement as statements
from ..transparency.note import Malformed
from ..transparency.tree import Edge
from .content import content_blocks
from .evidence import Evidence
from .files import Files
from .segments import readable_number, segment_name
from .statements import edge_behind

__all__ = ["Place", "Start", "leaves", "start_before"]


class Start(NamedTuple):
    """An edge that is known, and the first segment behind it."""

    edge: Edge
    number: int


class Place(NamedTuple):
    """An entry: its line without the break, its segment, and its line in that, from 0."""

    line: bytes
    number: int
    at: int


def start_before(evidence: Evidence, size: int) -> Start:
    """Return the last segment's end that has at most ``size`` entries before it."""
    ends = {number: data for number, data in evidence.proofs.items() if number in evidence.statements}
    while ends:
        tree, number = edge_behind(ends, evidence.statements)
        if tree.size <= size:
            return Start(tree.edge(), number + 1)
        del ends[number]
    return Start(Edge(0, ()), 1)


def leaves(files: Files, directory: str, evidence: Evidence, number: int) -> Iterator[Place]:
    """Yield the entries from segment ``number`` on; what a failed write has left is none. Raises `OSError`."""
    names = files.names(directory)
    numbers = {found for name in names if (found := readable_number(name)) is not None and found >= number}
    for segment in sorted(numbers):
        entries = _entries(evidence.statements.get(segment, b""))
        for at, line in enumerate(_lines(files, f"{directory}/{segment_name(segment)}")):
            if 0 <= entries <= at:
                break
            yield Place(line, segment, at)


def _lines(files: Files, path: str) -> Iterator[bytes]:
    kept = b""
    for block in content_blocks(files, path):
        *lines, kept = (kept + block).split(b"\n")
        yield from lines


def _entries(statement: bytes) -> int:
    """Return how many entries a segment has, -1 where its end was not signed."""
    try:
        return statements.parse(statement)[0].number("entries")
    except Malformed:
        return -1
