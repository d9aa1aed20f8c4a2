"""Objects as they were at one time (pure)."""

from __future__ import annotations

from collections.abc import Iterable

from .change import Action, Content
from .steps import NOT_TOLD, Cause, Certainty, Incarnation, Step

__all__ = ["At", "Found", "at"]


class Found:
    """What is known of one object at the time asked for.

    ``content`` is None where it was gone, or not there yet; ``step`` made it what it was. ``changed_since`` are later
    changes, recorded without their content; ``unsure`` a change that is not in the journal, and may have been before
    or after the time.
    """

    __slots__ = ("_alive", "changed_since", "content", "of", "step", "unsure")

    def __init__(self, of: Incarnation) -> None:
        self.of = of
        self.content: Content | None = None
        self.step: Step | None = None
        self.changed_since: list[Step] = []
        self.unsure: Step | None = None
        self._alive: Step | None = None  # what made it what it was when it was last seen

    def set(self, content: Content | None, step: Step) -> None:
        """Take what a step has made of it."""
        self.content, self.step, self.unsure = content, step, None
        if content is not None or step.certainty is Certainty.IN_FORCE:
            self._alive = None if content is None else step
        self.changed_since.clear()

    def is_seen(self) -> None:
        """Take back a deletion that nobody knew to be stored: a review has seen the object since."""
        if self.content is None and self._alive and self.step and self.step.certainty is Certainty.UNKNOWN:
            self.set(self._alive.after, self._alive)

    @property
    def certainty(self) -> Certainty:
        """How sure it is that the object was this."""
        if self.step is None or self.changed_since or self.unsure or self.content is NOT_TOLD:
            return Certainty.UNKNOWN
        return self.step.certainty


def at(steps: Iterable[Step], when_ns: int) -> list[Found]:
    """Return every object that was there at a time, and of names that nobody had then, the last that was gone."""
    moment = At(when_ns)
    for step in steps:
        moment.add(step)
    return moment.found()


class At:
    """Collects steps, also later ones: they tell what was there before, and what had come into force."""

    def __init__(self, when_ns: int) -> None:
        self._when_ns = when_ns
        self._found: dict[Incarnation, Found] = {}
        self._gone: dict[tuple[str, str, str, str, str], Incarnation] = {}  # of each name the last that is gone

    def add(self, step: Step) -> None:
        """Take a step; those of one object in their order."""
        found = self._found.get(step.of)
        if found is not None and step.resumes:
            found.is_seen()
        if step.earliest_ns > self._when_ns:
            return
        if found is None:
            found = self._found[step.of] = Found(step.of)
        if step.latest_ns > self._when_ns:
            found.unsure = step if step.cause is not Cause.TRACE else None
        elif step.applied and step.after is not NOT_TOLD:
            found.set(step.after, step)
            self._succeed(found, step)
        elif step.applied or (step.certainty is Certainty.UNKNOWN and step.cause is Cause.NO_CONTENT):
            if found.content is None and step.applied:
                found.content = NOT_TOLD
            found.step = found.step or step
            if step.change is None or step.change.action is not Action.CREATE:
                found.changed_since.append(step)

    def _succeed(self, found: Found, step: Step) -> None:
        """Forget who had the name before and is gone, where it is certain that another object has it now."""
        path = found.of.path
        if found.content is None:
            self._gone[path] = found.of
        elif (
            step.certainty is Certainty.IN_FORCE and (gone := self._gone.get(path)) is not None and gone is not found.of
        ):
            del self._gone[path]
            if gone in self._found and self._found[gone].content is None:
                del self._found[gone]

    def found(self) -> list[Found]:
        """Return one for each name, those that were there before those that were not."""
        named: dict[tuple[str, str, str, str, str], Found] = {}
        for one in self._found.values():
            if one.step is None:
                continue
            other = named.get(one.of.path)
            if other is None or _is_likelier(one, other):
                named[one.of.path] = one
        return sorted(named.values(), key=lambda one: (one.content is None, one.of.path))


def _is_likelier(one: Found, other: Found) -> bool:
    """Return whether this is the object that had the name, of two that were found in their order."""
    if (one.content is None) is not (other.content is None):
        return other.content is None
    return one.of.is_proven or not other.of.is_proven
