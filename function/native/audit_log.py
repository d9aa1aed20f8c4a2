"""The audit log as an API server writes it: Events, a line each, or the EventLists that its webhook sends (pure)."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from .event import NOT_KNOWN, Event
from .moments import moment_ns
from .scanning import without_members

__all__ = ["event", "event_cut_short", "events", "is_one"]

_ABSENT = Raw()


class _User(msgspec.Struct, gc=False):
    username: str = ""


class _Reference(msgspec.Struct, gc=False):
    resource: str = ""
    namespace: str = ""
    name: str = ""
    apiGroup: str = ""  # noqa: N815 - Kubernetes' own spelling
    apiVersion: str = ""  # noqa: N815
    subresource: str = ""


class _Status(msgspec.Struct, gc=False):
    code: int = 0
    message: str = ""


class _Event(msgspec.Struct, gc=False):
    kind: str = "Event"
    auditID: str = ""  # noqa: N815
    stage: str = ""
    verb: str = ""
    requestURI: str = ""  # noqa: N815
    user: _User | None = None
    impersonatedUser: _User | None = None  # noqa: N815
    objectRef: _Reference | None = None  # noqa: N815
    responseStatus: _Status | None = None  # noqa: N815
    responseObject: Raw = _ABSENT  # noqa: N815
    requestReceivedTimestamp: str = ""  # noqa: N815
    stageTimestamp: str = ""  # noqa: N815
    annotations: dict[str, str] | None = None
    items: list[Raw] | None = None


class _Origin(msgspec.Struct, omit_defaults=True):
    """What only this log knows; the rest of an Event is in our records, redacted."""

    auditID: str = ""  # noqa: N815
    stage: str = ""
    verb: str = ""
    user: Raw = _ABSENT
    impersonatedUser: Raw = _ABSENT  # noqa: N815
    authenticationMetadata: Raw = _ABSENT  # noqa: N815
    sourceIPs: Raw = _ABSENT  # noqa: N815
    userAgent: str = ""  # noqa: N815
    responseStatus: Raw = _ABSENT  # noqa: N815
    requestReceivedTimestamp: str = ""  # noqa: N815
    stageTimestamp: str = ""  # noqa: N815
    annotations: dict[str, str] | None = None


_decode = msgspec.json.Decoder(_Event).decode
_decode_origin = msgspec.json.Decoder(_Origin).decode
_encode = msgspec.json.encode
_NO_TIME = "1970-01-01T00:00:00Z"
_BODIES = frozenset([b"requestObject", b"responseObject"])


def is_one(members: dict[str, Raw]) -> bool:
    """Whether these are the members of an Event or an EventList."""
    kind = bytes(members.get("kind", b""))
    return kind in (b'"Event"', b'"EventList"') or ("auditID" in members and "stage" in members)


def events(text: bytes, *, with_origin: bool = False) -> list[Event]:
    """Return the Event, or those of the EventList. Raises `ValueError` for anything else."""
    try:
        decoded = _decode(text)
    except RecursionError:
        decoded, text = _decoded(text)
    if decoded.kind == "EventList":
        return [event(bytes(item), with_origin=with_origin) for item in decoded.items or ()]
    return [_event(decoded, text, with_origin=with_origin)]


def event(text: bytes, *, with_origin: bool = False) -> Event:
    """Return the Event that the JSON says. Raises `ValueError` for anything else."""
    decoded, text = _decoded(text)
    return _event(decoded, text, with_origin=with_origin)


def event_cut_short(text: bytes, *, at_ns: int, loose_ns: int, with_origin: bool = False) -> Event:
    """Return what the beginning of an Event tells: all that stands before its bodies.

    Its times and annotations stand behind them. ``at_ns`` is when whoever cut it had it, give or take ``loose_ns``.
    Raises `ValueError` where not even the beginning is whole.
    """
    ends = [found for name in _BODIES if (found := text.find(b',"%b":' % name)) > 0]
    if not ends:
        raise ValueError("an Event that is cut before its requestObject")
    head = text[: min(ends)] + b"}"
    decoded = _decode(head)
    decoded.requestReceivedTimestamp = _NO_TIME
    whole = _event(decoded, head, with_origin=with_origin)
    return msgspec.structs.replace(whole, began_ns=at_ns, ended_ns=at_ns, loose_ns=loose_ns, cut=True)


def _decoded(text: bytes) -> tuple[_Event, bytes]:
    try:
        return _decode(text), text
    except RecursionError:  # an object may be nested deeper than our parsers go
        text = without_members(text, _BODIES)
        return _decode(text), text


def _event(decoded: _Event, text: bytes, *, with_origin: bool) -> Event:
    if decoded.kind != "Event" or not decoded.auditID or not decoded.stage:
        raise ValueError("JSON, but not an audit Event")
    user, original = decoded.user, ""
    if decoded.impersonatedUser is not None:
        original, user = (user.username if user else ""), decoded.impersonatedUser
    about, status = decoded.objectRef or _NO_REFERENCE, decoded.responseStatus or _NO_STATUS
    began_ns, ended_ns = moment_ns(decoded.requestReceivedTimestamp), 0
    if decoded.stageTimestamp:
        ended_ns = moment_ns(decoded.stageTimestamp)
    named, nothing = "", False
    if decoded.responseObject:
        if not about.name and decoded.verb == "create":
            named = _name(decoded.responseObject)
        elif decoded.verb == "deletecollection":
            nothing = _lists_nothing(decoded.responseObject)
    return Event(
        decoded.auditID,
        decoded.stage,
        decoded.verb,
        decoded.requestURI,
        user.username if user else "",
        original,
        about.apiGroup,
        about.apiVersion,
        about.resource,
        about.subresource,
        about.namespace,
        about.name,
        status.code,
        True,
        status.message,
        began_ns,
        max(began_ns, ended_ns),
        0,
        decoded.annotations or NOT_KNOWN,
        named_by_answer=named,
        deleted_nothing=nothing,
        origin=_encode(_decode_origin(text)) if with_origin else b"",
    )


_NO_REFERENCE = _Reference()
_NO_STATUS = _Status()


class _Metadata(msgspec.Struct, gc=False):
    name: str = ""


class _Object(msgspec.Struct, gc=False):
    kind: str = ""
    metadata: _Metadata | None = None
    items: list[Raw] | None = None


_object = msgspec.json.Decoder(_Object).decode


def _name(source: Raw) -> str:
    try:
        answer = _object(source)
    except (msgspec.DecodeError, RecursionError):
        return ""
    return answer.metadata.name if answer.metadata and answer.kind != "Status" else ""


def _lists_nothing(source: Raw) -> bool:
    try:
        return _object(source).items == []
    except (msgspec.DecodeError, RecursionError):
        return False
