"""Our Events beside the API server's own audit log of the same minutes.

    python -m tests.judge.events RECORDS.ndjson NATIVE.ndjson [RECEIVED.txt] [--check] [--slack-seconds N]

RECORDS holds records in the review or the event format, or plain AdmissionReviews (then RECEIVED.txt may say when each
came, a line each). NATIVE is a native audit log in which mutations have at least level Metadata. For every mutation
that admission saw for certain (the answer says so; impersonated ones by the impersonated user) there has to be an
Event, for a deletecollection one for each object that the answer names. Of the pairs, user, path, objectRef, verb and
whole requestURI are compared, once for each request. Misses are counted by kind, with an example each.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import math
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from . import deep_json, native_log
from .matching import SLACK_SECONDS, Match, match, while_called
from .records import Record, parse

ROOT = pathlib.Path(__file__).resolve().parents[2]

TARGETS = {"recall": 100.0, "user": 99.0, "path": 99.0, "objectRef": 97.0, "verb": 93.0, "requestURI": 85.0}

NO_TIME = "1970-01-01T00:00:00Z"

FIELDS = {
    "user": lambda native, ours: native["user"] == ours["user"],
    "path": lambda native, ours: _split(native)[0] == _split(ours)[0],
    "objectRef": lambda native, ours: native.get("objectRef") == ours.get("objectRef"),
    "verb": lambda native, ours: native["verb"] == ours["verb"],
    "requestURI": lambda native, ours: native["requestURI"] == ours["requestURI"],
}

Event = dict[str, Any]


@dataclasses.dataclass
class Comparison:
    """What the judge found, and of every request that has a record the two Events: the native one and ours."""

    match: Match
    pairs: list[tuple[Event, Event]] = dataclasses.field(repr=False)

    def equality(self) -> dict[str, tuple[int, int]]:
        """Return, by field, how many of how many are equal."""
        missing = {request.audit_id for request in self.match.missing}
        admitted = missing | {request.audit_id for request, _ in self.match.pairs}
        counts = {"recall": (len(admitted - missing), len(admitted))}
        for field, equal in FIELDS.items():
            counts[field] = (sum(equal(*pair) for pair in self.pairs), len(self.pairs))
        return counts

    def below_targets(self) -> list[str]:
        return [field for field, (n, of) in self.equality().items() if 100 * n < TARGETS[field] * of]


def compare(found: Match) -> Comparison:
    """Return the Events of the pairs, ours as `python -m function render` makes them of the records."""
    one_each = {request.audit_id: (request, record) for request, record in reversed(found.pairs)}
    events = _rendered(record for _, record in one_each.values())
    native = (
        {**one.event, "user": one.event.get("impersonatedUser") or one.event["user"]} for one, _ in one_each.values()
    )
    return Comparison(found, list(zip(native, events, strict=True)))


def _rendered(records: Iterable[Record]) -> Iterator[Event]:
    source = b"".join(record.line.rstrip() + b"\n" for record in records)
    command = [sys.executable, "-m", "function", "render"]
    rendered = subprocess.run(command, input=source, stdout=subprocess.PIPE, cwd=ROOT, check=True).stdout
    return map(deep_json.parse, rendered.splitlines())


def _split(event: Event) -> tuple[str, str]:
    path, _, query = event["requestURI"].partition("?")
    return path, query


# Reading


def match_lines(
    records: Iterable[bytes],
    native: Iterable[bytes],
    received: Iterable[str] = (),
    *,
    slack_seconds: float = SLACK_SECONDS,
) -> Match:
    """Match the lines of two files (and the times of the first); without those times by order alone."""
    read = read_records(records, received)
    slack = slack_seconds if all(record.received for record in read) else math.inf
    return match(while_called(native_log.parse(native), read), read, slack_seconds=slack)


def read_records(lines: Iterable[bytes], received: Iterable[str] = ()) -> list[Record]:
    """Return the records of lines in any of the three forms."""
    times = iter(received)
    records = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            at = next(times, "").strip()
            try:
                records.append(parse(_timed(line, at or NO_TIME)))
            except ValueError as error:  # a torn tail; what it recorded is missed by itself
                print(f"line {number} of the records: {error}", file=sys.stderr)
    return records


def _timed(line: bytes, at: str) -> bytes:
    """Return the line as a record: a plain review has no time."""
    if "requestReceivedTimestamp" in deep_json.parse(line):
        return line
    return line.rstrip()[:-1] + b',"requestReceivedTimestamp":"%b"}' % at.encode()


# Reporting


def report(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of the table."""
    counts, uses = comparison.equality(), _uses(comparison.match)
    yield f"records                     {uses.total():6}"
    yield f"native mutations, admitted  {counts['recall'][1]:6}"
    for field, (n, of) in counts.items():
        share = 100 * n / of if of else 100.0
        label = "with an Event (recall)" if field == "recall" else f"equal: {field}"
        mark = "" if share >= TARGETS[field] else "  BELOW"
        yield f"{label:26} {n:6} of {of:<6} {share:6.1f} %   (at least {TARGETS[field]:g} %){mark}"
    left_out = collections.Counter(request.unseen for request in comparison.match.left_out)
    yield from _counted("Left out of the native log", left_out)
    yield from _counted("What the records are", uses)
    yield from _misses(comparison)


def _uses(found: Match) -> collections.Counter[str]:
    matched = len({request.audit_id for request, _ in found.pairs})
    uses = {
        "matched": matched,
        "more objects of a matched deletecollection": len(found.pairs) - matched,
        "another review of a matched request (retry, graceful deletion)": len(found.repeated),
        "UNEXPLAINED": len(found.unexplained),
    }
    return +collections.Counter(uses) + collections.Counter(f"refused later ({one.code})" for one, _ in found.refused)


def _counted(title: str, counts: collections.Counter[str]) -> Iterator[str]:
    yield ""
    yield title
    for what, n in counts.most_common():
        yield f"{n:6}  {what}"


def _misses(comparison: Comparison) -> Iterator[str]:
    kinds: dict[str, list[str]] = collections.defaultdict(list)
    for request in comparison.match.missing:
        kinds[f"no Event: {_what(request.event)}"].append(str(request))
    for native, ours in comparison.pairs:
        for field, equal in FIELDS.items():
            if not equal(native, ours):
                kinds[_kind(field, native, ours)].append(_example(field, native, ours))
    for record in comparison.match.unexplained:
        kinds["record without a request"].append(str(record))
    if kinds:
        yield ""
        yield "Misses by kind, an example each"
    for kind, examples in sorted(kinds.items(), key=lambda item: -len(item[1])):
        yield f"{len(examples):6}  {kind}"
        yield f"        {examples[0][:400]}"


def _what(event: Event) -> str:
    reference = event["objectRef"]
    return f"{event['verb']} " + "/".join(filter(None, (reference["resource"], reference.get("subresource"))))


def _kind(field: str, native: Event, ours: Event) -> str:
    if field == "verb":
        return f"verb: {_what(native)}, ours {ours['verb']}"
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


def _example(field: str, native: Event, ours: Event) -> str:
    shown = "requestURI" if field in ("path", "verb") else field
    theirs = json.dumps(native.get(shown))
    return theirs if field == "verb" else f"{theirs}  ours: {json.dumps(ours.get(shown))}"


def main(argv: list[str]) -> int:
    """Print the table. Returns 1 below a target with ``--check``, else 0."""
    parser = argparse.ArgumentParser(
        "python -m tests.judge.events", description="Our Events beside the native audit log."
    )
    parser.add_argument("records", type=pathlib.Path)
    parser.add_argument("native", type=pathlib.Path)
    parser.add_argument("received", type=pathlib.Path, nargs="?")
    parser.add_argument("--check", action="store_true", help="exit with 1 below a target")
    parser.add_argument(
        "--slack-seconds", type=float, default=SLACK_SECONDS, help="by which two machines' clocks differ"
    )
    arguments = parser.parse_args(argv)
    times = arguments.received.read_text().splitlines() if arguments.received else ()
    with arguments.records.open("rb") as ours, arguments.native.open("rb") as theirs:
        comparison = compare(match_lines(ours, theirs, times, slack_seconds=arguments.slack_seconds))
    for line in report(comparison):
        print(line)
    return 1 if arguments.check and comparison.below_targets() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
