"""The file layer: every call that the journal and the forwarder make to the operating system, one method each.

So thin that a test can make call 1, 2, … N fail and be sure that it saw them all.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["FULL", "Files", "Found", "Status", "write_all"]

# A tailer beside us (Vector, Fluent Bit) reads through the group that the volume's fsGroup gives.
DIRECTORY_MODE = 0o750
FILE_MODE = 0o640

# What a write raises where there is no room.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

_BLOCK_BYTES = 1 << 20

_NO_LOCKS = frozenset({errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK})

_datasync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class Found(NamedTuple):
    """A directory entry: ``bytes`` is its size, ``modified`` seconds since the epoch."""

    name: str
    path: str
    is_directory: bool
    bytes: int
    modified: float


class Status(NamedTuple):
    """Of a file: ``bytes`` is its size, ``modified_ns`` since the epoch, ``links`` how many names it has."""

    bytes: int
    modified_ns: int
    links: int


class Files:
    """The real operating system. Every method raises `OSError`."""

    def make_directory(self, path: str) -> None:
        """Make ``path``; it must not exist."""
        os.mkdir(path, DIRECTORY_MODE)

    def make_directories(self, path: str) -> None:
        """Make ``path`` and its parents, where missing."""
        os.makedirs(path, DIRECTORY_MODE, exist_ok=True)

    def create(self, path: str) -> int:
        """Create ``path`` for appending and return its descriptor; it must not exist."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)

    def open_to_read(self, path: str) -> int:
        """Open the file ``path`` and return its descriptor."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def open_to_replace(self, path: str) -> int:
        """Create the file ``path``, or empty it, and return its descriptor."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)

    def open_spare(self) -> int:
        """Return a descriptor that is good for nothing but to be closed when another is needed."""
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def open_scratch(self) -> int:
        """Return the descriptor of a new file without a name, to write and read: on disk, in memory where none is."""
        import tempfile  # noqa: PLC0415 - only where a compressed segment is read from its middle

        try:
            with tempfile.TemporaryFile() as file:
                return os.dup(file.fileno())
        except OSError:  # a read-only root, and nothing mounted
            if not hasattr(os, "memfd_create"):
                raise
            return os.memfd_create("segment")

    def rewind(self, fd: int) -> None:
        """Go back to the start of the open file."""
        os.lseek(fd, 0, os.SEEK_SET)

    def open_shared(self, path: str) -> int:
        """Open the file ``path``, which other processes write as well, to read and append; create it if need be."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """Return up to ``size`` bytes from ``offset`` on."""
        return os.pread(fd, size, offset)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write and return how many bytes were taken: possibly fewer than given."""
        return os.write(fd, data)

    def datasync(self, fd: int) -> None:
        """Return when what was written is durable. Never call it again on a file where it failed."""
        _datasync(fd)

    def sync_directory(self, path: str) -> None:
        """Return when the names in ``path`` are durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file back to ``size`` bytes."""
        os.ftruncate(fd, size)

    def status(self, file: int | str) -> Status:
        """Return the status of an open file, or of the file of a path."""
        stat = os.stat(file)
        return Status(stat.st_size, stat.st_mtime_ns, stat.st_nlink)

    def close(self, fd: int) -> None:
        """Close the descriptor; it is gone even when this raises."""
        os.close(fd)

    def lock(self, path: str, *, create: bool = False) -> int | None:
        """Return the descriptor that holds an exclusive lock on ``path``, None when another process holds it.

        On a file system without locks (some NFS mounts) the lock is a hint that everybody gets.
        """
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), FILE_MODE)
        is_locked: bool | None = False
        try:
            is_locked = self.try_lock(fd)
        finally:
            if is_locked is False:
                os.close(fd)
        return None if is_locked is False else fd

    def try_lock(self, fd: int) -> bool | None:
        """Return whether the open file is locked for us now, None where its file system has no locks."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return None
        return True

    def wait_for_lock(self, fd: int) -> None:
        """Return when the open file is locked for us, at once where its file system has no locks."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise

    def touch(self, path: str, seconds: float | None = None) -> None:
        """Set the modification time of ``path``: now, or ``seconds`` since the epoch."""
        os.utime(path, None if seconds is None else (seconds, seconds))

    def rename(self, path: str, new_path: str) -> None:
        """Give the file another name, and take that from whichever file has it."""
        os.rename(path, new_path)

    def link(self, path: str, new_path: str) -> None:
        """Give the file a second name, which must be free."""
        os.link(path, new_path)

    def remove(self, path: str) -> None:
        """Remove the file ``path``."""
        os.unlink(path)

    def remove_directory(self, path: str) -> None:
        """Remove the empty directory ``path``."""
        os.rmdir(path)

    def entries(self, path: str) -> list[Found]:
        """Return what is in ``path``; what vanishes meanwhile is left out."""
        found = []
        with os.scandir(path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    stat = entry.stat(follow_symlinks=False)
                    is_directory = entry.is_dir(follow_symlinks=False)
                    found.append(Found(entry.name, entry.path, is_directory, stat.st_size, stat.st_mtime))
        return found

    def names(self, path: str) -> list[str]:
        """Return the names of what is in the directory ``path``."""
        return os.listdir(path)

    def tail(self, path: str, size: int) -> bytes:
        """Return the last ``size`` bytes of the file ``path``."""
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read(size)

    def blocks(self, path: str, offset: int) -> Iterator[bytes]:
        """Yield what the file ``path`` holds from ``offset`` on, a block at a time."""
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            while block := file.read(_BLOCK_BYTES):
                yield block

    def free_bytes(self, path: str) -> int:
        """Return the bytes that an unprivileged process can still write to the volume of ``path``."""
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize


def write_all(files: Files, fd: int, data: bytes) -> None:
    """Write all of ``data``, however many calls it takes. Raises `OSError`: then some of it may be written."""
    view = memoryview(data)
    while view:
        taken = files.write(fd, view)
        if not taken:
            raise OSError(errno.EIO, "the volume takes no bytes")
        view = view[taken:]
