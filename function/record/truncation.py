"""Records too large for a backend, cut down to valid JSON as the API server does: objects first (pure)."""

from __future__ import annotations

from typing import Any

import msgspec

from .reading import Record

__all__ = ["STEPS", "truncated"]

ANNOTATION = "audit.k8s.io/truncated"

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.encode
_TRUNCATED = msgspec.Raw(b'"true"')

STEPS = 2
_LONG_BYTES = 1024

_OF_EVENT = ("requestObject", "responseObject")
_OF_ANNOTATIONS = ("kube-audit-function/old-object", "kube-audit-function/changes")
# Large by the wish of whoever asks or lets in.
_OF_USER = ("groups", "extra")


def truncated(record: Record, step: int) -> Record:
    """Return ``record`` without its objects (``step`` 1), and without all that can be long (2).

    The id stays, and an annotation says what was done: ``audit.k8s.io/truncated: "true"``.
    """
    line = _truncated_event(record.line, step) if record.is_event else _truncated_review(record.line, step)
    return record.with_line(line)


def _truncated_review(line: bytes, step: int) -> bytes:
    review: dict[str, Any] = dict(_fields(line))
    if "observation" in review:
        return _truncated_observation(review)
    request: dict[str, Any] = dict(_fields(review["request"]))
    for name in ("object", "oldObject") if step == 1 else ("object", "oldObject", "options"):
        if name in request:
            request[name] = None
    if step > 1:
        _shorten_user(request, "userInfo")
    review["request"] = request
    review.pop("changes", None)
    review["annotations"] = {ANNOTATION: "true"}
    return _encode(review)


def _truncated_observation(fields: dict[str, Any]) -> bytes:
    seen: dict[str, Any] = dict(_fields(fields["observation"]))
    seen |= {"object": None, "oldObject": None}
    fields.pop("changes", None)
    return _encode(fields | {"observation": seen, "annotations": {ANNOTATION: "true"}})


def _truncated_event(line: bytes, step: int) -> bytes:
    event: dict[str, Any] = {name: value for name, value in _fields(line).items() if name not in _OF_EVENT}
    annotations = {n: v for n, v in _fields(event.get("annotations", b"{}")).items() if n not in _OF_ANNOTATIONS}
    if step > 1:
        event["requestURI"] = event["requestURI"] if len(bytes(event["requestURI"])) < _LONG_BYTES else ""
        annotations = {name: value for name, value in annotations.items() if len(bytes(value)) < _LONG_BYTES}
        _shorten_user(event, "user")
    annotations[ANNOTATION] = _TRUNCATED
    event["annotations"] = dict(sorted(annotations.items()))
    return _encode(event)


def _shorten_user(fields: dict[str, Any], member: str) -> None:
    if member in fields:
        fields[member] = {name: value for name, value in _fields(fields[member]).items() if name not in _OF_USER}
