"""Retention over the whole journal directory, dead writers' directories included: a thread of its own.

It also measures what the metrics show, so that a scrape never touches the disk.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

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


class Retention:
    """Keeps ``journal_dir`` within its limits; ``own_directory`` returns the directory of this process's writer."""

    def __init__(
        self,
        journal_dir: str,
        limits: Limits,
        usage: Usage,
        *,
        own_directory: Callable[[], str | None],
        files: Files | None = None,
    ) -> None:
        self._journal_dir = journal_dir
        self._limits = limits
        self._usage = usage
        self._own_directory = own_directory
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
        removed = [s for s in to_remove(closed, total=total, now=now, limits=self._limits) if self._remove(s)]
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

    def _remove(self, segment: Segment) -> bool:
        try:
            self._files.remove(segment.path)
        except FileNotFoundError:
            pass  # another replica's retention was faster
        except OSError as error:
            log.error("journal: cannot remove %s: %s", segment.path, error.strerror)
            return False
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
                log.exception("journal: retention met an error of its own")
            self._wake.wait(SWEEP_SECONDS)
