"""Lines of neighbouring segments to a tree, beside the heads that it must pass: what a core does at full speed.

Values in and out, so that a process of its own can do it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..journal.content import content_blocks
from ..journal.files import Files
from ..transparency.tree import Edge, Tree

__all__ = ["Difference", "Passed", "Segment", "Task", "check"]


class Segment(NamedTuple):
    """A segment as it is, and as it was when it ended: entries behind it, and bytes; -1 where nobody signed that.

    ``failed``: what follows those bytes is of a failed write, and in no tree.
    """

    number: int
    path: str
    end: int = -1
    bytes: int = -1
    failed: bool = False


class Task(NamedTuple):
    """Segments that follow each other, the edge before the first, and heads by size, ascending.

    ``roots`` must be met, each of ``candidates`` may be: it is some directory's.
    """

    directory: str
    start: Edge
    segments: tuple[Segment, ...]
    roots: tuple[tuple[int, tuple[bytes, ...]], ...]
    candidates: tuple[tuple[int, tuple[bytes, ...]], ...] = ()


class Difference(NamedTuple):
    """The tree is not what was signed at ``size``; at ``matched`` it was. ``expected``: so many were signed."""

    segment: int
    size: int
    matched: int
    first_line: int
    last_line: int
    expected: int = -1


class Passed(NamedTuple):
    """What became of a task. ``starts``: entries before each segment; ``matched``: sizes with their roots.

    ``outside`` are lines of failed writes, by segment; ``behind`` are bytes after a segment's signed end; ``torn``
    are bytes of an unfinished line in the last segment.
    """

    size: int
    read_bytes: int
    starts: dict[int, int]
    matched: list[tuple[int, bytes]]
    differences: list[Difference]
    outside: dict[int, int]
    behind: dict[int, int]
    torn: int


def check(task: Task) -> Passed:
    """Recompute the tree. Raises `OSError`."""
    return _Check(task).run()


class _Check:
    def __init__(self, task: Task) -> None:
        self._task = task
        self._tree = Tree(task.start)
        self._required = dict(task.roots)
        self._candidates = dict(task.candidates)
        sizes = self._required.keys() | self._candidates.keys()
        self._sizes = sorted((size for size in sizes if size > task.start.size), reverse=True)  # the next one last
        self._matched = task.start.size
        self._start = task.start.size
        self._is_lost = False  # the tree differs: no root behind can match
        self._passed = Passed(0, 0, {}, [], [], {}, {}, 0)
        self._bytes = 0
        self._torn = 0

    def run(self) -> Passed:
        for segment in self._task.segments:
            self._segment(segment)
        return self._passed._replace(size=self._tree.size, read_bytes=self._bytes, torn=self._torn)

    def _segment(self, segment: Segment) -> None:
        self._start = self._passed.starts[segment.number] = self._tree.size
        before = self._bytes
        limit = segment.end if segment.failed and segment.end >= 0 else -1
        self._torn = 0
        outside = 0
        for lines in self._lines(segment.path):
            if limit >= 0 and self._tree.size + len(lines) > limit:
                outside += len(lines) - (limit - self._tree.size)
                lines = lines[: limit - self._tree.size]  # noqa: PLW2901 - the rest is in no tree
            self._append(segment, lines)
        if outside:
            self._passed.outside[segment.number] = outside
        if segment.end >= 0:
            self._compare_end(segment, self._bytes - before)

    def _append(self, segment: Segment, lines: Sequence[bytes]) -> None:
        tree, at = self._tree, 0
        while self._sizes and self._sizes[-1] <= tree.size + len(lines) - at:
            size = self._sizes.pop()
            if size <= tree.size:  # passed over where the tree differed
                continue
            until = at + size - tree.size
            tree.append_records(lines[at:until])
            at = until
            if not self._is_lost:
                self._compare(segment, size)
        tree.append_records(lines[at:] if at else lines)

    def _compare(self, segment: Segment, size: int) -> None:
        root = self._tree.root()
        roots = self._required.get(size, ())
        if root in roots or root in self._candidates.get(size, ()):
            self._passed.matched.append((size, root))
        if roots and any(one != root for one in roots):
            self._differs(segment, size, -1)
        if root in roots:
            self._matched = size
        elif roots:
            self._is_lost = True

    def _differs(self, segment: Segment, size: int, expected: int) -> None:
        first = max(self._matched, self._start) - self._start + 1
        last = max(first, size - self._start)
        difference = Difference(segment.number, size, self._matched, first, last, expected)
        self._passed.differences.append(difference)

    def _compare_end(self, segment: Segment, size: int) -> None:
        if self._tree.size != segment.end:
            self._differs(segment, self._tree.size, segment.end)
            self._is_lost = True
        if not segment.failed and 0 <= segment.bytes < size and self._tree.size == segment.end:
            self._passed.behind[segment.number] = size - segment.bytes

    def _lines(self, path: str) -> Iterator[list[bytes]]:
        """Yield the whole lines, without their breaks, some megabytes at a time."""
        kept = b""
        for block in content_blocks(Files(), path):
            self._bytes += len(block)
            *lines, kept = (kept + block if kept else block).split(b"\n")
            if lines:
                yield lines
        self._torn = len(kept)
