"""Both logs into the index: a row a record, a row an Event, and what each is if it stays alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from ...native import claims, outcomes
from ...native.acts import COLLECTION, Act, Fingerprints, act_of_event, act_of_record, other_act_of_event
from ...native.event import STAGES, Event
from ...native.moments import moment_ns
from ...native.outcomes import Outcome
from ...native.webhook_rules import Rules
from ...record.reading import Record
from .index import BATCH, Index
from .inputs import CannotRun, Journal, NativeLog

__all__ = [
    "ANNOTATED",
    "COLLECTIVE",
    "DELETED",
    "NAMELESS",
    "SURE",
    "Indexing",
    "Result",
    "Settings",
    "What",
    "decoded",
]

# Of records whose request is just outside of what is asked for.
MARGIN_NS = 60_000_000_000
KINDS_MAX = 100_000
LATEST_NS = 1 << 62  # of the year 2116; differences of such times fit into the index as well

# Bits of an Event's row: its outcome proves a review; it has our annotation; it creates what the server names; it is
# about a collection; it deleted, or created, an object.
SURE, ANNOTATED, NAMELESS, COLLECTIVE, DELETED, CREATED = (1 << bit for bit in range(6))

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """What was asked for. Times are in nanoseconds since the epoch, 0 for none; ``webhook`` is empty for any.

    ``keep_all`` keeps every request's result, not the counts alone; ``with_origin`` what only their log knows.
    """

    rules: Rules
    rules_are_given: bool = False
    webhook: str = ""
    cluster: str | None = None
    since_ns: int = 0
    until_ns: int = 0
    keep_all: bool = False
    with_origin: bool = False


class What(NamedTuple):
    """Of a request, what is shown of it, and compared."""

    verb: str
    user: str
    original_user: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    named_by_answer: str
    code: int
    exact_code: bool
    claimed: str

    def event(self) -> Event:
        """Return as much of the Event as comparing needs."""
        return Event(
            "",
            "",
            self.verb,
            user=self.user,
            group=self.group,
            resource=self.resource,
            subresource=self.subresource,
            namespace=self.namespace,
            name=self.name,
            named_by_answer=self.named_by_answer,
            code=self.code,
            exact_code=self.exact_code,
        )


@dataclass
class Result:
    """The counts: of requests by class, of pairs by certainty, of what else must be said."""

    counts: Counter[str] = field(default_factory=Counter)
    whys: Counter[Outcome] = field(default_factory=Counter)
    certainties: Counter[str] = field(default_factory=Counter)
    records: int = 0
    outside: int = 0
    moved: int = 0
    moved_segments: list[str] = field(default_factory=list)
    late: int = 0  # recorded, though the API server gave up waiting
    requests: int = 0
    events: int = 0
    cut: int = 0  # events that whoever stored them cut short
    cut_away: int = 0  # and those of which too little is left
    skew_ns: int = 0
    covered: tuple[int, int] = (0, 0)
    webhooks: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether nothing is unexplained, disagrees, or was moved."""
        return not (self.counts[outcomes.UNEXPLAINED] or self.counts[outcomes.DISAGREE] or self.moved)


decoded = msgspec.json.Decoder(What).decode  # what a row holds
_encode = msgspec.json.encode


def _bounded(moment_ns_: int) -> int:
    """Return the time as the index can hold it: a line that somebody has changed may say any year."""
    return min(max(moment_ns_, 0), LATEST_NS)


class Numbers(Generic[T]):
    """Values that are few, and a number for each."""

    def __init__(self) -> None:
        self._numbers: dict[T, int] = {}
        self._values: list[T] = []

    def of(self, value: T) -> int:
        """Return the value's number."""
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = len(self._values)
            self._values.append(value)
        return number

    def value(self, number: int) -> T:
        """Return the value of a number."""
        return self._values[number]


class Indexing:
    """Reads both logs, the journal first; then it knows what both have in common."""

    def __init__(self, index: Index, journal: Journal, settings: Settings) -> None:
        self._index = index
        self._journal = journal
        self.settings = settings
        self._names_given = frozenset([settings.webhook]) if settings.webhook else settings.rules.names
        self.fingerprint = Fingerprints(os.urandom(16))
        self.outcomes: Numbers[Outcome] = Numbers()
        self.failed_open: Numbers[tuple[str, ...]] = Numbers()
        self.kinds: Numbers[tuple[str, str, str, str]] = Numbers()
        self.kinds_of_theirs: set[int] = set()
        self.collections: set[int] = set()  # kinds
        self.last_place = 0
        self.ours: frozenset[str] = frozenset()
        self.annotated_from = self.annotated_until = 0
        self._annotating: set[str] = set()
        self._left_out = 0  # Events of another time
        self._others: list[tuple[int, int, int]] = []
        self.result = Result()

    def read_ours(self, progress: Callable[[int], None]) -> None:
        """Index the journal. Raises `CannotRun`."""
        self._index.insert("ours", self._rows_of_ours(progress))

    def read_theirs(self, log: NativeLog, progress: Callable[[int], None]) -> None:
        """Index the API server's log. Raises `CannotRun`."""
        self._index.insert("theirs", self._rows_of_theirs(log, progress))
        if not self.result.events:
            if self._left_out:
                raise CannotRun(
                    f"none of the {self._left_out:,} Events in the API server's log is of the time asked for"
                )
            raise CannotRun("the API server's log holds no audit Event")
        self.result.cut_away = log.malformed_count
        self.ours = self._names()
        self.result.webhooks = tuple(sorted(self.ours))

    def wants(self, record: Record) -> bool:
        """Whether the record is one of those that are compared."""
        return self.settings.cluster is None or record.cluster == self.settings.cluster

    def _rows_of_ours(self, progress: Callable[[int], None]) -> Iterator[tuple[Any, ...]]:
        fingerprint, wanted, clusters = self.fingerprint, self.settings.cluster, set[str]()
        seq = 0
        for place, record in self._journal.located(progress):
            if wanted is None:
                clusters.add(record.cluster)
                if len(clusters) > 1:
                    names = ", ".join(sorted(name or "(none)" for name in clusters))
                    raise CannotRun(f"the journal holds records of several clusters ({names}, …); hint: --cluster NAME")
            elif record.cluster != wanted:
                continue
            act = act_of_record(record)
            nameless = fingerprint(*act[:6], "") if act.operation == "CREATE" else None
            yield place, seq, _bounded(moment_ns(record.received)), fingerprint(*act), nameless, self._kind(act)
            seq += 1
            self.last_place = place
        self.result.records = seq

    def _kind(self, act: Act) -> int:
        number = self.kinds.of(act.kind)
        if act.operation == COLLECTION:
            self.collections.add(number)
        return number

    def _rows_of_theirs(self, log: NativeLog, progress: Callable[[int], None]) -> Iterator[tuple[Any, ...]]:
        settings, result = self.settings, self.result
        earliest = settings.since_ns - MARGIN_NS if settings.since_ns else 0
        latest = settings.until_ns + MARGIN_NS if settings.until_ns else LATEST_NS
        low, high = LATEST_NS, 0
        fingerprint = self.fingerprint
        for event in log.events(progress):
            if not earliest <= event.began_ns <= latest:
                self._left_out += 1
                continue
            result.events += 1
            low, high = min(low, event.began_ns), max(high, _bounded(event.ended_ns))
            nature = outcomes.asks_admission(event)
            if nature is None or settings.keep_all:
                yield self._row_of(event, nature)
            else:
                self._others.append((fingerprint(event.identity), event.began_ns, self.outcomes.of(nature)))
                if len(self._others) >= BATCH:
                    self._flush_others()
        self._flush_others()
        result.covered = (low, high) if high else (0, 0)

    def _flush_others(self) -> None:
        self._index.insert("others", self._others)
        self._others.clear()

    def _row_of(self, event: Event, nature: Outcome | None) -> tuple[Any, ...]:
        fingerprint = self.fingerprint
        head = (None, fingerprint(event.identity), STAGES.get(event.stage, 2), event.audit_id, event.began_ns)
        span = (event.began_ns - event.loose_ns, _bounded(event.ended_ns) + event.loose_ns)
        origin = event.origin or None
        if nature is not None:
            return *head, *span, 0, self.outcomes.of(nature), *(None,) * 6, self._what(event, ""), origin
        claim, flags = self._claimed(event)
        place = uid = None
        if claim.recorded:
            named = claims.place_of(claim.recorded)
            place = self._journal.place_of(named) if named else None
            uid = None if named else fingerprint(claim.recorded)
        act, other = act_of_event(event), other_act_of_event(event)
        if len(self.kinds_of_theirs) < KINDS_MAX:  # anybody can ask for resources that there are not
            self.kinds_of_theirs.add(self._kind(act))
        opened = claims.failed_open(event.annotations) if event.annotations else ()
        # Which webhook is ours may be known at the end only: these are the likeliest names.
        outcome = outcomes.without_record(event, claim, self._names_given, self.settings.rules)
        flags |= self._flags(event, act, outcome)
        return (
            *head,
            *span,
            flags,
            self.outcomes.of(outcome),
            fingerprint(*act),
            fingerprint(*other) if other else None,
            fingerprint(*act[2:]) if flags & (DELETED | CREATED) else None,
            place,
            uid,
            self.failed_open.of(opened) if opened else None,
            self._what(event, claim.recorded),
            origin,
        )

    def _claimed(self, event: Event) -> tuple[claims.Claim, int]:
        found = claims.claims_of(event.annotations)
        if self.settings.webhook or self.settings.rules_are_given:
            found = {webhook: claim for webhook, claim in found.items() if webhook in self._names_given}
        if not found:
            return claims.NO_CLAIM, 0
        self._annotating.update(found)
        began = event.began_ns
        self.annotated_until = max(self.annotated_until, began)
        if began < self.annotated_from or not self.annotated_from:
            self.annotated_from = began
        if len(found) > 1:  # several of ours in one configuration: a record of any is one
            return max(found.values(), key=lambda claim: (claim.is_recorded, claim)), ANNOTATED
        return next(iter(found.values())), ANNOTATED

    def _flags(self, event: Event, act: Act, outcome: Outcome) -> int:
        flags = 0
        # What could be excluded, or refused before, may have had a review all the same.
        if event.succeeded or act.operation == "CONNECT" or outcome.result == outcomes.UNEXPLAINED:
            flags |= SURE
        if act.operation == "CREATE" and not act.name:
            flags |= NAMELESS
        if act.operation == COLLECTION:
            flags |= COLLECTIVE
        if event.succeeded and not event.subresource:
            flags |= DELETED if event.verb == "delete" else 0
            flags |= CREATED if act.operation == "CREATE" and act.name else 0
        self.result.cut += event.cut
        return flags

    def _what(self, event: Event, claimed: str) -> bytes:
        return _encode(
            (
                event.verb,
                event.user,
                event.original_user,
                event.group,
                event.resource,
                event.subresource,
                event.namespace,
                event.name or ("" if event.resource else event.uri),
                event.named_by_answer,
                event.code,
                event.exact_code,
                claimed,
            )
        )

    def _names(self) -> frozenset[str]:
        if self.settings.webhook or self.settings.rules_are_given:
            return self._names_given
        if len(self._annotating) > 1:
            names = ", ".join(sorted(self._annotating))
            raise CannotRun(
                f"several webhooks annotate the API server's log ({names}); hint: --webhook NAME names ours"
            )
        return frozenset(self._annotating) or self.settings.rules.names
