"""The figures of a report, from records in one pass (pure). Memory grows with what is kept, which is bounded."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from ..history.gaps import Gap
from ..record.reading import Record
from .rows import DEGRADED, DELETE, FIRST, MARKS, RBAC, SECRET, SESSION, VERBS, Kept, Row, row_of

__all__ = ["FailedOpen", "Figures", "Tally"]

K = TypeVar("K")

LISTED_MAX = 200  # of each list, the newest
KEYS_MAX = 20_000  # of each count by name
BUCKETS_MAX = 120
_WIDTHS_SECONDS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
# The marks that have a list of their own.
LISTED = (SESSION, RBAC, SECRET, DELETE, DEGRADED)


class FailedOpen(NamedTuple):
    """A request that went on without a record, as the API server's own log says; times in nanoseconds."""

    at_ns: int
    verb: str
    user: str
    kind: str
    namespace: str
    name: str


class First(NamedTuple):
    """What an account did for the first time: anything at all (``is_account``), or to such a kind there."""

    row: Row
    is_account: bool


class Tally(Generic[K]):
    """Counts by key. Of more than twice ``keys_max`` the rarest half is forgotten, and counted together."""

    def __init__(self, keys_max: int = KEYS_MAX) -> None:
        self._keys_max = keys_max
        self._counts: Counter[K] = Counter()
        self.forgotten = 0

    def add(self, key: K) -> None:
        """Count one more."""
        self._counts[key] += 1
        if len(self._counts) > 2 * self._keys_max:
            kept = dict(self._counts.most_common(self._keys_max))
            self.forgotten += self._counts.total() - sum(kept.values())
            self._counts = Counter(kept)

    def __len__(self) -> int:
        return len(self._counts)

    def __getitem__(self, key: K) -> int:
        return self._counts[key]

    def most(self, count: int) -> list[tuple[K, int]]:
        """Return the most frequent, those that are as frequent in the order of their names."""
        return sorted(self._counts.items(), key=lambda one: (-one[1], str(one[0])))[:count]


class Figures:
    """Give it records by time, then gaps, then ask. Times are nanoseconds since the epoch.

    Counted is what was received from ``since_ns`` on and before ``until_ns``; earlier records only say what is not new.
    Where there is none (the journal begins later) nothing is called new: ``knows_past`` says so.
    """

    def __init__(self, since_ns: int, until_ns: int, *, rows_max: int = 100_000) -> None:
        self.since_ns = since_ns
        self.until_ns = max(until_ns, since_ns + 1)
        self.width_seconds = _width_seconds(self.until_ns - since_ns)
        self.total = 0
        self.knows_past = False
        self.users: Tally[str] = Tally()
        self.namespaces: Tally[tuple[str, str]] = Tally()  # by cluster and name
        self.kinds: Tally[str] = Tally()
        self.secrets: Tally[tuple[str, str, str]] = Tally()  # by cluster, namespace, name
        self.verbs: Counter[str] = Counter()
        self.marks: Counter[str] = Counter()
        self.clusters: dict[str, Counter[str]] = {}  # by cluster: "records", and by mark
        self.lists: dict[int, deque[Row]] = {mark: deque(maxlen=LISTED_MAX) for mark in LISTED}
        self.firsts: deque[First] = deque(maxlen=LISTED_MAX)
        self.first_accounts: deque[First] = deque(maxlen=LISTED_MAX)
        self.first_accounts_total = 0
        self.gaps: deque[Gap] = deque(maxlen=LISTED_MAX)
        self.gaps_total = 0
        self.rows = Kept(rows_max)
        count = -(-(self.until_ns - since_ns) // (self.width_seconds * 10**9))
        self.activity: dict[str, list[int]] = {verb: [0] * count for verb in VERBS}
        self._known: set[int] = set()

    def add(self, record: Record) -> None:
        """Take a record."""
        at_ns = record.received_ns
        if at_ns >= self.until_ns:
            return
        about = record.object
        if record.observed is not None:  # of no account
            if at_ns >= self.since_ns:
                self._count(row_of(record))
            return
        account = hash((record.cluster, record.user))
        did = hash((account, about.group, about.resource, about.subresource, about.namespace))
        if at_ns < self.since_ns:
            self.knows_past = True
            self._known |= {account, did}
            return
        row = row_of(record)
        if self.knows_past and not {account, did} <= self._known:
            row = row._replace(marks=row.marks | FIRST)
            self._first(First(row, account not in self._known))
        self._known |= {account, did}
        self._count(row)

    def add_gap(self, gap: Gap) -> None:
        """Take a gap; those that were before, or that touch nothing but status, do not count."""
        if not gap.is_minor and gap.latest_ns >= self.since_ns and gap.earliest_ns < self.until_ns:
            self.gaps.append(gap)
            self.gaps_total += 1
            self.clusters.setdefault(gap.of.cluster or "-", Counter())["gaps"] += 1

    def _first(self, first: First) -> None:
        if first.is_account:
            self.first_accounts.append(first)
            self.first_accounts_total += 1
        else:
            self.firsts.append(first)

    def _count(self, row: Row) -> None:
        self.total += 1
        self.rows.add(row)
        if row.user != "-":
            self.users.add(row.user)
        self.namespaces.add((row.cluster, row.namespace))
        self.kinds.add(row.kind)
        self.verbs[row.verb] += 1
        since = max(0, row.at_ms * 10**6 - self.since_ns)
        self.activity[row.verb][since // (self.width_seconds * 10**9)] += 1
        cluster = self.clusters.setdefault(row.cluster, Counter())
        cluster["records"] += 1
        if not row.marks:
            return
        for name in marked(row.marks):
            self.marks[name] += 1
            cluster[name] += 1
        for mark in LISTED:
            if row.marks & mark:
                self.lists[mark].append(row)
        if row.marks & SECRET:
            self.secrets.add((row.cluster, row.namespace, row.name))


def marked(marks: int) -> Iterable[str]:
    """Return the names of marks."""
    return (name for number, name in enumerate(MARKS) if marks >> number & 1)


def _width_seconds(span_ns: int, widths: Sequence[int] = _WIDTHS_SECONDS) -> int:
    """Return the width of a bar: a round time, so that there are at most `BUCKETS_MAX`."""
    for width in widths:
        if span_ns <= width * BUCKETS_MAX * 10**9:
            return width
    return -(-span_ns // (BUCKETS_MAX * 86400 * 10**9)) * 86400
