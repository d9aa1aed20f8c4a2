"""One object's past: a chain of stored states, each named by its resourceVersion (pure).

A review says from which stored state it started (``oldObject.metadata.resourceVersion``), and what it asked for. That
is not what was done: another review may have won, or a quota refused. What the next state is tells which of the
reviews that started from one state came into force, and whether there was a change that is not in the journal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from . import causes
from .change import REMOVALS, Action, Change, Content
from .states import RACE_NS, Judgement, Known, State, filled, judged
from .steps import NOT_TOLD, Cause, Certainty, Incarnation, Step, nanoseconds
from .values import Unreadable, same

__all__ = ["SLACK_NS", "Chain", "End", "Forgotten"]

# A review is received after the one whose state it starts from, but for the clocks of different replicas. The losers of
# a race, and those who start from a watch cache that lags, come later than the next state.
SLACK_NS = 60 * 10**9
# So far the states are looked at that follow one whose content was not recorded.
GUESSED_MAX = 6
# How much it weighs that nothing was changed there, and that something was which is not in the journal.
UNLIKELY, IMPOSSIBLE = 50, 100
# So many changes that do not say where they started are kept for a state that they explain.
FREE_MAX = 1000


class End(NamedTuple):
    """What other objects of the same name tell of how one ended, or of whether it began.

    ``succeeded_ns`` is when another one had the name, 0 where none has, and ``is_proven`` says that it was seen stored.
    ``taken`` is how sure it is that this one's creation failed since an earlier one had the name, None where none had.
    ``is_oldest`` of the objects that share their free changes gives the steps of those that are left.
    """

    succeeded_ns: int = 0
    is_proven: bool = True
    taken: Certainty | None = None
    is_oldest: bool = True


class Forgotten(NamedTuple):
    """What is kept of an object that is taken to be gone, should it be seen again.

    ``start`` is its last state, ``seen_ns`` when a review last started from it. It ``is_alone`` if nothing but removals
    can have been stored since.
    """

    of: Incarnation
    start: str
    seen_ns: int
    is_alone: bool


class Chain:
    """The past of one incarnation. Changes go in as they were received, steps come out in the order of the states.

    ``started_ns`` is when the journal began. ``free`` holds the changes that do not say which state they started from,
    nor always of which of the objects of one name: as long as that is not clear, these share it.
    """

    def __init__(self, of: Incarnation, known: Known, started_ns: int, free: list[Change]) -> None:
        self.of = of
        self.first_ns = self.last_ns = 0
        self._known = known
        self._started_ns = started_ns
        self._states: list[State] = []
        self.free = free
        self._late: list[Step] = []
        self._epoch = self._arrived = 0
        self._is_begun = self._is_resumed = False
        self._forgotten: Forgotten | None = None

    def resume(self, forgotten: Forgotten) -> None:
        """Go on with the past of an object that was taken to be gone."""
        self.of = forgotten.of
        self._forgotten = forgotten
        self._is_begun = self._is_resumed = True

    # -- what comes in --------------------------------------------------------------------------------------------

    def add(self, change: Change) -> bool:
        """Take a change; return whether it shows a new state, so that there will be steps to it."""
        of = self.of
        if of.kind and change.kind and change.kind != of.kind:
            return False  # a subresource's own kind
        of.kind = of.kind or change.kind
        of.created = of.created or change.created
        of.version = change.version or of.version
        self.first_ns = self.first_ns or change.received_ns
        if not change.start and change.action is not Action.CREATE:
            self.free.append(change)
            if len(self.free) > FREE_MAX:
                self._late.append(self._unstored(self.free.pop(0), None, Certainty.UNKNOWN, Cause.NO_CONTENT))
            return False
        self.last_ns = max(self.last_ns, change.received_ns)
        known = len(self._states)
        state = self._state_of(change)
        if state is None:
            self._late.append(self._unstored(change, None, Certainty.NOT_IN_FORCE, Cause.LATE))
            return False
        state.add(change)
        of.is_proven = of.is_proven or not state.is_birth
        return 0 < known < len(self._states)

    def drop(self, change: Change) -> None:
        """Forget a change that does not say where it started: it was not stored."""
        if change in self.free:
            self.free.remove(change)

    def _state_of(self, change: Change) -> State | None:
        """Return the state that the change starts from, None where the chain is past it."""
        states = self._states
        for state in reversed(states):
            if state.start == change.start:
                return state
        order, top = self._order(change.start), states[-1] if states else None
        if top and change.start and order < top.order and change.received_ns > top.first_ns + SLACK_NS:
            self._epoch += 1  # too late for a race
            order = self._order(change.start)
        place = len(states)
        while place and states[place - 1].order > order:
            place -= 1
        if place == 0 and self._is_begun and states:
            return None
        states.insert(place, State(change.start, order, change.received_ns))
        return states[place]

    def _order(self, start: str) -> tuple[int, int]:
        if not start:
            return -1, 0
        # Numbers of one type grow. Where they are none, the order of arrival has to do.
        self._arrived += 1
        return self._epoch, int(start) if start.isdecimal() and len(start) < 40 else self._arrived

    # -- what comes out -------------------------------------------------------------------------------------------

    def settled(self, until_ns: int | None = None) -> Iterator[Step]:
        """Return the steps to states that were first seen up to ``until_ns``, without it to all states."""
        return self._marked(self._settled(until_ns))

    def _marked(self, found: Iterator[Step]) -> Iterator[Step]:
        for step in found:
            if step.change is not None and step.change.action is Action.WITH_SERVICE:
                if not step.applied:
                    continue  # nobody asked for it here
                step.cause = Cause.WITH_SERVICE
            step.resumes, self._is_resumed = self._is_resumed, False
            yield step

    def _settled(self, until_ns: int | None) -> Iterator[Step]:
        states = self._states
        while len(states) > 1 and (until_ns is None or states[1].first_ns <= until_ns):
            is_told = any(state.contents for state in states[1:GUESSED_MAX]) or len(states) >= GUESSED_MAX
            if not is_told and until_ns is not None:
                break  # a later state may tell what the next one was
            yield from self._begin(states[0])
            yield from self._link(states[0], states[1])
            del states[0]
        yield from self._late
        self._late.clear()

    def finish(self, end: End) -> Iterator[Step]:
        """Return all steps that are left, the last ones as they most likely were."""
        return self._marked(self._finish(end))

    def _finish(self, end: End) -> Iterator[Step]:
        yield from self._settled(None)
        for state in self._states:
            yield from self._begin(state)
            yield from self._last(state, end)
        self._states.clear()
        for change in self._left(end) if end.is_oldest else []:
            self.free.remove(change)
            yield self._unstored(change, None, Certainty.UNKNOWN, Cause.LAST)

    def is_expected_gone(self) -> bool:
        """Return whether the last that was asked for can mean that there is no such object any more."""
        if not self._states:
            return False
        state = self._states[-1]
        present = None if state.is_birth else self._content(state)
        chosen = self._likely(state, gone_after=present)
        return (
            self._after_all(self._after_state(state), present if chosen is None else self._after(chosen, present))
            is None
        )

    def forgotten(self) -> Forgotten | None:
        """Return what is to be kept of the object once it is forgotten, None where it may still be there.

        Of a single DELETE nobody knows whether it was stored. But where the object can have been written as well, what
        it would be then must be kept.
        """
        if not self._states:
            return None
        state = self._states[-1]
        present = None if state.is_birth else self._content(state)
        free = self._after_state(state)
        afters = [self._after(one, present) for one in self._contenders(state)]
        if not state.is_birth and any(after is not None for after in afters):
            return None
        if any(self._after_all(free, after) is not None for after in afters or [present]):
            return None
        is_alone = not state.is_birth and all(one.action in REMOVALS for one in free)
        return Forgotten(self.of, state.start, state.last_ns, is_alone)

    def _after_all(self, changes: list[Change], present: Content | None) -> Content | None:
        for change in changes:
            present = None if present is None else self._after(change, present)
        return present

    def _after_state(self, state: State, until_ns: int = 0) -> list[Change]:
        """Return the free changes that may have come after a state: those before it led to it, or to nothing."""
        return [
            one
            for one in self._mine(until_ns)
            # Whoever found the Endpoints long after their Service had been deleted shows that they had not gone.
            if one.received_ns > (state.last_ns if one.action is Action.WITH_SERVICE else state.first_ns) - RACE_NS
        ]

    def _mine(self, until_ns: int = 0) -> list[Change]:
        """Return the free changes that can be of this object, those before ``until_ns`` where it is not 0."""
        mine = [one for one in self.free if one.uid in ("", self.of.uid) and one.received_ns >= self.first_ns]
        return [one for one in mine if one.received_ns < until_ns or not until_ns]

    def _left(self, end: End) -> list[Change]:
        """Return the free changes that nobody needs any more: an object that was seen stored needs those after it."""
        until_ns = end.succeeded_ns if end.is_proven else 0
        return [one for one in self.free if one.received_ns < until_ns or not until_ns]

    # -- steps ----------------------------------------------------------------------------------------------------

    def _begin(self, first: State) -> Iterator[Step]:
        """Return how the object came to be there, where that was not recorded."""
        if self._forgotten is not None:
            forgotten, self._forgotten = self._forgotten, None
            yield from self._seen_again(forgotten, first)
        if self._is_begun:
            return
        self._is_begun = True
        if first.is_birth:
            return
        created_ns = nanoseconds(self.of.created)
        # Kubernetes counts in seconds: what began within the journal's first one is no witness.
        was_there = created_ns < self._started_ns + 10**9
        cause = Cause.FIRST_SEEN if was_there else Cause.NEVER_CREATED
        between_ns = (created_ns, created_ns or first.first_ns)
        after = self._content(first)
        yield Step(self.of, None, None, after, Certainty.IN_FORCE, cause, between_ns=between_ns)

    def _seen_again(self, forgotten: Forgotten, first: State) -> Iterator[Step]:
        """Return what became of an object that was taken to be gone: nothing, where its state is the one it had."""
        if first.start == forgotten.start or first.is_birth:
            return
        after = self._content(first)
        between = [one for one in self._mine() if one.received_ns <= first.first_ns]
        for change in between:
            self.free.remove(change)
            yield self._unstored(change, None, Certainty.UNKNOWN, Cause.SEEN_AGAIN)
        # A deletion that something holds up explains the next state. Nothing else that was asked for does.
        is_gap = forgotten.is_alone and not between and not _may_be_being_deleted(after)
        cause = Cause.NOT_RECORDED if is_gap else Cause.SEEN_AGAIN
        between_ns = (forgotten.seen_ns, max(forgotten.seen_ns, first.first_ns))
        yield Step(self.of, None, NOT_TOLD, after, Certainty.IN_FORCE, cause, between_ns=between_ns)

    def _link(self, a: State, b: State) -> Iterator[Step]:
        """Return the steps from one state to the next."""
        near = [change for change in self._mine() if change.received_ns <= b.first_ns]
        guessed = None if b.contents else self._guessed(a, self._states[1:GUESSED_MAX], near)
        best = guessed[1] if guessed else judged(a, b, near, self._known)
        for change in [*best.free, *([best.change] if best.change in near else [])]:
            self.free.remove(change)
        before = None if a.is_birth else self._content(a)
        if best.change is None or best.change not in a.changes:
            yield from self._stored(best, a, b, before)
        for change in a.changes:
            if change is best.change:
                yield from self._stored(best, a, b, before)
            else:
                yield self._not_stored(change, before, best)
        if guessed is None:  # else what explains a later state may still be among them
            yield from self._unused(b.first_ns - SLACK_NS)

    def _guessed(self, a: State, later: list[State], near: list[Change]) -> tuple[int, Judgement] | None:
        """Return what best leads to the first later state whose content was recorded, None where none was.

        Of a state that only a Scale started from nothing is recorded: what comes after it tells what it was. The number
        is how much stays unexplained.
        """
        b = later[0]
        if b.contents:
            best = judged(a, b, near, self._known)
            return IMPOSSIBLE * len(best.leftovers) + best.traces + int(best.weak), best
        found: list[tuple[int, bool, int, Change | None]] = []
        for change, content in self._options(a) if len(later) > 1 else []:
            b.contents = {content.version: content}
            following = self._guessed(b, later[1:], near)
            b.contents = {}
            if following is not None:
                penalty = (UNLIKELY if change is None else 0) + (0 if b.allows(content) else IMPOSSIBLE)
                received_ns = change.received_ns if change else 0
                found.append((following[0] + penalty, received_ns < a.last_ns - RACE_NS, received_ns, change))
        unexplained, _, _, change = min(found, key=lambda one: one[:3], default=(IMPOSSIBLE, False, 0, None))
        blind = next((one for one in [*a.changes, *near] if not one.holds), None)
        if blind is not None and unexplained:
            return 1, Judgement(blind, Cause.NO_CONTENT, weak=True)
        if not found:
            return None
        whole = change is not None and change.action in (Action.CREATE, Action.REPLACE)
        cause = Cause.REVIEW if whole else Cause.WORKED_OUT
        return unexplained, Judgement(change, cause, weak=unexplained > 0)

    def _options(self, a: State) -> Iterator[tuple[Change | None, Content]]:
        """Return what the state after ``a`` can have been, with the change that made it; None for no change."""
        before = None if a.is_birth else self._content(a)
        if before is not None and before is not NOT_TOLD:
            yield None, before
        for change in a.changes:
            if not change.holds or change.changes_nothing or self._known(change.record.uid) is False:
                continue
            content = self._after(change, before)
            if content is not None and content is not NOT_TOLD:
                yield change, content

    def _stored(self, best: Judgement, a: State, b: State, before: Content | None) -> Iterator[Step]:
        """Return the steps of the change that came into force, of those on top of it, and of what is not recorded."""
        changes = [*([best.change] if best.change else []), *best.free]
        present, present_ns = before, a.last_ns
        after = self._completed(b, best, changes, before)
        is_all = not best.leftovers and not best.traces
        for number, change in enumerate(changes, start=1):
            following = after if (is_all and number == len(changes)) else self._after(change, present)
            known = self._known(change.record.uid) is True
            weak = best.weak or best.leftovers or best.is_blind
            # Whoever starts from a stored object with this uid proves its creation, whatever became of it since.
            is_proven = known or change.action is Action.CREATE
            certainty = Certainty.UNKNOWN if weak and not is_proven else Certainty.IN_FORCE
            cause = Cause.KNOWN if known else best.cause if change is best.change else Cause.WORKED_OUT
            yield Step(self.of, change, present, following, certainty, cause)
            present, present_ns = following, change.received_ns
        if is_all and changes:
            return
        went_back = b.order[0] > max(a.order[0], 0)
        cause = Cause.WENT_BACK if went_back else Cause.NOT_RECORDED if best.leftovers else Cause.TRACE
        between_ns = (present_ns, max(present_ns, b.first_ns))
        yield Step(
            self.of,
            None,
            present,
            after,
            Certainty.IN_FORCE,
            cause,
            between_ns=between_ns,
            leftovers=best.leftovers,
        )

    def _completed(self, b: State, best: Judgement, changes: list[Change], before: Content | None) -> Content:
        """Return the next state, and let it have what was asked for where it was not recorded itself."""
        content = b.content(best.change.version if best.change else "")
        if content is not None and not content.partial:
            return content
        asked = before
        for change in changes:
            asked = self._after(change, asked)
        whole = asked if content is None else None if best.leftovers else filled(content, asked)
        if whole is not None and whole is not NOT_TOLD:
            b.contents[whole.version] = whole
        return whole or content or NOT_TOLD

    def _not_stored(self, change: Change, before: Content | None, best: Judgement) -> Step:
        # Whoever succeeded, and was not stored, changed nothing.
        if change.changes_nothing or self._known(change.record.uid) or self._is_deleting_again(change, before):
            return self._unstored(change, before, Certainty.IN_FORCE, Cause.NO_OP)
        if self._known(change.record.uid) is False:
            return self._unstored(change, before, Certainty.NOT_IN_FORCE, Cause.REFUSED)
        winner = best.change
        if winner is None or best.weak:
            cause = Cause.NO_CONTENT if best.is_blind or not change.holds else Cause.LOST
            certainty = Certainty.NOT_IN_FORCE if cause is Cause.LOST and not best.weak else Certainty.UNKNOWN
            return self._unstored(change, before, certainty, cause)
        cause = Cause.REPEATED if _asks_the_same(winner, change) else Cause.LOST
        step = self._unstored(change, before, Certainty.NOT_IN_FORCE, cause)
        step.lost_to = winner
        return step

    def _unused(self, until_ns: int) -> Iterator[Step]:
        """Return the steps of those that do not say where they started, and can have had no effect any more."""
        for change in [one for one in self._mine() if one.received_ns <= until_ns]:
            self.free.remove(change)
            if change.holds:
                yield self._unstored(change, None, Certainty.NOT_IN_FORCE, Cause.LOST)
            else:
                yield self._unstored(change, None, Certainty.UNKNOWN, Cause.NO_CONTENT)

    def _last(self, state: State, end: End) -> Iterator[Step]:
        """Return the steps from the last state that a review started from."""
        before = present = None if state.is_birth else self._content(state)
        chosen = self._likely(state, gone_after=before if end.succeeded_ns else None)
        free = [] if end.taken and state.is_birth else self._after_state(state, end.succeeded_ns)
        free = [one for one in free if not self._is_asked_too(one, [*state.changes, *free])]
        removers = [one for one in [*state.changes, *free] if one.action in REMOVALS]
        succeeded = bool(end.succeeded_ns) and end.is_proven and len(removers) < 2
        for change in state.changes:
            if change is not chosen:
                yield self._other(change, before, chosen)
                continue
            if end.taken and state.is_birth and not self._known(change.record.uid):
                yield self._unstored(change, None, end.taken, Cause.NAME_TAKEN)
                continue
            present = self._after(change, before)
            yield self._as_known(change, before, present, succeeded=succeeded)
        for change in free:
            if present is None or self._known(change.record.uid) is False:
                continue
            self.free.remove(change)
            following = self._after(change, present)
            step = self._as_known(change, present, following, succeeded=succeeded)
            if change.action is Action.WITH_SERVICE:
                step.latest_ns = max(step.latest_ns, state.last_ns)
            yield step
            present = following
        # Without its options nobody knows whether a deletion was the last one.
        blind = present is NOT_TOLD or any(not one.holds for one in state.changes)
        blind |= any(one.action is Action.DELETE and not one.options() for one in removers)
        if end.succeeded_ns and end.is_proven and present is not None and end.taken is None and not blind:
            between_ns = (state.last_ns, max(end.succeeded_ns, state.last_ns))
            yield Step(self.of, None, present, None, Certainty.IN_FORCE, Cause.NEVER_DELETED, between_ns=between_ns)

    def _is_asked_too(self, change: Change, others: list[Change]) -> bool:
        """Return whether Endpoints that went with their Service were also deleted by a request of their own."""
        return change.action is Action.WITH_SERVICE and any(
            one.action is Action.DELETE
            and abs(one.received_ns - change.received_ns) <= RACE_NS
            and self._known(one.record.uid) is not False
            for one in others
        )

    def _as_known(self, change: Change, before: Content | None, after: Content | None, *, succeeded: bool) -> Step:
        if self._known(change.record.uid) or change.is_stored:
            return Step(self.of, change, before, after, Certainty.IN_FORCE, Cause.KNOWN)
        if succeeded and after is None:
            return Step(self.of, change, before, after, Certainty.IN_FORCE, Cause.SUCCEEDED)
        return Step(self.of, change, before, after, Certainty.UNKNOWN, Cause.LAST)

    def _other(self, change: Change, before: Content | None, chosen: Change | None) -> Step:
        """Return the step of a change of the last state that is not the one that was likely stored."""
        # Whoever succeeded, and was not stored, changed nothing.
        if change.changes_nothing or self._known(change.record.uid) or self._is_deleting_again(change, before):
            return self._unstored(change, before, Certainty.IN_FORCE, Cause.NO_OP)
        if self._known(change.record.uid) is False:
            return self._unstored(change, before, Certainty.NOT_IN_FORCE, Cause.REFUSED)
        if chosen is not None and _asks_the_same(chosen, change):
            return self._unstored(change, before, Certainty.NOT_IN_FORCE, Cause.REPEATED)
        return self._unstored(change, before, Certainty.UNKNOWN, Cause.LAST)

    def _unstored(self, change: Change, state: Content | None, certainty: Certainty, cause: Cause) -> Step:
        return Step(self.of, change, state, state, certainty, cause, applied=False)

    def _is_deleting_again(self, change: Change, before: Content | None) -> bool:
        """Return whether it asked to delete what was being deleted already."""
        if change.action is not Action.DELETE or not change.was_being_deleted:
            return False
        try:
            return same(_value(self._after(change, before)), _value(before))
        except Unreadable:
            return False

    # -- contents -------------------------------------------------------------------------------------------------

    def _likely(self, state: State, gone_after: Content | None = None) -> Change | None:
        """Return which change of the last state was most likely stored, None where none can have been.

        Where the object is known to be gone, one that removes it: ``gone_after`` is what it was.
        """
        left = self._contenders(state)
        if gone_after is not None:
            left = [one for one in left if self._after(one, gone_after) is None] or left
        # The first of a race wins.
        return min(left, key=lambda one: one.received_ns, default=None)

    def _contenders(self, state: State) -> list[Change]:
        """Return the changes of the last state of which one may have been stored."""
        before = None if state.is_birth else self._content(state)
        left = [one for one in state.changes if self._known(one.record.uid) is not False and not one.changes_nothing]
        left = [one for one in left if not self._is_deleting_again(one, before)] or left
        certain = [one for one in left if self._known(one.record.uid)]
        if certain:
            # What came later starts from another state: no-ops came before.
            return [max(certain, key=lambda one: one.received_ns)]
        # Whoever came later and found the same state shows that earlier ones had not won.
        last_ns = max((one.received_ns for one in state.changes), default=0)
        return [one for one in left if one.received_ns >= last_ns - RACE_NS]

    def _content(self, state: State) -> Content:
        return state.content() or NOT_TOLD

    def _after(self, change: Change, before: Content | None) -> Content | None:
        """Return what the change makes of an object: None where it is gone, `NOT_TOLD` where the records do not say."""
        if change.is_plain:
            return change.new
        try:
            if change.holds:
                value = causes.expected(change, _value(before))
                if value is None:
                    return None
                if change.action in (Action.CREATE, Action.REPLACE):
                    return change.new
                return Content(None, before.version if before else "", value)
        except Unreadable:
            pass  # then as if it were recorded without content
        return None if change.action in (Action.DELETE, Action.WITH_SERVICE) else NOT_TOLD


def _may_be_being_deleted(content: Content) -> bool:
    try:
        metadata = content.value().get("metadata")
    except Unreadable:
        return True
    return isinstance(metadata, dict) and bool(metadata.get("deletionTimestamp"))


def _asks_the_same(one: Change, other: Change) -> bool:
    """Return whether two changes of one state are the same request, as far as that shows."""
    return (
        one.action is other.action
        and one.record.user == other.record.user
        and (one.action is Action.DELETE or bytes(one.record.new_object) == bytes(other.record.new_object))
    )


def _value(content: Content | None) -> dict[str, object] | None:
    return None if content is None else content.value()
