"""What `reconcile` prints: the counts with their reasons, lists, JSON."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TextIO

import orjson

from ...native import outcomes
from ...native.acts import act_of_record
from ...native.outcomes import CLASSES, Outcome
from ...record.reading import NotARecord, Record
from ..command_line import say
from ..show.text import safe
from .index import Index
from .indexing import What, decoded
from .inputs import Journal, NativeLog
from .joining import Join

__all__ = ["as_json", "listed", "summary", "warn"]

FINDINGS_SHOWN_MAX = 20
REASONS_SHOWN_MAX = 8

_HOW = {
    "exact": "by the annotation",
    "sole": "by who, what and when, the only candidate",
    "ordered": "by who, what and when, among several in order of time",
}


def warn(join: Join, journal: Journal, log: NativeLog) -> None:
    """Say on standard error what was left out, and what makes the result less certain."""
    result = join.result
    for text in log.malformed:
        say(f"left out: {text}")
    if log.malformed_count > len(log.malformed):
        say(f"left out: {log.malformed_count - len(log.malformed):,} more")
    for place in log.torn:
        say(f"{place}: the last line is not finished: left out")
    if journal.no_records:
        say(f"{journal.no_records:,} lines of the journal are no records, and not compared")
    if result.cut:
        say(f"{result.cut:,} events were cut by whoever stored them: paired without their annotations and times")
    if abs(result.skew_ns) > 1_000_000_000:
        ahead = "ahead of" if result.skew_ns > 0 else "behind"
        say(f"our clock is {abs(result.skew_ns) / 1e9:.1f} s {ahead} the API server's: taken into account")
    for segment in result.moved_segments:
        say(f"{segment}: records are not where the API server was told: the segment is not what was written")


def summary(join: Join, journal: Journal, index: Index, out: TextIO, *, with_findings: bool = True) -> None:
    """Print the counts, why, and the first findings."""
    result = join.result
    low, high = (_time(moment) for moment in result.covered)
    print(
        f"{result.requests:,} requests in the API server's log, from {low} to {high}; {result.records:,} records",
        file=out,
    )
    if result.outside:
        print(f"{result.outside:,} records are outside of that time, and not compared", file=out)
    print(file=out)
    for class_ in CLASSES:
        print(f"  {class_:<15} {result.counts[class_]:>11,}", file=out)
        for text in _reasons(join, class_):
            print(f"      {text}", file=out)
    if result.late:
        print(
            f"      {result.late:,} of the recorded: the API server gave up waiting, and the record was written",
            file=out,
        )
    print(file=out)
    if with_findings:
        _findings(join, journal, index, out)
    print(_verdict(join), file=out)


def _reasons(join: Join, class_: str) -> Iterator[str]:
    result = join.result
    if class_ == outcomes.RECORDED:
        yield from (f"{result.certainties[how]:,} {text}" for how, text in _HOW.items() if result.certainties[how])
        return
    whys = [(why, count) for why, count in result.whys.most_common() if why.result == class_]
    for why, count in whys[:REASONS_SHOWN_MAX]:
        yield f"{count:,} {_why(why)}"
    if rest := whys[REASONS_SHOWN_MAX:]:
        yield f"{sum(count for _, count in rest):,} for {len(rest)} other reasons"


def _why(why: Outcome) -> str:
    return why.why if why.certain else f"probably: {why.why}"


def _verdict(join: Join) -> str:
    result = join.result
    unexplained, disagree = result.counts[outcomes.UNEXPLAINED], result.counts[outcomes.DISAGREE]
    if result.is_clean:
        return "Nothing is unexplained, and nothing disagrees."
    found = []
    if unexplained:
        found.append(f"{unexplained:,} unexplained")
    if disagree:
        found.append(f"{disagree:,} disagree")
    if result.moved:
        found.append(f"{result.moved:,} records are not where they were written")
    return "; ".join(found) + ". See docs/reconcile.md for what to do."


def _findings(join: Join, journal: Journal, index: Index, out: TextIO) -> None:
    lines: list[str] = []
    for line in _lines(join, journal, index, [outcomes.UNEXPLAINED, outcomes.DISAGREE]):
        if len(lines) == FINDINGS_SHOWN_MAX:
            lines.append("… --list --class unexplained --class disagree shows all")
            break
        lines.append(_readable(line))
    if lines:
        print(*lines, "", sep="\n", file=out)


# -- lists ------------------------------------------------------------------------------------------------------------


class _Line(NamedTuple):
    """A request, or a record without one."""

    result: str
    moment_ns: int
    audit_id: str
    what: What | None
    record: Record | None
    place: str
    how: str
    differ: list[str]
    why: Outcome | None


def _lines(join: Join, journal: Journal, index: Index, classes: Sequence[str]) -> Iterator[_Line]:
    marks = ",".join("?" * len(classes))
    rows = index.rows(
        "SELECT r.class, r.began, t.audit_id, t.what, r.place, r.how, r.differ, r.outcome FROM results r"  # noqa: S608
        f" LEFT JOIN theirs t ON t.id = r.id WHERE r.class IN ({marks}) ORDER BY r.began",  # question marks
        *classes,
    )
    for class_, began, audit_id, what, place, how, differ, outcome in rows:
        needs_record = place is not None and class_ in (outcomes.ONLY_OURS, outcomes.DISAGREE)
        yield _Line(
            class_,
            began,
            audit_id or "",
            decoded(what) if what else None,
            _record(journal, place) if needs_record else None,
            journal.spelled(place) if place is not None else "",
            how,
            [part for part in differ.split(",") if part],
            None if outcome is None else join.outcome(outcome),
        )


def _record(journal: Journal, place: int) -> Record | None:
    try:
        return journal.record_at(place)
    except (OSError, NotARecord):  # the journal changed while it was compared
        return None


def listed(join: Join, journal: Journal, index: Index, classes: Sequence[str], *, as_json: bool) -> None:
    """Print a line for each request of these classes, in the order of time."""
    for line in _lines(join, journal, index, classes):
        if as_json:
            sys.stdout.buffer.write(orjson.dumps(_members(line)) + b"\n")
        else:
            sys.stdout.buffer.write(f"{_readable(line)}\n".encode(errors="backslashreplace"))


def _readable(line: _Line) -> str:
    text = f"{line.result:<15} {_time(line.moment_ns)}  {_told(line)}"
    if line.audit_id:
        text += f"  auditID {safe(line.audit_id)}"
    if line.record is not None and line.result == outcomes.ONLY_OURS:
        text += f"  uid {safe(line.record.uid)}"
    if line.place:
        text += f"  at {safe(line.place)}"
    if line.differ:
        text += f"  {', '.join(line.differ)}: ours is {_of_record(line.record)}"
    if line.how:
        text += f"  [{line.how}]"
    if line.why is not None:
        text += f"  [{_why(line.why)}]"
    if line.result == outcomes.UNEXPLAINED and line.what is not None and line.what.claimed:
        text += f"  claimed {safe(line.what.claimed)}"
    return text


def _told(line: _Line) -> str:
    if line.result == outcomes.ONLY_OURS:
        return _of_record(line.record)
    what = line.what
    if what is None:
        return ""
    resource = "/".join(safe(part) for part in (what.resource, what.subresource) if part)
    place = "/".join(safe(part) for part in (what.namespace, what.name or what.named_by_answer) if part)
    text = f"{safe(what.verb)} {resource} {place} by {safe(what.user)}".replace("  ", " ")
    if what.original_user:
        text += f" (impersonated by {safe(what.original_user)})"
    return f"{text}: {what.code or 'no outcome'}"


def _of_record(record: Record | None) -> str:
    if record is None:
        return "a record that is no longer there"
    act = act_of_record(record)
    resource = "/".join(safe(part) for part in (act.resource, act.subresource) if part)
    place = "/".join(safe(part) for part in (act.namespace, record.object.name) if part)
    return f"{safe(record.operation)} {resource} {place} by {safe(act.user)}"


def _members(line: _Line) -> dict[str, object]:
    members: dict[str, object] = {"class": line.result, "time": _time(line.moment_ns)}
    if line.audit_id:
        members["auditID"] = line.audit_id
    if line.what is not None:
        what = {name: value for name, value in line.what._asdict().items() if value not in ("", None)}
        what.pop("exact_code", None)
        members["request"] = what
    if line.record is not None:
        members["record"] = {"uid": line.record.uid, **act_of_record(line.record)._asdict()}
    if line.place:
        members["place"] = line.place
    if line.how:
        members["certainty"] = line.how
    if line.differ:
        members["differ"] = line.differ
    if line.why is not None:
        members |= {"why": line.why.why, "certain": line.why.certain}
    return members


# -- JSON -------------------------------------------------------------------------------------------------------------


def as_json(join: Join, journal: Journal, index: Index) -> None:
    """Print one object: the counts by class, what they rest on, and under ``list`` the audit IDs of each class.

    Of ``only_ours`` the list has the uids of the reviews.
    """
    out = sys.stdout.buffer
    result = join.result
    head: dict[str, object] = {class_: result.counts[class_] for class_ in CLASSES}
    head |= {
        "requests": result.requests,
        "records": result.records,
        "outside": result.outside,
        "moved": result.moved,
        "late": result.late,
        "certainty": {how: result.certainties[how] for how in _HOW},
        "reasons": {
            class_: [
                {"why": why.why, "certain": why.certain, "count": count}
                for why, count in result.whys.most_common()
                if why.result == class_
            ]
            for class_ in CLASSES
        },
        "webhooks": list(result.webhooks),
        "from": _time(result.covered[0]),
        "until": _time(result.covered[1]),
        "clock_skew_seconds": result.skew_ns / 1e9,
    }
    out.write(orjson.dumps(head)[:-1] + b',"list":{')
    for number, class_ in enumerate(CLASSES):
        out.write((b"," if number else b"") + orjson.dumps(class_) + b":[")
        for position, line in enumerate(_lines(join, journal, index, [class_])):
            id_ = line.audit_id if class_ != outcomes.ONLY_OURS else (line.record.uid if line.record else "")
            out.write((b"," if position else b"") + orjson.dumps(id_))
        out.write(b"]")
    out.write(b"}}\n")


def _time(moment_ns: int) -> str:
    moment = dt.datetime.fromtimestamp(moment_ns // 1_000_000_000, dt.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment_ns % 1_000_000_000 // 1_000_000:03d}Z"
