"""What retention says under its signature: which segments it removed and why, and how it found a dead writer's.

So a gap that retention made differs from one that somebody else made, and what follows the gap stays provable: of the
last segment that was removed the proof of its last entry stays, which is the tree's edge (docs/evidence.md).
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import logging
import os
import time
from collections.abc import Sequence
from typing import NamedTuple

from ..transparency import checkpoint as checkpoints
from ..transparency import proof as proofs
from ..transparency import statement as statements
from ..transparency.note import Malformed
from ..transparency.statement import ADOPTION, RETENTION, Statement
from ..transparency.tree import EMPTY, Edge, Tree
from .content import open_content
from .evidence import ADOPTION as ADOPTION_NAME
from .evidence import (
    Evidence,
    checkpoints_number,
    is_sealed,
    proof_name,
    read_evidence,
    retention_name,
    statement_name,
    write_whole,
)
from .files import Files
from .sealing import Signers
from .segments import ProcessDirectory, Segment, segment_number

__all__ = ["Removing", "Statements", "edge_behind"]

log = logging.getLogger("audit.seal")

# A dead writer's last lines are hashed in small steps: reviews come first.
STEP_BYTES = 256 << 10
PAUSE_SECONDS = 0.001


class Removing(NamedTuple):
    """A segment that is about to go: ``reason`` is ``size`` or ``age``; ``confirmed`` is what the sinks had taken."""

    segment: Segment
    reason: str
    confirmed: str


class _Run(NamedTuple):
    """Neighbouring segments that went for the same reason."""

    segments: tuple[int, int]
    entries: tuple[int, int] | None  # from, to and without; None: no statement said so
    reason: str
    confirmed: str
    times: tuple[str, str]

    def line(self) -> str:
        entries = f"{self.entries[0]}-{self.entries[1] - 1}" if self.entries else "unknown"
        return (
            f"segments {self.segments[0]}-{self.segments[1]}, entries {entries}, for its {self.reason}, "
            f"confirmed by {self.confirmed}, from {self.times[0]} to {self.times[1]}"
        )


class Statements:
    """Signs with ``signers`` what the retention of one process does; ``instance`` are eight hexadecimal digits."""

    def __init__(self, signers: Signers, *, host: str, instance: str = "", files: Files | None = None) -> None:
        self._signers = signers
        self._host = host
        self._instance = instance or os.urandom(4).hex()
        self._files = files or Files()
        self._runs: dict[str, list[_Run]] = {}
        self._adopted: set[str] = set()

    def removing(self, directory: str, removals: Sequence[Removing]) -> bool:
        """Say that these segments of ``directory`` are removed, durably; return whether that is said.

        Nothing is said of a directory that was never sealed.
        """
        try:
            if not is_sealed(self._files.names(directory)):
                return True
            evidence = read_evidence(self._files, directory)
            known = self._runs.setdefault(directory, [])
            for removal in sorted(removals, key=lambda one: one.segment.number):
                if not any(low <= removal.segment.number <= high for (low, high), *_ in known):
                    entries = _entries(evidence.statements.get(removal.segment.number, b""))
                    _add(known, removal, entries)
            origin = _origin(evidence)
            if not origin:
                return True
            statement = Statement(RETENTION, origin, {"host": self._host}, tuple(run.line() for run in known))
            path = f"{directory}/{retention_name(self._instance)}"
            write_whole(self._files, path, statements.sign(statement, self._signers()))
        except OSError as error:
            log.error(
                "seal: cannot write what retention removes from %s: %s",
                directory,
                error.strerror or error,
                extra={"hint": "it is tried again when the segments are gone; until then they look taken away"},
            )
            return False
        return True

    def removed(self, directory: str) -> None:
        """Remove what only the segments that are gone needed: their checkpoints, and proofs before other proofs."""
        with contextlib.suppress(OSError):  # the next removal does it
            names = self._files.names(directory)
            there = {number for name in names if (number := segment_number(name)) is not None}
            ours = {n for (low, high), *_ in self._runs.get(directory, ()) for n in range(low, high + 1)} - there
            proved = sorted(number for number in range(1, max(ours, default=0) + 1) if proof_name(number) in names)
            for name in names:
                number = checkpoints_number(name)
                if (number in ours) or (number is None and name in map(statement_name, ours)):
                    self._files.remove(f"{directory}/{name}")
            for number, following in itertools.pairwise(proved):
                if number in ours and following in ours:
                    self._files.remove(f"{directory}/{proof_name(number)}")

    def adopt(self, directory: ProcessDirectory) -> None:
        """Say, once, what a writer that ended without a word has left: how many entries, which root, what is torn."""
        if directory.path in self._adopted or not directory.segments:
            return
        self._adopted.add(directory.path)
        try:
            names = self._files.names(directory.path)
            last = directory.segments[-1]
            if not is_sealed(names) or ADOPTION_NAME in names or statement_name(last.number) in names:
                return
            evidence = read_evidence(self._files, directory.path)
            origin = _origin(evidence)
            if not origin:
                return
            tree, behind = edge_behind(evidence.proofs, evidence.statements)
            torn = 0
            for segment in directory.segments:
                if segment.number > behind:
                    torn = self._hash(tree, segment.path)
            fields = {
                "host": self._host,
                "time": _now(),
                "segment": str(last.number),
                "entries": str(tree.size),
                "root": base64.b64encode(tree.root()).decode(),
                "torn bytes": str(torn),
            }
            signed = statements.sign(Statement(ADOPTION, origin, fields), self._signers())
            write_whole(self._files, f"{directory.path}/{ADOPTION_NAME}", signed)
            log.info("seal: adopted %s at %d entries, %d bytes torn", directory.path, tree.size, torn)
        except (OSError, Malformed, ValueError) as error:
            if isinstance(error, OSError):
                self._adopted.discard(directory.path)  # with the next sweep
            log.warning("seal: cannot adopt %s: %s", directory.path, error)

    def _hash(self, tree: Tree, path: str) -> int:
        """Append the whole lines of a segment to ``tree``, made durable first; return how many bytes are torn."""
        fd = open_content(self._files, path)
        try:
            with contextlib.suppress(OSError):  # a read-only mount has no fdatasync: nothing to wait for
                self._files.datasync(fd)
            kept = b""
            offset = 0
            while block := self._files.read(fd, STEP_BYTES, offset):
                offset += len(block)
                *lines, kept = (kept + block).split(b"\n")
                tree.append_records(lines)
                time.sleep(PAUSE_SECONDS)
        finally:
            self._files.close(fd)
        return len(kept)


def edge_behind(proofs_of: dict[int, bytes], ends: dict[int, bytes]) -> tuple[Tree, int]:
    """Return the tree behind the last segment that has ended with a proof, and that segment's number; 0: none has.

    Whose proof it is, nobody has verified.
    """
    for number in sorted(proofs_of.keys() & ends.keys(), reverse=True):
        with contextlib.suppress(Malformed, ValueError):
            proof = proofs.parse(proofs_of[number])
            tree = Tree(Edge(proof.index, tuple(reversed(proof.path))))
            tree.append(proof.extra or b"")
            return tree, number
    return Tree(EMPTY), 0


def _add(runs: list[_Run], removal: Removing, entries: tuple[int, int] | None) -> None:
    """Add a removal to the last run, where it goes on with it, or as a run of its own."""
    number, now = removal.segment.number, _now()
    last = runs[-1] if runs else None
    if last and (last.segments[1] + 1, last.reason, last.confirmed) == (number, removal.reason, removal.confirmed):
        both = (last.entries[0], entries[1]) if last.entries and entries else None
        if (last.entries is None) == (entries is None):
            runs[-1] = last._replace(segments=(last.segments[0], number), entries=both, times=(last.times[0], now))
            return
    runs.append(_Run((number, number), entries, removal.reason, removal.confirmed, (now, now)))


def _entries(statement: bytes) -> tuple[int, int] | None:
    try:
        found, _ = statements.parse(statement)
    except Malformed:
        return None
    first, count = found.number("first entry"), found.number("entries")
    return (first, first + count) if first >= 0 and count > 0 else None


def _origin(evidence: Evidence) -> str:
    """Return the log's origin, as any of its notes says it; empty where none is whole."""
    for contents in evidence.checkpoints.values():
        for data in (one for content in contents for one in checkpoints.split(content)[0]):
            return _first_line(data)
    for data in evidence.proofs.values():
        with contextlib.suppress(Malformed):
            return _first_line(proofs.parse(data).checkpoint)
    for data in (*evidence.statements.values(), *evidence.retention, evidence.adoption):
        with contextlib.suppress(Malformed):
            return statements.parse(data)[0].origin
    return ""


def _first_line(content: bytes) -> str:
    return content.partition(b"\n")[0].decode(errors="replace")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
