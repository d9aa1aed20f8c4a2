"""What is known of each object, and the records of what became of it: durable before it counts as known."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence

import msgspec
from msgspec import Raw

from ..journal.content import content_blocks
from ..journal.files import Files
from ..journal.segments import scan
from ..metrics import WatchMetrics
from ..record import reading
from ..record.observation import OPERATION, Observation, ObservedResource
from .follower import Listener
from .objects import Seen, Step, difference, of_item, of_record

__all__ = ["Known", "Observer", "Stopped", "known_from"]

log = logging.getLogger("audit.watch")

RETRY_SECONDS = 1.0
_NEEDLE = OPERATION.encode()


class Stopped(Exception):  # noqa: N818 - named after what happened: the process ends
    """Nothing is recorded any more."""


class Known:
    """The objects as the journal has them, by resource and name; ``since_ns`` is None where it has none."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Seen] = {}
        self.since_ns: int | None = None


def known_from(journal_dir: str, files: Files | None = None) -> Known:
    """Return what the observations in the journal say, those of all processes before this one. Raises `OSError`."""
    known = Known()
    found: dict[tuple[str, str], reading.Record] = {}  # the last of each object: a journal need not fit into memory
    for records in _observations(files or Files(), journal_dir):
        latest: dict[tuple[str, str], reading.Record] = {}
        for record in records:  # in the order that they were written in, whatever became of the clock
            latest[record.object.resource, record.object.name] = record
            known.since_ns = min(known.since_ns or record.received_ns, record.received_ns)
        for key, record in latest.items():
            if key not in found or record.received_ns >= found[key].received_ns:
                found[key] = record
    for key, record in found.items():
        about = record.object
        if record.observed is None or record.observed.change == "deleted":
            continue
        with contextlib.suppress(msgspec.DecodeError):  # cut down; the next look finds it present
            resource = ObservedResource(about.group, about.version, about.resource)
            known.objects[key] = of_record(record.new_object, resource)
    return known


class Observer:
    """A `Listener` that records.

    ``store`` returns whether the lines are durable; it is asked until they are, or ``is_stopping`` says so.
    ``unredacted`` is told the same, before ``redact`` takes out of an object what may not be recorded.
    """

    def __init__(
        self,
        known: Known,
        store: Callable[[Sequence[bytes]], bool],
        metrics: WatchMetrics,
        *,
        as_event: bool,
        cluster: str,
        redact: Callable[[Seen], Seen],
        unredacted: Listener,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._known = known
        self._store = store
        self._metrics = metrics
        self._as_event = as_event
        self._cluster = cluster
        self._redact = redact
        self._unredacted = unredacted
        self._lock = threading.RLock()
        self._is_stopping = is_stopping
        self.found = 0  # differences

    def listed(self, resource: ObservedResource, kind: str, items: Sequence[Raw]) -> None:
        """Record what differs from what is known. Raises `Stopped`."""
        with self._lock:
            self._unredacted.listed(resource, kind, items)
            there = {seen.key: seen for seen in (self._redact(of_item(item, resource, kind)) for item in items)}
            before = {key: seen for key, seen in self._known.objects.items() if key[0] == resource.resource}
            steps: list[Step] = []
            for key in sorted(before.keys() | there.keys()):
                steps += difference(before.get(key), there.get(key), known_since_ns=self._known.since_ns)
            self._record(steps, watching=False)

    def changed(self, resource: ObservedResource, name: str, source: Raw | None) -> None:
        """Record what happened to one object. Raises `Stopped`."""
        with self._lock:
            self._unredacted.changed(resource, name, source)
            after = self._redact(of_item(source, resource)) if source is not None else None
            before = self._known.objects.get((resource.resource, name))
            self._record(list(difference(before, after, known_since_ns=0)), watching=True)

    def repeat(self) -> None:
        """Record everything that is known once more, so that retention may let the older records go."""
        with self._lock:
            steps = [Step("present", None, seen) for seen in self._known.objects.values()]
            self._record(steps, watching=True)

    # -- steps ------------------------------------------------------------------------------------------------

    def _record(self, steps: Sequence[Step], *, watching: bool) -> None:
        now = time.time_ns()
        seen = [step.observation(str(uuid.uuid4()), watching=watching) for step in steps]
        lines = [self._line(one, now) for one in seen]
        while lines and not self._store(lines):
            if self._is_stopping():
                raise Stopped
            time.sleep(RETRY_SECONDS)
        for step, one in zip(steps, seen, strict=True):
            self._take_over(step)
            self._metrics.observations.labels(change=one.change, watching="true" if watching else "false").inc()
            if one.change != "present":
                self.found += 1
                _say(one)
        if self._known.since_ns is None and steps:
            self._known.since_ns = now

    def _line(self, seen: Observation, now: int) -> bytes:
        make = seen.event if self._as_event else seen.line
        return make(observed_ns=now, cluster=self._cluster)

    def _take_over(self, step: Step) -> None:
        if step.after is not None:
            self._known.objects[step.after.key] = step.after
        elif step.before is not None:
            self._known.objects.pop(step.before.key, None)


def _say(seen: Observation) -> None:
    managers = ", ".join(one.manager for one in seen.managers)
    log.info(
        "watch: %s %s was %s%s%s",
        seen.resource.resource,
        seen.name,
        seen.change,
        f" by field manager {managers}" if managers else "",
        "" if seen.watching else " while not watching",
    )


def _observations(files: Files, journal_dir: str) -> Iterator[Iterator[reading.Record]]:
    """Yield those of each process."""
    with contextlib.suppress(FileNotFoundError):
        for directory in scan(files, journal_dir):
            yield (record for segment in directory.segments for record in _still_there(files, segment.path))


def _still_there(files: Files, path: str) -> Iterator[reading.Record]:
    with contextlib.suppress(FileNotFoundError):  # retention was faster, for this one
        yield from _observations_of(files, path)


def _observations_of(files: Files, path: str) -> Iterator[reading.Record]:
    rest = b""
    for block in content_blocks(files, path):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if _NEEDLE in line:
                with contextlib.suppress(reading.NotARecord):
                    record = reading.read(line)
                    if record.observed is not None:
                        yield record
