"""A file layer that fails where a test says, and knows what a power cut would leave.

It works on real files. Beside them it keeps a model: which bytes and which names were made durable. `crash` turns the
disk into what that model promises and no more.
"""

from __future__ import annotations

import errno
import os
import pathlib

from function.journal.files import Files

# Those that `ModelFiles` only counts; the others it knows more of.
_COUNTED = frozenset(
    name
    for name in vars(Files)
    if not name.startswith("_")
    and name
    not in {"make_directory", "make_directories", "create", "write", "datasync", "sync_directory", "truncate", "close"}
)


class ModelFiles(Files):
    """Counts every call; call number ``fail_at`` raises ``error`` (and every later one while ``sticky``).

    ``short`` makes the failing write take half of its bytes first, as a disk that fills up does.
    """

    def __init__(self, fail_at: int = 0, error: int = errno.EIO, *, sticky: int = 1, short: bool = False) -> None:
        self.calls: list[str] = []
        self._fail_at = range(fail_at, fail_at + sticky) if fail_at else range(0)
        self._error = error
        self._short = short
        self._names: dict[int, str] = {}
        self._durable_bytes: dict[str, int] = {}
        self._durable_names: set[str] = set()
        self._poisoned: set[int] = set()

    def make_directory(self, path):
        self._called("make_directory")
        super().make_directory(path)

    def make_directories(self, path):
        self._called("make_directories")
        super().make_directories(path)

    def create(self, path):
        self._called("create")
        fd = super().create(path)
        self._names[fd] = path
        self._durable_bytes[path] = 0
        self._poisoned.discard(fd)
        return fd

    def write(self, fd, data):
        if self._is_due("write") and self._short and len(data) > 1:
            super().write(fd, bytes(data)[: len(data) // 2])
            return len(data) // 2
        self._called("write")
        return super().write(fd, data)

    def datasync(self, fd):
        # Of a file that it writes; a reader only wants to be sure, and its checkpoint notices what a crash takes.
        assert fd not in self._poisoned, "fdatasync was called again on a file where it had failed"
        try:
            self._called("datasync")
        except OSError:
            if fd in self._names:
                self._poisoned.add(fd)
            raise
        super().datasync(fd)
        if fd in self._names:
            self._durable_bytes[self._names[fd]] = os.fstat(fd).st_size

    def sync_directory(self, path):
        self._called("sync_directory")
        super().sync_directory(path)
        self._durable_names.update(entry.path for entry in os.scandir(path))

    def truncate(self, fd, size):
        self._called("truncate")
        super().truncate(fd, size)
        if fd in self._names:
            name = self._names[fd]
            self._durable_bytes[name] = min(self._durable_bytes[name], size)

    def close(self, fd):
        self._names.pop(fd, None)  # the number may be another file's next
        self._poisoned.discard(fd)
        try:
            self._called("close")
        finally:
            super().close(fd)  # it is gone even when this fails

    def __getattribute__(self, name):
        """Every other call is counted, and can fail, too."""
        found = super().__getattribute__(name)
        if name not in _COUNTED:
            return found

        def called(*arguments, **more):
            self._called(name)
            return found(*arguments, **more)

        return called

    def crash(self, journal_dir: str) -> None:
        """Leave on disk what was made durable: names that were synced, bytes that were synced."""
        for path, size in self._durable_bytes.items():
            if not os.path.exists(path):
                continue
            if {path, os.path.dirname(path)} <= self._durable_names:
                os.truncate(path, size)
            else:
                os.unlink(path)
        del journal_dir

    def _is_due(self, operation: str) -> bool:
        if len(self.calls) + 1 not in self._fail_at:
            return False
        if self._short and operation == "write":
            self.calls.append("write (short)")
            self._fail_at = range(len(self.calls) + 1, len(self.calls) + 2)  # the retry fails whole
            return True
        return False

    def _called(self, operation: str) -> None:
        self.calls.append(operation)
        if len(self.calls) in self._fail_at:
            raise OSError(self._error, os.strerror(self._error))


class Counted:
    """A journal's observer and usage that remembers."""

    def __init__(self) -> None:
        self.written = 0
        self.failures: list[str] = []
        self.losses: dict[str, int] = {}
        self.torn_bytes = 0
        self.segments_removed = 0
        self.measures: dict[str, int] = {}

    def wrote(self, records, size):
        self.written += records

    def synced(self, seconds):
        pass

    def failed(self, operation):
        self.failures.append(operation)

    def lost(self, reason, records):
        self.losses[reason] = self.losses.get(reason, 0) + records

    def torn(self, size):
        self.torn_bytes += size

    def removed(self, segments):
        self.segments_removed += segments

    def measured(self, **measures):
        self.measures = measures


def whole_lines(journal_dir: str | os.PathLike[str]) -> list[bytes]:
    """Return what a reader takes: every whole line of every segment, in order of the segments."""
    lines: list[bytes] = []
    for path in sorted(pathlib.Path(journal_dir).glob("*/audit-*.ndjson")):
        content = path.read_bytes()
        lines += content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
    return lines
