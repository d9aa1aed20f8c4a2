"""The past of objects that a watch saw: no admission webhook is called for them (pure).

What a watch tells was stored. Who asked for it nobody has told: managedFields may name a program.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..record.reading import Observed, Record
from .causes import area
from .change import Action, Change, Content
from .differences import Difference, differences
from .steps import Cause, Certainty, Incarnation, Step, nanoseconds
from .values import Unreadable

__all__ = ["Watched"]

_Path = tuple[str, str, str, str, str]


class _Seen(NamedTuple):
    """An object as it was last seen, None where it was gone, and when it was that still."""

    of: Incarnation
    content: Content | None
    version: str
    at_ns: int


class Watched:
    """All objects that watches tell of, by the time at which they were seen. Two watches may tell the same."""

    def __init__(self) -> None:
        self._seen: dict[_Path, _Seen] = {}

    def add(self, record: Record, observed: Observed) -> Iterator[Step]:
        """Take what a watch saw; return the steps to it."""
        change, about = Change(record, Action.OBSERVE), record.object
        path = (record.cluster, about.group, about.resource, about.namespace, about.name)
        last = self._seen.get(path)
        if last is not None and last.of.uid == change.uid and not _is_newer(change, last):
            if last.version == change.end:
                self._seen[path] = last._replace(at_ns=record.received_ns)
            return
        if last is None or last.of.uid != change.uid:
            yield from self._succeeded(last, change)
            last, steps = _begun(Incarnation(path, change.uid), change, is_new=observed.change == "created")
            yield from steps
        elif (step := _missed(last, change)) is not None:
            yield step
            last = last._replace(content=step.after)
        after = None if observed.change == "deleted" else change.new
        if observed.change != "present" or last.version != change.end:
            yield _step(last, change, after, watching=observed.watching)
        last.of.version = change.version or last.of.version
        self._seen[path] = _Seen(last.of, after, change.end, record.received_ns)

    def _succeeded(self, last: _Seen | None, change: Change) -> Iterator[Step]:
        """Return the end of who had the name before, where no watch has told it."""
        if last is not None and last.content is not None:
            between_ns = (last.at_ns, change.received_ns)
            cause = Cause.NEVER_DELETED
            yield Step(last.of, None, last.content, None, Certainty.IN_FORCE, cause, between_ns=between_ns)


def _is_newer(change: Change, last: _Seen) -> bool:
    """Return whether it tells what was not known: numbers of one object grow, and what is gone stays gone."""
    if last.content is None:
        return False
    if not change.end:
        return True  # a deletion
    if change.end.isdecimal() and last.version.isdecimal():
        return int(change.end) > int(last.version)
    return change.end != last.version


def _begun(of: Incarnation, change: Change, *, is_new: bool) -> tuple[_Seen, list[Step]]:
    """Return an object as it was before it was first seen."""
    of.kind, of.version, of.created, of.is_proven = change.kind, change.version, change.created, True
    created_ns = nanoseconds(of.created)
    before = change.old() if change.end != change.start else change.new
    if is_new or before is None:
        return _Seen(of, None, "", created_ns), []
    between_ns = (created_ns, created_ns or change.received_ns)
    step = Step(of, None, None, before, Certainty.IN_FORCE, Cause.FIRST_SEEN, between_ns=between_ns)
    return _Seen(of, before, change.start, created_ns), [step]


def _missed(last: _Seen, change: Change) -> Step | None:
    """Return the change that no record tells, where an object started from a later state than the last one."""
    before = change.old()
    if before is None or not (change.start.isdecimal() and last.version.isdecimal()):
        return None
    if int(change.start) <= int(last.version):
        return None
    left = _differences(last.content, before)
    cause = Cause.NOT_RECORDED if left else Cause.TRACE
    return Step(
        last.of,
        None,
        last.content,
        before,
        Certainty.IN_FORCE,
        cause,
        between_ns=(last.at_ns, change.received_ns),
        leftovers=left,
    )


def _differences(one: Content | None, other: Content) -> tuple[Difference, ...]:
    try:
        found = differences(one.value() if one else {}, other.value(), lenient=True)
    except Unreadable:
        return ()
    return tuple(difference for difference in found if area(difference) == "content")


def _step(last: _Seen, change: Change, after: Content | None, *, watching: bool) -> Step:
    step = Step(last.of, change, last.content, after, Certainty.IN_FORCE, Cause.OBSERVED)
    if not watching:
        step.earliest_ns = min(last.at_ns, step.latest_ns)
    return step
