"""Whether this process recorded a canary: looked for by its name at the end of its own segments.

Nothing of a review is kept in memory for it and nothing of a record is told, so a review costs no more; and only the
names of canaries are looked for, so it answers no other question about the journal.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

from ..journal.segments import segment_name, segment_number
from ..synthetic import is_canary_name

__all__ = ["BusyError", "Canaries"]

# A canary is asked for within seconds; at 15,000 records of 2.6 KB a second this is the last one and a half.
TAIL_BYTES_MAX = 64 << 20
_BLOCK_BYTES = 1 << 20  # short enough for the interpreter's lock


class BusyError(Exception):
    """It is looking for another one just now."""


class Canaries:
    """Looks in what ``directory`` returns: that of this process's writer, None where it has written nothing yet."""

    def __init__(self, directory: Callable[[], str | None]) -> None:
        self._directory = directory
        self._lock = threading.Lock()

    def is_recorded(self, name: str) -> bool:
        """Return whether a record names this canary. Reads the disk. Raises `BusyError`."""
        directory = self._directory()
        if directory is None or not is_canary_name(name):
            return False
        if not self._lock.acquire(blocking=False):
            raise BusyError
        try:
            needle = b'"%b"' % name.encode()
            return any(needle in block for block in _from_the_end(directory, len(needle)))
        finally:
            self._lock.release()


def _from_the_end(directory: str, overlap: int) -> Iterator[bytes]:
    """Yield blocks of the segments, the latest first, each with the start of the one behind it."""
    left = TAIL_BYTES_MAX
    with contextlib.suppress(OSError):  # retention was faster; what is gone is not there
        numbers = sorted(filter(None, map(segment_number, os.listdir(directory))), reverse=True)
        for number in numbers:
            with open(os.path.join(directory, segment_name(number)), "rb", buffering=0) as file:
                end = os.fstat(file.fileno()).st_size
                while end > 0 and left > 0:
                    start = max(0, end - _BLOCK_BYTES)
                    yield os.pread(file.fileno(), end - start + overlap, start)
                    left -= end - start
                    end = start
            if left <= 0:
                return
