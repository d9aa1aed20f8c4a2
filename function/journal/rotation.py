"""The rotation helper: when to cut a segment, and which segments to let go (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .segments import Segment

__all__ = ["Limits", "Removal", "pieces", "to_remove"]

_SEGMENTS_MIN = 4


class Limits(NamedTuple):
    """Sizes in bytes, ages in seconds; 0 is no bound."""

    segment_bytes_max: int
    segment_age_max: float
    journal_bytes_max: int
    journal_age_max: float

    def cut_at_bytes(self) -> int:
        """Return how large a segment may grow.

        A small journal is cut into at least four, so that the oldest quarter can go and not everything at once.
        """
        if not self.journal_bytes_max:
            return self.segment_bytes_max
        return max(1, min(self.segment_bytes_max, self.journal_bytes_max // _SEGMENTS_MIN))


class Removal(NamedTuple):
    """A segment to remove: ``for_age``, or because there is too much."""

    segment: Segment
    for_age: bool


def pieces(lines: Sequence[bytes], used: int, limit: int) -> Iterator[tuple[bool, list[bytes]]]:
    """Yield ``(cut, lines)``: which lines go together, and whether a new segment is cut before them.

    ``used`` is what the current segment holds, in bytes. No segment grows beyond ``limit``, but for a single line
    that is larger by itself: it gets a segment of its own, and is never lost.
    """
    start, size, cut = 0, used, False
    for i, line in enumerate(lines):
        if size and size + len(line) > limit:
            if i > start:
                yield cut, list(lines[start:i])
            start, size, cut = i, 0, True
        size += len(line)
    if start < len(lines):
        yield cut, list(lines[start:])


def to_remove(
    segments: Sequence[Segment], *, total: int, now: float, limits: Limits, unconfirmed: frozenset[str] = frozenset()
) -> list[Removal]:
    """Return which of the closed ``segments`` to remove, in this order.

    ``total`` is what everything in the journal's directory takes, in bytes. Room is made for one more whole
    segment, so that the bound holds until the next cut. What a sink has not confirmed (``unconfirmed``, paths)
    goes last of what the bound on bytes asks for, and never for its age.
    """
    oldest_first = sorted(segments, key=lambda segment: (segment.path in unconfirmed, segment.modified, segment.path))
    bound = limits.journal_bytes_max - limits.cut_at_bytes() if limits.journal_bytes_max else None
    chosen = []
    for segment in oldest_first:
        too_much = bound is not None and total > bound
        too_old = 0 < limits.journal_age_max < now - segment.modified and segment.path not in unconfirmed
        if too_much or too_old:
            chosen.append(Removal(segment, for_age=not too_much))
            total -= segment.bytes
    return chosen
