"""Records that a backend will never take: set aside whole, with the reason, in ``rejected/by-<sink>.ndjson``.

By no name that the pattern of segments (``*/audit-*.ndjson``) takes in: a tailer would read them as records.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

import orjson

__all__ = ["BYTES_MAX", "RejectedFile"]

# The file and its predecessor together; what is older is removed, and counted as lost.
BYTES_MAX = 64 << 20


class RejectedFile:
    """Of one sink. Several forwarders on one volume may share it: each append is whole, under a lock."""

    def __init__(self, journal_dir: str, sink: str, *, bytes_max: int = BYTES_MAX) -> None:
        self.path = os.path.join(journal_dir, "rejected", f"by-{sink}.ndjson")
        self._older = os.path.join(journal_dir, "rejected", f"by-{sink}.old.ndjson")
        self._bytes_max = bytes_max // 2

    def add(self, line: bytes, record_id: str, reason: str) -> int:
        """Append the record ``line`` durably; return how many older ones had to go. Raises `OSError`.

        A line that is not JSON is kept as a string.
        """
        entry = _entry(line, record_id, reason)
        os.makedirs(os.path.dirname(self.path), 0o750, exist_ok=True)
        with self._locked():
            lost = self._make_room(len(entry))
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
            try:
                _append(fd, entry)
            finally:
                os.close(fd)
        return lost

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            with contextlib.suppress(OSError):  # no locks on this file system
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _make_room(self, size: int) -> int:
        """Start a new file where ``size`` bytes do not fit; return how many records went with the oldest."""
        try:
            used = os.stat(self.path).st_size
        except FileNotFoundError:
            return 0
        if not used or used + size <= self._bytes_max:
            return 0
        lost = 0
        with contextlib.suppress(FileNotFoundError), open(self._older, "rb") as file:
            lost = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
        os.rename(self.path, self._older)
        return lost


def _append(fd: int, entry: bytes) -> None:
    """Write ``entry`` behind the last whole line. Raises `OSError`, and leaves whole lines then too."""
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":  # a killed forwarder's: it will add the record once more
        tail = os.pread(fd, min(size, 1 << 20), max(0, size - (1 << 20)))
        size -= len(tail) - (tail.rfind(b"\n") + 1)
        os.ftruncate(fd, size)
    try:
        written = 0
        while written < len(entry):
            written += os.write(fd, entry[written:])
        os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, size)
        raise


def _entry(line: bytes, record_id: str, reason: str) -> bytes:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    head = orjson.dumps({"rejected": now, "reason": reason[:1000], "id": record_id})
    text = line.removesuffix(b"\n")
    if not record_id:  # no record of ours, or it would have one
        text = orjson.dumps(text.decode(errors="replace"))
    return head[:-1] + b',"record":' + text + b"}\n"
