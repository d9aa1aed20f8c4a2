"""Retention over the whole journal directory, dead writers' directories included: a thread of its own.

It also measures what the metrics show, so that a scrape never touches the disk.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from . import checkpoints
from .ages import BelievedClock
from .checkpoints import START
from .content import (
    content_blocks,
    content_status,
    holds_a_line,
    is_compressed,
    plain_path,
    read_content,
    unfinished_path,
)
from .files import Files, write_all
from .rotation import Limits, Removal, to_remove
from .segments import (
    LOCK,
    REMOVED,
    STALE_SECONDS,
    ProcessDirectory,
    Segment,
    foreign_bytes,
    is_alive,
    scan,
    segment_name,
    torn_bytes,
)

if TYPE_CHECKING:  # a journal that is not sealed imports no cryptography
    from .statements import Removing, Statements

__all__ = ["Retention", "Usage"]

log = logging.getLogger("audit.journal")

SWEEP_SECONDS = 10.0
# A wall clock that is ahead by less is not worth a line in the log.
LEAP_SECONDS = 60.0
# How many records another process's segment holds is estimated from so much of it; of a smaller one it is counted.
SAMPLE_BYTES = 64 << 10


def _elapsed() -> float:
    """Return seconds on a clock that nobody sets, and that goes on while the machine sleeps where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Usage(Protocol):
    """What a sweep reports: totals in bytes, and what it found or removed."""

    def measured(self, *, segments: int, journal_bytes: int, free_bytes: int) -> None: ...
    def removed(self, segments: int) -> None: ...
    def torn(self, size: int) -> None: ...
    def lost(self, reason: str, records: int) -> None: ...


class Retention:
    """Keeps ``journal_dir`` within its limits; ``own_directory`` returns the directory of this process's writer.

    ``sinks`` are those that this process forwards to; those of a forwarder of its own show in their checkpoints.
    ``statements`` sign for what is removed and adopted, where the journal is sealed.
    """

    def __init__(
        self,
        journal_dir: str,
        limits: Limits,
        usage: Usage,
        *,
        own_directory: Callable[[], str | None],
        sinks: Sequence[str] = (),
        statements: Statements | None = None,
        files: Files | None = None,
        wall: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = _elapsed,
    ) -> None:
        self._statements = statements
        self._journal_dir = journal_dir
        self._limits = limits
        self._usage = usage
        self._own_directory = own_directory
        self._sinks = frozenset(sinks)
        self._files = files or Files()
        self._wall = wall
        self._elapsed = elapsed
        self._clock = BelievedClock()
        self._leapt = False
        self._examined: set[str] = set()
        self._known: dict[str, int] = {}  # the records of each closed segment that is there, by its plain path
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="audit-retention", daemon=True)

    def start(self) -> None:
        """Start sweeping: every few seconds, and when woken."""
        self._thread.start()

    def closed(self, path: str, records: int) -> None:
        """The writer has closed the segment ``path``, which holds so many records: sweep soon."""
        self._known[path] = records
        self.wake()

    def wake(self) -> None:
        """Sweep soon."""
        self._wake.set()

    def stop(self) -> None:
        """Stop sweeping, without waiting for a disk that hangs."""
        self._stopping = True
        self._wake.set()

    def sweep(self) -> None:
        """Measure, and remove what is beyond the limits. Raises `OSError` when the directory cannot be read."""
        known = list(self._known)  # before it is looked: what is closed meanwhile is not missed
        found = scan(self._files, self._journal_dir)
        now = self._now(found)
        self._count_missing(known, found)
        closed: list[Segment] = []
        for directory in found:
            closed += _ordered(self._closed_segments(directory, now))
        self._get_to_know(closed)
        total = sum(sum(s.bytes for s in directory.segments) + directory.other_bytes for directory in found)
        total += foreign_bytes(self._files, self._journal_dir)
        unconfirmed = self._unconfirmed(closed)
        chosen = to_remove(closed, total=total, now=now, limits=self._limits, unconfirmed=frozenset(unconfirmed))
        said = self._say(chosen, unconfirmed) if self._statements and chosen else {}
        removed = [one for one in chosen if self._remove(one.segment, unconfirmed.get(one.segment.path))]
        self._settle(said)
        self._say_what_was_too_old([one.segment for one in removed if one.for_age])
        self._usage.measured(
            segments=sum(len(directory.segments) for directory in found) - len(removed),
            journal_bytes=total - sum(one.segment.bytes for one in removed),
            free_bytes=self._files.free_bytes(self._journal_dir),
        )
        if removed:
            self._usage.removed(len(removed))

    def _now(self, found: Sequence[ProcessDirectory]) -> float:
        """Return the time by which ages are judged.

        At first it is when anything in the journal was last changed, but by our own writer: a clock that was set wrong
        before we started must not be believed at once either.
        """
        wall, elapsed = self._wall(), self._elapsed()
        if self._clock.is_new:
            own = self._own_directory()
            newest = max((one.modified for one in found if one.path != own), default=wall)
            self._clock.see(newest, elapsed)
            self._leapt = True  # since we were not there, this is no news
        elif not self._leapt and wall - self._clock.now(elapsed) > LEAP_SECONDS and self._limits.journal_age_max:
            self._leapt = True
            hint = "ages are not judged by it before it has stood for an hour; check the clock of this node"
            log.warning(
                "journal: the clock is %.0f s ahead of what it was",
                wall - self._clock.now(elapsed),
                extra={"hint": hint},
            )
        self._clock.see(wall, elapsed)
        now = self._clock.now(elapsed)
        self._leapt = self._leapt and wall - now > LEAP_SECONDS
        return now

    def _say_what_was_too_old(self, segments: Sequence[Segment]) -> None:
        if segments:
            log.info(
                "journal: removed %d segments for their age (AUDIT_JOURNAL_AGE_MAX is %.0f s): %s to %s",
                len(segments),
                self._limits.journal_age_max,
                segments[0].path,
                segments[-1].path,
            )

    # -- what vanishes without our doing ----------------------------------------------------------------------

    def _count_missing(self, known: Sequence[str], found: Sequence[ProcessDirectory]) -> None:
        """Count as lost what was there, and is gone without having been removed by retention, ours or another's."""
        present = {plain_path(segment.path) for directory in found for segment in directory.segments}
        missing = [path for path in known if path not in present]
        marks = {directory: self._marks(directory) for directory in {os.path.dirname(path) for path in missing}}
        records = {path: self._known.pop(path) for path in missing}
        lost = [path for path in missing if os.path.basename(path) not in marks[os.path.dirname(path)]]
        if not lost:
            return
        count = sum(records[path] for path in lost)
        self._usage.lost("removed", count)
        log.error(
            "journal: %d segments with %d records are gone, and retention has not removed them: %s",
            len(lost),
            count,
            lost[0],
            extra={"hint": "find who removes files of the journal; where they were only moved away, move them back"},
        )

    def _get_to_know(self, closed: Sequence[Segment]) -> None:
        for segment in closed:
            path = plain_path(segment.path)
            if path not in self._known:
                with contextlib.suppress(OSError):  # it is gone, or broken: others must go all the same
                    self._known[path] = self._records_in(segment)

    def _content_bytes(self, segment: Segment) -> int:
        return content_status(self._files, segment.path).bytes if is_compressed(segment.path) else segment.bytes

    def _records_in(self, segment: Segment) -> int:
        """Return how many records ``segment`` holds: about, where it is large."""
        sample = read_content(self._files, plain_path(segment.path), SAMPLE_BYTES, 0)
        size = self._content_bytes(segment)
        lines = sample.count(b"\n")
        return lines if size <= len(sample) else max(1, round(lines * size / len(sample)))

    def _mark(self, segment: Segment) -> None:
        """Leave a note beside ``segment`` that retention removes it: other processes would count it as lost."""
        with contextlib.suppress(OSError):  # a full volume: removing is what helps
            fd = self._files.open_shared(f"{os.path.dirname(segment.path)}/{REMOVED}")
            try:
                write_all(self._files, fd, b"%d\n" % segment.number)
            finally:
                self._files.close(fd)

    def _marks(self, directory: str) -> set[str]:
        """Return the names of the segments that retention has removed of ``directory``, whoever's it was."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            text = b"".join(self._files.blocks(f"{directory}/{REMOVED}", 0))
            return {segment_name(int(line)) for line in text.split() if line.isdigit()}
        return set()

    # -- steps ------------------------------------------------------------------------------------------------

    def _closed_segments(self, directory: ProcessDirectory, now: float) -> list[Segment]:
        """Return the segments of ``directory`` that nobody writes any more."""
        if directory.path == self._own_directory() or self._is_alive(directory, now):
            return directory.segments[:-1]
        self._examine(directory)
        if self._statements:
            self._statements.adopt(directory)
        if not directory.segments:
            self._remove_empty(directory, now)
        return directory.segments

    def _is_alive(self, directory: ProcessDirectory, now: float) -> bool:
        """Return whether a writer lives by either clock: where the wall clock has leapt, every heartbeat looks old."""
        wall = self._wall()
        return is_alive(self._files, directory, wall) or (
            abs(wall - now) > LEAP_SECONDS and is_alive(self._files, directory, now)
        )

    def _examine(self, directory: ProcessDirectory) -> None:
        """Count, once, what a dead writer left torn. Nobody changes a segment that another process created."""
        if directory.path not in self._examined and directory.segments:
            self._examined.add(directory.path)
            with contextlib.suppress(OSError):
                if torn := torn_bytes(self._files, directory.segments[-1]):
                    self._usage.torn(torn)
                    log.warning("journal: %d bytes of an unfinished record in %s", torn, directory.segments[-1].path)

    def _say(self, chosen: Sequence[Removal], unconfirmed: Mapping[str, int]) -> dict[str, list[Removing] | None]:
        """Sign for what is removed, before it is; return what could not be said yet, by directory: None where it is."""
        from .statements import Removing  # noqa: PLC0415 - see above

        states = checkpoints.states(self._files, self._journal_dir)
        sinks = ", ".join(sorted(self._sinks.union(*states.values()))) or "nobody: there is no sink"
        said: dict[str, list[Removing] | None] = {}
        by_directory: dict[str, list[Removing]] = {}
        for segment, for_age in chosen:
            confirmed = f"not all of {sinks}" if segment.path in unconfirmed else sinks
            removing = Removing(segment, "age" if for_age else "size", confirmed)
            by_directory.setdefault(os.path.dirname(segment.path), []).append(removing)
        for directory, removals in by_directory.items():
            if self._statements:
                said[directory] = None if self._statements.removing(directory, removals) else removals
        return said

    def _settle(self, said: Mapping[str, list[Removing] | None]) -> None:
        """Say what a full disk kept from being said before; then remove what nobody needs any more."""
        for directory, removals in said.items():
            if self._statements and (removals is None or self._statements.removing(directory, removals)):
                self._statements.removed(directory)

    def _unconfirmed(self, segments: Sequence[Segment]) -> dict[str, int]:
        """Return where in each of ``segments`` the first record is that some sink has not confirmed."""
        states = checkpoints.states(self._files, self._journal_dir)
        sinks = self._sinks.union(*states.values())
        found = {}
        for segment in segments if sinks else ():
            state = states.get(os.path.basename(os.path.dirname(segment.path)), {})
            positions = [state.get(sink, START) for sink in sinks]
            offset = checkpoints.first_unconfirmed(positions, segment.number)
            if offset is not None and self._holds_a_line(segment, offset):
                found[segment.path] = offset
        return found

    def _holds_a_line(self, segment: Segment, offset: int) -> bool:
        try:
            if offset < self._content_bytes(segment):
                return holds_a_line(self._files, plain_path(segment.path), offset)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # it cannot be read now: it goes last
        return False

    def _remove(self, segment: Segment, unconfirmed_from: int | None) -> bool:
        """Remove ``segment``, and count as lost what no sink will see any more; return whether it is gone."""
        try:
            lost = 0 if unconfirmed_from is None else self._records_from(segment, unconfirmed_from)
            self._mark(segment)
            self._files.remove(segment.path)
            self._known.pop(plain_path(segment.path), None)
            with contextlib.suppress(OSError):
                self._files.remove(unfinished_path(segment.path))
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

    def _records_from(self, segment: Segment, offset: int) -> int:
        """Return how many records follow ``offset``; of one that cannot be read, what was known: one at least."""
        path = plain_path(segment.path)
        try:
            return sum(block.count(b"\n") for block in content_blocks(self._files, path, offset))
        except FileNotFoundError:
            raise
        except OSError:
            return self._known.get(path, 1)

    def _remove_empty(self, directory: ProcessDirectory, now: float) -> None:
        """Remove a dead writer's directory that holds nothing but its lock, while holding that lock.

        Not before the notes of what retention removed are old enough for every process to have seen them.
        """
        path = f"{directory.path}/{LOCK}"
        with contextlib.suppress(OSError):
            entries = {entry.name: entry for entry in self._files.entries(directory.path)}
            marks = entries.get(REMOVED)
            if not entries.keys() <= {LOCK, REMOVED}:
                return
            if marks and min(abs(clock - marks.modified) for clock in (now, self._wall())) < STALE_SECONDS:
                return
            fd = self._files.lock(path, create=True)
            if fd is not None:
                try:
                    if marks:
                        self._files.remove(marks.path)
                    self._files.remove(path)
                    self._files.remove_directory(directory.path)
                finally:
                    self._files.close(fd)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                self.sweep()
            except FileNotFoundError:
                pass  # no record yet
            except OSError as error:
                where = error.filename or self._journal_dir
                log.error("journal: retention cannot read %s: %s", where, error.strerror or error)
            except Exception:  # retention must outlive every surprise, or the disk fills
                log.exception("journal: internal error in retention")
            self._wake.wait(SWEEP_SECONDS)


def _ordered(segments: Sequence[Segment]) -> list[Segment]:
    """Return ``segments`` of one directory, none later than the next: a clock that was ahead has marked it so."""
    ordered: list[Segment] = []
    for segment in reversed(segments):
        earliest = min(segment.modified, ordered[-1].modified) if ordered else segment.modified
        ordered.append(segment._replace(modified=earliest))
    return ordered[::-1]
