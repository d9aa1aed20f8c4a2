"""A line in the review format back to the review it was made of, for offline conversion and comparison (pure)."""

from __future__ import annotations

import datetime as dt
import re

import msgspec
from msgspec import Raw

from ..review import API_VERSION, KIND, Degraded, Request, Review

__all__ = ["NotARecord", "Record", "decode_record"]


class NotARecord(ValueError):  # noqa: N818 - named after what it is; the caller counts it and goes on
    """The line is no record in the review format. Its text is not in the message: it may hold anything."""


class Record(msgspec.Struct):
    """What a record holds: the review, and what was known beside it."""

    review: Review
    received_ns: int | None  # since the epoch; None in a review that was not recorded
    cluster: str
    changes: bytes | None
    level: str  # as it shows in what is left of the objects: Metadata or Request


_ABSENT = Raw()  # Raw | None would decode null only


class _Line(msgspec.Struct):
    kind: str
    apiVersion: str  # noqa: N815 - Kubernetes' own spelling
    request: Raw
    requestReceivedTimestamp: str | None = None  # noqa: N815
    cluster: str = ""
    changes: Raw = _ABSENT
    degraded: Degraded | None = None


_line = msgspec.json.Decoder(_Line).decode
_request = msgspec.json.Decoder(Request).decode


def decode_record(line: bytes) -> Record:
    """Return the record of one line, ours or kube-audit-rest's. Raises `NotARecord`."""
    try:
        if not line.isascii():
            line.decode()
        read = _line(line)
        source = bytes(read.request)
        request = _request(source)
    except RecursionError:
        raise NotARecord("nested too deeply") from None
    except UnicodeDecodeError:
        raise NotARecord("not UTF-8") from None
    except msgspec.ValidationError:
        raise NotARecord("JSON, but not an AdmissionReview") from None
    except msgspec.DecodeError:
        raise NotARecord("not JSON (a torn line?)") from None
    if read.kind != KIND or read.apiVersion != API_VERSION:
        raise NotARecord("JSON, but not an AdmissionReview")
    review = Review(request, source, request.object, request.oldObject, degraded=read.degraded)
    received = None if read.requestReceivedTimestamp is None else _nanoseconds(read.requestReceivedTimestamp)
    changes = bytes(read.changes) or None
    return Record(review, received, read.cluster, changes, _level(request))


_timestamp = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z", re.ASCII).fullmatch


def _nanoseconds(text: str) -> int:
    """Return the nanoseconds since the epoch of an RFC 3339 timestamp in UTC. Raises `NotARecord`."""
    match = _timestamp(text)
    if match is None:
        raise NotARecord("requestReceivedTimestamp is not RFC 3339 in UTC")
    try:
        second = dt.datetime.fromisoformat(match[1] + "+00:00")
    except ValueError:
        raise NotARecord("requestReceivedTimestamp is no date") from None
    return int(second.timestamp()) * 1_000_000_000 + int((match[2] or "").ljust(9, "0"))


class _Metadata(msgspec.Struct, forbid_unknown_fields=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815


class _Identity(msgspec.Struct, forbid_unknown_fields=True):
    apiVersion: str = ""  # noqa: N815
    kind: str = ""
    metadata: _Metadata | None = None


_identity = msgspec.json.Decoder(_Identity | None).decode


def _level(request: Request) -> str:
    """Return the level that the objects show: at Metadata, nothing but their identity is left.

    No object of an API server is without more than that: a creationTimestamp at least.
    """
    return "Metadata" if _reduced(request.object) and _reduced(request.oldObject) else "Request"


def _reduced(source: Raw) -> bool:
    try:
        _identity(source)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
