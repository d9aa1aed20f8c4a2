"""What lies in one process directory of a sealed journal: segments, and notes that known keys have signed or not."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from ..journal.content import content_status, is_compressed
from ..journal.evidence import Evidence, read_evidence
from ..journal.files import Files, Found
from ..journal.segments import LOCK, readable_number, segment_name
from ..transparency import checkpoint as checkpoints
from ..transparency import note as notes
from ..transparency import proof as proofs
from ..transparency import statement as statements
from ..transparency.checkpoint import Checkpoint
from ..transparency.keys import KeyType, VerifierKey
from ..transparency.note import Malformed, Note
from ..transparency.paths import NotProven, check_inclusion
from ..transparency.statement import Statement
from ..transparency.tree import Edge, Tree

__all__ = ["End", "Finding", "Head", "Keys", "Level", "Log", "Removed", "read_log"]


class Level(Enum):
    """How bad a finding is: ``wrong`` is not as signed, ``unknown`` cannot be told, ``remark`` is as it may be."""

    WRONG = "wrong"
    UNKNOWN = "unknown"
    REMARK = "remark"


@dataclass(frozen=True)
class Finding:
    """Something to say of a directory; entries are counted from 1 for people, lines within their segment as well."""

    level: Level
    directory: str
    text: str
    segment: int = 0
    lines: tuple[int, int] | None = None
    entries: tuple[int, int] | None = None


class Head(NamedTuple):
    """A tree's size and root that somebody vouches for; ``keys`` are the ids of the known keys that signed it."""

    size: int
    root: bytes
    source: str
    keys: frozenset[bytes] = frozenset()
    is_anchor: bool = False


class End(NamedTuple):
    """What was signed when a segment ended. ``failed``: what follows its bytes is of a failed write."""

    first: int
    end: int
    bytes: int
    checkpoints: int
    failed: bool


class Removed(NamedTuple):
    """What retention says it removed: numbers of segments, and entries where it knew them."""

    segments: tuple[int, int]
    entries: tuple[int, int] | None
    text: str


class Keys:
    """The verifier keys that somebody trusts: of logs, in force or retired (``old``), and of witnesses."""

    def __init__(self, keys: Iterable[VerifierKey], old: Iterable[VerifierKey] = ()) -> None:
        old = list(old)
        known = [*keys, *old]
        self.logs = [key for key in known if key.type is KeyType.ED25519]
        self.witnesses = [key for key in known if key.type is KeyType.COSIGNATURE]
        self.old = frozenset(key.key_id for key in old)

    def judge(self, note: Note) -> tuple[frozenset[bytes], str]:
        """Return the ids of the known keys that signed, and what is wrong: empty where nothing is."""
        checked = notes.check(note, [*self.logs, *self.witnesses])
        if checked.wrong:
            return frozenset(), "wrong"
        ids = {key.key_id for key in self.logs}
        signed = frozenset(one.key_id for one in checked.verified if one.key_id in ids)
        return signed, "" if signed else "unknown"

    def strangers(self, note: Note) -> list[str]:
        """Return who else signed, as name and key id."""
        return [f"{one.name}+{one.key_id.hex()}" for one in notes.check(note, self.logs).unknown]

    def cosigned(self, note: Note) -> list[str]:
        """Return the names of the known witnesses that cosigned."""
        return [one.name for one in notes.check(note, self.witnesses).verified]


@dataclass
class Log:
    """One process directory. Heads, ends, edges and removals are signed by known keys; all else is in ``findings``."""

    path: str
    name: str
    segments: dict[int, int] = field(default_factory=dict)  # number: bytes
    origin: str = ""
    heads: list[Head] = field(default_factory=list)
    ends: dict[int, End] = field(default_factory=dict)
    edges: dict[int, Edge] = field(default_factory=dict)
    removed: list[Removed] = field(default_factory=list)
    adoption: Statement | None = None
    witnessed: list[tuple[int, str]] = field(default_factory=list)  # entries, who cosigned
    last_evidence: int = 0  # the highest number of a segment that some note is about
    opening: frozenset[bytes] | None = None  # who signed the first checkpoint
    unknown: set[str] = field(default_factory=set)  # what is there and signed by nobody who is known
    is_sealed: bool = False
    ended_cleanly: bool = False  # its writer said so, and signed for everything before it did
    findings: list[Finding] = field(default_factory=list)

    def say(self, level: Level, text: str, **place: object) -> None:
        """Add a finding, once."""
        found = Finding(level, self.name, text, **place)  # type: ignore[arg-type]
        if found not in self.findings:
            self.findings.append(found)

    def segment_path(self, number: int) -> str:
        """Return the path of a segment."""
        return os.path.join(self.path, segment_name(number))


def read_log(path: str, keys: Keys, files: Files | None = None) -> Log:
    """Return what is in the process directory ``path``. Raises `OSError`."""
    files = files or Files()
    log = Log(path, os.path.basename(os.path.realpath(path)))
    evidence, entries = _found(files, path)
    for entry in entries:
        number = readable_number(entry.name)
        if number is not None:
            path = log.segment_path(number)  # the plain file, where there is one
            log.segments[number] = content_status(files, path).bytes if is_compressed(entry.path) else entry.bytes
        elif entry.name == LOCK:
            log.ended_cleanly = entry.modified == 0
    log.segments = dict(sorted(log.segments.items()))
    log.is_sealed = not evidence.is_empty()
    _Reading(log, evidence, keys).read()
    return log


def _found(files: Files, path: str) -> tuple[Evidence, list[Found]]:
    """Return the evidence, and what was there when it was read, in the end with what came meanwhile."""
    while True:
        before = {readable_number(name) for name in files.names(path)}
        evidence, entries = read_evidence(files, path), files.entries(path)
        if before <= {None, *(readable_number(entry.name) for entry in entries)}:
            return evidence, entries
        # Retention has removed a segment: it has signed for that by now.


class _Reading:
    """Turns evidence into what a `Log` holds."""

    def __init__(self, log: Log, evidence: Evidence, keys: Keys) -> None:
        self._log = log
        self._evidence = evidence
        self._keys = keys
        self._strangers: dict[str, int] = {}

    def read(self) -> None:
        log, evidence = self._log, self._evidence
        counts = {}
        for number, contents in sorted(evidence.checkpoints.items()):
            counts[number] = self._read_checkpoints(number, contents)
        for number, content in sorted(evidence.proofs.items()):
            self._read_proof(number, content)
        for number, content in sorted(evidence.statements.items()):
            self._read_end(number, content, *counts.get(number, (0, -1)))
        for content in evidence.retention:
            if statement := self._statement(content, statements.RETENTION, "what retention removed"):
                self._read_removed(statement)
        if evidence.adoption:
            self._read_adoption(evidence.adoption)
        for content in evidence.cosigned:
            self._read_cosigned(content)
        log.last_evidence = max([0, *evidence.checkpoints, *log.edges, *log.ends])
        for who, count in self._strangers.items():
            text = f"{count} notes are signed by {who}, whose key was not given (hint: --key, if it is yours)"
            log.say(Level.UNKNOWN, text)

    # -- checkpoints --------------------------------------------------------------------------------------------

    def _read_checkpoints(self, number: int, contents: Sequence[bytes]) -> tuple[int, int]:
        """Take them; return how many there are, and the size of the largest."""
        count = 0
        size = -1
        for content in contents:
            found, rest = checkpoints.split(content)
            for data in found:
                count += 1
                checkpoint = self._take_checkpoint(data, f"checkpoints of segment {number}")
                if checkpoint is not None:
                    if checkpoint.size < size:
                        text = f"an older checkpoint ({checkpoint.size} entries) follows a newer one ({size})"
                        self._wrong(text, segment=number)
                    size = max(size, checkpoint.size)
            if rest and is_torn(rest, self._log.origin):
                self._log.say(Level.REMARK, f"the last checkpoint of segment {number} is torn: its writer was killed")
            elif rest:
                self._wrong(f"{len(rest)} bytes in the checkpoints of segment {number} are no checkpoint", number)
        return count, size

    def _take_checkpoint(self, data: bytes, where: str) -> Checkpoint | None:
        try:
            checkpoint, note = checkpoints.parse_signed(data)
        except Malformed as error:
            self._wrong(f"in the {where}: no checkpoint: {error}")
            return None
        ids = self._signed(note, f"a checkpoint ({checkpoint.size} entries) in the {where}")
        if ids and self._is_ours(checkpoint.origin, where):
            if self._log.opening is None and not checkpoint.size:
                self._log.opening = ids
            self._log.heads.append(Head(checkpoint.size, checkpoint.root, where, ids))
        return checkpoint

    def _read_proof(self, number: int, content: bytes) -> None:
        """Take the edge behind segment ``number``, where its root is a signed one."""
        where = f"proof of segment {number}'s end"
        try:
            proof = proofs.parse(content)
            checkpoint, note = checkpoints.parse_signed(proof.checkpoint)
            leaf = proof.extra or b""
            check_inclusion(proof.path, index=proof.index, size=checkpoint.size, leaf=leaf, root=checkpoint.root)
            if proof.index != checkpoint.size - 1:
                raise NotProven("it proves another entry than the last")
        except (Malformed, NotProven) as error:
            self._wrong(f"the {where} does not prove it: {error}", number)
            return
        ids = self._signed(note, f"the {where}")
        if not ids:
            self._log.unknown.add(f"proof {number}")
        elif self._is_ours(checkpoint.origin, where):
            tree = Tree(Edge(proof.index, tuple(reversed(proof.path))))
            tree.append(leaf)
            self._log.edges[number] = tree.edge()
            self._log.heads.append(Head(checkpoint.size, checkpoint.root, where, ids))

    def _read_cosigned(self, content: bytes) -> None:
        try:
            checkpoint, note = checkpoints.parse_signed(content)
        except Malformed as error:
            self._wrong(f"a cosigned checkpoint is none: {error}")
            return
        ids = self._signed(note, "a cosigned checkpoint")
        if ids and self._is_ours(checkpoint.origin, "cosigned checkpoint"):
            self._log.heads.append(Head(checkpoint.size, checkpoint.root, "cosigned checkpoint", ids))
            self._log.witnessed += [(checkpoint.size, name) for name in self._keys.cosigned(note)]

    # -- statements ---------------------------------------------------------------------------------------------

    def _read_end(self, number: int, content: bytes, found: int, largest: int) -> None:
        statement = self._statement(content, statements.SEGMENT, f"the end of segment {number}")
        if statement is None:
            self._log.unknown.add(f"statement {number}")
            return
        if statement.number("segment") != number:
            self._wrong(f"the statement about segment {number} is that about {statement.fields.get('segment')}", number)
            return
        first, entries = statement.number("first entry"), statement.number("entries")
        size, count = statement.number("bytes"), statement.number("checkpoints")
        self._log.ends[number] = End(first, first + entries, size, count, "failed write" in statement.fields)
        is_kept = number in self._log.segments  # retention removes the checkpoints with the segment
        if found < count and is_kept:
            self._wrong(f"{count - found} of {count} checkpoints of segment {number} are missing", number)
        elif largest < first + entries and is_kept:
            self._wrong(f"the last checkpoint of segment {number} is missing", number)
        is_unknown = f"proof {number}" in self._log.unknown
        if entries and number not in self._log.edges and is_kept and not is_unknown:
            self._wrong(f"the proof of segment {number}'s end is missing", number)
        edge = self._log.edges.get(number)
        if edge is not None and edge.size != first + entries:
            self._wrong(f"statement and proof of segment {number} contradict each other", number)

    def _read_removed(self, statement: Statement) -> None:
        for line in statement.removed:
            match = _REMOVED.match(line)
            if match:
                entries = (int(match[3]), int(match[4]) + 1) if match[3] else None
                self._log.removed.append(Removed((int(match[1]), int(match[2])), entries, line))

    def _read_adoption(self, content: bytes) -> None:
        statement = self._statement(content, statements.ADOPTION, "an adoption")
        if statement is None:
            return
        try:
            root = base64.b64decode(statement.fields.get("root", ""), validate=True)
        except ValueError:
            root = b""
        self._log.adoption = statement
        where = f"adoption by {statement.fields.get('host')} at {statement.fields.get('time')}"
        self._log.heads.append(Head(statement.number("entries"), root, where))

    def _statement(self, content: bytes, kind: str, what: str) -> Statement | None:
        try:
            statement, note = statements.parse(content)
        except Malformed as error:
            self._wrong(f"the statement about {what} is none: {error}")
            return None
        ids = self._signed(note, f"the statement about {what}")
        if not ids or not self._is_ours(statement.origin, f"statement about {what}"):
            return None
        if statement.kind != kind:
            self._wrong(f"the statement about {what} is one about a {statement.kind}")
            return None
        return statement

    # -- signatures ---------------------------------------------------------------------------------------------

    def _signed(self, note: Note, what: str) -> frozenset[bytes]:
        ids, problem = self._keys.judge(note)
        if problem == "wrong":
            self._wrong(f"the signature of {what} is wrong: the text or the signature was changed")
        elif problem:
            for who in self._keys.strangers(note) or ["nobody"]:
                self._strangers[who] = self._strangers.get(who, 0) + 1
        return ids

    def _is_ours(self, origin: str, where: str) -> bool:
        if origin.rpartition("/")[2] != self._log.name:
            self._wrong(f"in the {where}: it is of {origin}, not of this directory")
            return False
        if self._log.origin and origin != self._log.origin:
            self._wrong(f"in the {where}: it is of {origin}, others are of {self._log.origin}")
            return False
        self._log.origin = origin
        return True

    def _wrong(self, text: str, segment: int = 0) -> None:
        self._log.say(Level.WRONG, text, segment=segment)


_REMOVED = re.compile(r"segments ([0-9]{1,19})-([0-9]{1,19}), entries (?:([0-9]{1,19})-([0-9]{1,19})|unknown), ")

_PART_OF_SIGNATURE = "(?:\u2014 ?|\u2014 [^\n ]+|\u2014 [^\n ]+ [A-Za-z0-9+/=]{0,92})?"
_TORN = re.compile(
    f"(?:[0-9]{{0,19}}|[0-9]+\n[A-Za-z0-9+/]{{0,43}}=?|[0-9]+\n[A-Za-z0-9+/]{{43}}=\n(?:\n{_PART_OF_SIGNATURE})?)"
)


def is_torn(rest: bytes, origin: str) -> bool:
    """Return whether ``rest`` is the beginning of a checkpoint whose writer was killed in the middle of it."""
    text = rest.decode(errors="ignore")
    if re.fullmatch(_PART_OF_SIGNATURE, text):  # of a second key: the first one's signature is whole
        return True
    first, line_break, more = text.partition("\n")
    if not line_break:
        return not origin or origin.startswith(first)
    return first == (origin or first) and bool(_TORN.fullmatch(more))
