"""An exclusive lease on a process directory: two forwarders never work on one.

A lock (flock) where the file system has one, and a heartbeat beside it for those that have none, or none between
machines (NFS): whoever takes a lease over from another machine waits until its heartbeat is stale.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time

__all__ = ["HEARTBEAT_SECONDS", "STALE_SECONDS", "Lease"]

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
# After taking a lease without a lock: as long as another, who takes it at the same moment, needs to write its name.
SETTLE_SECONDS = 1.0

_NO_LOCKS = frozenset({errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK})


class Lease:
    """Held from `take` until `release`; `renew` keeps it."""

    def __init__(self, state_directory: str) -> None:
        self._path = os.path.join(state_directory, "lease")
        self._machine = _machine()
        self._owner = f"{self._machine} {os.getpid()} {os.urandom(8).hex()}"
        self._fd: int | None = None
        self._renewed = 0.0

    def take(self) -> bool:
        """Return whether the lease is ours now. Raises `OSError`."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            locked = _lock(fd)
            if locked is False or not self._is_free(fd, locked=bool(locked)):
                return False
            self._write(fd)
            if not locked:
                time.sleep(SETTLE_SECONDS)
                if _read(self._path) != self._owner:
                    return False
            self._fd, fd = fd, -1
            self._renewed = time.monotonic()
            return True
        finally:
            if fd >= 0:
                os.close(fd)

    def renew(self) -> bool:
        """Beat the heart where it is due; return whether the lease is still ours. Raises `OSError`."""
        if time.monotonic() - self._renewed < HEARTBEAT_SECONDS:
            return True
        if self._fd is None or _read(self._path) != self._owner:
            return False
        os.utime(self._path)
        self._renewed = time.monotonic()
        return True

    def release(self) -> None:
        """Give the lease back, so that another may take it at once."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                if _read(self._path) == self._owner:
                    os.utime(self._path, (0, 0))
            os.close(self._fd)
            self._fd = None

    def remove(self) -> None:
        """Remove the lease's file, while it is ours."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def _is_free(self, fd: int, *, locked: bool) -> bool:
        owner = os.pread(fd, 4096, 0).decode(errors="replace")
        machine = owner.partition(" ")[0]
        if not owner or (locked and machine and machine == self._machine):
            return True  # on the machine of the last owner the lock alone tells
        return time.time() - os.fstat(fd).st_mtime > STALE_SECONDS

    def _write(self, fd: int) -> None:
        os.ftruncate(fd, 0)
        os.pwrite(fd, self._owner.encode(), 0)
        os.utime(self._path)


def _lock(fd: int) -> bool | None:
    """Return whether the lock is ours, None where the file system has no locks. Raises `OSError`."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(4096).decode(errors="replace")
    except FileNotFoundError:
        return ""


def _machine() -> str:
    """Return what tells running kernels apart: locks always work between the processes of one."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""
