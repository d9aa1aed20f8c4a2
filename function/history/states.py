"""Which of the changes that started from one stored state made the next one of it (pure)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import causes
from .change import Action, Change, Content
from .differences import Difference, differences
from .patches import LEFT_OUT
from .steps import Cause
from .values import Missing, Unreadable

__all__ = ["RACE_NS", "Judgement", "Known", "State", "filled", "judged"]

# Reviews of one race come this close. A later one that still starts from the same state shows that it still was.
RACE_NS = 2 * 10**9

# Says of a review's uid whether it came into force, None where that is not known.
Known = Callable[[str], bool | None]


class State:
    """A stored state: its content in each apiVersion that was recorded, and the changes that started from it.

    ``start`` is its resourceVersion, empty for the one before the object was created. ``order`` grows from state to
    state; its first number is another one where the object went back to an older state.
    """

    __slots__ = ("_reviews", "changes", "contents", "first_ns", "last_ns", "order", "start")

    def __init__(self, start: str, order: tuple[int, int], first_ns: int) -> None:
        self.start = start
        self.order = order
        self.first_ns = self.last_ns = first_ns
        self.contents: dict[str, Content] = {}
        self.changes: list[Change] = []
        self._reviews: set[str] = set()  # a controller may ask for nothing new, day after day

    def add(self, change: Change) -> None:
        """Take a change that started from this state. The same review is taken once."""
        if change.record.uid in self._reviews:
            return
        self._reviews.add(change.record.uid)
        self.changes.append(change)
        self.first_ns = min(self.first_ns, change.received_ns)
        self.last_ns = max(self.last_ns, change.received_ns)
        content = change.old()
        if content is not None and (content.version not in self.contents or self.contents[content.version].partial):
            self.contents[content.version] = content

    def content(self, version: str = "") -> Content | None:
        """Return the content, in an apiVersion where that was recorded; None where none was."""
        return self.contents.get(version) or next(iter(self.contents.values()), None)

    def allows(self, content: Content) -> bool:
        """Return whether the content can be this state's, as far as scales that started from it tell."""
        try:
            return all(causes.agrees(one, content.value()) for one in self.changes if one.action is Action.SCALE)
        except Unreadable:
            return True

    @property
    def is_birth(self) -> bool:
        """Whether there was no object yet."""
        return not self.start


class Judgement:
    """How well a change explains the next state; without a change, how well nothing does.

    ``leftovers`` are differences of content that remain, ``traces`` counts those of status and managedFields, and
    ``free`` are changes that do not say which state they started from, and explain a part. It is ``weak`` where it is
    possible, but not proven, and ``off`` where the object's deletionTimestamp is of another time.
    """

    __slots__ = ("cause", "change", "free", "leftovers", "off", "traces", "weak")

    def __init__(
        self,
        change: Change | None,
        cause: Cause,
        *,
        leftovers: tuple[Difference, ...] = (),
        traces: int = 0,
        free: tuple[Change, ...] = (),
        weak: bool = False,
    ) -> None:
        self.change = change
        self.cause = cause
        self.leftovers = leftovers
        self.traces = traces
        self.free = free
        self.weak = weak
        self.off = False

    @property
    def is_blind(self) -> bool:
        """Whether the records hold too little to compare."""
        return self.cause is Cause.NO_CONTENT

    def rank(self, last_ns: int) -> tuple[int, int, int, bool, bool, bool, bool, int]:
        """Return what the best judgement has the least of. ``last_ns`` is when the last review of this state came."""
        change = self.change
        received_ns = change.received_ns if change else 0
        is_early = received_ns < last_ns - RACE_NS
        if self.leftovers:
            # A change that leaves as much unexplained as no change does is not in there.
            return 2, len(self.leftovers), 0, False, change is not None, False, is_early, received_ns
        return int(self.weak), 0, self.traces, self.off, change is None, self.is_blind, is_early, received_ns


def judged(a: State, b: State, free: Sequence[Change], known: Known) -> Judgement:
    """Return what best explains that ``b`` followed ``a``. ``free`` are changes that may have come in between."""
    contenders = [one for one in a.changes if known(one.record.uid) is not False]
    # Whoever changed nothing succeeded as well.
    certain = [one for one in contenders if known(one.record.uid) and not one.changes_nothing]
    contenders = certain or contenders
    exact = [Judgement(one, Cause.REVIEW) for one in contenders if _is_exactly(one, a, b)]
    if exact:
        return min(exact, key=lambda one: one.rank(a.last_ns))
    judgements = _judgements(contenders, a, b, free, known)
    if not certain:
        return min(judgements, key=lambda one: one.rank(a.last_ns))
    judgements = [one for one in judgements if one.change in certain] or judgements
    # Of several that succeeded one was stored, and the others changed nothing: they came before.
    return min(reversed(judgements), key=lambda one: one.rank(a.last_ns)[:-1])


def _judgements(
    contenders: Sequence[Change], a: State, b: State, free: Sequence[Change], known: Known
) -> list[Judgement]:
    usable = [one for one in free if one.holds and known(one.record.uid) is not False]
    nothing = _judgement(None, a, b, usable) or Judgement(None, Cause.NO_CONTENT)
    # A written state that no change explains: possible, but whatever was recorded is likelier.
    nothing.weak = bool(nothing.traces or not nothing.free)
    found = [] if a.is_birth else [nothing]
    for change in contenders:
        one = None if not change.holds or change.changes_nothing else _judgement(change, a, b, usable)
        if one is not None:
            one.weak |= bool(one.traces and not nothing.leftovers)
            one.weak |= one.cause is Cause.VERSION and len(contenders) > 1
            found.append(one)
    clean = [one for one in found if not one.leftovers and not one.traces and (one.change or one.free)]
    if len(clean) > 1 and (after := b.content()) is not None and after.partial:
        for one in clean:
            one.weak = True  # what tells them apart was not recorded
    blind = [one for one in [*contenders, *free] if not one.holds]
    found += [Judgement(one, Cause.NO_CONTENT, weak=True) for one in blind]
    if not nothing.leftovers and not nothing.traces and not nothing.is_blind:
        # Stored anew in another encoding.
        found += [Judgement(one, Cause.REVIEW, weak=True) for one in contenders if one.changes_nothing]
    return found or [nothing]


def _is_exactly(change: Change, a: State, b: State) -> bool:
    """Return whether the next state is, byte by byte but for its resourceVersion, what was asked for.

    Nearly always one is, and nothing has to be decoded.
    """
    if change.action not in (Action.CREATE, Action.REPLACE) or not change.holds:
        return False
    after = b.contents.get(change.version)
    if after is None or after.source is None:
        return False
    asked, stored = bytes(change.record.new_object), bytes(after.source)
    if a.is_birth:
        return stored.replace(b'"resourceVersion":"%b",' % b.start.encode(), b"", 1) == asked
    # Were it another field of that value, the one in metadata would still differ.
    return (
        stored.replace(b'"resourceVersion":"%b"' % b.start.encode(), b'"resourceVersion":"%b"' % a.start.encode(), 1)
        == asked
    )


def _judgement(change: Change | None, a: State, b: State, free: Sequence[Change]) -> Judgement | None:
    """Return how well it explains the next state, None where it did not happen."""
    whole = change is not None and change.action in (Action.CREATE, Action.REPLACE)
    base = change.new if change is not None and whole else _common(a, b)
    after = b.content(base.version if base else "")
    if after is None and base is not None and whole and not b.allows(base):
        return None
    if base is None or after is None:
        is_gone = change is not None and change.action is Action.DELETE and base is not None and _is_gone(change, base)
        return None if is_gone else Judgement(change, Cause.NO_CONTENT, weak=True)
    try:
        old, new = base.value(), after.value()
    except Unreadable:
        return Judgement(change, Cause.NO_CONTENT, weak=True)
    cause = Cause.REVIEW if whole else Cause.WORKED_OUT
    if base.version != after.version:
        old, new, cause = causes.unversioned(old), causes.unversioned(new), Cause.VERSION
    found = [one for one in differences(old, new, lenient=True) if causes.area(one)]
    if after.partial or base.partial:
        found = [one for one in found if not _is_left_out(one)]
    if base.source is None:  # worked out: the server's clock may have said something else
        found = [one for one in found if one.path != ("metadata", "deletionTimestamp") or Missing.ABSENT in one]
    if change is not None and not whole:
        rest = causes.explained(change, found, old, new)
        if rest is None:
            return None
        found = rest
    judgement = Judgement(change, cause)
    for other in free:
        if change is not None and _is_too_late(other, change):
            continue
        rest = causes.explained(other, found, old, new)
        if rest is not None:
            judgement.free += (other,)
            found = rest
    found = causes.counted(found, [*([change] if change else []), *judgement.free], old)
    judgement.off = any(causes.is_off(one, old, new) for one in (change, *judgement.free) if one is not None)
    leftovers = [one for one in found if causes.area(one) == "content"]
    if leftovers and causes.is_default(leftovers, old, new):
        found = [one for one in found if one not in leftovers]
        leftovers, judgement.cause = [], Cause.DEFAULTS
    if a.is_birth and not leftovers and not free and causes.is_filled_in(found, old, new):
        found, judgement.cause = [], Cause.DEFAULTS
    judgement.leftovers = tuple(leftovers)
    judgement.traces = len(found) - len(leftovers)
    return judgement


def _is_too_late(binding: Change, deletion: Change) -> bool:
    """Return whether a binding came after a deletion: what is being deleted is not bound any more."""
    is_pair = (binding.action, deletion.action) == (Action.BIND, Action.DELETE)
    return is_pair and binding.received_ns > deletion.received_ns


def _is_gone(deletion: Change, before: Content) -> bool:
    try:
        return causes.expected(deletion, before.value()) is None
    except Unreadable:
        return False


def _common(a: State, b: State) -> Content | None:
    """Return the content of ``a``, in an apiVersion that ``b`` was recorded in as well, where there is one."""
    return next((a.contents[version] for version in b.contents if version in a.contents), None) or a.content()


def filled(partial: Content, asked: Content | None) -> Content | None:
    """Return a state of which parts were not recorded, with what was asked for in their place; None if it was not."""
    try:
        if asked is None or asked.partial or asked.version != partial.version:
            return None
        value, whole = partial.value(), asked.value()
        metadata, left_out = value.get("metadata"), whole.get("metadata")
        value = _merged(value, whole)
        if isinstance(metadata, dict) and isinstance(left_out, dict):
            kept = {name: left_out[name] for name in LEFT_OUT if name in left_out and name not in metadata}
            value["metadata"] = {**value["metadata"], **kept}
    except Unreadable:
        return None
    return Content(None, partial.version, value)


def _merged(value: Any, whole: Any) -> Any:
    """Return a value with what is unknown of it taken from another one, as far as that has it."""
    if value is Missing.UNKNOWN:
        return whole
    if isinstance(value, dict) and isinstance(whole, dict):
        return {name: _merged(field, whole.get(name, Missing.UNKNOWN)) for name, field in value.items()}
    if isinstance(value, list) and isinstance(whole, list) and len(value) == len(whole):
        return [_merged(one, other) for one, other in zip(value, whole, strict=True)]
    return value


def _is_left_out(difference: Difference) -> bool:
    """Whether it is about a field that no recorded JSON Patch is about."""
    return difference.path[:1] == ("metadata",) and len(difference.path) > 1 and difference.path[1] in LEFT_OUT
