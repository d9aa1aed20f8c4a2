"""One line of the journal, of either format, as what a person asks about it: when, who, what, to what (pure)."""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec
from msgspec import Raw

from ..changes import changes as changes_between
from ..rendering import request_uri
from ..rendering.event import PREFIX
from ..rendering.verb import metadata, verb
from ..review import Degraded, Request, UserInfo

__all__ = ["NotARecord", "Row", "row_of", "time_of"]


class NotARecord(ValueError):  # noqa: N818 - named after what it is; the caller counts it and goes on
    """The line is no record in either format."""


class Row(NamedTuple):
    """What is shown and filtered. ``time`` is RFC 3339 in UTC without its ``Z``, so that it sorts as text."""

    time: str
    user: str
    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    cluster: str
    degraded: str
    dry_run: bool
    recorded_changes: bytes
    old: bytes | Raw
    new: bytes | Raw

    def changes(self) -> bytes:
        """Return the JSON Patch of what changed, recorded or computed; empty where the record cannot tell."""
        if self.recorded_changes:
            return self.recorded_changes
        if not _is_object(self.old) or not _is_object(self.new):
            return b""
        try:
            return changes_between(self.old, self.new)
        except (msgspec.DecodeError, RecursionError):
            return b""


_ABSENT = Raw()


class _ObjectRef(msgspec.Struct):
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""


class _Line(msgspec.Struct):
    kind: str
    apiVersion: str  # noqa: N815 - Kubernetes' own spelling
    requestReceivedTimestamp: str  # noqa: N815
    request: Request | None = None
    cluster: str = ""
    changes: Raw = _ABSENT
    degraded: Degraded | None = None
    verb: str = ""
    user: UserInfo | None = None
    objectRef: _ObjectRef | None = None  # noqa: N815
    requestURI: str = ""  # noqa: N815
    requestObject: Raw = _ABSENT  # noqa: N815
    annotations: dict[str, str] | None = None


_line = msgspec.json.Decoder(_Line).decode
_timestamp = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?)Z", re.ASCII).fullmatch


def row_of(line: bytes) -> Row:
    """Return the row of one line. Raises `NotARecord`."""
    try:
        read = _line(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise NotARecord from None
    time = _timestamp(read.requestReceivedTimestamp)
    if time is None:
        raise NotARecord
    if read.kind == "Event" and read.apiVersion.startswith("audit.k8s.io/"):
        return _of_event(read, time[1])
    if read.kind == "AdmissionReview" and read.request is not None:
        return _of_review(read, read.request, time[1])
    raise NotARecord


def time_of(line: bytes) -> str:
    """Return the time of one line, empty where it is no record."""
    try:
        return row_of(line).time
    except NotARecord:
        return ""


def _of_review(read: _Line, request: Request, time: str) -> Row:
    resource = request.requestResource or request.resource  # what the client asked for
    subresource = request.requestSubResource or request.subResource
    manager = request_uri.sent(request.options).manager
    written = metadata(request.object)
    verb_ = verb(request, resource, subresource, manager, written).name
    name = request.name or written.name or metadata(request.oldObject).name
    degraded = read.degraded.reason if read.degraded else ""
    return Row(
        time,
        request.userInfo.username,
        verb_,
        resource.resource,
        subresource,
        request.namespace,
        name,
        read.cluster,
        degraded,
        bool(request.dryRun),
        bytes(read.changes),
        request.oldObject,
        request.object,
    )


def _of_event(read: _Line, time: str) -> Row:
    notes = read.annotations or {}
    # What has no objectRef is no resource: its path is all there is.
    reference = read.objectRef or _ObjectRef(name=read.requestURI)
    name = reference.name or notes.get(PREFIX + "generated-name") or notes.get(PREFIX + "collection-item") or ""
    return Row(
        time,
        read.user.username if read.user else "",
        read.verb,
        reference.resource,
        reference.subresource,
        reference.namespace,
        name,
        notes.get(PREFIX + "cluster", ""),
        notes.get(PREFIX + "degraded", ""),
        notes.get(PREFIX + "dry-run") == "true",
        notes.get(PREFIX + "changes", "").encode(),
        # What a delete sent is its options, not a new object.
        notes.get(PREFIX + "old-object", "").encode() if notes.get(PREFIX + "operation") == "UPDATE" else b"",
        read.requestObject,
    )


def _is_object(source: bytes | Raw) -> bool:
    return bytes(memoryview(source)[:1]) == b"{"
