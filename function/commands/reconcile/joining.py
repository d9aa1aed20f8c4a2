"""The join: exact pairs by what the annotations name, the rest by act and time, and what is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from ...native import outcomes
from ...native.acts import Act, act_of_event, act_of_record, differences
from ...native.outcomes import Outcome
from ...native.pairing import NEAR_NS, Pair, Request, Review, groups, pair, skew_ns
from ...record.reading import NotARecord
from .index import BATCH, Index
from .indexing import ANNOTATED, COLLECTIVE, DELETED, NAMELESS, SURE, Indexing, What, decoded
from .inputs import Journal

__all__ = ["Join"]

REACH_NS = 2_000_000_000
# Leftovers are few, or everything is wrong: then which resembles which is of no use.
LEFTOVERS_MAX = 20_000
SPANS_MAX = 20_000
HOUR_NS = 3_600_000_000_000
SEGMENTS_SHOWN_MAX = 100


class Join:
    """One run over one index, when both logs are in it."""

    def __init__(self, index: Index, journal: Journal, indexing: Indexing) -> None:
        self._index = index
        self._journal = journal
        self._known = indexing
        self._settings = indexing.settings
        self._outcomes = indexing.outcomes
        self.result = indexing.result
        self.has_stages = False
        self._used = bytearray(self.result.records + 1)  # by a record's number
        self._taken = bytearray(self.result.events + 1)  # by an Event's
        self._again: dict[int, int] = {}  # a record's number, and the request that it is another review of
        self._whys: Counter[int] = Counter()
        self._results: list[tuple[Any, ...]] = []
        self._pairs: list[tuple[Any, ...]] = []
        self._moved: dict[str, None] = {}

    def join(self, step: Callable[[float], None]) -> None:
        """Find each request's record, or why it has none. ``step`` is told which share of it is done."""
        self._find_uids()
        self._exact(lambda done: step(0.6 * done))
        self._by_act(lambda done: step(0.6 + 0.2 * done))
        self._named_all_the_same()
        self._resembling()
        step(0.85)
        self._settle_others()
        self._settle_requests()
        step(0.95)
        self._settle_records()
        self._flush()
        self.result.moved_segments = list(self._moved)
        step(1.0)

    def _find_uids(self) -> None:
        """Older annotations name a uid: then, and only then, the journal is read for the uids of its records."""
        if self._index.one("SELECT 1 FROM theirs WHERE uid IS NOT NULL LIMIT 1") is None:
            return
        records = self._journal.again(self._known.last_place, lambda _count: None)
        self._index.insert("uids", ((self._known.fingerprint(record.uid), place) for place, record in records))
        self._index.execute("CREATE INDEX by_uid ON uids (uid)")
        self._index.execute(
            "UPDATE theirs SET claim = (SELECT min(place) FROM uids WHERE uids.uid = theirs.uid) WHERE uid IS NOT NULL"
        )

    def _exact(self, step: Callable[[float], None]) -> None:
        spans = self._index.rows(
            "SELECT o.received - t.high, o.received - t.low FROM theirs t JOIN ours o ON o.place = t.claim"
            " WHERE t.act = o.act OR t.act = o.nameless LIMIT ?",
            SPANS_MAX,
        )
        known = list(spans)
        self._has_claims = bool(known)
        self.result.skew_ns = skew_ns(known)
        rows = self._index.rows(
            "SELECT t.identity, t.id, t.began, t.low, t.high, t.flags, t.outcome, t.act, t.other_act,"
            " t.failed_open, t.claim, o.seq, o.received, o.act, o.nameless"
            " FROM theirs t LEFT JOIN ours o ON o.place = t.claim ORDER BY t.identity, t.stage"
        )
        self._index.insert("open_requests", self._not_exact(rows, step))

    def _not_exact(self, rows: Iterator[Any], step: Callable[[float], None]) -> Iterator[tuple[Any, ...]]:
        """Settle the requests that are clear; return the rows of those that are still open."""
        row = next(rows, None)
        done = 0
        earlier: list[int] = []
        while row is not None:
            following = next(rows, None)
            done += 1
            if following is not None and following[0] == row[0]:
                earlier.append(row[1])
            else:  # the last stage of a request says all
                self.result.requests += 1
                if earlier and self._settings.with_origin:
                    self.has_stages = True
                    self._index.insert("stages", [(row[1], id_) for id_ in earlier])
                earlier.clear()
                if (still_open := self._settle_exact(row)) is not None:
                    yield still_open
            if not done % 50_000:
                step(done / self.result.events)
            row = following

    def _settle_exact(self, row: Any) -> tuple[Any, ...] | None:
        _, id_, began, low, high, flags, outcome, act, other, opened, claim, seq, received, their_act, nameless = row
        if act is None:
            self._count(outcome, began, id_)
            return None
        if opened is not None and not flags & ANNOTATED:
            outcome = self._when_failed_open(self._known.failed_open.value(opened), outcome)
        # Where a line was taken out of a segment, the place that was named may now be another record's.
        is_there = seq is not None and not self._used[seq]
        if not is_there or not (act in (their_act, nameless) or other == their_act):
            return act, other, low, high, id_, flags, outcome, began, claim
        # Writers on several nodes have a clock each.
        if not low - REACH_NS <= received - self.result.skew_ns <= high + REACH_NS:
            return act, other, low, high, id_, flags, outcome, began, claim
        self._used[seq] = self._taken[id_] = 1
        self._pair(id_, began, claim, "exact", [])
        return None

    def _when_failed_open(self, webhooks: tuple[str, ...], outcome: int) -> int:
        if self._known.ours.intersection(webhooks):
            return self._outcomes.of(_FAILED_OPEN)
        if self._outcomes.value(outcome).result != outcomes.UNEXPLAINED:
            return outcome
        names = ", ".join(webhooks)
        why = f"no record; the API server went on without {names}: if that is ours, name it with --webhook"
        return self._outcomes.of(Outcome(outcomes.UNEXPLAINED, why))

    def _differences(self, id_: int, place: int) -> list[str] | None:
        """Return in what they disagree; None where the journal changed while it was read."""
        try:
            record = self._journal.record_at(place)
        except (OSError, NotARecord):
            return None
        return differences(self.what(id_).event(), act_of_record(record))

    def what(self, id_: int) -> What:
        """Return what is shown of a request."""
        return decoded(self._index.one("SELECT what FROM theirs WHERE id = ?", id_)[0])

    def outcome(self, number: int) -> Outcome:
        """Return an outcome by its number in the index."""
        return self._outcomes.value(number)

    # -- by act and time -------------------------------------------------------------------------------------------

    def _by_act(self, step: Callable[[float], None]) -> None:
        self._index.function("used", 1, self._used.__getitem__)
        self._index.function("taken", 1, self._taken.__getitem__)
        self._index.execute("CREATE TABLE open_records AS SELECT * FROM ours WHERE NOT used(seq)")
        self._index.execute("CREATE TABLE left_acts (act INTEGER PRIMARY KEY)")
        if not self._has_claims:
            self.result.skew_ns = self._skew_by_act()
        done = 0
        for requests, reviews, column in _PASSES:
            # What is near first: an act that goes on all day falls into groups of one request each, and little is left
            # for the wider reach.
            for reach_ns, paired in ((NEAR_NS, _PAIRED_EXACTLY), (REACH_NS, _PAIRED_EXACTLY + _PAIRED_BY_ACT)):
                known = paired if self._has_claims or reach_ns == REACH_NS else ""
                if known:
                    self._find_left_acts(column)
                both = f"SELECT * FROM ({requests}{known}) ORDER BY 1, 2"  # noqa: S608 - our own words
                self._pass(both, f"{reviews} ORDER BY 1, 2", reach_ns)
                done += 1
                step(done / (2 * len(_PASSES)))

    def _find_left_acts(self, column: str) -> None:
        """Find the acts of records that are left: only for these it matters which requests have theirs already."""
        self._index.execute("DELETE FROM left_acts")
        self._index.execute(
            f"INSERT OR IGNORE INTO left_acts SELECT {column} FROM open_records"  # noqa: S608 - our own words
            f" WHERE {column} IS NOT NULL AND NOT used(seq)"
        )

    def _skew_by_act(self) -> int:
        """Return the skew of the clocks as those acts tell that each log has once only."""
        rows = self._index.rows(
            "SELECT min(low), max(high), min(received) FROM (SELECT act, low, high, NULL AS received FROM open_requests"
            " UNION ALL SELECT act, NULL, NULL, received FROM open_records) GROUP BY act"
            " HAVING count(low) = 1 AND count(received) = 1 LIMIT ?",
            SPANS_MAX,
        )
        near = [(received - high, received - low) for low, high, received in rows if abs(received - low) < HOUR_NS]
        return skew_ns(near)

    def _pass(self, requests: str, reviews: str, reach_ns: int) -> None:
        skew = self.result.skew_ns
        known: dict[int, tuple[int, int, int, int | None]] = {}  # of the requests of a group
        places: dict[int, int] = {}

        def coming() -> Iterator[Request]:
            for act, low, high, id_, flags, outcome, began, claim, paired in self._index.rows(requests):
                known[id_] = (flags, outcome, began, claim)
                yield Request(act, low, high, id_, sure=bool(flags & SURE), paired=bool(paired))

        def came() -> Iterator[Review]:
            for act, received, seq, place in self._index.rows(reviews):
                places[seq] = place
                yield Review(act, received - skew, seq)

        for group in groups(coming(), came(), reach_ns):
            if group.requests and group.reviews:
                pairing = pair(group, reach_ns)
                for one in pairing.pairs:
                    self._settle_pair(one, *known[one.request], places[one.review])
                for request, seq in pairing.again:
                    self._used[seq] = 1
                    self._again[seq] = request
            for request_ in group.requests:
                known.pop(request_.key, None)
            for review in group.reviews:
                places.pop(review.key, None)

    def _settle_pair(self, one: Pair, flags: int, outcome: int, began: int, claim: int | None, place: int) -> None:
        self._used[one.review] = self._taken[one.request] = 1
        if self._outcomes.value(outcome).result == outcomes.FAILED_OPEN:
            self.result.late += 1
        if flags & ANNOTATED and claim != place:
            self._note_moved(one.request)
        self._pair(one.request, began, place, "exact" if claim == place else one.certainty, [])

    def _note_moved(self, request: int) -> None:
        """The API server was told another place, or none that this journal has."""
        claimed = self.what(request).claimed
        if claimed:
            self.result.moved += 1
            if len(self._moved) < SEGMENTS_SHOWN_MAX:
                self._moved[claimed.rpartition("/")[0] or claimed] = None

    def _named_all_the_same(self) -> None:
        """Take the record that the annotation names where no other fits: it was changed, or a clock was set."""
        rows = self._index.rows(
            "SELECT o.id, o.began, o.claim, r.seq FROM open_requests o JOIN ours r ON r.place = o.claim"
            " WHERE NOT taken(o.id) AND NOT used(r.seq)"
        )
        for id_, began, claim, seq in rows:
            if not self._used[seq] and (differ := self._differences(id_, claim)) is not None:
                self._used[seq] = self._taken[id_] = 1
                self._pair(id_, began, claim, "exact", differ)

    # -- what resembles ---------------------------------------------------------------------------------------------

    def _resembling(self) -> None:
        """Find pairs that agree in all but one thing: a record that was changed, or an Event."""
        requests = self._unexplained_requests()
        records = list(self._index.rows(_LEFT_RECORDS + " LIMIT ?", LEFTOVERS_MAX + 1))
        if not requests or not records or max(len(requests), len(records)) > LEFTOVERS_MAX:
            return
        acts = {}
        for seq, place, _ in records:
            try:
                acts[seq] = act_of_record(self._journal.record_at(place))
            except (OSError, NotARecord):  # the journal changed while it was read
                continue
        for parts in _RESEMBLANCES:
            self._resemble(requests, records, acts, parts)

    def _unexplained_requests(self) -> dict[int, tuple[int, int, int, Act]]:
        rows = self._index.rows("SELECT id, low, high, began, outcome FROM open_requests WHERE NOT taken(id)")
        found: dict[int, tuple[int, int, int, Act]] = {}
        for id_, low, high, began, outcome in rows:
            if self._outcomes.value(outcome).result == outcomes.UNEXPLAINED:
                if len(found) > LEFTOVERS_MAX:
                    break
                found[id_] = (low, high, began, act_of_event(self.what(id_).event()))
        return found

    def _resemble(
        self,
        requests: dict[int, tuple[int, int, int, Act]],
        records: list[tuple[int, int, int]],
        acts: dict[int, Act],
        parts: tuple[int, ...],
    ) -> None:
        """Pair those whose acts have these parts in common, in the time of the request."""
        fingerprint, skew = self._known.fingerprint, self.result.skew_ns
        places = {seq: place for seq, place, _ in records}

        def of(act: Act) -> int:
            return fingerprint(*(act[part] for part in parts))

        coming = sorted(
            Request(of(act), low, high, id_, sure=True)
            for id_, (low, high, _, act) in requests.items()
            if not self._taken[id_]
        )
        came = sorted(
            Review(of(acts[seq]), received - skew, seq)
            for seq, _, received in records
            if seq in acts and not self._used[seq]
        )
        for group in groups(coming, came, NEAR_NS):
            for one in pair(group, NEAR_NS).pairs:
                place = places[one.review]
                if differ := self._differences(one.request, place):
                    self._used[one.review] = self._taken[one.request] = 1
                    self._pair(one.request, requests[one.request][2], place, one.certainty, differ)

    # -- what is left ------------------------------------------------------------------------------------------------

    def _settle_others(self) -> None:
        """Count what admission is not asked about and nobody wants to see one by one: each request once."""
        for outcome, wanted, count in self._index.rows(
            "SELECT outcome, wanted, count(*) FROM (SELECT outcome, began BETWEEN ? AND ? AS wanted FROM others"
            " GROUP BY identity) GROUP BY outcome, wanted",
            self._settings.since_ns,
            self._settings.until_ns or 1 << 62,
        ):
            self.result.requests += count
            if wanted:
                self._whys[outcome] += count

    def _settle_requests(self) -> None:
        deleted = self._already_deleted()
        for id_, outcome, flags, began in self._index.rows(
            "SELECT id, outcome, flags, began FROM open_requests WHERE NOT taken(id)"
        ):
            if id_ in deleted:
                outcome = self._outcomes.of(_ALREADY_DELETED)  # noqa: PLW2901 - the better one
            elif flags & COLLECTIVE and self._known.annotated_from <= began <= self._known.annotated_until:
                found = self._outcomes.value(outcome)
                if found.result == outcomes.NOT_ADMISSION:  # a review would have left its annotation
                    outcome = self._outcomes.of(found._replace(certain=True))  # noqa: PLW2901
            self._count(outcome, began, id_)

    def _already_deleted(self) -> set[int]:
        """Return unexplained deletions of what was being deleted: admission is not asked again.

        (apiserver/pkg/registry/generic/registry/store.go: a graceful deletion that is pending ends a Delete.)
        """
        self._index.execute("CREATE TABLE left_objects (object INTEGER, began INTEGER, id INTEGER)")
        rows = self._index.rows(
            "SELECT t.object, t.began, o.id, o.outcome FROM open_requests o JOIN theirs t ON t.id = o.id"
            " WHERE NOT taken(o.id) AND t.flags & ?",
            DELETED,
        )
        left = [
            (object_, began, id_)
            for object_, began, id_, outcome in rows
            if self._outcomes.value(outcome).result == outcomes.UNEXPLAINED
        ]
        if not left:
            return set()
        self._index.insert("left_objects", left)
        self._index.execute("CREATE INDEX by_object ON left_objects (object)")
        latest: dict[int, tuple[int, bool]] = {}
        for id_, began, flags in self._index.rows(
            "SELECT l.id, t.began, t.flags FROM theirs t JOIN left_objects l ON t.object = l.object"
            " WHERE t.object IS NOT NULL AND t.began < l.began AND t.id != l.id"
        ):
            latest[id_] = max(latest.get(id_, (0, False)), (began, bool(flags & DELETED)))
        return {id_ for id_, (_, was_deleted) in latest.items() if was_deleted}

    def _settle_records(self) -> None:
        low, high = self.result.covered
        for seq, place, received, kind in self._index.rows("SELECT seq, place, received, kind FROM open_records"):
            at = received - self.result.skew_ns
            if (request := self._again.get(seq)) is not None:
                if self._settings.with_origin:
                    how = "collection" if kind in self._known.collections else "again"
                    self._add(self._pairs, "pairs", (place, request, how))
                if kind not in self._known.collections:  # a collection has as many reviews as items
                    self._count_record(_RETRY, at, place, request)
            elif self._used[seq]:
                continue
            elif not low <= at <= high:
                self.result.outside += 1
            elif kind not in self._known.kinds_of_theirs:
                self._count_record(_POLICY, at, place)
            else:
                self._count_record(_CUT_OFF if self.result.cut_away else _NO_EVENT, at, place)

    # -- counting ----------------------------------------------------------------------------------------------------

    def _wanted(self, moment_ns: int) -> bool:
        settings = self._settings
        return moment_ns >= settings.since_ns and (not settings.until_ns or moment_ns <= settings.until_ns)

    def _pair(self, id_: int, began: int, place: int, certainty: str, differ: list[str]) -> None:
        if self._settings.with_origin:
            self._add(self._pairs, "pairs", (place, id_, certainty))
        if not self._wanted(began):
            return
        class_ = outcomes.DISAGREE if differ else outcomes.RECORDED
        self.result.counts[class_] += 1
        self.result.certainties[certainty] += 1
        if self._settings.keep_all or differ:
            self._add(self._results, "results", (class_, began, id_, place, None, certainty, ",".join(differ)))

    def _count(self, outcome: int, began: int, id_: int) -> None:
        if not self._wanted(began):
            return
        self._whys[outcome] += 1
        class_ = self._outcomes.value(outcome).result
        if self._settings.keep_all or class_ == outcomes.UNEXPLAINED:
            self._add(self._results, "results", (class_, began, id_, None, outcome, "", ""))

    def _count_record(self, why: Outcome, received: int, place: int, request: int | None = None) -> None:
        if not self._wanted(received):
            return
        outcome = self._outcomes.of(why)
        self._whys[outcome] += 1
        self._add(self._results, "results", (outcomes.ONLY_OURS, received, request, place, outcome, "", ""))

    def _add(self, rows: list[tuple[Any, ...]], table: str, row: tuple[Any, ...]) -> None:
        rows.append(row)
        if len(rows) >= BATCH:
            self._index.insert(table, rows)
            rows.clear()

    def _flush(self) -> None:
        for rows, table in ((self._results, "results"), (self._pairs, "pairs")):
            self._index.insert(table, rows)
            rows.clear()
        for number, count in self._whys.items():
            why = self._outcomes.value(number)
            self.result.whys[why] += count
            self.result.counts[why.result] += count


_PAIRED_EXACTLY = (
    " UNION ALL SELECT t.act, t.low, t.high, t.id, t.flags, t.outcome, t.began, NULL, 1 FROM theirs t"
    " JOIN left_acts USING (act) WHERE t.claim IS NOT NULL AND taken(t.id)"
)
_PAIRED_BY_ACT = (
    " UNION ALL SELECT o.act, o.low, o.high, o.id, o.flags, o.outcome, o.began, NULL, 1 FROM open_requests o"
    " JOIN left_acts USING (act) WHERE o.claim IS NULL AND taken(o.id)"
)
_OPEN = "SELECT {}, low, high, id, flags, outcome, began, claim, 0 AS paired FROM open_requests WHERE NOT taken(id)"
_CAME = "SELECT {}, received, seq, place FROM open_records WHERE NOT used(seq)"
# Requests and records by the same act; those without a name, where the server made it; what may have created.
_PASSES = (
    (_OPEN.format("act"), _CAME.format("act"), "act"),
    (
        _OPEN.format("act") + f" AND flags & {NAMELESS}",
        _CAME.format("nameless") + " AND nameless IS NOT NULL",
        "nameless",
    ),
    (_OPEN.format("other_act") + " AND other_act IS NOT NULL", _CAME.format("act"), "act"),
)
_LEFT_RECORDS = "SELECT seq, place, received FROM open_records WHERE NOT used(seq)"
# Parts of an act that must agree: all but the user; but the operation; but where the object is; but which it is.
_RESEMBLANCES = ((1, 2, 3, 4, 5, 6), (0, 2, 3, 4, 5, 6), (0, 1, 2, 3, 4, 6), (0, 1, 2, 3, 4))

_FAILED_OPEN = Outcome(
    outcomes.FAILED_OPEN, "the webhook failed, or could not be reached in time, and the request went on"
)
_ALREADY_DELETED = Outcome(
    outcomes.NOT_ADMISSION, "the object was being deleted already: admission is not asked again", certain=False
)
_RETRY = Outcome(outcomes.ONLY_OURS, "retry: another review of a request that has its record")
_POLICY = Outcome(outcomes.ONLY_OURS, "their log has no such requests: left out by its policy", certain=False)
_NO_EVENT = Outcome(outcomes.ONLY_OURS, "nothing in their log, which has others like it", certain=False)
_CUT_OFF = Outcome(
    outcomes.ONLY_OURS, "nothing in their log, which has others like it, and was cut in places", certain=False
)
