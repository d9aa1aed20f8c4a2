"""Records that a backend will never take: set aside whole, with the reason, in ``rejected/by-<sink>.ndjson``.

By no name that the pattern of segments (``*/audit-*.ndjson``) takes in: a tailer would read them as records.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

import orjson

from ..journal.files import Files, write_all

__all__ = ["BYTES_MAX", "RejectedFile"]

# The file and its predecessor together; what is older is removed, and counted as lost.
BYTES_MAX = 64 << 20

_READ_BYTES = 1 << 20


class RejectedFile:
    """Of one sink. Several forwarders on one volume may share it: each append is whole, under a lock."""

    def __init__(self, journal_dir: str, sink: str, *, bytes_max: int = BYTES_MAX, files: Files | None = None) -> None:
        self._files = files or Files()
        self.path = os.path.join(journal_dir, "rejected", f"by-{sink}.ndjson")
        self._older = os.path.join(journal_dir, "rejected", f"by-{sink}.old.ndjson")
        self._bytes_max = bytes_max // 2
        self._lost = 0  # older ones that had to go, and nobody was told of

    def add(self, line: bytes, record_id: str, reason: str) -> int:
        """Append the record ``line`` durably; return how many older ones had to go. Raises `OSError`.

        A line that is not JSON is kept as a string.
        """
        entry = _entry(line, record_id, reason)
        self._files.make_directories(os.path.dirname(self.path))
        with self._locked():
            self._lost += self._make_room(len(entry))
            fd = self._files.open_shared(self.path)
            try:
                self._append(fd, entry)
            finally:
                self._files.close(fd)
        lost, self._lost = self._lost, 0
        return lost

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fd = self._files.open_shared(f"{self.path}.lock")
        try:
            self._files.wait_for_lock(fd)
            yield
        finally:
            self._files.close(fd)

    def _make_room(self, size: int) -> int:
        """Start a new file where ``size`` bytes do not fit; return how many records went with the oldest."""
        try:
            used = self._files.status(self.path).bytes
        except FileNotFoundError:
            return 0
        if not used or used + size <= self._bytes_max:
            return 0
        lost = 0
        with contextlib.suppress(FileNotFoundError):
            lost = sum(block.count(b"\n") for block in self._files.blocks(self._older, 0))
        self._files.rename(self.path, self._older)
        return lost

    def _append(self, fd: int, entry: bytes) -> None:
        """Write ``entry`` behind the last whole line. Raises `OSError`, and leaves whole lines then too."""
        size = self._files.status(fd).bytes
        if size and self._files.read(fd, 1, size - 1) != b"\n":  # a killed forwarder's: it will add the record again
            size = self._end_of_lines(fd, size)
            self._files.truncate(fd, size)
        try:
            write_all(self._files, fd, entry)
            self._files.datasync(fd)
        except OSError:
            with contextlib.suppress(OSError):
                self._files.truncate(fd, size)
            raise

    def _end_of_lines(self, fd: int, size: int) -> int:
        """Return where the last whole line ends before ``size``."""
        while size:
            start = max(0, size - _READ_BYTES)
            if end := self._files.read(fd, size - start, start).rfind(b"\n") + 1:
                return start + end
            size = start
        return 0


def _entry(line: bytes, record_id: str, reason: str) -> bytes:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    head = orjson.dumps({"rejected": now, "reason": reason[:1000], "id": record_id})
    text = line.removesuffix(b"\n")
    if not record_id:  # no record of ours, or it would have one
        text = orjson.dumps(text.decode(errors="replace"))
    return head[:-1] + b',"record":' + text + b"}\n"
