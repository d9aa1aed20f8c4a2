"""Our Events beside the API server's own audit log of the same minutes.

    python tests/compare_native.py RECORDS.ndjson NATIVE.ndjson [RECEIVED.txt] [--check]

RECORDS holds records in the review or the event format, or plain AdmissionReviews (then RECEIVED.txt may say when each
came, a line each). NATIVE is a native audit log in which mutations have at least level Metadata. For every mutation
that the API server admitted (2xx; impersonated ones by the impersonated user) there has to be an Event; of the pairs,
user, path, objectRef, verb and whole requestURI are compared. Misses are counted by kind, with an example each.

Pairs are found by what both sides know for sure (user, operation, resource, namespace, name) and by time; uids cannot
be compared, for every webhook call has its own. One request can have several reviews (retries, the objects of a
collection) and a review can have a request that fails later: such records are explained, not counted against us.
"""

from __future__ import annotations

import argparse
import bisect
import collections
import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from function import review as reviews
from function.record.event_format import PREFIX, EventFormat
from function.record.reading import NotARecord, ReviewRecord, read

TARGETS = {"recall": 100.0, "user": 99.0, "path": 99.0, "objectRef": 97.0, "verb": 93.0, "requestURI": 85.0}

# Clocks of the two machines, and the way from the one to the other.
SLACK_SECONDS = 2.0
NEAR_SECONDS = 0.02  # on one machine, clocks and rounding explain this much

OPERATIONS = {
    "create": {"CREATE"},
    "update": {"UPDATE", "CREATE"},  # a PUT or an apply of what is not there yet creates it
    "patch": {"UPDATE", "CREATE"},
    "delete": {"DELETE"},
    "deletecollection": {"DELETE"},
}
CONNECTS = {"exec", "attach", "portforward", "proxy"}

# Never sent to webhooks, lest a webhook lock everybody out (apiserver: pkg/admission/plugin/webhook/rules).
UNSEEN = {
    ("admissionregistration.k8s.io", resource)
    for resource in (
        "validatingwebhookconfigurations",
        "mutatingwebhookconfigurations",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
    )
}
# Sent by API servers before 1.37 only; left out where no record shows that they are.
SENT_BY_OLDER = {"authentication.k8s.io", "authorization.k8s.io"}


@dataclasses.dataclass
class Record:
    """One of our records, as an Event."""

    event: dict[str, Any]
    at: float | None
    names: set[str]  # what the object may be called: its name, the one that was generated
    used_for: str = ""

    @property
    def operation(self) -> str:
        return self.event["annotations"][PREFIX + "operation"]


@dataclasses.dataclass
class Request:
    """One request of the native log, of all its stages."""

    event: dict[str, Any]
    start: float
    end: float
    record: Record | None = None

    @property
    def user(self) -> dict[str, Any]:
        return self.event.get("impersonatedUser") or self.event.get("user", {})

    @property
    def code(self) -> int:
        return (self.event.get("responseStatus") or {}).get("code", 0)

    @property
    def admitted(self) -> bool:
        return 200 <= self.code < 300 or self.code == 101

    @property
    def reference(self) -> dict[str, Any]:
        return self.event.get("objectRef") or {}

    @property
    def connects(self) -> bool:
        return self.reference.get("subresource") in CONNECTS

    @property
    def collection(self) -> bool:
        return self.event["verb"] == "deletecollection"


@dataclasses.dataclass
class Comparison:
    """What the two files say about each other."""

    records: list[Record]
    requests: list[Request]
    unseen: collections.Counter[str]
    empty_collections: int
    missed: list[Request]

    @property
    def matched(self) -> list[Request]:
        return [request for request in self.requests if request.record]

    def equality(self) -> dict[str, tuple[int, int]]:
        """Return, by field, how many of how many are equal."""
        pairs = self.matched
        counts = {"recall": (len(pairs), len(pairs) + len(self.missed))}
        for field, equal in FIELDS.items():
            counts[field] = (sum(equal(*pair) for pair in map(_both, pairs)), len(pairs))
        return counts

    def below_targets(self) -> list[str]:
        return [field for field, (n, of) in self.equality().items() if 100 * n < TARGETS[field] * of]


FIELDS = {
    "user": lambda native, ours: native["user"] == ours["user"],
    "path": lambda native, ours: _split(native)[0] == _split(ours)[0],
    "objectRef": lambda native, ours: native.get("objectRef") == ours.get("objectRef"),
    "verb": lambda native, ours: native["verb"] == ours["verb"],
    "requestURI": lambda native, ours: native["requestURI"] == ours["requestURI"],
}


def _both(request: Request) -> tuple[dict[str, Any], dict[str, Any]]:
    assert request.record
    return {**request.event, "user": request.user}, request.record.event


def _split(event: dict[str, Any]) -> tuple[str, str]:
    path, _, query = event["requestURI"].partition("?")
    return path, query


# Reading


def read_records(lines: Iterable[bytes], received: Iterable[str] = ()) -> list[Record]:
    """Return the records of lines in any of the three forms."""
    times = iter(received)
    records = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            at = next(times, "").strip()
            try:
                records.append(_record(line, at))
            except ValueError as error:  # a torn tail; what it recorded is missed by itself
                print(f"line {number} of the records: {error}", file=sys.stderr)
    return records


def _record(line: bytes, received: str) -> Record:
    if line.startswith(b'{"kind":"Event"'):
        event = _loads(line)
        return Record(event, _seconds(event["requestReceivedTimestamp"]), _names(event))
    review, ns, cluster = _review(line)
    rendered = EventFormat().render(review, level="Request", received_ns=ns, now_ns=ns, cluster=cluster, changes=None)
    event = _loads(rendered)
    at = ns / 1e9 if ns else (_seconds(received) if received else None)
    return Record(event, at, _names(event) | {review.request.name} - {""})


def _review(line: bytes) -> tuple[reviews.Review, int, str]:
    """Return the review of a record, when it was received (0: not recorded) and of which cluster it is."""
    try:
        record = read(line)
    except NotARecord:
        return reviews.decode(line), 0, ""
    assert isinstance(record, ReviewRecord)
    return record.review(), record.received_ns, record.cluster


def _loads(line: bytes) -> dict[str, Any]:
    try:
        return json.loads(line)
    except RecursionError:  # API servers accept objects nested over a thousand levels deep
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(20 * limit)
        try:
            return json.loads(line)
        finally:
            sys.setrecursionlimit(limit)


def _names(event: dict[str, Any]) -> set[str]:
    annotations = event["annotations"]
    found = {
        (event.get("objectRef") or {}).get("name"),
        annotations.get(PREFIX + "generated-name"),
        annotations.get(PREFIX + "collection-item"),
    }
    return {name for name in found if name}


def read_native(lines: Iterable[bytes]) -> list[Request]:
    """Return the requests that admission can have seen, each once, in the order in which they ended."""
    by_id: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for line in lines:
        if line.strip():
            event = _loads(line)
            by_id[event["auditID"]].append(event)
    requests = [_request(stages) for stages in by_id.values()]
    mutations = [request for request in requests if _is_mutation(request)]
    return sorted(mutations, key=lambda request: (request.end, request.start))


def _request(stages: list[dict[str, Any]]) -> Request:
    last = max(stages, key=lambda event: (event["stage"] in ("ResponseComplete", "Panic"), event["stageTimestamp"]))
    start = min(_seconds(event["requestReceivedTimestamp"]) for event in stages)
    return Request(last, start, max(_seconds(event["stageTimestamp"]) for event in stages))


def _is_mutation(request: Request) -> bool:
    return bool(request.reference.get("resource")) and (request.connects or request.event["verb"] in OPERATIONS)


def _seconds(timestamp: str) -> float:
    whole, _, fraction = timestamp.removesuffix("Z").partition(".")
    return datetime.fromisoformat(whole + "+00:00").timestamp() + float(f"0.{fraction or 0}")


# Matching


def compare(records: list[Record], requests: list[Request]) -> Comparison:
    """Match, and explain what is left on both sides."""
    groups = {_group(record.event) for record in records}
    since, until = _in_force(requests, records)
    unseen: collections.Counter[str] = collections.Counter()
    seen: list[Request] = []
    for request in requests:
        why = _never_seen(request, groups) or _outside_force(request, since, until)
        if why:
            unseen[why] += 1
        else:
            seen.append(request)
    admitted = [request for request in seen if request.admitted]
    index = _Index(records)
    _match([request for request in admitted if not request.collection], index)
    _match_collections([request for request in admitted if request.collection], index)
    failed = [request for request in seen if not request.admitted]
    _match(failed, index)
    _explain_rest(records, seen, index)

    without = [request for request in admitted if not request.record]
    empty = [request for request in without if request.collection and not _deleted(request)]
    missed = [request for request in without if not any(request is other for other in empty)]
    matched = [request for request in admitted if request.record]
    return Comparison(records, matched, unseen, len(empty), missed)


def _group(event: dict[str, Any]) -> str:
    return (event.get("objectRef") or {}).get("apiGroup", "")


def _never_seen(request: Request, groups: set[str]) -> str:
    reference = request.reference
    group = reference.get("apiGroup", "")
    if (group, reference["resource"]) in UNSEEN:
        return "webhook configurations and admission policies: never sent"
    if group in SENT_BY_OLDER and group not in groups:
        return f"{group} (not sent from 1.37 on, nor here)"
    return ""


# How long an API server may take to heed a webhook's configuration.
TAKE_UP_SECONDS = 10.0


def _in_force(requests: list[Request], records: list[Record]) -> tuple[float, float]:
    """Return from when and until when webhooks were called, as far as the native log has their configuration.

    From the first record after the first configuration was created (a moment later, at most) until the last one was
    deleted. Without records' times, or without configurations in the log: always.
    """
    times = [record.at for record in records if record.at is not None]
    changes = [
        request
        for request in requests
        if request.admitted and request.reference["resource"] == "validatingwebhookconfigurations"
    ]
    created = [request.end for request in changes if request.event["verb"] in ("create", "patch")]
    deleted = [request.start for request in changes if request.event["verb"] in ("delete", "deletecollection")]
    if not created or not times:
        return -math.inf, math.inf
    first = min(created)
    since = min([at for at in times if at >= first - NEAR_SECONDS] + [first + TAKE_UP_SECONDS])
    # A request that one webhook of several still saw has its record: only those after the last are left out.
    until = max([*deleted, max(times)]) if deleted and max(deleted) > max(created) else math.inf
    return min(since, first + TAKE_UP_SECONDS), until


def _outside_force(request: Request, since: float, until: float) -> str:
    if request.end < since:
        return "before the webhook was called"
    return "after the webhook was deleted" if request.start > until else ""


def _deleted(request: Request) -> bool:
    """Whether the response shows that a deletecollection deleted anything; without it there is no telling."""
    return bool((request.event.get("responseObject") or {}).get("items"))


class _Index:
    """Records by what a native Event says for sure."""

    def __init__(self, records: list[Record]) -> None:
        self._by_key: dict[tuple[str, ...], list[Record]] = collections.defaultdict(list)
        for record in records:
            event, reference = record.event, record.event["objectRef"]
            operation = event["annotations"][PREFIX + "operation"]
            self._by_key[_key(event["user"].get("username", ""), operation, reference)].append(record)
        for group in self._by_key.values():
            group.sort(key=_at)

    def candidates(self, request: Request) -> list[Record]:
        """Return the records that can be of this request, the likeliest first."""
        operations = {"CONNECT"} if request.connects else OPERATIONS[request.event["verb"]]
        found = [
            record
            for operation in operations
            for record in self._in_time(request, _key(request.user.get("username", ""), operation, request.reference))
            if _can_be(request, record)
        ]
        return sorted(found, key=lambda record: _unlikeness(request, record))

    def _in_time(self, request: Request, key: tuple[str, ...]) -> list[Record]:
        group = self._by_key.get(key, [])
        timeless = bisect.bisect_right(group, -math.inf, key=_at)
        first = bisect.bisect_left(group, request.start - SLACK_SECONDS, key=_at)
        last = bisect.bisect_right(group, _end(request) + SLACK_SECONDS, key=_at)
        return group[:timeless] + group[first:last]


def _at(record: Record) -> float:
    return -math.inf if record.at is None else record.at


def _key(user: str, operation: str, reference: dict[str, Any]) -> tuple[str, ...]:
    return (user, operation, *(reference.get(part, "") for part in ("apiGroup", "resource", "subresource")))


def _can_be(request: Request, record: Record) -> bool:
    reference, ours = request.reference, record.event["objectRef"]
    name = reference.get("name")
    if reference.get("resource") != "namespaces" and reference.get("namespace") != ours.get("namespace"):
        return False
    if request.collection != (record.event["verb"] == "deletecollection"):
        return False
    if name and name not in record.names:
        return False
    generated = ((request.event.get("responseObject") or {}).get("metadata") or {}).get("name")
    return bool(name or request.collection or not generated or not record.names or generated in record.names)


def _end(request: Request) -> float:
    return request.end if not request.connects else math.inf  # the stage may be the first of a long connection


def _unlikeness(request: Request, record: Record) -> tuple[float, ...]:
    reference, ours = request.reference, record.event["objectRef"]
    version = reference.get("resourceVersion")
    outside = _outside(request, record)
    distance = 0.0 if record.at is None else abs(record.at - request.start)
    return (
        outside > NEAR_SECONDS,
        bool(version) and _body_version(record) not in (version, None),
        _split(request.event)[1] != _split(record.event)[1],
        outside,
        version != ours.get("resourceVersion"),
        distance,
    )


def _outside(request: Request, record: Record) -> float:
    return 0.0 if record.at is None else max(request.start - record.at, record.at - _end(request), 0.0)


def _body_version(record: Record) -> str | None:
    metadata = (record.event.get("requestObject") or {}).get("metadata") or {}
    return metadata.get("resourceVersion")


def _match(requests: list[Request], index: _Index) -> None:
    """Give as many requests as possible a record of their own: augmenting paths, earliest end first."""
    candidates = {
        id(request): [record for record in index.candidates(request) if not record.used_for] for request in requests
    }
    owner: dict[int, Request] = {}
    for request in requests:
        _augment(request, candidates, owner)
    for request in requests:
        if request.record:
            request.record.used_for = "matched" if request.admitted else f"refused later ({request.code})"


def _augment(request: Request, candidates: dict[int, list[Record]], owner: dict[int, Request]) -> None:
    """Find a record for one request by moving others to their next choices, breadth first."""
    came_from: dict[int, tuple[Request, Record]] = {}
    queue = collections.deque([request])
    seen = {id(request)}
    while queue:
        asking = queue.popleft()
        for record in candidates[id(asking)]:
            if id(record) in came_from:
                continue
            came_from[id(record)] = (asking, record)
            holder = owner.get(id(record))
            if holder is None:
                _hand_over(record, came_from, owner)
                return
            if id(holder) not in seen:
                seen.add(id(holder))
                queue.append(holder)


def _hand_over(record: Record, came_from: dict[int, tuple[Request, Record]], owner: dict[int, Request]) -> None:
    free: Record | None = record
    while free is not None:
        taker, _ = came_from[id(free)]
        given_up = taker.record
        taker.record, owner[id(free)] = free, taker
        free = given_up


def _match_collections(requests: list[Request], index: _Index) -> None:
    """Give each deletecollection all the records of its objects; the first stands for them."""
    for request in requests:
        names = {item["metadata"]["name"] for item in (request.event.get("responseObject") or {}).get("items") or ()}
        found = [record for record in index.candidates(request) if not record.used_for]
        if "responseObject" in request.event:
            found = [record for record in found if record.names & names]
        during = [record for record in found if _outside(request, record) <= NEAR_SECONDS]
        for record in during or found:
            if request.record is None:
                request.record, record.used_for = record, "matched"
            else:
                record.used_for = "more objects of a matched deletecollection"


def _explain_rest(records: list[Record], seen: list[Request], index: _Index) -> None:
    """Say of the records that are left over which request they were another review of."""
    for request in seen:
        for record in index.candidates(request):
            if not record.used_for:
                record.used_for = (
                    "refused later, an object of a deletecollection"
                    if request.collection
                    else "another review of a matched request (retry, graceful deletion)"
                )
    for record in records:
        if not record.used_for:
            dry = record.event["annotations"].get(PREFIX + "dry-run")
            record.used_for = "dry-run, not in the native log" if dry else "UNEXPLAINED"


# Reporting


def report(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of the table."""
    counts = comparison.equality()
    yield f"records                     {len(comparison.records):6}"
    yield f"native mutations, admitted  {counts['recall'][1]:6}"
    for field, (n, of) in counts.items():
        share = 100 * n / of if of else 100.0
        label = "with an Event (recall)" if field == "recall" else f"equal: {field}"
        mark = "" if share >= TARGETS[field] else "  BELOW"
        yield f"{label:26} {n:6} of {of:<6} {share:6.1f} %   (at least {TARGETS[field]:g} %){mark}"
    yield ""
    yield "Left out of the native log"
    yield f"{comparison.empty_collections:6}  deletecollection of nothing (or of nothing that shows)"
    for why, n in comparison.unseen.most_common():
        yield f"{n:6}  {why}"
    yield ""
    yield "What the records are"
    for used_for, n in collections.Counter(record.used_for for record in comparison.records).most_common():
        yield f"{n:6}  {used_for}"
    yield from _misses(comparison)


def _misses(comparison: Comparison) -> Iterator[str]:
    kinds: dict[str, list[str]] = collections.defaultdict(list)
    for request in comparison.missed:
        kinds[f"no Event: {_what(request)}"].append(f"{request.event['requestURI']} at {request.start:.3f}")
    for request in comparison.matched:
        native, ours = _both(request)
        for field, equal in FIELDS.items():
            if not equal(native, ours):
                kinds[_kind(field, native, ours, request)].append(_example(field, native, ours))
    for record in comparison.records:
        if record.used_for == "UNEXPLAINED":
            kinds["record without a request"].append(f"{record.operation} {record.event['requestURI']}")
    if kinds:
        yield ""
        yield "Misses by kind, an example each"
    for kind, examples in sorted(kinds.items(), key=lambda item: -len(item[1])):
        yield f"{len(examples):6}  {kind}"
        yield f"        {examples[0][:400]}"


def _what(request: Request) -> str:
    reference = request.reference
    resource = "/".join(filter(None, (reference.get("resource"), reference.get("subresource"))))
    return f"{request.event['verb']} {resource}"


def _kind(field: str, native: dict[str, Any], ours: dict[str, Any], request: Request) -> str:
    if field == "verb":
        return f"verb: {_what(request)}, ours {ours['verb']}"
    if field == "objectRef":
        theirs, own = native.get("objectRef") or {}, ours.get("objectRef") or {}
        differing = sorted(key for key in theirs.keys() | own.keys() if theirs.get(key) != own.get(key))
        return f"objectRef: {', '.join(differing)}"
    if field == "requestURI":
        if _split(native)[0] != _split(ours)[0]:
            return "requestURI: path"
        theirs, own = (set(_split(event)[1].split("&")) - {""} for event in (native, ours))
        lacking = sorted({part.partition("=")[0] for part in theirs - own})
        more = sorted({part.partition("=")[0] for part in own - theirs})
        if not lacking and not more:
            return "requestURI: order of the query"
        return (
            "requestURI:"
            + (f" lacks {', '.join(lacking)}" if lacking else "")
            + (f" has {', '.join(more)}" if more else "")
        )
    return field


def _example(field: str, native: dict[str, Any], ours: dict[str, Any]) -> str:
    shown = "requestURI" if field in ("path", "verb") else field
    theirs = json.dumps(native.get(shown))
    return theirs if field == "verb" else f"{theirs}  ours: {json.dumps(ours.get(shown))}"


def main(argv: list[str]) -> int:
    """Print the table. Returns 1 below a target with ``--check``, else 0."""
    parser = argparse.ArgumentParser("compare_native.py", description="Our Events beside the native audit log.")
    parser.add_argument("records", type=pathlib.Path)
    parser.add_argument("native", type=pathlib.Path)
    parser.add_argument("received", type=pathlib.Path, nargs="?")
    parser.add_argument("--check", action="store_true", help="exit with 1 below a target")
    arguments = parser.parse_args(argv)
    comparison = compare_files(arguments.records, arguments.native, arguments.received)
    for line in report(comparison):
        print(line)
    return 1 if arguments.check and comparison.below_targets() else 0


def compare_files(records: pathlib.Path, native: pathlib.Path, received: pathlib.Path | None = None) -> Comparison:
    """Return the comparison of two files (and the times of the first)."""
    times = received.read_text().splitlines() if received else ()
    with records.open("rb") as ours, native.open("rb") as theirs:
        return compare(read_records(ours, times), read_native(theirs))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
