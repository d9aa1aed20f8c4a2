"""Reads one process directory from a checkpoint on: across segments, beside the growing tail, whole lines only.

Nothing is returned that is not durable: before it reads what is new, the reader calls ``fdatasync`` itself. That
costs nothing where the writer (``AUDIT_FSYNC=always``) has done so already, and nothing at all while nothing is new.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from typing import NamedTuple

from .checkpoints import MARK_BYTES, Position, mark_of
from .content import open_content
from .files import Files
from .segments import segment_name, segment_number

__all__ = ["Line", "Reader"]

log = logging.getLogger("audit.journal")

# Read-only mounts and some network file systems have no fdatasync; what is on them is as durable as they make it.
_NO_SYNC = frozenset({errno.EINVAL, errno.EROFS, errno.ENOTSUP, errno.ENOSYS})


class Line(NamedTuple):
    """One record, with its line break, and what is before the byte that follows it in its segment."""

    data: bytes
    segment: int
    offset: int
    lines: int

    def end(self) -> Position:
        """Return the position behind this line."""
        return Position(self.segment, self.offset, self.lines, mark_of(self.data))


class Reader:
    """Reads the segments of ``directory`` from ``start`` on. Not thread-safe.

    What follows the last line break of a segment is left alone: it is not finished, or a killed writer's.
    """

    _name = staticmethod(segment_name)
    _number = staticmethod(segment_number)

    def __init__(self, directory: str, start: Position, files: Files | None = None) -> None:
        self.directory = directory
        self._files = files or Files()
        self._segment = start.segment
        self._offset = start.offset
        self._lines = start.lines
        self._mark = start.mark
        self._fd: int | None = None
        # Size and time of the last change: as it was made durable, and as nothing whole was left to read in it.
        self._durable = self._exhausted = (-1, -1)

    def read(self, size_max: int) -> list[Line]:
        """Return the next whole lines, about ``size_max`` bytes of them, or one line that is larger.

        An empty list says that nothing new is there. Raises `OSError`; the next call tries again.
        """
        while True:
            if self._fd is None and not self._open():
                return []
            following = self._number_from(self._segment + 1)  # before the size: a cut segment does not grow
            lines = self._whole_lines(size_max)
            if lines or following is None:
                return lines
            self._enter(following)

    def close(self) -> None:
        """Let go of the open segment; `read` opens it again."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with contextlib.suppress(OSError):  # it is gone all the same
                self._files.close(fd)

    # -- steps ------------------------------------------------------------------------------------------------

    def _open(self) -> bool:
        """Open the segment of the position, or the next one that still exists; return whether there is any."""
        number = self._number_from(self._segment)
        if number is None:
            return False
        if number != self._segment:  # retention was faster, or it is the first one
            self._enter(number)
        try:
            self._fd = open_content(self._files, f"{self.directory}/{self._name(number)}")
        except FileNotFoundError:
            return False  # just now; the next call sees what is left
        self._durable = self._exhausted = (-1, -1)
        return True

    def _enter(self, number: int) -> None:
        self.close()
        self._segment, self._offset, self._lines, self._mark = number, 0, 0, 0

    def _number_from(self, number: int) -> int | None:
        """Return the lowest segment number from ``number`` on."""
        try:
            names = self._files.names(self.directory)
        except FileNotFoundError:
            return None
        numbers = [found for found in map(self._number, names) if found is not None and found >= number]
        return min(numbers, default=None)

    def _whole_lines(self, size_max: int) -> list[Line]:
        if self._fd is None:
            return []
        size, modified_ns, _ = self._files.status(self._fd)
        seen = (size, modified_ns)
        if seen == self._exhausted:
            return []
        if seen != self._durable:
            self._sync(self._fd)
            self._durable = seen
        if not self._stands(size):
            log.warning(
                "journal: segment %d of %s was cut or replaced: reading it again from its start",
                self._segment,
                self.directory,
                extra={"hint": "duplicates with the same ids follow; the disk was full, or lost data in a crash"},
            )
            self._offset = self._lines = self._mark = 0
        lines = self._split(self._block(self._fd, size_max, size))
        if not lines:
            self._exhausted = seen
        return lines

    def _sync(self, fd: int) -> None:
        try:
            self._files.datasync(fd)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise

    def _stands(self, size: int) -> bool:
        """Return whether the last line before the position is still the one that was read."""
        if not self._offset or self._fd is None:
            return True
        if size < self._offset:
            return False
        before = self._files.read(self._fd, min(MARK_BYTES, self._offset), max(0, self._offset - MARK_BYTES))
        line = before[before.rfind(b"\n", 0, -1) + 1 :]
        return line.endswith(b"\n") and mark_of(line) == self._mark

    def _block(self, fd: int, size_max: int, size: int) -> bytes:
        """Return bytes from the position on that end with a whole line: as many as wanted, or one larger line."""
        wanted = size_max
        while True:
            asked = min(wanted, size - self._offset)
            data = self._files.read(fd, asked, self._offset)
            end = data.rfind(b"\n") + 1
            if end or asked == size - self._offset or len(data) < asked:
                return data[:end]
            wanted *= 4

    def _split(self, data: bytes) -> list[Line]:
        lines = []
        for text in data.split(b"\n")[:-1]:
            line = text + b"\n"
            self._offset += len(line)
            self._lines += 1
            lines.append(Line(line, self._segment, self._offset, self._lines))
        if lines:
            self._mark = mark_of(lines[-1].data)
        return lines
