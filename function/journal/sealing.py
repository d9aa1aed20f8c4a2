"""Sealing: the tree over the lines that a `Writer` writes, and its checkpoints beside the segments.

All of it runs on the writer's thread. What is signed was made durable before, and extends whatever was signed before:
a checkpoint is never signed for what can still be cut back. A fault of the disk here is logged, counted and tried
again; it never keeps a record from being stored.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from ..transparency import checkpoint as checkpoints
from ..transparency import proof as proofs
from ..transparency.keys import SignerKey
from ..transparency.statement import SEGMENT, Statement
from ..transparency.statement import sign as sign_statement
from ..transparency.tree import EMPTY, Edge, Tree, leaf_hash
from .evidence import checkpoints_name, proof_name, statement_name, write_whole
from .files import FULL, Files, write_all

__all__ = ["SealObserver", "Sealer", "Signers"]

log = logging.getLogger("audit.seal")

# After a failure. Nothing is lost meanwhile: the next checkpoint covers what this one would have.
RETRY_SECONDS = 5.0

# Hashed in one go without the interpreter's lock being let go, the leaf's first byte included.
HOLD_BYTES = 2046
LARGE_BYTES = 64 << 10

# The keys that sign now, at least one; all of them sign, so that keys can be rotated with overlap.
Signers = Callable[[], Sequence[SignerKey]]


class SealObserver(Protocol):
    """What sealing tells about itself."""

    def sealed(self, entries: int) -> None: ...
    def seal_failed(self, reason: str) -> None: ...


class _Last:
    """The last entry of a tree: all that came before it, and its leaf."""

    __slots__ = ("before", "leaf")

    def __init__(self, before: Edge, leaf: bytes) -> None:
        self.before = before
        self.leaf = leaf


@dataclass
class _End:
    """A segment that has ended, and what is still to be written about it."""

    number: int
    first: int
    edge: Edge
    last: _Last | None
    size: int
    whole: bool
    notes: _Notes
    signed: bytes = b""
    steps: int = 0


class Sealer:
    """Seals what one writer writes: one tree for each process directory.

    ``cluster`` is part of the tree's origin, where it is not empty; ``seconds`` is how long a line waits for a
    checkpoint at most.
    """

    _durable: Edge  # behind what no fault can take back
    _last: _Last | None
    _durable_last: _Last | None

    def __init__(
        self, signers: Signers, *, cluster: str, seconds: float, observer: SealObserver, files: Files | None = None
    ) -> None:
        self._signers = signers
        self._cluster = cluster
        self._seconds = seconds
        self._observer = observer
        self._files = files or Files()
        self._origin = ""
        self._directory = ""
        self._reset()

    @property
    def edge(self) -> Edge:
        """The tree's edge behind all that was written: its root is the head that the last line is under."""
        tree, durable = self._tree, self._durable
        return durable if durable.size == tree.size else tree.edge()

    @property
    def unsealed(self) -> int:
        """How many entries no checkpoint covers yet."""
        return self._tree.size - max(0, self._signed_size)

    # -- what the writer tells --------------------------------------------------------------------------------

    def enter(self, directory: str) -> None:
        """A new directory was made: a new tree, whose first checkpoint says that it is sealed from its first line."""
        self.abandon()
        self._directory = directory
        parts = (self._signers()[0].name, self._cluster, directory.rpartition("/")[2])
        self._origin = "/".join(filter(None, parts))
        self._notes = _Notes(self._files, directory, 1)
        self._attempt(time.monotonic())

    def begin(self, number: int) -> None:
        """Segment ``number`` was opened; every segment before it has ended."""
        if number != self._notes.number:
            if all(end.notes is not self._notes for end in self._ends):
                self._notes.close()
            self._notes = _Notes(self._files, self._directory, number)
        self._first = self._tree.size

    def wrote(self, block: bytes) -> None:
        """Whole lines were written, and are not durable yet."""
        tree, durable = self._tree, self._durable
        leaves = _leaves(block)
        last = leaves.pop()
        if leaves:
            tree.append_leaves(leaves)
        self._last = _Last(durable if durable.size == tree.size else tree.edge(), last)
        tree.append(last)

    def synced(self) -> None:
        """All that was written is durable now."""
        self._durable, self._durable_last = self._tree.edge(), self._last

    def ended(self, number: int, size: int, *, whole: bool) -> None:
        """Segment ``number`` is closed with ``size`` bytes of lines; what was not durable was cut back, or is not ours.

        Not ``whole``: bytes may follow that a failed write has left.
        """
        self._tree.rollback(self._durable)
        self._last = self._durable_last
        end = _End(number, self._first, self._durable, self._last, size, whole, self._notes)
        self._ends.append(end)

    def dropped(self, number: int) -> None:
        """Segment ``number`` was closed and removed: it held nothing."""
        del number
        self._tree.rollback(self._durable)
        self._last = self._durable_last

    def abandon(self) -> None:
        """The writer leaves the directory, whatever there is still to write: nobody knows any more what it holds."""
        for notes in (self._notes, *(end.notes for end in self._ends)):
            notes.close()
        self._reset()

    def leave(self) -> bool:
        """The writer is done with the directory; return whether all that it wrote is signed for."""
        if not self._directory:
            return True
        self._retry_at = 0.0
        self._attempt(time.monotonic())
        is_done = not self._ends and not self.unsealed
        self.abandon()
        return is_done

    def tick(self, now: float) -> float:
        """Sign and write what is due; return seconds until it is worth calling again."""
        if not self._directory:
            return self._seconds
        is_unknown = self._signed_size < 0  # nothing says that this directory is sealed: at every chance
        if is_unknown or (now >= self._retry_at and (self._ends or self._is_due(now))):
            self._attempt(now)
        if self._ends or self._signed_size < 0:
            return max(0.1, self._retry_at - now)
        is_ahead = self._durable.size > self._signed_size
        return max(0.01, self._signed_at + self._seconds - now) if is_ahead else self._seconds

    # -- steps ------------------------------------------------------------------------------------------------

    def _reset(self) -> None:
        self._tree = Tree()
        self._durable = EMPTY
        self._last = None
        self._durable_last = None
        self._first = 0
        self._ends: list[_End] = []
        self._directory = ""
        self._notes = _Notes(self._files, "", 0)
        self._signed_size = -1  # not even the empty tree
        self._signed_at = 0.0
        self._retry_at = 0.0

    def _is_due(self, now: float) -> bool:
        return self._durable.size > self._signed_size and now - self._signed_at >= self._seconds

    def _attempt(self, now: float) -> None:
        """Write what is due, in its order: nothing is signed before what came before it is on disk."""
        try:
            if self._signed_size < 0:
                self._sign(self._notes, EMPTY)
            while self._ends:
                self._write_end(self._ends[0])
                done = self._ends.pop(0)
                if done.notes is not self._notes:
                    done.notes.close()
            if self._is_due(now):
                self._sign(self._notes, self._durable)
            self._retry_at = 0.0
        except OSError as error:
            self._retry_at = now + RETRY_SECONDS
            full = error.errno in FULL
            self._observer.seal_failed("full" if full else "io")
            hint = "free space on the volume" if full else "check the volume"
            log.error(
                "seal: cannot write in %s: %s",
                self._directory,
                error.strerror or error,
                extra={"hint": f"{hint}; records are stored all the same, and sealed when it works again"},
            )

    def _sign(self, notes: _Notes, edge: Edge) -> bytes:
        """Sign the tree at ``edge``, and write the checkpoint durably. Raises `OSError`."""
        signed = checkpoints.sign(self._origin, edge, self._signers())
        notes.append(signed)
        self._signed_size = edge.size
        self._signed_at = time.monotonic()
        self._observer.sealed(edge.size)
        return signed

    def _write_end(self, end: _End) -> None:
        """Write a segment's last checkpoint, proof and statement, from where the last try stopped. Raises `OSError`."""
        if end.steps == 0:
            end.signed = self._sign(end.notes, end.edge)
            end.steps = 1
        if end.steps == 1:
            if end.last is not None:
                proof = proofs.of_last(end.last.before, end.last.leaf, end.signed)
                write_whole(self._files, f"{self._directory}/{proof_name(end.number)}", proof.encode())
            end.steps = 2
        statement = sign_statement(self._end_statement(end), self._signers())
        write_whole(self._files, f"{self._directory}/{statement_name(end.number)}", statement)

    def _end_statement(self, end: _End) -> Statement:
        fields = {
            "segment": str(end.number),
            "first entry": str(end.first),
            "entries": str(end.edge.size - end.first),
            "bytes": str(end.size),
            "checkpoints": str(end.notes.count),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        if not end.whole:
            fields["failed write"] = f"what follows byte {end.size} is of a write that failed, and no part of the log"
        return Statement(SEGMENT, self._origin, fields)


def _leaves(block: bytes) -> list[bytes]:
    """Return the leaf of each line of ``block``; no line is copied."""
    view = memoryview(block)
    found = []
    at, end = 0, block.find(b"\n")
    while end >= 0:
        found.append(_leaf(view[at:end]))
        at = end + 1
        end = block.find(b"\n", at)
    return found


def _leaf(line: memoryview) -> bytes:
    """Return the leaf's hash, without letting go of the interpreter's lock for it.

    hashlib does so from 2,048 bytes on. That is right for a large line; for others getting the lock back, while reviews
    come, takes longer than the hash.
    """
    size = len(line)
    if size > LARGE_BYTES:
        return leaf_hash(bytes(line))
    hashed = sha256(b"\0" + line[:HOLD_BYTES])
    for at in range(HOLD_BYTES, size, HOLD_BYTES):
        hashed.update(line[at : at + HOLD_BYTES])
    return hashed.digest()


class _Notes:
    """The checkpoints of one segment: a file of signed notes, append-only, each durable before the next."""

    def __init__(self, files: Files, directory: str, number: int) -> None:
        self.number = number
        self.count = 0
        self._files = files
        self._directory = directory
        self._part = 0
        self._fd: int | None = None
        self._size = 0

    def append(self, note: bytes) -> None:
        """Append ``note`` durably. Raises `OSError`; the file holds whole notes then too, or is not used any more."""
        fd = self._fd if self._fd is not None else self._open()
        try:
            write_all(self._files, fd, note)
        except OSError:
            try:
                self._files.truncate(fd, self._size)
            except OSError:
                self._give_up()
            raise
        try:
            self._files.datasync(fd)
        except OSError:
            self._give_up()
            raise
        self._size += len(note)
        self.count += 1

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with contextlib.suppress(OSError):  # each note was synced
                self._files.close(fd)

    def _open(self) -> int:
        path = f"{self._directory}/{checkpoints_name(self.number, self._part)}"
        try:
            fd = self._files.create(path)
        except FileExistsError:
            self._part += 1
            raise
        self._fd, self._size = fd, 0
        try:
            self._files.sync_directory(self._directory)
        except OSError:
            self._give_up()
            raise
        return fd

    def _give_up(self) -> None:
        """Go on in another file: of this one it is not known what it holds."""
        self.close()
        self._part += 1
