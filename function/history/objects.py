"""Records of many objects in, the steps of each object's past out (pure)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from ..record.reading import Record
from . import causes
from .chain import SLACK_NS, Chain, End, Forgotten
from .change import Action, Change, change_of
from .states import RACE_NS, Known
from .steps import Cause, Certainty, Incarnation, Step
from .values import Unreadable
from .watched import Watched

__all__ = ["Objects", "steps"]

# A deleted object that nobody has mentioned for so long is forgotten, where forgetting is asked for.
FORGOTTEN_AFTER_NS = 600 * 10**9

_Path = tuple[str, str, str, str, str]


def steps(
    records: Iterable[Record],
    *,
    known: Known | None = None,
    started_ns: int | None = None,
    forgetting: bool = False,
) -> Iterator[Step]:
    """Return the steps of all objects, each object's in the order of its states; see `Objects`."""
    objects = Objects(known=known, started_ns=started_ns, forgetting=forgetting)
    for record in records:
        yield from objects.add(record)
    yield from objects.finish()


class Objects:
    """All objects that records tell of. Give it records by the time at which they were received.

    ``known`` says of a review's uid whether it came into force, None where that is not known otherwise; without it the
    records' own outcomes count, where an API server's log was joined to them. ``started_ns`` is when the journal
    begins, where that is before the first record given.

    Steps come when they cannot change any more, about a minute of the records' time after the state they lead to.
    Of each object the lines of its last state's records are kept; with ``forgetting``, of deleted ones for ten minutes.
    """

    def __init__(self, *, known: Known | None = None, started_ns: int | None = None, forgetting: bool = False) -> None:
        self._outcomes: dict[str, bool] = {}
        self._known = known or self._outcomes.get
        self._started_ns = started_ns
        self._forgetting = forgetting
        self._chains: dict[tuple[str, str], Chain] = {}  # by cluster and uid
        self._named: dict[_Path, Chain] = {}  # of each name the last one
        self._earlier: dict[Chain, Chain] = {}  # who had the name before, as long as it is not known who has it now
        self._nameless: dict[_Path, list[Chain]] = {}  # those of them whose uid is not known, the newest last
        self._holders: dict[Chain, Chain] = {}  # who had it when another object was to be created
        self._waiting: deque[tuple[int, Chain]] = deque()  # there is a new state
        self._leaving: deque[tuple[int, Chain]] = deque()  # deleted, as it seems
        self._forgotten: dict[tuple[str, str], Forgotten] = {}
        self._succeeded: dict[tuple[str, str], Incarnation] = {}
        self._endings: dict[str, tuple[Change, Chain]] = {}  # of Endpoints, by the review that ends their Service
        self._watched = Watched()

    def add(self, record: Record) -> Iterator[Step]:
        """Take a record; return the steps that are settled by now."""
        return self._settling_endings(self._taken_in(record))

    def finish(self) -> Iterator[Step]:
        """Return the steps that are left."""
        return self._settling_endings(self._finish())

    # -- steps ----------------------------------------------------------------------------------------------------

    def _taken_in(self, record: Record) -> Iterator[Step]:
        now_ns = record.received_ns
        if self._started_ns is None:
            self._started_ns = now_ns
        while self._waiting and self._waiting[0][0] <= now_ns - SLACK_NS:
            yield from self._waiting.popleft()[1].settled(now_ns - SLACK_NS)
        while self._leaving and self._leaving[0][0] <= now_ns - FORGOTTEN_AFTER_NS:
            yield from self._forget(self._leaving.popleft()[1], now_ns - FORGOTTEN_AFTER_NS)
        if record.observed is not None:
            yield from self._watched.add(record, record.observed)
            return
        change = change_of(record)
        if change is not None:
            if record.outcome is not None:
                self._outcomes[record.uid] = record.outcome
            yield from self._add(change)

    def _finish(self) -> Iterator[Step]:
        # What became of a Service tells what became of its Endpoints.
        for newest in sorted(self._named.values(), key=lambda chain: chain.of.path[1:3] != _SERVICES):
            chains = [newest]
            while (earlier := self._earlier.get(chains[-1])) is not None:
                chains.append(earlier)
            taken = [self._taken(chain) for chain in chains]  # finishing one ends what tells
            for chain in reversed(chains):
                yield from chain.settled()
            succeeded_ns = 0
            for chain, one in zip(chains, taken, strict=True):
                oldest = chain is chains[-1]
                yield from chain.finish(End(succeeded_ns, is_proven=False, taken=one, is_oldest=oldest))
                if one is None:
                    succeeded_ns = chain.first_ns

    def _add(self, change: Change) -> Iterator[Step]:
        path = _path(change)
        late = self._succeeded.get((path[0], change.uid))
        if late is not None:
            yield Step(late, change, None, None, Certainty.NOT_IN_FORCE, Cause.LATE, applied=False)
            return
        chain = self._chain_of(change, path)
        was_proven = chain.of.is_proven
        if chain.add(change):
            self._waiting.append((change.received_ns, chain))
        if chain.of.is_proven and not was_proven:
            yield from self._succeed(chain)
        if chain.of.is_proven and self._named.get(chain.of.path, chain) is not chain:  # `path` may be another group's
            yield from self._refuse(chain, chain.of.path)
        if self._forgetting and change.may_end:
            self._leaving.append((change.received_ns, chain))
        if path[1:3] == _SERVICES and _is_last(change):
            self._end_endpoints(change, path)

    def _end_endpoints(self, change: Change, path: _Path) -> None:
        """Let the Endpoints of a Service go with it, should it turn out to be gone."""
        named = self._named.get((path[0], *_ENDPOINTS, *path[3:]))
        if named is None or change.record.uid in self._endings:
            return
        chain, ending = self._holder(named), Change(change.record, Action.WITH_SERVICE)
        chain.add(ending)
        self._endings[change.record.uid] = ending, chain
        if self._forgetting:
            self._leaving.append((change.received_ns, chain))

    def _settling_endings(self, found: Iterator[Step]) -> Iterator[Step]:
        """Return the steps, and let Endpoints know by them what became of their Service."""
        for step in found:
            if self._endings and step.change is not None and step.change.action is not Action.WITH_SERVICE:
                ending, chain = self._endings.pop(step.change.record.uid, (None, None))
                if ending is not None and chain is not None:
                    if not step.applied or step.after is not None:
                        chain.drop(ending)
                    ending.is_stored = step.certainty is Certainty.IN_FORCE
            yield step

    def _chain_of(self, change: Change, path: _Path) -> Chain:
        key, named = (path[0], change.uid), self._named.get(path)
        if not change.uid:
            if named is None or change.action is Action.CREATE:
                return self._begin(path, "", named)
            return self._holder(named)
        if (chain := self._chains.get(key)) is not None:
            return chain
        if change.action is not Action.CREATE and (nameless := self._pop_nameless(path)) is not None:
            if (forgotten := self._forgotten.pop(key, None)) is not None:
                nameless.resume(forgotten)
            nameless.of.uid = change.uid  # what was recorded of it before did not tell
            self._chains[key] = nameless
            return nameless
        return self._begin(path, change.uid, named)

    def _pop_nameless(self, path: _Path) -> Chain | None:
        some = self._nameless.get(path)
        return some.pop() if some else None

    def _begin(self, path: _Path, uid: str, earlier: Chain | None) -> Chain:
        key = (path[0], uid)
        chain = Chain(
            Incarnation(path, uid), self._known, self._started_ns or 0, [] if earlier is None else earlier.free
        )
        if (forgotten := self._forgotten.pop(key, None)) is not None:
            chain.resume(forgotten)
        if uid:
            self._chains[key] = chain
        else:
            self._nameless.setdefault(path, []).append(chain)
        if earlier is not None:
            self._earlier[chain] = earlier
            holder = self._holder(earlier)
            if not holder.is_expected_gone():
                self._holders[chain] = holder
        self._named[path] = chain
        return chain

    def _holder(self, chain: Chain) -> Chain:
        """Return who had the name when this object was to have it: itself, unless an earlier one was not gone."""
        while not chain.of.is_proven and (holder := self._holders.get(chain)) is not None:
            chain = holder
        return chain

    def _succeed(self, chain: Chain) -> Iterator[Step]:
        """Return the last steps of those who had the name before: the object that has it now was there."""
        self._holders.pop(chain, None)
        earlier = self._earlier.pop(chain, None)
        while earlier is not None:
            taken = None if earlier.of.is_proven else self._taken(earlier)
            if taken is None and not earlier.of.is_proven and not earlier.is_expected_gone():
                taken = Certainty.UNKNOWN  # never seen stored, nor removed: perhaps it was not created at all
            oldest = earlier not in self._earlier
            yield from earlier.finish(End(chain.first_ns, taken=taken, is_oldest=oldest))
            of = earlier.of
            self._chains.pop((of.cluster, of.uid), None)
            if of.uid:
                self._succeeded[of.cluster, of.uid] = of
            else:
                self._nameless[of.path].remove(earlier)
            self._holders.pop(earlier, None)
            earlier = self._earlier.pop(earlier, None)

    def _refuse(self, chain: Chain, path: _Path) -> Iterator[Step]:
        """Return the steps of creations that failed: long after them an earlier object still had the name."""
        newer: list[Chain] = []
        one = self._named[path]
        while one is not chain and (earlier := self._earlier.get(one)) is not None:
            is_old = one.last_ns < chain.last_ns - SLACK_NS and not one.of.is_proven
            if is_old and self._taken(one) is Certainty.NOT_IN_FORCE:
                yield from one.finish(End(taken=Certainty.NOT_IN_FORCE, is_oldest=False))
                self._drop(one, earlier, newer)
            else:
                newer.append(one)
            one = earlier

    def _drop(self, chain: Chain, earlier: Chain, newer: list[Chain]) -> None:
        """Take an object that was never created out of those of its name."""
        of = chain.of
        if newer:
            self._earlier[newer[-1]] = earlier
        else:
            self._named[of.path] = earlier
        del self._earlier[chain]
        self._holders.pop(chain, None)
        for one in newer:
            if self._holders.get(one) is chain:
                self._holders[one] = earlier
        if of.uid:
            del self._chains[of.cluster, of.uid]
        else:
            self._nameless[of.path].remove(chain)

    def _taken(self, chain: Chain) -> Certainty | None:
        """Return how sure it is that a creation failed since its name was taken; None where it was not taken."""
        holder = self._holder(chain)
        if holder is chain:
            earlier = self._earlier.get(chain)
            # It was to be gone by then, and was not.
            outlived = earlier is not None and earlier.of.is_proven and earlier.last_ns > chain.last_ns + RACE_NS
            return Certainty.NOT_IN_FORCE if outlived and not chain.of.is_proven else None
        seen_later = holder.of.is_proven and holder.last_ns > chain.last_ns
        return Certainty.NOT_IN_FORCE if seen_later else Certainty.UNKNOWN

    def _forget(self, chain: Chain, until_ns: int) -> Iterator[Step]:
        key = (chain.of.cluster, chain.of.uid)
        if self._chains.get(key) is not chain or chain.last_ns > until_ns:
            return
        if self._named.get(chain.of.path) is not chain or chain in self._earlier:
            return
        forgotten = chain.forgotten()
        if forgotten is None:
            return
        yield from chain.finish(End())
        del self._chains[key], self._named[chain.of.path]
        self._forgotten[key] = forgotten


_SERVICES = ("", "services")
_ENDPOINTS = ("", "endpoints")


def _is_last(change: Change) -> bool:
    """Return whether the object is gone with the change, if it is stored."""
    if not change.may_end:
        return False
    old = change.old()
    try:
        return causes.expected(change, None if old is None else old.value()) is None
    except Unreadable:
        return change.action is Action.DELETE


def _path(change: Change) -> _Path:
    about = change.record.object
    resource = "pods" if change.action is Action.BIND else about.resource  # also the old way, through `bindings`
    return change.record.cluster, about.group, resource, about.namespace, about.name
