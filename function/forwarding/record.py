"""What a sink needs to know of a record, in either format (pure)."""

from __future__ import annotations

import datetime as dt
import hashlib
import re

import msgspec

__all__ = ["NotARecord", "Record", "decode"]

EVENT_CLUSTER = "kube-audit-function/cluster"


class NotARecord(ValueError):  # noqa: N818 - named after what it is; the caller sets it aside and goes on
    """The line is no record of ours. Its text is not in the message: it may hold anything."""


class Record(msgspec.Struct):
    """A line of the journal (without its line break), and who did what to which object in it.

    ``id`` is the same for every copy of a line, and differs between lines; it is made of ASCII letters, digits and
    ``-._:``. ``received`` is RFC 3339 in UTC, as the record has it.
    """

    line: bytes
    id: str
    is_event: bool
    received: str
    cluster: str
    verb: str
    group: str
    version: str
    resource: str
    subresource: str
    namespace: str
    name: str
    user: str
    truncated: bool = False

    def with_line(self, line: bytes) -> Record:
        """Return the same record with less in its line; its id stays."""
        return msgspec.structs.replace(self, line=line, truncated=True)

    def received_seconds(self) -> float:
        """Return when the review came, in seconds since the epoch; 0 where the record does not say."""
        match = _SECOND.match(self.received)
        if match is None:
            return 0.0
        try:
            return dt.datetime.fromisoformat(match[1] + "+00:00").timestamp() + float(match[2] or 0)
        except ValueError:
            return 0.0

    def object_path(self) -> str:
        """Return ``group/resource/namespace/name``: what tells objects apart. The core group is empty."""
        return f"{self.group}/{self.resource}/{self.namespace}/{self.name}"


class _Resource(msgspec.Struct, gc=False):
    group: str = ""
    version: str = ""
    resource: str = ""


class _User(msgspec.Struct, gc=False):
    username: str = ""


class _Request(msgspec.Struct):
    uid: str
    resource: _Resource
    operation: str
    subResource: str = ""  # noqa: N815 - Kubernetes' own spelling
    name: str = ""
    namespace: str = ""
    userInfo: _User | None = None  # noqa: N815


class _ObjectRef(msgspec.Struct, gc=False):
    apiGroup: str = ""  # noqa: N815
    apiVersion: str = ""  # noqa: N815
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""


class _Line(msgspec.Struct):
    kind: str
    requestReceivedTimestamp: str  # noqa: N815
    cluster: str = ""
    request: _Request | None = None
    auditID: str = ""  # noqa: N815
    verb: str = ""
    user: _User | None = None
    objectRef: _ObjectRef | None = None  # noqa: N815
    annotations: dict[str, str] | None = None


_line = msgspec.json.Decoder(_Line).decode
_SECOND = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?Z")
_plain_id = re.compile(r"[A-Za-z0-9._:-]{1,128}").fullmatch
_NO_USER = _User()
_NO_OBJECT = _ObjectRef()


def decode(line: bytes) -> Record:
    """Return the record of one line of a journal, in the review or the event format. Raises `NotARecord`."""
    text = line.removesuffix(b"\n")
    try:
        read = _line(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotARecord("not a record of ours") from None
    request = read.request
    if request is not None and read.kind == "AdmissionReview":
        return Record(
            line=text,
            id=_id(request.uid, text),
            is_event=False,
            received=read.requestReceivedTimestamp,
            cluster=read.cluster,
            verb=request.operation.lower(),
            group=request.resource.group,
            version=request.resource.version,
            resource=request.resource.resource,
            subresource=request.subResource,
            namespace=request.namespace,
            name=request.name,
            user=(request.userInfo or _NO_USER).username,
        )
    if read.kind != "Event" or not read.auditID:
        raise NotARecord("neither an AdmissionReview nor an Event")
    target = read.objectRef or _NO_OBJECT
    return Record(
        line=text,
        id=_id(read.auditID, text),
        is_event=True,
        received=read.requestReceivedTimestamp,
        cluster=(read.annotations or {}).get(EVENT_CLUSTER, ""),
        verb=read.verb,
        group=target.apiGroup,
        version=target.apiVersion,
        resource=target.resource,
        subresource=target.subresource,
        namespace=target.namespace,
        name=target.name,
        user=(read.user or _NO_USER).username,
    )


def _id(uid: str, line: bytes) -> str:
    """Return the uid and a digest of the line: a review that was sent twice is two records, a line sent twice one."""
    digest = hashlib.blake2b(line, digest_size=8, usedforsecurity=False).hexdigest()
    return f"{uid}-{digest}" if _plain_id(uid) else digest
