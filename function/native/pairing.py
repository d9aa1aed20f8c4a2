"""Requests and records of one act to each other, by time (pure).

For logs of a time when answers had no annotations, and for what the annotation does not reach. A review arrives while
its request is under way, so a record belongs to a request of the same act whose time spans it.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

__all__ = ["NEAR_NS", "Certainty", "Group", "Pair", "Pairing", "Request", "Review", "groups", "pair", "skew_ns"]

# Two clocks that are set by NTP, a request that lasts some milliseconds.
NEAR_NS = 5_000_000

# Of how a pair was made: by the annotation; as the only request and record of the act within reach; in the order of
# time, among several.
Certainty = Literal["exact", "sole", "ordered"]

# A group this large is cut: then a pair may be missed at the cut.
_GROUP_MAX = 50_000


class Request(NamedTuple):
    """A request that admission may have been asked about. ``key`` is the caller's.

    ``sure`` says that its outcome proves a review, ``paired`` that its record is known already.
    """

    act: int
    began_ns: int
    ended_ns: int
    key: int
    sure: bool
    paired: bool = False


class Review(NamedTuple):
    """A record without a pair yet, when it was received on the clock of the API server."""

    act: int
    received_ns: int
    key: int


class Pair(NamedTuple):
    """A request's key, its record's key, and how certain it is."""

    request: int
    review: int
    certainty: Certainty


@dataclass
class Group:
    """Requests and records of one act that can reach each other in time."""

    requests: list[Request] = field(default_factory=list)
    reviews: list[Review] = field(default_factory=list)


class Pairing(NamedTuple):
    """What became of a group.

    Its pairs; records of a request that has another (``again``: the request's key, the record's); what is left of both.
    """

    pairs: list[Pair]
    again: list[tuple[int, int]]
    requests: list[Request]
    reviews: list[Review]


def groups(requests: Iterable[Request], reviews: Iterable[Review], reach_ns: int) -> Iterator[Group]:
    """Return the groups of two streams that are both sorted by act, then time; nothing outlasts its group."""
    coming, came = iter(requests), iter(reviews)
    request, review = next(coming, None), next(came, None)
    group, act, until_ns, size = Group(), 0, 0, 0
    while request is not None or review is not None:
        if request is not None and (review is None or _comes_first(request, review, reach_ns)):
            of_act, at_ns, end_ns = request.act, request.began_ns - reach_ns, request.ended_ns + reach_ns
        elif review is not None:
            of_act, at_ns, end_ns = review.act, review.received_ns, 0
        if size and (of_act != act or at_ns > until_ns or size >= _GROUP_MAX):
            yield group
            group, size = Group(), 0
        if not size:
            act, until_ns = of_act, at_ns
        if request is not None and end_ns:
            group.requests.append(request)
            until_ns = max(until_ns, end_ns)
            request = next(coming, None)
        elif review is not None:
            group.reviews.append(review)
            review = next(came, None)
        size += 1
    if size:
        yield group


def _comes_first(request: Request, review: Review, reach_ns: int) -> bool:
    return (request.act, request.began_ns - reach_ns) <= (review.act, review.received_ns)


def pair(group: Group, reach_ns: int) -> Pairing:
    """Return who belongs to whom.

    Requests whose outcome proves a review choose first, and whatever is near in time comes before what is only within
    reach: else a request whose record was taken away would be given its neighbour's. A record that came while a request
    was under way that has one already is another review of that request.
    """
    requests, reviews = group.requests, group.reviews
    if len(requests) == len(reviews) == 1:
        return _pair_alone(requests[0], reviews[0], reach_ns)
    sure = [one for one in requests if one.sure and not one.paired]
    others = [one for one in requests if not one.sure and not one.paired]
    paired = [one for one in requests if one.paired]
    pairs: list[Pair] = []
    again: list[tuple[int, int]] = []
    for of_whom, slack_ns in _ORDER:
        slack_ns = reach_ns if slack_ns is None else slack_ns  # noqa: PLW2901 - the caller's, where it is not fixed
        if of_whom == "again":
            found, reviews = _repeated(paired, reviews, slack_ns)
            again += found
            continue
        waiting = sure if of_whom == "sure" else others
        matched, reviews = _matched(waiting, reviews, slack_ns)
        pairs += [Pair(request.key, review.key, "ordered") for request, review in matched]
        paired += [request for request, _ in matched]
        taken = {request.key for request, _ in matched}
        waiting[:] = [one for one in waiting if one.key not in taken]
    return Pairing(pairs, again, sure + others, reviews)


def _pair_alone(request: Request, review: Review, reach_ns: int) -> Pairing:
    """Return the same of one request and one record, as nearly all groups are."""
    if not request.began_ns - reach_ns <= review.received_ns <= request.ended_ns + reach_ns:
        return Pairing([], [], [] if request.paired else [request], [review])
    if request.paired:
        return Pairing([], [(request.key, review.key)], [], [])
    return Pairing([Pair(request.key, review.key, "sole")], [], [], [])


# Who chooses when, and how far from a request's time a record may be; None is as far as the caller says.
_ORDER: tuple[tuple[str, int | None], ...] = (
    ("sure", NEAR_NS),
    ("others", 0),
    ("again", 0),
    ("others", NEAR_NS),
    ("again", NEAR_NS),
    ("sure", None),
    ("others", None),
    ("again", None),
)


def _matched(
    requests: Sequence[Request], reviews: Sequence[Review], slack_ns: int
) -> tuple[list[tuple[Request, Review]], list[Review]]:
    """Give each request at most one record that came in its time.

    Whoever must take a record first has the first choice: no other way pairs more.
    """
    if not requests or not reviews:
        return [], list(reviews)
    pairs: list[tuple[Request, Review]] = []
    left: list[Review] = []
    coming = iter(sorted(requests, key=lambda one: one.began_ns))
    following = next(coming, None)
    open_: list[tuple[int, int, Request]] = []
    for review in reviews:
        while following is not None and following.began_ns - slack_ns <= review.received_ns:
            heapq.heappush(open_, (following.ended_ns + slack_ns, following.key, following))
            following = next(coming, None)
        while open_ and open_[0][0] < review.received_ns:
            heapq.heappop(open_)
        if open_:
            pairs.append((heapq.heappop(open_)[2], review))
        else:
            left.append(review)
    return pairs, left


def _repeated(
    requests: Sequence[Request], reviews: Sequence[Review], slack_ns: int
) -> tuple[list[tuple[int, int]], list[Review]]:
    """Return records that came while a request was under way that has its record, each with that request."""
    if not requests or not reviews:
        return [], list(reviews)
    again: list[tuple[int, int]] = []
    left: list[Review] = []
    ordered = sorted(requests, key=lambda one: one.began_ns)
    began = [one.began_ns for one in ordered]
    latest = list(itertools.accumulate((one.ended_ns for one in ordered), max))
    for review in reviews:
        index = bisect.bisect_right(began, review.received_ns + slack_ns) - 1
        earliest_end = review.received_ns - slack_ns
        while index >= 0 and latest[index] >= earliest_end and ordered[index].ended_ns < earliest_end:
            index -= 1
        if index < 0 or latest[index] < earliest_end:
            left.append(review)
        else:
            again.append((ordered[index].key, review.key))
    return again, left


def skew_ns(spans: Sequence[tuple[int, int]]) -> int:
    """Return by how much our clock is ahead of the API server's, 0 unless the pairs say so.

    ``spans`` has for each pair that is known for certain the least and the largest difference that puts its record into
    the time of its request. The answer is the difference that most pairs agree on.
    """
    if not spans:
        return 0
    moves = sorted([(low, 1) for low, _ in spans] + [(high + 1, -1) for _, high in spans])
    best = count = 0
    where = (0, 0)
    for index, (at, step) in enumerate(moves):
        count += step
        if count > best:
            best, where = count, (at, moves[index + 1][0])
    agree = sum(low - NEAR_NS <= 0 <= high + NEAR_NS for low, high in spans)
    if agree >= 0.9 * best:
        return 0
    return (where[0] + where[1]) // 2
