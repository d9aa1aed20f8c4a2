"""An exclusive lease on a process directory: two forwarders never work on one.

A lock (flock) where the file system has one, and a heartbeat beside it for those that have none, or none between
machines (NFS): whoever takes a lease over from another machine waits until its heartbeat is stale.
"""

from __future__ import annotations

import contextlib
import os
import time

from ..journal.files import Files, write_all
from ..journal.segments import HEARTBEAT_SECONDS, STALE_SECONDS

__all__ = ["Lease"]

# After taking a lease without a lock: as long as another, who takes it at the same moment, needs to write its name.
SETTLE_SECONDS = 1.0
_OWNER_BYTES_MAX = 4096


class Lease:
    """Held from `take` until `release`; `renew` keeps it."""

    def __init__(
        self, state_directory: str, files: Files | None = None, *, settle_seconds: float = SETTLE_SECONDS
    ) -> None:
        self._settle_seconds = settle_seconds
        self._files = files or Files()
        self._path = os.path.join(state_directory, "lease")
        self._machine = _machine()
        self._owner = f"{self._machine} {os.getpid()} {os.urandom(8).hex()}"
        self._fd: int | None = None
        self._renewed = 0.0

    def take(self) -> bool:
        """Return whether the lease is ours now. Raises `OSError`."""
        fd = self._files.open_shared(self._path)
        try:
            locked = self._files.try_lock(fd)
            if locked is False or not self._is_free(fd, locked=bool(locked)):
                return False
            self._write(fd)
            if not locked:
                time.sleep(self._settle_seconds)
                if self._read() != self._owner:
                    return False
            self._fd, fd = fd, -1
            self._renewed = time.monotonic()
            return True
        finally:
            if fd >= 0:
                self._files.close(fd)

    def renew(self) -> bool:
        """Beat the heart where it is due; return whether the lease is still ours. Raises `OSError`."""
        if time.monotonic() - self._renewed < HEARTBEAT_SECONDS:
            return True
        if self._fd is None or self._read() != self._owner:
            return False
        self._files.touch(self._path)
        self._renewed = time.monotonic()
        return True

    def release(self) -> None:
        """Give the lease back, so that another may take it at once."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                if self._read() == self._owner:
                    self._files.touch(self._path, 0)
            with contextlib.suppress(OSError):  # it is gone all the same
                self._files.close(self._fd)
            self._fd = None

    def _is_free(self, fd: int, *, locked: bool) -> bool:
        owner = self._files.read(fd, _OWNER_BYTES_MAX, 0).decode(errors="replace")
        machine = owner.partition(" ")[0]
        if not owner or (locked and machine and machine == self._machine):
            return True  # on the machine of the last owner the lock alone decides
        # A heartbeat in the future says nothing: the clock was wrong then, or is now.
        return abs(time.time() - self._files.status(fd).modified_ns / 1e9) > STALE_SECONDS

    def _write(self, fd: int) -> None:
        self._files.truncate(fd, 0)
        write_all(self._files, fd, self._owner.encode())
        self._files.touch(self._path)

    def _read(self) -> str:
        try:
            return self._files.tail(self._path, _OWNER_BYTES_MAX).decode(errors="replace")
        except FileNotFoundError:
            return ""


def _machine() -> str:
    """Return what distinguishes running kernels: locks always work between the processes of one."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""
