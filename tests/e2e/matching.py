"""Records against the native log, one to one, by act and time."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from native_log import ANY_NAME, Act, Request
from records import Record

# Both clocks are this machine's; the API server's times are cut to microseconds.
SLACK_SECONDS = 0.002


@dataclass
class Match:
    """``missing``: admitted and not recorded. ``unexplained``: recorded, with nothing in the native log."""

    pairs: list[tuple[Request, Record]] = field(default_factory=list)
    missing: list[Request] = field(default_factory=list)
    refused: list[tuple[Request, Record]] = field(default_factory=list)  # refused after admission
    repeated: list[tuple[Request, Record]] = field(default_factory=list)  # admission asked again in one request
    unexplained: list[Record] = field(default_factory=list)

    @property
    def recall(self) -> float:
        return len(self.pairs) / max(1, len(self.pairs) + len(self.missing))

    @property
    def precision(self) -> float:
        explained = len(self.pairs) + len(self.refused) + len(self.repeated)
        return explained / max(1, explained + len(self.unexplained))


def match(requests: Iterable[Request], records: Iterable[Record]) -> Match:
    """Match every request that admission saw for certain to a record of its own, then explain what is left.

    A record belongs to a request of the same act that was under way when the record's review arrived.
    """
    result = Match()
    of_act: dict[Act, list[Record]] = defaultdict(list)
    for record in records:
        of_act[record.act].append(record)
    everything = list(requests)
    for act, same in _by_act(request for request in everything if request.must).items():
        of_act[act] = _assign(same, of_act.get(act, []), result)
    _explain([record for left in of_act.values() for record in left], everything, result)
    return result


def _by_act(requests: Iterable[Request]) -> dict[Act, list[Request]]:
    grouped: dict[Act, list[Request]] = defaultdict(list)
    for request in requests:
        grouped[request.act].append(request)
    return grouped


def _assign(requests: list[Request], records: list[Record], result: Match) -> list[Record]:
    """Give each request one record; return the records left over.

    Of the requests under way, the one that ends first takes the record: no other choice matches more.
    """
    left: list[Record] = []
    coming = sorted(requests, key=lambda request: request.began)
    waiting: list[tuple[float, int, Request]] = []
    index = 0
    for record in sorted(records, key=lambda record: record.received):
        while index < len(coming) and coming[index].began - SLACK_SECONDS <= record.received:
            heapq.heappush(waiting, (coming[index].ended, index, coming[index]))
            index += 1
        while waiting and waiting[0][0] + SLACK_SECONDS < record.received:
            result.missing.append(heapq.heappop(waiting)[2])
        if waiting:
            result.pairs.append((heapq.heappop(waiting)[2], record))
        else:
            left.append(record)
    result.missing += [request for _, _, request in waiting] + coming[index:]
    return left


def _explain(left: Sequence[Record], requests: Sequence[Request], result: Match) -> None:
    """Tell repeated and later refused reviews from those that nobody asked for."""
    of_act = _by_act(requests)
    for record in left:
        candidates = _candidates(record.act, of_act)
        under_way = [one for one in candidates if _spans(one, record.received)]
        refused = [one for one in under_way if not 200 <= one.code < 300]
        if refused:
            result.refused.append((refused[0], record))
        elif under_way:
            result.repeated.append((under_way[0], record))
        else:
            result.unexplained.append(record)


def _candidates(act: Act, of_act: dict[Act, list[Request]]) -> list[Request]:
    """Return requests that may have led to a record: a refusal tells neither a generated name nor what a patch was."""
    acts = [act, act._replace(name=ANY_NAME)]
    if act.operation == "CREATE":
        acts += [act._replace(operation="UPDATE")]
    return [request for one in acts for request in of_act.get(one, [])]


def _spans(request: Request, moment: float) -> bool:
    return request.began - SLACK_SECONDS <= moment <= request.ended + SLACK_SECONDS
