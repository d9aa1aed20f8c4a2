"""Records against the native log, one to one, by act and time."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from .native_log import ANY_NAME, Act, Request
from .records import Record

# Both clocks are this machine's; the API server's times are cut to microseconds.
SLACK_SECONDS = 0.002

# How long an API server may take to heed a webhook's configuration.
TAKE_UP_SECONDS = 10.0

# Sent by API servers before 1.37 only.
SENT_BY_OLDER = {"authentication.k8s.io", "authorization.k8s.io"}


@dataclass
class Match:
    """``missing``: admitted and not recorded. ``unexplained``: recorded, with nothing in the native log."""

    pairs: list[tuple[Request, Record]] = field(default_factory=list)
    missing: list[Request] = field(default_factory=list)
    refused: list[tuple[Request, Record]] = field(default_factory=list)  # refused after admission
    repeated: list[tuple[Request, Record]] = field(default_factory=list)  # admission asked again in one request
    unexplained: list[Record] = field(default_factory=list)
    left_out: list[Request] = field(default_factory=list)  # done, but nothing proves that admission was asked

    @property
    def recall(self) -> float:
        return len(self.pairs) / max(1, len(self.pairs) + len(self.missing))

    @property
    def precision(self) -> float:
        explained = len(self.pairs) + len(self.refused) + len(self.repeated)
        return explained / max(1, explained + len(self.unexplained))


def match(requests: Iterable[Request], records: Iterable[Record], *, slack_seconds: float = SLACK_SECONDS) -> Match:
    """Match every request that admission saw for certain to a record of its own, then explain what is left.

    A record belongs to a request of the same act that was under way when the record's review arrived. With endless
    slack no time counts: the first request of an act gets its first record.
    """
    result = Match()
    everything, left = list(requests), list(records)
    result.missing = [request for request in everything if request.must]
    for of_request, of_record in KEYS:
        groups: dict[Hashable, tuple[list[Request], list[Record]]] = defaultdict(lambda: ([], []))
        for request in result.missing:
            groups[of_request(request)][0].append(request)
        for record in left:
            groups[of_record(record)][1].append(record)
        result.missing, left = [], []
        for group in groups.values():
            left += _assign(*group, result, slack_seconds)
    _explain(left, everything, result, slack_seconds)
    paired = {id(request) for request, _ in result.pairs}
    result.left_out = [one for one in everything if one.admitted and not one.must and id(one) not in paired]
    return result


# What a request and its record have in common, the surest first. The log may have no name: then any is right that the
# others left.
KEYS: tuple[tuple[Callable[[Request], Hashable], Callable[[Record], Hashable]], ...] = (
    (lambda request: (request.act, request.version), lambda record: (record.act, record.version)),
    (lambda request: request.act, lambda record: record.act),
    (lambda request: request.act, lambda record: record.act._replace(name=ANY_NAME)),
)


def _assign(requests: list[Request], records: list[Record], result: Match, slack: float) -> list[Record]:
    """Give each request one record; return the records left over.

    Of the requests under way, the one that ends first takes the record: no other choice matches more.
    """
    left: list[Record] = []
    coming = sorted(requests, key=lambda request: request.began)
    waiting: list[tuple[float, int, Request]] = []
    index = 0
    for record in sorted(records, key=lambda record: record.received):
        while index < len(coming) and coming[index].began - slack <= record.received:
            heapq.heappush(waiting, (coming[index].ended, index, coming[index]))
            index += 1
        while waiting and waiting[0][0] + slack < record.received:
            result.missing.append(heapq.heappop(waiting)[2])
        if waiting:
            result.pairs.append((heapq.heappop(waiting)[2], record))
        else:
            left.append(record)
    result.missing += [request for _, _, request in waiting] + coming[index:]
    return left


def _explain(left: Sequence[Record], requests: Sequence[Request], result: Match, slack: float) -> None:
    """Tell repeated and later refused reviews from those that nobody asked for."""
    of_act: dict[Act, list[Request]] = defaultdict(list)
    for request in requests:
        of_act[request.act].append(request)
    for record in left:
        candidates = _candidates(record.act, of_act)
        under_way = [one for one in candidates if one.began - slack <= record.received <= one.ended + slack]
        refused = [one for one in under_way if not one.admitted]
        if refused:
            result.refused.append((refused[0], record))
        elif under_way:
            (result.pairs if under_way[0].hides_items else result.repeated).append((under_way[0], record))
        else:
            result.unexplained.append(record)


def _candidates(act: Act, of_act: dict[Act, list[Request]]) -> list[Request]:
    """Return requests that may have led to a record: a refusal tells neither a generated name nor what a patch was."""
    acts = [act, act._replace(name=ANY_NAME)]
    if act.operation == "CREATE":
        acts += [act._replace(operation="UPDATE")]
    return [request for one in acts for request in of_act.get(one, [])]


def while_called(requests: Sequence[Request], records: Sequence[Record]) -> list[Request]:
    """Return the requests, those marked as unseen that no webhook was called for, as far as log and records tell.

    Where the log has the creation of the webhook's configuration, calls begin with the first record (a moment later,
    at most), where it has its deletion, they end there.
    """
    since, until = _called(requests, [record.received for record in records if record.received])
    groups = {record.act.resource.partition("/")[0] for record in records}
    return [
        dataclasses.replace(request, unseen=request.unseen or _uncalled(request, since, until, groups))
        for request in requests
    ]


def _called(requests: Sequence[Request], received: list[float]) -> tuple[float, float]:
    """Return from when and until when webhooks were called; always, where the log has no configuration of one."""
    changes = [
        one for one in requests if one.admitted and one.act.resource.endswith("/validatingwebhookconfigurations")
    ]
    created = [one.ended for one in changes if one.act.operation == "CREATE"]
    deleted = [one.began for one in changes if one.act.operation == "DELETE"]
    if not created or not received:
        return -math.inf, math.inf
    since = min(*received, min(created) + TAKE_UP_SECONDS)
    # A request that one webhook of several still saw has its record: only those after the last are left out.
    return since, max(*received, *deleted) if deleted and max(deleted) > max(created) else math.inf


def _uncalled(request: Request, since: float, until: float, groups: set[str]) -> str:
    group = request.act.resource.partition("/")[0]
    if group in SENT_BY_OLDER - groups:
        return f"{group} (not sent from 1.37 on, nor here)"
    if request.ended < since:
        return "before the webhook was called"
    return "after the webhook was deleted" if request.began > until else ""
