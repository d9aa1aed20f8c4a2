"""Names in the archive: where a segment goes by its first record, and which names a question needs (pure).

``cluster=NAME/date=YYYY-MM-DD/hour=HH/<directory>-<segment>.ndjson.zst`` as query engines know partitions, in UTC; what
proves a segment is under ``_evidence/<directory>/``: engines pass over names that begin with ``_``.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

__all__ = [
    "EVIDENCE",
    "SEVERAL",
    "UNNAMED",
    "Archived",
    "between",
    "evidence_name",
    "object_name",
    "parse",
    "prefixes",
]

EVIDENCE = "_evidence"
# A central endpoint's segments hold records of several clusters, each with its name; no real cluster can be called so.
SEVERAL = "_several"
UNNAMED = "_unnamed"

HOUR_NS = 3600 * 10**9
# No archived segment is older than this when it is closed: the settings see to it.
SEGMENT_AGE_MAX_NS = 24 * HOUR_NS
# Records are written in another order than their reviews were received, by less than this: no review takes so long.
DISORDER_NS = 60 * 10**9

_OBJECT = re.compile(
    r"cluster=([^/]+)/date=(\d{4}-\d\d-\d\d)/hour=(\d\d)/"
    r"([^/]+-[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8})-([0-9]{20})(-[0-9a-f]{8})?\.ndjson\.zst"
)


class Archived(NamedTuple):
    """A segment in the archive: ``hour_ns`` is when the hour of its first record began, since the epoch.

    ``variant`` is empty but where another object of the name was there first, with other records.
    """

    name: str
    cluster: str
    hour_ns: int
    directory: str
    number: int
    variant: str = ""


def object_name(cluster: str, first_ns: int, directory: str, number: int, variant: str = "") -> str:
    """Return the name of segment ``number`` of a process directory, whose first record was received then."""
    hour = _hour(first_ns)
    partition = f"cluster={cluster or UNNAMED}/date={hour:%Y-%m-%d}/hour={hour:%H}"
    return f"{partition}/{directory}-{number:020d}{variant}.ndjson.zst"


def evidence_name(directory: str, file: str) -> str:
    """Return the name of a file that proves something about a process directory."""
    return f"{EVIDENCE}/{directory}/{file}"


def parse(name: str) -> Archived | None:
    """Return what a segment's name says, None where it is another object's."""
    match = _OBJECT.fullmatch(name)
    if match is None:
        return None
    try:
        hour = dt.datetime.fromisoformat(f"{match[2]}T{match[3]}:00:00+00:00")
    except ValueError:
        return None
    return Archived(name, match[1], int(hour.timestamp()) * 10**9, match[4], int(match[5]), match[6] or "")


def prefixes(clusters: Sequence[str], since_ns: int, until_ns: int) -> Iterator[str]:
    """Return the prefixes under which all segments are that may hold records between two times, by cluster.

    A day at a time where ``since_ns`` is given: one that began a day earlier may go on for so long.
    """
    for cluster in clusters:
        if not since_ns:
            yield f"cluster={cluster}"
            continue
        day, last = _hour(since_ns - DISORDER_NS - SEGMENT_AGE_MAX_NS).date(), _hour(until_ns + DISORDER_NS).date()
        while day <= last:
            yield f"cluster={cluster}/date={day:%Y-%m-%d}"
            day += dt.timedelta(days=1)


def between(found: Iterable[Archived], since_ns: int, until_ns: int) -> list[Archived]:
    """Return those that may hold records from ``since_ns`` to ``until_ns``.

    Of what began up to a day before, in each directory, the last one: a segment ends before the next begins, but for
    the minute that records may be out of order.
    """
    since_ns, until_ns = since_ns - DISORDER_NS, until_ns + DISORDER_NS
    wanted: list[Archived] = []
    earlier: dict[tuple[str, str], list[Archived]] = {}
    for one in found:
        if one.hour_ns > until_ns or one.hour_ns + HOUR_NS + SEGMENT_AGE_MAX_NS <= since_ns:
            continue
        if one.hour_ns + HOUR_NS > since_ns:
            wanted.append(one)
            continue
        last = earlier.setdefault((one.cluster, one.directory), [])
        if last and one.number > last[0].number:
            last.clear()
        if not last or one.number == last[0].number:
            last.append(one)
    return wanted + [one for last in earlier.values() for one in last]


def _hour(ns: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(max(0, ns) // 10**9, dt.UTC)
