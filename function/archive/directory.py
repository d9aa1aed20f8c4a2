"""An archive in a directory (``file:///…``): of a mounted share, or for a test."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ..journal.files import Files, Found, write_all
from .bucket import Blocks, BucketError, Object

__all__ = ["Directory"]

_HINT = "check that the directory is there, mounted and writable, and has room"


class Directory:
    """A `bucket.Bucket`. What is not whole has a name that begins with a dot: nobody takes it for an object."""

    def __init__(self, path: str, url: str, files: Files | None = None) -> None:
        self.url = url
        self._path = path
        self._files = files or Files()

    def put(self, name: str, blocks: Blocks, metadata: dict[str, str]) -> bool:
        """Store an object; ``metadata`` has no place here. See `bucket.Bucket`."""
        del metadata
        path = os.path.join(self._path, name)
        directory, _, file = path.rpartition("/")
        temporary = f"{directory}/.{file}.tmp"
        try:
            if self._exists(path):
                return False
            self._make_directories(directory)
            self._write(temporary, blocks())
            self._files.link(temporary, path)
            self._files.sync_directory(directory)
            self._files.remove(temporary)
        except FileExistsError:
            with contextlib.suppress(OSError):
                self._files.remove(temporary)
            return False
        except OSError as error:
            with contextlib.suppress(OSError):
                self._files.remove(temporary)
            raise _failed(error, path) from None
        return True

    def read(self, name: str) -> Iterator[bytes]:
        """Yield what an object holds."""
        path = os.path.join(self._path, name)
        try:
            yield from self._files.blocks(path, 0)
        except OSError as error:
            raise _failed(error, path) from None

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the directories right below a prefix."""
        yield from (entry.name for entry in self._entries(prefix) if entry.is_directory)

    def objects(self, prefix: str) -> Iterator[Object]:
        """Yield the objects below a prefix."""
        yield from self._below(prefix.strip("/"))

    def _below(self, prefix: str) -> Iterator[Object]:
        for entry in self._entries(prefix):
            name = f"{prefix}/{entry.name}" if prefix else entry.name
            if entry.is_directory:
                yield from self._below(name)
            elif not entry.name.startswith("."):
                yield Object(name, entry.bytes)

    def _entries(self, prefix: str) -> list[Found]:
        path = os.path.join(self._path, prefix) if prefix else self._path
        try:
            return sorted(self._files.entries(path))
        except (FileNotFoundError, NotADirectoryError):
            if not prefix:
                raise BucketError(f"{path}: no such directory", _HINT) from None
            return []
        except OSError as error:
            raise _failed(error, path) from None

    def _exists(self, path: str) -> bool:
        try:
            self._files.status(path)
        except FileNotFoundError:
            return False
        return True

    def _make_directories(self, directory: str) -> None:
        """Make the directories below our own; that one must be there: or a volume that is not mounted looks empty."""
        self._files.status(self._path)
        relative = os.path.relpath(directory, self._path)
        above = self._path
        for part in relative.split("/"):
            below = f"{above}/{part}"
            if not self._exists(below):
                with contextlib.suppress(FileExistsError):
                    self._files.make_directory(below)
                self._files.sync_directory(above)
            above = below

    def _write(self, path: str, blocks: Iterator[bytes]) -> None:
        fd = self._files.open_to_replace(path)
        try:
            for block in blocks:
                write_all(self._files, fd, block)
            self._files.datasync(fd)
        finally:
            self._files.close(fd)


def _failed(error: OSError, path: str) -> BucketError:
    lasting = isinstance(error, FileNotFoundError | PermissionError)
    return BucketError(f"{error.filename or path}: {error.strerror or error}", _HINT, lasting=lasting)
