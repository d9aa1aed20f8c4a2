"""Group commit: records that wait together share one write and one fdatasync.

The event loop gathers what its turn brings, one thread stores it and notifies the loop once for the whole group. The
loop itself never touches the disk, so a disk that hangs blocks no health probe: it only lets deadlines pass.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from .segments import Placed
from .writer import Edge

__all__ = ["DeadlinePassed", "Entry", "Journal", "Overloaded", "StorageFailed"]

log = logging.getLogger("audit.journal")

# What may wait for the disk. At 15,000 reviews of 2.6 KB a second this is more than a second and a half.
PENDING_BYTES_MAX = 64 << 20
# One write and one fdatasync take at most this much (a single larger record has its own).
GROUP_BYTES_MAX = 8 << 20
# How late a passed deadline may be noticed.
EXPIRY_SECONDS = 0.025
# After a mistake of the store, before it is asked what is due.
SURPRISED_SECONDS = 1.0
_OWN_ERROR = "journal: internal error in the writer thread"


class StorageFailed(Exception):  # noqa: N818 - named after what happened; the caller answers 500
    """The record is not known to be stored."""


class DeadlinePassed(Exception):  # noqa: N818 - the caller answers 503
    """The record was not durable in time. It may be, later."""


class Overloaded(Exception):  # noqa: N818 - the caller answers 503
    """Too much waits for the disk already. The record was not taken."""


class Store(Protocol):
    """Where lines become durable: `writer.Writer` or `writer.StdoutWriter`, on the journal's own thread."""

    opened: bool  # the journal's directory was opened once: ready to serve
    placed: Sequence[Placed]  # where the lines are that the last call of `store` has stored, if they have a place

    @property
    def edge(self) -> Edge | None: ...  # of the tree behind what was stored last, where it is sealed
    def store(self, lines: Sequence[bytes]) -> int: ...
    def tick(self) -> float: ...
    def close(self) -> None: ...


class Entry:
    """A line to store before ``deadline`` (in the clock of `time.monotonic`), and who waits for it.

    ``line`` becomes None once `done` was called, so that nobody writes it any more. ``size`` is its bytes. Once it is
    stored, it is in ``segment`` from byte ``offset`` on (see `Placed`); ``segment`` is empty where there is none.
    """

    __slots__ = ("deadline", "line", "offset", "segment", "size")

    def __init__(self, line: bytes, deadline: float) -> None:
        self.line: bytes | None = line
        self.size = len(line)
        self.deadline = deadline
        self.segment = ""
        self.offset = 0

    def done(self, error: Exception | None) -> None:
        """Called once, on the event loop: with None when the line is stored, else with the reason. Must not raise.

        The reason is `StorageFailed`, or `DeadlinePassed`: what was still queued then is never written.
        """
        raise NotImplementedError


class Journal:
    """Takes lines on the event loop and confirms each when it is stored.

    Open it in the process and on the loop that serves. Both are called on the loop: ``group_stored`` with the number of
    records that were stored together, ``failed`` with ``internal`` when the store made a mistake.
    """

    def __init__(
        self,
        store: Store,
        *,
        group_stored: Callable[[int], None] = lambda _: None,
        failed: Callable[[str], None] = lambda _: None,
        pending_bytes_max: int = PENDING_BYTES_MAX,
        group_bytes_max: int = GROUP_BYTES_MAX,
    ) -> None:
        self.pending_bytes = 0
        self.pending_bytes_max = pending_bytes_max
        self._group_bytes_max = group_bytes_max
        self._store = store
        self._group_stored = group_stored
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._gathering: list[Entry] = []
        self._busy = False  # whether the thread has a group
        self._edge: Edge | None = None
        self._head = ""
        self._taken: list[Entry] = []  # what was submitted since the last look at deadlines, and what still waited then
        self._expiry: asyncio.TimerHandle | None = None
        self._queue: queue.SimpleQueue[list[Entry] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="audit-journal", daemon=True)
        self._thread.start()

    def submit(self, entry: Entry) -> None:
        """Store the entry's line, and tell it when that is done. Raises `Overloaded` at once."""
        size = entry.size
        if self.pending_bytes and self.pending_bytes + size > self.pending_bytes_max:
            raise Overloaded
        self.pending_bytes += size
        self._taken.append(entry)
        if not self._gathering:
            self._loop.call_soon(self._hand_over)
        self._gathering.append(entry)
        if self._expiry is None:
            self._expiry = self._loop.call_later(EXPIRY_SECONDS, self._expire)

    def stop(self) -> None:
        """Store what is queued, then close the store; `join` waits for it."""
        self._busy = False
        self._hand_over()
        self._queue.put(None)

    def join(self, seconds: float) -> bool:
        """Wait until the store is closed, at most ``seconds``; return whether it is. Blocks: not on a busy loop."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def opened(self) -> bool:
        """Whether the journal's directory could be opened: ready to serve."""
        return self._store.opened

    def tree_head(self) -> str:
        """Return ``<size> <root in base64>`` of the tree that the line is under whose `Entry.done` is being called.

        Empty where the journal is not sealed. Made once for a group, when it is asked for: about 10 µs.
        """
        edge, self._edge = self._edge, None
        if edge is not None:
            self._head = f"{edge.size} {base64.b64encode(edge.root()).decode()}"
        return self._head

    # -- on the event loop ------------------------------------------------------------------------------------

    def _hand_over(self) -> None:
        """Give the thread what was gathered, unless it is busy: then `_finish` does, and the group is the larger."""
        if self._gathering and not self._busy:
            self._busy = True
            self._queue.put(self._gathering)
            self._gathering = []

    def _finish(
        self, stored: list[Entry], placed: Sequence[Placed], failed: list[Entry], edge: Edge | None = None
    ) -> None:
        if edge is not None:
            self._edge = edge
        entries = iter(stored)
        for piece in placed:
            at = piece.offset
            for entry in itertools.islice(entries, piece.records):
                entry.segment, entry.offset = piece.segment, at
                at += entry.size
        self._settle(stored, None)
        if failed:
            self._settle(failed, StorageFailed())
        if stored:
            self._group_stored(len(stored))
        self._next_group()

    def _next_group(self) -> None:
        """Hand over what waits, in the next turn: it brings the reviews that have come by now into the same group."""
        self._busy = False
        if self._gathering:
            self._loop.call_soon(self._hand_over)

    def _expire(self) -> None:
        """Let go of what waits for longer than it may. Looks at everything that was submitted since the last time.

        Cheaper than to keep a set of what waits: that would be changed twice for each record.
        """
        now = time.monotonic()
        self._settle([entry for entry in self._taken if entry.deadline <= now], DeadlinePassed())
        self._taken = [entry for entry in self._taken if entry.line is not None]
        self._expiry = self._loop.call_later(EXPIRY_SECONDS, self._expire) if self._taken else None

    def _settle(self, entries: Iterable[Entry], error: Exception | None) -> None:
        """Notify each waiter once, and drop the lines."""
        for entry in entries:
            if entry.line is not None:
                entry.line = None
                self.pending_bytes -= entry.size
                entry.done(error)

    # -- on the journal's thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        groups: list[list[Entry] | None] = []  # None is the last
        while True:
            seconds = self._store_groups([entry for group in groups if group for entry in group])
            if None in groups:
                break
            groups = self._take(seconds)
        try:
            self._store.close()
        except Exception:  # the thread ends here, and whoever joins it is not to wait
            log.exception(_OWN_ERROR)

    def _store_groups(self, entries: list[Entry]) -> float:
        """Store them, and return for how long to wait for the next ones, in seconds."""
        try:
            for group in _bounded(entries, self._group_bytes_max):
                self._store_group(group)
            return self._store.tick()
        except Exception:  # the thread must outlive every surprise, or every answer would be 503 from here on
            log.exception(_OWN_ERROR)
            self._call_on_loop(self._failed, "internal")
            self._call_on_loop(self._finish, [], (), entries)  # those that were stored before are settled by then
            return SURPRISED_SECONDS

    def _take(self, seconds: float) -> list[list[Entry] | None]:
        """Wait for a group, and take all that came meanwhile."""
        try:
            groups = [self._queue.get(timeout=seconds)]
        except queue.Empty:
            return []
        while not self._queue.empty():
            groups.append(self._queue.get_nowait())
        return groups

    def _store_group(self, group: list[Entry]) -> None:
        now = time.monotonic()
        wanted, lines = [], []
        for entry in group:
            line = entry.line
            if line is not None and now < entry.deadline:  # else `_expire` answers, and nothing is written
                wanted.append(entry)
                lines.append(line)
        stored = self._store.store(lines) if lines else 0
        store = self._store
        self._call_on_loop(self._finish, wanted[:stored], store.placed, wanted[stored:], store.edge)

    def _call_on_loop(self, callback: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(callback, *arguments)


def _bounded(entries: Iterable[Entry], bytes_max: int) -> Iterable[list[Entry]]:
    """Yield ``entries`` in groups of at most ``bytes_max`` bytes, or of one larger record."""
    group: list[Entry] = []
    size = 0
    for entry in entries:
        if group and size + entry.size > bytes_max:
            yield group
            group, size = [], 0
        group.append(entry)
        size += entry.size
    if group:
        yield group
