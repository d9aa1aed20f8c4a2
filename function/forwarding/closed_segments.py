"""Closed segments: into the archive, and compressed where they are. A thread beside the sinks, of the same process.

In each directory one after the other, the oldest first. How far the archive is lies beside the sinks' checkpoints, in
the same form: so retention waits for it as for a sink.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence

from ..archive.archiving import put_segment
from ..archive.bucket import Bucket, BucketError, open_bucket
from ..journal import checkpoints
from ..journal.checkpoints import ARCHIVE, START, Position, first_unconfirmed
from ..journal.content import compress, content_status, holds_a_line, is_compressed, plain_path
from ..journal.evidence import ADOPTION, is_sealed, statement_name
from ..journal.files import Files
from ..journal.segments import ProcessDirectory, Segment, is_alive, scan
from .background import Background
from .backoff import Backoff, Pace

__all__ = ["ClosedSegments"]

log = logging.getLogger("audit.archive")

POLL_SECONDS = 2.0
DRAIN_POLL_SECONDS = 0.1
# A tailer that only knows plain segments has so long to finish one that was closed.
COMPRESS_AFTER_SECONDS = 60.0
# The statement that ends a sealed segment, or its directory's adoption, is waited for; without one it goes alone.
EVIDENCE_SECONDS = 120.0


class ClosedSegments(Background):
    """Give it `directories`, paths that are ours by lease. ``url`` is empty where there is no archive.

    ``sinks`` are those that must have a segment before it is compressed.
    """

    def __init__(
        self,
        journal_dir: str,
        *,
        url: str,
        cluster: str,
        compresses: bool,
        sinks: Sequence[str] = (),
        files: Files | None = None,
        pace: Pace | None = None,
        bucket: Callable[[str], Bucket] = open_bucket,
        compress_after_seconds: float = COMPRESS_AFTER_SECONDS,
    ) -> None:
        super().__init__("audit-archive", pace)
        self.directories: tuple[str, ...] = ()
        self._journal_dir = journal_dir
        self._url = url
        self._cluster = cluster
        self._compresses = compresses
        self._sinks = (*sinks, ARCHIVE) if url else tuple(sinks)
        self._files = files or Files()
        self._open = bucket
        self._bucket: Bucket | None = None
        self._compress_after = compress_after_seconds
        self._archived = self._archived_bytes = self._compressed = self._failures = 0
        self._last_success = 0.0
        self.failed: BucketError | None = None  # why nothing can be archived before somebody has done something
        self._left: dict[str, list[Segment]] = {}
        self._dead: dict[str, float] = {}  # since when a killed writer's directory was seen to wait for its adoption

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which it has checkpoints beside those of sinks."""
        return (ARCHIVE,) if self._url else ()

    def establish(self, state_directory: str) -> None:
        """Write the first checkpoint: retention sees by it that there is an archive. Raises `OSError`."""
        path = os.path.join(state_directory, f"{ARCHIVE}.json")
        if self._url and checkpoints.read(self._files, path) is None:
            checkpoints.write(self._files, path, START)

    def status(self) -> dict[str, float]:
        """Return counts since the start, what is left, and Unix times."""
        left = [one for some in list(self._left.values()) for one in some]
        oldest = min((one.modified for one in left), default=0.0)
        return {
            "archived": self._archived,
            "archived_bytes": self._archived_bytes,
            "failures": self._failures,
            "compressed": self._compressed,
            "last_success": self._last_success,
            "left": len(left),
            "lag_seconds": max(0.0, time.time() - oldest) if left else 0.0,
        }

    def left(self, directories: Sequence[str]) -> int:
        """Return how many closed segments of these directories are not in the archive. Raises `OSError`."""
        return sum(len(self._unarchived(one)) for one in self._found(directories)) if self._url else 0

    def is_through(self, directory: str) -> bool:
        """Return whether nothing is left to do in a directory whose writer is gone. Raises `OSError`."""
        found = self._found([directory])
        if self._url and any(map(self._unarchived, found)):
            return False
        segments = [segment for one in found for segment in one.segments]
        return not self._compresses or all(is_compressed(segment.path) for segment in segments)

    # -- its thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        backoff = Backoff(self._pace)
        while not self._stopping:
            failures = self._failures
            try:
                self._pass()
            except OSError as error:
                self._fail("archive: %s: %s", self._journal_dir, error.strerror or error, hint="check the volume")
            except Exception:  # the next look tries again
                self._failures += 1
                log.exception("archive: an error of our own")
            if self._failures == failures:
                backoff.reset()
                is_soon = self._draining or not self.directories
                self.pause(DRAIN_POLL_SECONDS if is_soon else POLL_SECONDS)
            else:
                self.pause(backoff.next(self.backoff_max()))

    def _pass(self) -> None:
        """Look at every directory once."""
        try:
            found = self._found(self.directories)
        except FileNotFoundError:
            return  # no record yet
        self._left = {one.path: self._unarchived(one) for one in found} if self._url else {}
        self._dead = {path: since for path, since in self._dead.items() if path in self._left}
        for directory in found:
            if self._url:
                self._archive(directory)
            if self._compresses and not self._draining:
                self._compress(directory)

    def _archive(self, directory: ProcessDirectory) -> None:
        for segment in self._left.get(directory.path, [])[:]:
            if self._stopping or not self._is_proved(directory, segment):
                return
            try:
                self._bucket = self._bucket or self._open(self._url)
                self._put(self._bucket, directory, segment)
            except FileNotFoundError:
                return  # retention was faster; the next look sees what is left
            except BucketError as error:
                self.failed = error if error.lasting else None
                self._fail("archive: %s", error, hint=error.hint)
                return
            except OSError as error:
                self._fail(
                    "archive: %s: %s", segment.path, error.strerror or error, hint="check the volume of the journal"
                )
                return

    def _put(self, bucket: Bucket, directory: ProcessDirectory, segment: Segment) -> None:
        path = plain_path(segment.path)
        put = put_segment(self._files, bucket, cluster=self._cluster, path=path, number=segment.number)
        checkpoints.write(self._files, self._checkpoint(directory.path), put.position)
        self._left[directory.path].remove(segment)
        self._archived += bool(put.name)
        self._archived_bytes += put.bytes
        self._last_success = time.time()
        self.failed = None

    def _compress(self, directory: ProcessDirectory) -> None:
        states = checkpoints.states(self._files, self._journal_dir).get(os.path.basename(directory.path), {})
        positions = [states.get(sink, START) for sink in {*self._sinks, *states}]
        for segment in self._closed(directory):
            if self._stopping:
                return
            if is_compressed(segment.path) or time.time() - segment.modified < self._compress_after:
                continue
            if not self._is_confirmed(segment, positions):
                return
            try:
                compress(self._files, segment.path)
                self._compressed += 1
            except FileNotFoundError:
                pass  # retention was faster
            except OSError as error:
                hint = "it stays as it is, and is tried again; is there room on the volume?"
                self._fail("archive: cannot compress %s: %s", segment.path, error.strerror or error, hint=hint)
                return

    # -- what is there --------------------------------------------------------------------------------------------

    def _found(self, directories: Sequence[str]) -> list[ProcessDirectory]:
        wanted = frozenset(directories)
        return [one for one in scan(self._files, self._journal_dir) if one.path in wanted]

    def _closed(self, directory: ProcessDirectory) -> list[Segment]:
        """Return the segments that nobody writes any more."""
        return directory.segments[: -1 if is_alive(self._files, directory, time.time()) else None]

    def _unarchived(self, directory: ProcessDirectory) -> list[Segment]:
        position = checkpoints.read(self._files, self._checkpoint(directory.path)) or START
        return list(self._behind(self._closed(directory), position))

    def _behind(self, segments: Sequence[Segment], position: Position) -> Iterator[Segment]:
        """Return those behind a position; the one that it is in, where a writer that looked dead has gone on in it."""
        for one in segments:
            if one.number > position.segment or (
                one.number == position.segment and self._has_grown(one, position.offset)
            ):
                yield one

    def _has_grown(self, segment: Segment, offset: int) -> bool:
        is_longer = not is_compressed(segment.path) and segment.bytes > offset
        return is_longer and holds_a_line(self._files, segment.path, offset)

    def _checkpoint(self, directory: str) -> str:
        return os.path.join(checkpoints.state_directory(self._journal_dir, directory), f"{ARCHIVE}.json")

    def _is_proved(self, directory: ProcessDirectory, segment: Segment) -> bool:
        """Return whether what proves the segment is there, is not to come, or was waited for."""
        names = self._files.names(directory.path)
        if not is_sealed(names) or statement_name(segment.number) in names or ADOPTION in names:
            return True
        if segment == directory.segments[-1]:  # of a writer that was killed: retention will adopt it, in a minute
            since = self._dead.setdefault(directory.path, time.monotonic())
            return time.monotonic() - since > EVIDENCE_SECONDS
        return abs(time.time() - segment.modified) > EVIDENCE_SECONDS

    def _is_confirmed(self, segment: Segment, positions: list[Position]) -> bool:
        offset = first_unconfirmed(positions, segment.number)
        if offset is None:
            return True
        content = content_status(self._files, segment.path).bytes
        return offset >= content or not holds_a_line(self._files, segment.path, offset)

    def _fail(self, text: str, *values: object, hint: str) -> None:
        self._failures += 1
        log.warning(text, *values, extra={"hint": hint})
