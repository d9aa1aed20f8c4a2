"""How much of one process directory is there to forward, in lines and bytes: counted as it grows."""

from __future__ import annotations

from ..journal.checkpoints import Position
from ..journal.content import content_blocks, content_status
from ..journal.files import Files
from ..journal.segments import segment_name, segment_number

__all__ = ["Backlog"]

# Counted in one go, so that a large backlog holds up nothing else: about 50 ms.
COUNT_BYTES_MAX = 64 << 20


class _Counted:
    """Of one segment: bytes looked at, whole lines among them, and where the last of these ends."""

    __slots__ = ("lines", "size", "whole")

    def __init__(self) -> None:
        self.size = self.whole = self.lines = 0


class Backlog:
    """Of the process directory ``path``."""

    def __init__(self, path: str, files: Files | None = None) -> None:
        self._path = path
        self._files = files or Files()
        self._segments: dict[int, _Counted] = {}
        self.complete = False  # all that is there was counted

    def measure(self) -> None:
        """Count what is new, `COUNT_BYTES_MAX` at most. Raises `OSError`."""
        paths = {}
        for name in self._files.names(self._path):
            number = segment_number(name)
            if number is not None:
                paths[number] = f"{self._path}/{segment_name(number)}"
        self._segments = {number: self._segments.get(number, _Counted()) for number in sorted(paths)}
        room = COUNT_BYTES_MAX
        for number, counted in self._segments.items():
            room -= self._count(paths[number], counted, room)
        self.complete = room > 0

    def behind(self, position: Position) -> tuple[int, int]:
        """Return how many records, and bytes of them, follow ``position``."""
        records = size = 0
        for number, counted in self._segments.items():
            if number > position.segment:
                records += counted.lines
                size += counted.whole
            elif number == position.segment:
                records += max(0, counted.lines - position.lines)
                size += max(0, counted.whole - position.offset)
        return records, size

    def signature(self) -> tuple[int, int]:
        """Return what changes when more is written: the last segment and its bytes."""
        last = max(self._segments, default=0)
        return last, self._segments[last].size if last else 0

    def _count(self, path: str, counted: _Counted, room: int) -> int:
        """Count the lines of ``path`` beyond what was looked at; return the bytes read."""
        read = 0
        try:
            size = content_status(self._files, path).bytes
            if size < counted.size:  # the writer cut a failed write back
                counted.size = counted.whole = counted.lines = 0
            if size == counted.size or room <= 0:
                return 0
            for block in content_blocks(self._files, path, counted.size):
                last = block.rfind(b"\n")
                if last >= 0:
                    counted.lines += block.count(b"\n")
                    counted.whole = counted.size + last + 1
                counted.size += len(block)
                read += len(block)
                if read >= room:
                    break
        except FileNotFoundError:
            pass  # retention was faster; the next look does not see it
        return read
