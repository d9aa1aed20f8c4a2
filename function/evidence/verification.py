"""Is this journal what was signed? Findings about every directory, and what is proved of each."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..transparency.tree import EMPTY, Edge
from . import hashing
from .anchors import Anchors, TreeHead
from .hashing import Difference, Passed, Segment, Task
from .log import Finding, Head, Keys, Level, Log, read_log

__all__ = ["Proved", "Verification", "verify"]

# So often a journal is read from the start whose segments retention removes meanwhile.
ATTEMPTS_MAX = 3
# Runs tasks, in any order of its own, and returns what became of each in the order of the tasks.
Run = Callable[[Sequence[Task]], Iterable[Passed]]


@dataclass
class Proved:
    """What is proved of a directory: entries from 1 to ``sealed`` are as signed, where nothing ``wrong`` was found.

    ``first`` is the first entry that is still here, ``entries`` how many the tree has; ``adopted`` is up to where they
    are as they were found when the directory was adopted, ``witnessed`` up to where a witness has cosigned.
    """

    directory: str
    origin: str
    first: int = 0
    entries: int = 0
    sealed: int = 0
    adopted: int = 0
    witnessed: int = 0
    torn_bytes: int = 0
    bytes: int = 0
    is_sealed: bool = True


@dataclass
class Verification:
    """The outcome. ``result`` is ``proved``, ``not proved`` or ``cannot tell``."""

    directories: list[Proved] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def result(self) -> str:
        levels = {finding.level for finding in self.findings}
        if Level.WRONG in levels:
            return "not proved"
        return "cannot tell" if Level.UNKNOWN in levels or not self.directories else "proved"


def verify(
    paths: Sequence[str], keys: Keys, anchors: Anchors, run: Run = lambda tasks: map(hashing.check, tasks)
) -> Verification:
    """Return what is found of the process directories ``paths``. Raises `OSError`."""
    for _ in range(ATTEMPTS_MAX - 1):
        with contextlib.suppress(FileNotFoundError):  # retention was faster: now it has signed for what is gone
            return _verified(paths, keys, anchors, run)
    return _verified(paths, keys, anchors, run)


def _verified(paths: Sequence[str], keys: Keys, anchors: Anchors, run: Run) -> Verification:
    logs = [read_log(path, keys) for path in sorted(paths)]
    found = Verification()
    by_name: dict[str, list[Log]] = {}  # several: a directory and its copy
    for log in logs:
        by_name.setdefault(log.name, []).append(log)
    loose = _distribute(anchors, by_name, keys, found)
    _judge_old_keys(logs, keys, found)
    plans = [_Plan(log, loose) for log in logs]
    outcomes = iter(run([task for plan in plans for task in plan.tasks]))
    matched: set[tuple[int, bytes]] = set()
    for plan in plans:
        found.directories.append(plan.conclude(list(itertools.islice(outcomes, len(plan.tasks))), matched))
        found.findings += plan.log.findings
    _judge_loose(loose, matched, logs, found)
    return found


# -- anchors and keys -----------------------------------------------------------------------------------------------


def _distribute(anchors: Anchors, logs: dict[str, list[Log]], keys: Keys, found: Verification) -> dict[TreeHead, str]:
    """Give each directory the heads that are known of it elsewhere; return those that name no directory."""
    missing: dict[str, str] = {}
    for checkpoint, note, source in anchors.checkpoints:
        ids, problem = keys.judge(note)
        name = checkpoint.origin.rpartition("/")[2]
        if problem:
            what = "whose signature is wrong" if problem == "wrong" else "that no given key has signed"
            found.findings.append(Finding(Level.REMARK, name, f"{source} has a checkpoint {what}: it is left out"))
        elif name in logs:
            for log in logs[name]:
                log.heads.append(Head(checkpoint.size, checkpoint.root, f"anchor {source}", ids, is_anchor=True))
        elif checkpoint.size or name not in missing:
            missing[name] = source
    loose = {}
    for head, source in anchors.heads.items():
        if not head.directory:
            loose[head] = source
        elif head.directory in logs:
            for log in logs[head.directory]:
                log.heads.append(Head(head.size, head.root, f"anchor {source}", is_anchor=True))
        else:
            missing[head.directory] = source
    for name, source in missing.items():
        text = f"this directory is known from an anchor ({source}) and missing here"
        found.findings.append(Finding(Level.WRONG, name, text))
    return loose


def _judge_loose(
    loose: dict[TreeHead, str], matched: set[tuple[int, bytes]], logs: Sequence[Log], found: Verification
) -> None:
    """Say which heads that name no directory are those of none."""
    gone = max((entries[1] for log in logs for removed in log.removed if (entries := removed.entries)), default=0)
    for head, source in loose.items():
        if (head.size, head.root) in matched:
            continue
        text = f"{source} knows a tree of {head.size} entries that no directory here has"
        if head.size <= gone:
            found.findings.append(Finding(Level.REMARK, "", f"{text}; it may be of what retention removed"))
        else:
            found.findings.append(Finding(Level.WRONG, "", f"{text}: lines were changed, or a directory is missing"))


def _judge_old_keys(logs: Sequence[Log], keys: Keys, found: Verification) -> None:
    """An old key proves nothing about what began, or went on, after a key in force had taken its place."""
    if not keys.old:
        return
    openings = [(_began(log), log.opening) for log in logs if log.opening and log.opening - keys.old]
    if not any(head.keys - keys.old for log in logs for head in log.heads if not head.is_anchor):
        text = "nothing here is signed with a key in force, only with old ones: whoever has these could have made it"
        found.findings.append(Finding(Level.UNKNOWN, "", text))
    for log in logs:
        signed = [head for head in log.heads if head.keys and not head.is_anchor]
        replaced = {
            old: min((head.size for head in signed if head.keys - keys.old and old not in head.keys), default=-1)
            for old in keys.old
        }
        for head in signed:
            if head.keys <= keys.old and any(0 <= replaced[old] < head.size for old in head.keys):
                text = f"in the {head.source}: {head.size} entries are signed with an old key only, though a newer key"
                log.say(Level.WRONG, f"{text} had signed fewer of them before")
        last = max(signed, key=lambda head: head.size, default=None)
        if last is None or not last.keys <= keys.old:
            continue
        later = [began for began, opening in openings if not last.keys & opening and began < _began(log)]
        if later:
            text = (
                f"signed with an old key only, though it began after {min(later)}, when a newer key had taken its place"
            )
            log.say(Level.WRONG, text)


def _began(log: Log) -> str:
    """Return when the directory's process started, as its name says: yyyymmddThhmmssZ."""
    return log.name.rsplit("-", 2)[-2] if log.name.count("-") >= 2 else ""


# -- one directory --------------------------------------------------------------------------------------------------


class _Plan:
    """What to recompute of a directory, and what follows from it."""

    def __init__(self, log: Log, loose: Iterable[TreeHead]) -> None:
        self.log = log
        self.tasks: list[Task] = []
        self._starts: list[int] = []  # before each task; -1: nobody knows
        self._roots: dict[int, dict[bytes, list[Head]]] = {}
        for head in log.heads:
            self._roots.setdefault(head.size, {}).setdefault(head.root, []).append(head)
        self._find_forks()
        candidates: dict[int, set[bytes]] = {}
        for one in loose:
            candidates.setdefault(one.size, set()).add(one.root)
        self._candidates = candidates
        self._first = next(iter(log.segments), 0)
        self._is_known = any(head.keys for head in log.heads) or bool(log.adoption or log.removed)
        if self._is_known:
            self._check_completeness()
        if self._is_known or log.heads or candidates:
            self._make_tasks()

    def conclude(self, passed: Sequence[Passed], matched: set[tuple[int, bytes]]) -> Proved:
        """Turn what was recomputed into findings; return what is proved. ``matched`` takes all heads that were met."""
        log = self.log
        proved = Proved(log.name, log.origin, is_sealed=log.is_sealed)
        proved.bytes = sum(one.read_bytes for one in passed)
        known = [one for start, one in zip(self._starts, passed, strict=True) if start >= 0]
        gone = max((edge.size for edge in log.edges.values() if not log.segments), default=0)
        proved.entries = max((one.size for one in known), default=gone)
        proved.first = min((start for start in self._starts if start >= 0), default=gone)
        here = set().union(*(one.matched for one in passed))
        matched |= here | {
            (size, root) for size, roots in self._roots.items() for root in roots if size in self._edges()
        }
        if not log.is_sealed:
            if log.segments:
                text = "it was never sealed, or all that was signed for it is gone: nothing is proved of it"
                log.say(Level.UNKNOWN, text)
        elif not self._is_known and any(log.segments.values()):  # else its writer was killed before its first line
            log.say(Level.UNKNOWN, "no checkpoint is signed with a given key: nothing is proved of it")
        for one in passed:
            self._report(one)
        sealed = [size for size, root in here if any(head.keys for head in self._heads(size, root))]
        proved.sealed = max([*sealed, gone, self._start_of_first()])
        proved.adopted = max((s for s, r in here if any("adoption" in h.source for h in self._heads(s, r))), default=0)
        proved.witnessed = max((size for size, _ in log.witnessed if size <= proved.sealed), default=0)
        proved.torn_bytes = passed[-1].torn if passed else 0
        self._report_ends(proved, passed)
        return proved

    # -- before ---------------------------------------------------------------------------------------------------

    def _heads(self, size: int, root: bytes) -> list[Head]:
        return self._roots.get(size, {}).get(root, [])

    def _edges(self) -> set[int]:
        return {edge.size for edge in self.log.edges.values()} | {0}

    def _start_of_first(self) -> int:
        return max(0, self._starts[0]) if self._starts else 0

    def _find_forks(self) -> None:
        for size, roots in self._roots.items():
            signed = [root for root, heads in roots.items() if any(head.keys or head.is_anchor for head in heads)]
            if len(signed) > 1 or (size == 0 and any(root != EMPTY.root() for root in signed)):
                sources = ", ".join(dict.fromkeys(head.source for root in signed for head in roots[root]))
                text = f"two different trees of {size} entries are vouched for ({sources}): the log was written twice"
                self.log.say(Level.WRONG, text)

    def _check_completeness(self) -> None:
        """Say which statements and proofs must be here: whatever was signed later was signed after them."""
        log = self.log
        for number, size in log.segments.items():
            is_due = number < log.last_evidence or log.ended_cleanly
            if is_due and size and number not in log.ends and f"statement {number}" not in log.unknown:
                log.say(Level.WRONG, f"the statement about the end of segment {number} is missing", segment=number)

    def _make_tasks(self) -> None:
        """Cut the segments into runs that can be recomputed by themselves: each begins at an edge that is known."""
        run: list[Segment] = []
        start: Edge | None = EMPTY
        for number in self.log.segments:
            edge = self._edge_before(number)
            if edge is not None or not run:
                self._add(start, run)
                run, start = [], edge
            end = self.log.ends.get(number)
            known = self.log.edges.get(number)
            size = end.end if end else known.size if known else -1
            path = self.log.segment_path(number)
            run.append(Segment(number, path, size, end.bytes if end else -1, bool(end and end.failed)))
        self._add(start, run)

    def _edge_before(self, number: int) -> Edge | None:
        """Return the signed edge before a segment, None where there is none."""
        before = [n for n in {*self.log.ends, *self.log.edges, *self.log.segments} if n < number]
        if not before:
            return EMPTY if not self._gone_before(number) else None
        previous = max(before)
        if any(max(low, previous + 1) <= min(high, number - 1) for (low, high), *_ in self.log.removed):
            return None  # nobody has said how many entries were in what is gone
        if previous in self.log.edges:
            return self.log.edges[previous]
        end = self.log.ends.get(previous)
        return EMPTY if end and not end.end else None

    def _gone_before(self, number: int) -> bool:
        end = self.log.ends.get(number)
        return (end is not None and end.first > 0) or any(one.segments[0] < number for one in self.log.removed)

    def _add(self, start: Edge | None, run: Sequence[Segment]) -> None:
        if not run:
            return
        log = self.log
        if start is None and log.is_sealed:
            number = run[0].number
            text = f"where the tree was before segment {number} is missing: it cannot be recomputed"
            if any(one.startswith("proof") for one in log.unknown):
                log.say(Level.UNKNOWN, text, segment=number)
            elif number <= log.last_evidence:
                log.say(Level.WRONG, text, segment=number)
            else:
                log.say(Level.REMARK, f"{text}; no checkpoint covers it", segment=number)
        begin = start or EMPTY
        roots: dict[int, set[bytes]] = {}
        if start is not None:
            until = run[-1].end
            for size, root in self._wanted():
                if begin.size < size and (until < 0 or size <= until):
                    roots.setdefault(size, set()).add(root)
        self._starts.append(-1 if start is None else begin.size)
        candidates = self._candidates if start is not None else {}
        self.tasks.append(Task(log.path, begin, tuple(run), _ordered(roots), _ordered(candidates)))

    def _wanted(self) -> Iterator[tuple[int, bytes]]:
        for size, roots in self._roots.items():
            yield from ((size, root) for root in roots)

    # -- after ----------------------------------------------------------------------------------------------------

    def _report(self, one: Passed) -> None:
        log = self.log
        for number, lines in one.outside.items():
            log.say(
                Level.REMARK,
                f"{lines} lines at the end of segment {number} are in no tree: a write failed there",
                segment=number,
            )
        for number, size in one.behind.items():
            log.say(Level.WRONG, f"{size} bytes were added behind the end of segment {number}", segment=number)
        for difference in one.differences:
            self._report_difference(difference, one)

    def _report_difference(self, difference: Difference, one: Passed) -> None:
        log, number = self.log, difference.segment
        start = one.starts[number]
        if difference.expected >= 0:
            text = (
                f"segment {number} has {difference.size - start:,} lines, {difference.expected - start:,} were signed"
            )
            if all(other.segment != number or other.expected >= 0 for other in one.differences):
                lines = (difference.first_line, max(difference.first_line, difference.last_line))
                log.say(Level.WRONG, text, segment=number, lines=lines)
            else:
                log.say(Level.WRONG, text, segment=number)
            return
        heads = [head for some in self._roots.get(difference.size, {}).values() for head in some]
        if all(not head.keys and not head.is_anchor for head in heads) and self._is_covered(difference.size):
            log.say(Level.REMARK, "an adoption says otherwise of entries that a later checkpoint proves")
            return
        first, last = difference.first_line, difference.last_line
        place = f"line {first:,} differs" if first == last else f"lines {first:,} to {last:,} differ"
        sources = ", ".join(dict.fromkeys(head.source for head in heads)) or "an anchor"
        text = (
            f"segment {number} {place} from what was signed "
            f"(between leaf {difference.matched:,} and {difference.size:,}; {sources})"
        )
        entries = (difference.matched + 1, difference.size)
        log.say(Level.WRONG, text, segment=number, lines=(first, last), entries=entries)

    def _is_covered(self, size: int) -> bool:
        return any(
            other >= size and head.keys
            for other, some in self._roots.items()
            for heads in some.values()
            for head in heads
        )

    def _report_ends(self, proved: Proved, passed: Sequence[Passed]) -> None:
        """Say what is missing, in front, between and behind."""
        log = self.log
        spans = [
            (start, one.size, task.segments[0].number, task.segments[-1])
            for start, one, task in zip(self._starts, passed, self.tasks, strict=True)
            if start >= 0
        ]
        at, last = 0, 0
        for start, size, first, segment in spans:
            if start > at:
                self._report_gap(at, start, (last, first))
            signed = segment.end if segment.end >= 0 else size
            at, last = max(at, signed), segment.number
        most = max((head.size for head in log.heads), default=0)
        if most > at:
            self._report_gap(at, most, (last, sys.maxsize))
        unsealed = proved.entries - proved.sealed
        if unsealed > 0 and not any(finding.level is Level.WRONG for finding in log.findings):
            found = (
                f"; {proved.adopted - proved.sealed:,} of them are as they were found when it was adopted"
                if proved.adopted > proved.sealed
                else ""
            )
            log.say(
                Level.REMARK,
                f"the last {unsealed:,} entries are not yet under a checkpoint{found}",
                entries=(proved.sealed + 1, proved.entries),
            )
        if log.adoption and proved.adopted and proved.entries > proved.adopted >= proved.sealed:
            text = f"{proved.entries - proved.adopted:,} lines more than were found when it was adopted"
            log.say(Level.WRONG, text, entries=(proved.adopted + 1, proved.entries))
        if proved.torn_bytes:
            text = f"{proved.torn_bytes} bytes of an unfinished line at the end: its writer was killed in it"
            log.say(Level.REMARK, f"{text}, or is writing it")

    def _report_gap(self, begin: int, end: int, numbers: tuple[int, int]) -> None:
        """Say of entries that are not here whether retention has signed for them."""
        log = self.log
        rest = [(begin, end)]
        for removed in log.removed:
            if removed.entries:
                rest = [part for span in rest for part in _without(span, removed.entries)]
        known = {*log.ends, *log.edges, *([log.adoption.number("segment")] if log.adoption else [])}
        inner = sorted(n for n in known if numbers[0] < n < numbers[1] and n not in log.segments)
        runs = [removed.segments for removed in log.removed if not removed.entries]
        is_said = any(low < numbers[1] and numbers[0] < high for low, high in runs) and all(
            any(low <= number <= high for low, high in (removed.segments for removed in log.removed))
            for number in inner
        )
        if rest and not is_said:
            first, last = rest[0][0] + 1, rest[-1][1]
            where = f" (segment {inner[0]})" if len(inner) == 1 else ""
            text = (
                f"entries {first:,} to {last:,} are missing{where}, and no statement says that retention removed them"
            )
            log.say(Level.WRONG, text, segment=inner[0] if inner else 0, entries=(first, last))
        else:
            times = "; ".join(removed.text for removed in log.removed)
            log.say(
                Level.REMARK,
                f"entries {begin + 1:,} to {end:,} were removed by retention, which signed for it: {times}",
            )


def _ordered(roots: Mapping[int, set[bytes]]) -> tuple[tuple[int, tuple[bytes, ...]], ...]:
    return tuple((size, tuple(sorted(some))) for size, some in sorted(roots.items()))


def _without(span: tuple[int, int], hole: tuple[int, int]) -> list[tuple[int, int]]:
    """Return what of ``span`` is not in ``hole``."""
    before, after = (span[0], min(span[1], hole[0])), (max(span[0], hole[1]), span[1])
    return [part for part in (before, after) if part[0] < part[1]]
