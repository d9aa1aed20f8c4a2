"""Lines to durable bytes, on one thread: segments, faults, recovery.

What holds after every call, whatever the operating system answered (docs/journal.md, "Faults"):

* what `Writer.store` confirmed is on disk as durably as asked;
* what is on disk is whole lines: a write that came to nothing is cut back;
* a file on which ``fdatasync`` failed is never synced again: Linux has marked its pages clean. It is sealed, and
  what it had not confirmed is written once more into a new segment.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from .files import Files
from .rotation import Limits, pieces
from .segments import HEARTBEAT_SECONDS, LOCK, Placed, directory_name, segment_name

__all__ = ["Observer", "StdoutWriter", "Writer"]

log = logging.getLogger("audit.journal")

# Under everysec: sync earlier than after a second when this much waits, so that what has to be kept for
# writing it once more stays bounded.
UNSYNCED_BYTES_MAX = 4 << 20
SYNC_SECONDS = 1.0

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

# Kept for the next segment, where something else in the process has taken every descriptor: it needs its own, and one
# to sync the directory.
SPARE_DESCRIPTORS = 2
_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})


class Observer(Protocol):
    """What the journal reports about itself; counted in records, bytes and seconds."""

    def wrote(self, records: int, size: int) -> None: ...
    def synced(self, seconds: float) -> None: ...
    def failed(self, operation: str) -> None: ...
    def lost(self, reason: str, records: int) -> None: ...
    def torn(self, size: int) -> None: ...


class _OpenSegment:
    """The segment being written. ``bytes`` counts whole lines; ``unsynced`` is what no fdatasync has confirmed.

    The first ``answered`` blocks of ``unsynced`` were confirmed to the caller all the same (everysec). On a file that
    is ``poisoned`` an fdatasync has failed: the next one would succeed, and say nothing. One that is ``removed`` has no
    name any more, and was counted.
    """

    __slots__ = (
        "answered", "bytes", "fd", "name", "opened", "path", "poisoned", "records", "removed", "unsynced",
        "unsynced_bytes",
    )  # fmt: skip

    def __init__(self, path: str, fd: int, opened: float) -> None:
        self.path = path
        self.name = "/".join(path.split("/")[-2:])  # in the journal: its directory and its file
        self.fd = fd
        self.opened = opened
        self.bytes = 0
        self.records = 0
        self.answered = 0
        self.poisoned = False
        self.removed = False
        self.unsynced: list[bytes] = []
        self.unsynced_bytes = 0


class Writer:
    """The only writer of one process directory. Not thread-safe: one thread owns it.

    ``journal_dir`` may be missing: directory and segment appear with the first record. ``random`` returns the
    eight hexadecimal digits of a directory's name; ``on_cut`` is called with the closed segment and its records.
    """

    def __init__(
        self,
        journal_dir: str,
        *,
        host: str,
        limits: Limits,
        every_second: bool,
        observer: Observer,
        files: Files | None = None,
        random: Callable[[], str] = lambda: os.urandom(4).hex(),
        on_cut: Callable[[str, int], None] = lambda _path, _records: None,
    ) -> None:
        self.opened = False
        self.placed: Sequence[Placed] = ()
        self.directory: str | None = None
        self._journal_dir = journal_dir
        self._host = host
        self._limits = limits
        self._cut_at_bytes = limits.cut_at_bytes()
        self._every_second = every_second
        self._observer = observer
        self._files = files or Files()
        self._random = random
        self._on_cut = on_cut
        self._segment: _OpenSegment | None = None
        self._number = 0
        self._lock_fd: int | None = None
        self._spare: list[int] = []
        self._heartbeat = 0.0
        self._synced = 0.0

    # -- the verb ---------------------------------------------------------------------------------------------

    def store(self, lines: Sequence[bytes]) -> int:
        """Write ``lines`` and return when they are as durable as asked: all of them, or the first n.

        Returns how many are stored. Fewer than given means trouble, which was logged and counted; the rest is
        not claimed (though some of it may be on disk). ``placed`` says where the stored ones are. Never raises
        `OSError`; where it raises, for a mistake of our own, none is claimed, and the next call starts a new segment.
        """
        stored = 0
        used = self._segment.bytes if self._segment else 0
        placed: list[Placed] = []
        self.placed = placed
        try:
            for cut, piece in pieces(lines, used, self._cut_at_bytes):
                if cut:
                    self._cut()
                data = b"".join(piece)
                segment = self._store_piece(data)
                placed.append(Placed(len(piece), segment.name, segment.bytes - len(data)))
                segment.answered = len(segment.unsynced)
                segment.records += len(piece)
                stored += len(piece)
                self._observer.wrote(len(piece), len(data))
        except OSError as error:
            self._complain("store records", error)
        except BaseException:
            self._abandon()
            raise
        return stored

    def tick(self) -> float:
        """Do what is due with time: sync, cut by age, heartbeat. Return seconds until it is worth calling again."""
        try:
            return self._tick(time.monotonic())
        except BaseException:
            self._abandon()
            raise

    def close(self) -> None:
        """Sync and close the segment, and say by a heartbeat in 1970 that this writer is gone."""
        self._cut()
        if self.directory:
            with contextlib.suppress(OSError):
                self._files.touch(f"{self.directory}/{LOCK}", 0)
        self._leave_directory()
        self._release_spare()

    # -- its steps --------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> float:
        if not self.opened and not self._open_journal():
            return SYNC_SECONDS
        if len(self._spare) < SPARE_DESCRIPTORS:
            self._take_spare()
        if self._segment and self._segment.unsynced and now - self._synced >= SYNC_SECONDS:
            self._sync_answered()
        if self._segment and 0 < self._limits.segment_age_max <= now - self._segment.opened:
            self._cut()
        if self.directory and now - self._heartbeat >= HEARTBEAT_SECONDS:
            self._heartbeat = now
            self._beat(self.directory)
        waits = [HEARTBEAT_SECONDS]
        if self._segment and self._segment.unsynced:
            waits.append(SYNC_SECONDS)
        if self._segment and self._limits.segment_age_max:
            waits.append(self._segment.opened + self._limits.segment_age_max - now)
        return max(0.01, min(waits))

    def _beat(self, directory: str) -> None:
        """Say that this writer lives. Where its directory is gone, the next record goes to a new one."""
        try:
            self._files.touch(f"{directory}/{LOCK}")
        except FileNotFoundError:
            hint = "where it was moved away, move it back: what was written to it until now is in it"
            log.error("journal: %s is gone: going on in a new directory", directory, extra={"hint": hint})
            self._cut()  # which counts what was deleted
            if self.directory == directory:
                self._leave_directory()
        except OSError:
            pass  # the volume is in trouble, which shows with the next record

    def _store_piece(self, data: bytes) -> _OpenSegment:
        """Store one block in one segment, and return it: a new one where the first one fails. Raises `OSError`."""
        segment = self._segment or self._open()
        try:
            self._append(segment, data)
        except OSError as error:
            if error.errno in _FULL and self._segment is segment:
                raise  # cut back to whole lines; a new segment would find no room either
            self._complain(f"write {segment.path}: going on in a new segment", error)
            return self._start_again(segment, data)
        if self._every_second and segment.unsynced_bytes < UNSYNCED_BYTES_MAX:
            return segment
        try:
            self._sync(segment)
        except OSError as error:
            self._complain(f"sync {segment.path}: going on in a new segment", error)
            return self._start_again(segment)
        return segment

    def _append(self, segment: _OpenSegment, data: bytes) -> None:
        """Write ``data`` behind the whole lines of ``segment``; cut back what did not fit."""
        written = 0
        try:
            view = memoryview(data)
            while written < len(data):
                taken = self._files.write(segment.fd, view[written:] if written else data)
                if not taken:
                    raise OSError(errno.EIO, "the volume takes no bytes")
                written += taken
        except OSError:
            if written:
                try:
                    self._files.truncate(segment.fd, segment.bytes)
                except OSError:
                    self._observer.torn(written)
                    self._seal(segment)
            raise
        segment.bytes += len(data)
        segment.unsynced.append(data)
        segment.unsynced_bytes += len(data)

    def _sync(self, segment: _OpenSegment) -> None:
        """Make the segment durable, and be sure that it still has a name to be found by."""
        started = time.perf_counter()
        try:
            self._files.datasync(segment.fd)
        except OSError:
            segment.poisoned = True
            raise
        self._observer.synced(time.perf_counter() - started)
        if self._is_removed(segment):
            raise FileNotFoundError(errno.ENOENT, "the segment was removed while in use", segment.path)
        segment.unsynced.clear()
        segment.unsynced_bytes = segment.answered = 0
        self._synced = time.monotonic()

    def _is_removed(self, segment: _OpenSegment) -> bool:
        """Return whether somebody removed ``segment``; count its records as lost, but for those still at hand."""
        if segment.removed or self._files.status(segment.fd).links:
            return segment.removed
        segment.removed = True
        at_hand = sum(block.count(b"\n") for block in segment.unsynced[: segment.answered])
        if segment.records > at_hand:
            self._observer.lost("removed", segment.records - at_hand)
        return True

    def _start_again(self, broken: _OpenSegment, *data: bytes) -> _OpenSegment:
        """Seal ``broken``; store what it has not confirmed, and ``data``, in a new segment. Raises `OSError`."""
        self._seal(broken)
        try:
            segment = self._open()
            try:
                for block in (*broken.unsynced, *data):
                    self._append(segment, block)
                self._sync(segment)
            except OSError:
                self._seal(segment)
                raise
        except OSError:
            self._count_answered(broken)
            raise
        return segment

    def _sync_answered(self) -> None:
        """The fdatasync of everysec: what it confirms was answered up to a second ago."""
        segment = self._segment
        if segment is None:
            return
        try:
            self._sync(segment)
        except OSError as error:
            self._complain(f"sync {segment.path}: going on in a new segment", error)
            try:
                self._start_again(segment)
            except OSError as second:
                self._complain("store records that were answered (they are counted as lost)", second)

    def _cut(self) -> None:
        """Close the current segment, so that the next record opens a new one."""
        if self._segment and self._segment.unsynced:
            self._sync_answered()
        if self._segment:
            self._seal(self._segment)

    def _abandon(self) -> None:
        """Let go of a segment of which it is not known any more what it holds: cutting it back could cut too much."""
        segment, self._segment = self._segment, None
        if segment is None:
            return
        try:
            if segment.answered:
                self._sync(segment) if not segment.poisoned else self._count_answered(segment)
        except OSError:
            self._count_answered(segment)
        with contextlib.suppress(OSError):
            self._files.close(segment.fd)
        self._on_cut(segment.path, segment.records)

    def _count_answered(self, broken: _OpenSegment) -> None:
        """Count as lost what was answered (everysec) and cannot be made durable."""
        if broken.answered:
            self._observer.lost("journal", sum(block.count(b"\n") for block in broken.unsynced[: broken.answered]))

    def _seal(self, segment: _OpenSegment) -> None:
        if self._segment is segment:
            self._segment = None
            with contextlib.suppress(OSError):
                self._is_removed(segment)
            with contextlib.suppress(OSError):  # what matters was synced before, or is known to be unconfirmed
                self._files.close(segment.fd)
            if not segment.bytes:
                with contextlib.suppress(OSError):
                    self._files.remove(segment.path)
            elif not segment.removed:
                self._on_cut(segment.path, segment.records)

    def _open(self) -> _OpenSegment:
        """Create the next segment; with the descriptors that are kept for it, where there are no others."""
        try:
            return self._create()
        except OSError as error:
            if error.errno not in _NO_DESCRIPTOR or not self._spare:
                raise
        self._release_spare()
        return self._create()

    def _create(self) -> _OpenSegment:
        """Create the next segment, and the directory before the first one. Raises `OSError`."""
        if self.directory is None:
            self._enter_new_directory()
        try:
            return self._create_segment()
        except (FileNotFoundError, NotADirectoryError):
            self._leave_directory()  # somebody removed it
            self._enter_new_directory()
            return self._create_segment()

    def _create_segment(self) -> _OpenSegment:
        self._number += 1
        path = f"{self.directory}/{segment_name(self._number)}"
        fd = self._files.create(path)
        try:
            self._files.sync_directory(str(self.directory))
        except OSError:
            with contextlib.suppress(OSError):
                self._files.close(fd)
            with contextlib.suppress(OSError):
                self._files.remove(path)
            raise
        self._segment = _OpenSegment(path, fd, time.monotonic())
        return self._segment

    def _open_journal(self) -> bool:
        """Return whether the journal directory can be opened: a start-up check, repeated until it passes once."""
        try:
            self._files.make_directories(self._journal_dir)
            self._files.sync_directory(self._journal_dir)
            self.opened = True
        except OSError as error:
            self._complain(f"open {self._journal_dir}", error)
        return self.opened

    def _enter_new_directory(self) -> None:
        self._files.make_directories(self._journal_dir)
        path = f"{self._journal_dir}/{directory_name(self._host, time.time(), self._random())}"
        self._files.make_directory(path)
        try:
            self._lock_fd = self._files.lock(f"{path}/{LOCK}", create=True)
            self._files.sync_directory(self._journal_dir)
        except OSError:
            self._leave_directory()
            with contextlib.suppress(OSError):  # or each try on a full disk would leave a directory behind
                self._files.remove(f"{path}/{LOCK}")
            with contextlib.suppress(OSError):
                self._files.remove_directory(path)
            raise
        self._number = 0
        self._heartbeat = time.monotonic()
        self.directory = path

    def _leave_directory(self) -> None:
        if self._lock_fd is not None:
            with contextlib.suppress(OSError):
                self._files.close(self._lock_fd)
        self._lock_fd = self.directory = None

    def _take_spare(self) -> None:
        with contextlib.suppress(OSError):  # the next group tries again
            while len(self._spare) < SPARE_DESCRIPTORS:
                self._spare.append(self._files.open_spare())

    def _release_spare(self) -> None:
        while self._spare:
            with contextlib.suppress(OSError):
                self._files.close(self._spare.pop())

    def _complain(self, what: str, error: OSError) -> None:
        full = error.errno in _FULL
        self._observer.failed("full" if full else "io")
        hint = "free space on the volume, or lower AUDIT_JOURNAL_BYTES_MAX" if full else "check the volume"
        log.error("journal: cannot %s: %s", what, error.strerror or error, extra={"hint": hint})


class StdoutWriter:
    """Lines to standard output: a platform collects them. Not durable, and says so."""

    opened = True
    placed: Sequence[Placed] = ()
    directory = None

    def __init__(self, observer: Observer, files: Files | None = None, fd: int = 1) -> None:
        self._observer = observer
        self._files = files or Files()
        self._fd = fd

    def store(self, lines: Sequence[bytes]) -> int:
        """Write ``lines``; see `Writer.store`."""
        stored = 0
        try:
            for line in lines:
                self._write(line)
                stored += 1
            self._observer.wrote(stored, sum(map(len, lines)))
        except OSError as error:
            self._observer.failed("io")
            log.error("journal: cannot write to stdout: %s", error, extra={"hint": "check what reads standard output"})
        return stored

    def tick(self) -> float:
        """Nothing is due with time."""
        return HEARTBEAT_SECONDS

    def close(self) -> None:
        """Standard output stays open for the platform."""

    def _write(self, line: bytes) -> None:
        written = 0
        while written < len(line):
            try:
                written += self._files.write(self._fd, line[written:])
            except BlockingIOError:  # a non-blocking pipe whose reader is slow
                select.select([], [self._fd], [])
