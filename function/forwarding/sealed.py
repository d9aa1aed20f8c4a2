"""Tree checkpoints as records: read from beside the segments, so that every sink holds what was signed."""

from __future__ import annotations

import time

from ..journal.evidence import checkpoints_name
from ..journal.files import Files
from ..journal.reader import Line, Reader
from ..journal.segments import segment_number
from ..record.checkpoint_record import checkpoint_record
from ..transparency import checkpoint as checkpoints

__all__ = ["CheckpointReader", "is_through"]

_DASH = "\N{EM DASH}".encode()


def _number_of(name: str) -> int | None:
    """Return the number in the name of the first file of checkpoints of a segment; those after a fault are left out."""
    stem, dot, kind = name.rpartition(".")
    return segment_number(f"{stem}.ndjson") if dot and kind == "checkpoints" else None


class CheckpointReader(Reader):
    """Reads whole signed notes where a `Reader` reads lines. Each becomes the line of a record."""

    _name = staticmethod(checkpoints_name)
    _number = staticmethod(_number_of)

    def _stands(self, size: int) -> bool:
        return size >= self._offset  # a checkpoint that was written is never cut back

    def _block(self, fd: int, size_max: int, size: int) -> bytes:
        """Return bytes that hold a whole note, where there is one: as many as wanted, or one larger note."""
        wanted = size_max
        while True:
            data = super()._block(fd, wanted, size)
            if wanted >= size - self._offset or _notes(data):
                return data
            wanted *= 4

    def _split(self, data: bytes) -> list[Line]:
        lines = []
        while data.startswith(_DASH):  # the signature of a second key: the note went with the first one's
            _, _, data = self._skipped(data)
        for note in checkpoints.split(data)[0]:
            self._offset += len(note)
            self._lines += 1
            record = checkpoint_record(note, now_ns=time.time_ns())
            lines.append(Line(record, self._segment, self._offset, self._lines))
        return lines

    def _skipped(self, data: bytes) -> tuple[bytes, bytes, bytes]:
        parts = data.partition(b"\n")
        self._offset += len(parts[0]) + len(parts[1])
        return parts


def _notes(data: bytes) -> list[bytes]:
    """Return the whole notes in ``data``, which may begin with signatures of the one before."""
    while data.startswith(_DASH):
        _, _, data = data.partition(b"\n")
    return checkpoints.split(data)[0]


def is_through(files: Files, directory: str, number: int, offset: int) -> bool:
    """Return whether nothing that is whole follows ``offset`` of the checkpoints of segment ``number``."""
    numbers = [found for name in files.names(directory) if (found := _number_of(name)) is not None]
    last = max(numbers, default=0)
    if number != last:
        return number > last
    content = b"".join(files.blocks(f"{directory}/{checkpoints_name(last)}", offset))
    return not checkpoints.split(content)[0]
