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

from .files import FULL, Files
from .rotation import Limits, pieces
from .segments import HEARTBEAT_SECONDS, LOCK, Placed, directory_name, segment_name

__all__ = ["Observer", "StdoutWriter", "Writer"]

log = logging.getLogger("audit.journal")

# Under everysec: sync earlier than after a second when this much waits, so that what has to be kept for
# writing it once more stays bounded.
UNSYNCED_BYTES_MAX = 4 << 20
SYNC_SECONDS = 1.0

# Kept for the next segment, where something else in the process has taken every descriptor: it needs its own, and one
# to sync the directory.
SPARE_DESCRIPTORS = 2
_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})


class Observer(Protocol):
    """What the journal tells about itself; counted in records, bytes and seconds."""

    def wrote(self, records: int, size: int) -> None: ...
    def synced(self, seconds: float) -> None: ...
    def failed(self, operation: str) -> None: ...
    def lost(self, reason: str, records: int) -> None: ...
    def torn(self, size: int) -> None: ...


class Edge(Protocol):
    """Where a tree is (`transparency.tree.Edge`)."""

    @property
    def size(self) -> int: ...
    def root(self) -> bytes: ...


class Sealer(Protocol):
    """Who seals what is written (`sealing.Sealer`); told on the writer's thread, in this order of events."""

    @property
    def edge(self) -> Edge: ...
    def enter(self, directory: str) -> None: ...
    def begin(self, number: int) -> None: ...
    def wrote(self, block: bytes) -> None: ...
    def synced(self) -> None: ...
    def ended(self, number: int, size: int, *, whole: bool) -> None: ...
    def dropped(self, number: int) -> None: ...
    def tick(self, now: float) -> float: ...
    def leave(self) -> bool: ...
    def abandon(self) -> None: ...


class _OpenSegment:
    """The segment being written. ``bytes`` counts whole lines; ``unsynced`` is what no fdatasync has confirmed.

    The first ``answered`` blocks of ``unsynced`` were confirmed to the caller all the same (everysec). On a file that
    is ``poisoned`` an fdatasync has failed: the next one would succeed, and say nothing. One that is ``removed`` has no
    name any more, and was counted. ``torn``: bytes of a failed write follow, and could not be cut back.
    """

    __slots__ = (
        "answered", "bytes", "fd", "name", "number", "opened", "path", "poisoned", "records", "removed", "synced_bytes",
        "torn", "unsynced", "unsynced_bytes",
    )  # fmt: skip

    def __init__(self, number: int, path: str, fd: int, opened: float) -> None:
        self.number = number
        self.path = path
        self.name = "/".join(path.split("/")[-2:])  # in the journal: its directory and its file
        self.fd = fd
        self.opened = opened
        self.bytes = 0
        self.records = 0
        self.answered = 0
        self.poisoned = False
        self.removed = False
        self.torn = False
        self.synced_bytes = 0
        self.unsynced: list[bytes] = []
        self.unsynced_bytes = 0


class Writer:
    """The only writer of one process directory. Not thread-safe: one thread owns it.

    ``journal_dir`` may be missing: directory and segment appear with the first record. ``random`` returns the
    eight hexadecimal digits of a directory's name, ``now`` the time in it; ``on_cut`` is called with the closed segment
    and its records; and ``sealer``, where there is one, all that a tree over the lines must know.
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
        now: Callable[[], float] = time.time,
        on_cut: Callable[[str, int], None] = lambda _path, _records: None,
        sealer: Sealer | None = None,
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
        self._now = now
        self._on_cut = on_cut
        self._sealer = sealer
        self._segment: _OpenSegment | None = None
        self._number = 0
        self._lock_fd: int | None = None
        self._spare: list[int] = []
        self._uncut: list[tuple[str, int]] = []  # sealed segments, and how many bytes of each are ours
        self._heartbeat = 0.0
        self._synced = 0.0

    @property
    def edge(self) -> Edge | None:
        """The edge of the tree behind what was stored last, None where nothing is sealed."""
        return self._sealer.edge if self._sealer else None

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
        is_sealed = self._sealer is None or self._sealer.leave()
        if self.directory and is_sealed:  # or whoever adopts it would not look for what is missing
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
        if self._sealer:
            if self._uncut:
                self._cut_back_all()
            waits.append(self._sealer.tick(now))
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
            if error.errno in FULL and self._segment is segment:
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
                    segment.torn = True
                    self._seal(segment)
            raise
        if self._sealer:
            self._sealer.wrote(data)
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
        if self._sealer:
            self._sealer.synced()
        segment.unsynced.clear()
        segment.unsynced_bytes = segment.answered = 0
        segment.synced_bytes = segment.bytes
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
                self._cut_back(segment, is_copied=not broken.answered)
                raise
        except OSError:
            self._cut_back(broken, is_copied=not broken.answered)
            self._count_answered(broken)
            raise
        self._cut_back(broken, is_copied=True)
        return segment

    def _cut_back(self, sealed: _OpenSegment, *, is_copied: bool) -> None:
        """Cut what no fdatasync has confirmed off a sealed segment: it is in no tree.

        Where the journal is not sealed it stays, as a duplicate; and wherever it was answered and may be the only copy.
        """
        if self._sealer and is_copied:
            self._uncut.append((sealed.path, sealed.synced_bytes))
            self._cut_back_all()

    def _cut_back_all(self) -> None:
        left = []
        for path, size in self._uncut:
            try:
                self._files.status(path)  # or opening it would create it
                fd = self._files.open_shared(path)
                try:
                    self._files.truncate(fd, size)
                finally:
                    self._files.close(fd)
            except FileNotFoundError:
                pass
            except OSError:  # with the next segment; the statement about this one's end says where that is, too
                left.append((path, size))
        self._uncut = left

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
        if self._sealer:  # its tree may not be what is on disk
            self._sealer.abandon()
            self._leave_directory()
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
            is_there = bool(segment.bytes)
            if not is_there:
                try:
                    self._files.remove(segment.path)
                except FileNotFoundError:
                    pass
                except OSError:
                    is_there = True
            elif not segment.removed:
                self._on_cut(segment.path, segment.records)
            if self._sealer and is_there:
                whole = not (segment.unsynced or segment.torn)
                self._sealer.ended(segment.number, segment.synced_bytes, whole=whole)
            elif self._sealer:
                self._sealer.dropped(segment.number)

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
        self._segment = _OpenSegment(self._number, path, fd, time.monotonic())
        if self._sealer:
            self._sealer.begin(self._number)
            self._cut_back_all()
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
        path = f"{self._journal_dir}/{directory_name(self._host, self._now(), self._random())}"
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
        if self._sealer:
            self._sealer.enter(path)

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
        full = error.errno in FULL
        self._observer.failed("full" if full else "io")
        hint = "free space on the volume, or lower AUDIT_JOURNAL_BYTES_MAX" if full else "check the volume"
        log.error("journal: cannot %s: %s", what, error.strerror or error, extra={"hint": hint})


class StdoutWriter:
    """Lines to standard output: a platform collects them. Not durable, and says so."""

    opened = True
    placed: Sequence[Placed] = ()
    directory = None
    edge = None

    def __init__(self, observer: Observer, files: Files | None = None, fd: int = 1) -> None:
        self._observer = observer
        self._files = files or Files()
        self._fd = fd
        self._is_torn = False  # the last line has no end

    def store(self, lines: Sequence[bytes]) -> int:
        """Write ``lines``; see `Writer.store`."""
        stored = 0
        try:
            for line in lines:
                self._write(line)
                stored += 1
        except OSError as error:
            self._observer.failed("io")
            log.error("journal: cannot write to stdout: %s", error, extra={"hint": "check what reads standard output"})
        if stored:
            self._observer.wrote(stored, sum(map(len, lines[:stored])))
        return stored

    def tick(self) -> float:
        """Nothing is due with time."""
        return HEARTBEAT_SECONDS

    def close(self) -> None:
        """Standard output stays open for the platform."""

    def _write(self, line: bytes) -> None:
        if self._is_torn:
            line = b"\n" + line  # what was cut stays a line of its own
        written = 0
        while written < len(line):
            try:
                written += self._files.write(self._fd, line[written:])
            except BlockingIOError:  # a non-blocking pipe whose reader is slow
                select.select([], [self._fd], [])
                continue
            self._is_torn = written < len(line)
