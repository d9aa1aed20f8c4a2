"""Retention over the whole journal directory, dead writers' directories included: a thread of its own.

It also measures what the metrics show, so that a scrape never touches the disk.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from . import checkpoints
from .checkpoints import START
from .files import Files
from .rotation import Limits, to_remove
from .segments import LOCK, ProcessDirectory, Segment, foreign_bytes, is_alive, scan, torn_bytes

__all__ = ["Retention", "Usage"]

log = logging.getLogger("audit.journal")

SWEEP_SECONDS = 10.0


class Usage(Protocol):
    """What a sweep tells: totals in bytes, and what it found or let go."""

    def measured(self, *, segments: int, journal_bytes: int, free_bytes: int) -> None: ...
    def removed(self, segments: int) -> None: ...
    def torn(self, size: int) -> None: ...
    def lost(self, reason: str, records: int) -> None: ...


class Retention:
    """Keeps ``journal_dir`` within its limits; ``own_directory`` returns the directory of this process's writer.

    ``sinks`` are those that this process forwards to; those of a forwarder of its own show in their checkpoints.
    """

    def __init__(
        self,
        journal_dir: str,
        limits: Limits,
        usage: Usage,
        *,
        own_directory: Callable[[], str | None],
        sinks: Sequence[str] = (),
        files: Files | None = None,
    ) -> None:
        self._journal_dir = journal_dir
        self._limits = limits
        self._usage = usage
        self._own_directory = own_directory
        self._sinks = frozenset(sinks)
        self._files = files or Files()
        self._examined: set[str] = set()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="audit-retention", daemon=True)

    def start(self) -> None:
        """Start sweeping: every few seconds, and when woken."""
        self._thread.start()

    def wake(self) -> None:
        """Sweep soon: a segment was cut."""
        self._wake.set()

    def stop(self) -> None:
        """Stop sweeping, without waiting for a disk that hangs."""
        self._stopping = True
        self._wake.set()

    def sweep(self) -> None:
        """Measure, and remove what is beyond the limits. Raises `OSError` when the directory cannot be read."""
        now = time.time()
        found = scan(self._files, self._journal_dir)
        closed: list[Segment] = []
        for directory in found:
            closed += self._closed_segments(directory, now)
        total = sum(sum(s.bytes for s in directory.segments) + directory.other_bytes for directory in found)
        total += foreign_bytes(self._files, self._journal_dir)
        unconfirmed = self._unconfirmed(closed)
        chosen = to_remove(closed, total=total, now=now, limits=self._limits, unconfirmed=frozenset(unconfirmed))
        removed = [segment for segment in chosen if self._remove(segment, unconfirmed.get(segment.path))]
        self._usage.measured(
            segments=sum(len(directory.segments) for directory in found) - len(removed),
            journal_bytes=total - sum(segment.bytes for segment in removed),
            free_bytes=self._files.free_bytes(self._journal_dir),
        )
        if removed:
            self._usage.removed(len(removed))

    def _closed_segments(self, directory: ProcessDirectory, now: float) -> list[Segment]:
        """Return the segments of ``directory`` that nobody writes any more."""
        if directory.path == self._own_directory() or is_alive(self._files, directory, now):
            return directory.segments[:-1]
        self._examine(directory)
        if not directory.segments:
            self._remove_empty(directory)
        return directory.segments

    def _examine(self, directory: ProcessDirectory) -> None:
        """Count, once, what a dead writer left torn. Nobody changes a segment that another process created."""
        if directory.path not in self._examined and directory.segments:
            self._examined.add(directory.path)
            with contextlib.suppress(OSError):
                if torn := torn_bytes(self._files, directory.segments[-1]):
                    self._usage.torn(torn)
                    log.warning("journal: %d bytes of an unfinished record in %s", torn, directory.segments[-1].path)

    def _unconfirmed(self, segments: Sequence[Segment]) -> dict[str, int]:
        """Return where in each of ``segments`` the first record is that some sink has not confirmed."""
        states = checkpoints.states(self._files, self._journal_dir)
        sinks = self._sinks.union(*states.values())
        found = {}
        for segment in segments if sinks else ():
            state = states.get(os.path.basename(os.path.dirname(segment.path)), {})
            positions = [state.get(sink, START) for sink in sinks]
            offset = checkpoints.first_unconfirmed(positions, segment.number)
            if offset is not None and offset < segment.bytes and self._holds_a_line(segment.path, offset):
                found[segment.path] = offset
        return found

    def _holds_a_line(self, path: str, offset: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return any(b"\n" in block for block in self._files.blocks(path, offset))
        return False

    def _remove(self, segment: Segment, unconfirmed_from: int | None) -> bool:
        """Remove ``segment``, and count as lost what no sink will see any more; return whether it is gone."""
        try:
            lost = 0
            if unconfirmed_from is not None:
                lost = sum(block.count(b"\n") for block in self._files.blocks(segment.path, unconfirmed_from))
            self._files.remove(segment.path)
        except FileNotFoundError:
            return True  # another replica's retention was faster, and has counted
        except OSError as error:
            log.error("journal: cannot remove %s: %s", segment.path, error.strerror)
            return False
        if lost:
            self._usage.lost("retention", lost)
            log.error(
                "journal: retention removed %d records that a sink has not confirmed: %s",
                lost,
                segment.path,
                extra={"hint": "raise AUDIT_JOURNAL_BYTES_MAX, or see why the sink is behind"},
            )
        return True

    def _remove_empty(self, directory: ProcessDirectory) -> None:
        """Remove a dead writer's directory that holds nothing but its lock, while holding that lock."""
        path = f"{directory.path}/{LOCK}"
        with contextlib.suppress(OSError):
            if [entry.name for entry in self._files.entries(directory.path)] not in ([], [LOCK]):
                return
            fd = self._files.lock(path, create=True)
            if fd is not None:
                self._files.remove(path)
                self._files.remove_directory(directory.path)
                self._files.close(fd)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                self.sweep()
            except FileNotFoundError:
                pass  # no record yet
            except OSError as error:
                log.error("journal: retention cannot read %s: %s", self._journal_dir, error.strerror)
            except Exception:  # retention must outlive every surprise, or the disk fills
                log.exception("journal: internal error in retention")
            self._wake.wait(SWEEP_SECONDS)
