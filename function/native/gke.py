"""The audit log of GKE: LogEntries of Cloud Logging whose payload is a ``google.cloud.audit.AuditLog`` (pure).

Google keeps no Event: the entry tells the verb in ``methodName``, the object in ``resourceName``, who in
``authenticationInfo``, the outcome as a ``google.rpc.Code`` (and as a Status where the request failed), and the Event's
annotations as ``labels``. It has one time for each entry. Shapes: the array that ``gcloud logging read --format=json``
prints, entries a line each (a sink to Cloud Storage), ``{"entries": [...]}`` of the API.
"""

from __future__ import annotations

import functools

import msgspec
from msgspec import Raw

from .event import NOT_KNOWN, Event
from .moments import moment_ns

__all__ = ["events", "is_one"]

# Of the one time it is not said whether the request began or ended then.
_LOOSE_NS = 1_000_000_000

# google.rpc.Code to HTTP (google/rpc/code.proto). A 422 and a 400 are both INVALID_ARGUMENT.
_HTTP = {0: 200, 1: 499, 2: 500, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501}
_HTTP |= {13: 500, 14: 503, 15: 500, 16: 401}


class _Authentication(msgspec.Struct, gc=False):
    principalEmail: str = ""  # noqa: N815 - Google's own spelling
    principalSubject: str = ""  # noqa: N815
    authoritySelector: str = ""  # noqa: N815


class _Caller(msgspec.Struct, gc=False):
    callerIp: str = ""  # noqa: N815
    callerSuppliedUserAgent: str = ""  # noqa: N815


class _Status(msgspec.Struct, gc=False):
    code: int = 0
    message: str = ""


class _AuditLog(msgspec.Struct, gc=False):
    serviceName: str = ""  # noqa: N815
    methodName: str = ""  # noqa: N815
    resourceName: str = ""  # noqa: N815
    authenticationInfo: _Authentication | None = None  # noqa: N815
    requestMetadata: _Caller | None = None  # noqa: N815
    status: _Status | None = None
    response: Raw = Raw()


class _Operation(msgspec.Struct, gc=False):
    id: str = ""
    first: bool = False
    last: bool = False


class _Entry(msgspec.Struct, gc=False):
    insertId: str = ""  # noqa: N815
    timestamp: str = ""
    labels: dict[str, str] | None = None
    operation: _Operation | None = None
    protoPayload: _AuditLog | None = None  # noqa: N815
    entries: list[Raw] | None = None


class _Metadata(msgspec.Struct, gc=False):
    name: str = ""


class _Answer(msgspec.Struct, gc=False):
    kind: str = ""
    code: int = 0
    message: str = ""
    reason: str = ""
    metadata: _Metadata | None = None
    items: list[Raw] | None = None


_decode = msgspec.json.Decoder(_Entry).decode
_answer = msgspec.json.Decoder(_Answer).decode
_encode = msgspec.json.encode
_NO_ANSWER = _Answer()


def is_one(members: dict[str, Raw]) -> bool:
    """Whether these are the members of a LogEntry, or of an object that holds some."""
    entry = "logName" in members and ("insertId" in members or "timestamp" in members)
    return "protoPayload" in members or entry or "entries" in members


def events(text: bytes, *, with_origin: bool = False) -> list[Event]:
    """Return the Events that the entries in the JSON tell, without other services' entries. Raises `ValueError`."""
    entry = _decode(text)
    if entry.entries is not None:
        return [event for one in entry.entries for event in events(bytes(one), with_origin=with_origin)]
    log = entry.protoPayload
    if log is None or log.serviceName not in ("k8s.io", ""):
        return []
    return [_event(entry, log, with_origin=with_origin)]


def _event(entry: _Entry, log: _AuditLog, *, with_origin: bool) -> Event:
    at_ns = moment_ns(entry.timestamp)
    who = log.authenticationInfo or _Authentication()
    principal = who.principalEmail or who.principalSubject
    verb, group, version, resource, subresource, namespace, name = _asked(log.methodName, log.resourceName)
    answer = _answered(log.response)
    code, exact, message = _outcome(log, answer)
    is_open = entry.operation is not None and entry.operation.first and not entry.operation.last
    stage = "ResponseStarted" if is_open else "ResponseComplete"
    audit_id = (entry.operation.id if entry.operation else "") or entry.insertId
    if not audit_id:
        raise ValueError("an entry without insertId")
    return Event(
        audit_id,
        stage,
        verb,
        f"/{log.resourceName}",
        who.authoritySelector or principal,
        principal if who.authoritySelector else "",
        group,
        version,
        resource,
        subresource,
        namespace,
        name,
        code,
        exact,
        message,
        at_ns,
        at_ns,
        _LOOSE_NS,
        entry.labels or NOT_KNOWN,
        named_by_answer=answer.metadata.name if answer.metadata and answer.kind != "Status" and not name else "",
        deleted_nothing=verb == "deletecollection" and answer.items == [],
        timestamp_is_identity=False,
        origin=_origin(entry, log, stage, audit_id, verb, code, message) if with_origin else b"",
    )


@functools.lru_cache(maxsize=4096)
def _asked(method: str, path: str) -> tuple[str, str, str, str, str, str, str]:
    """Return verb, group, version, resource, subresource, namespace and name.

    ``io.k8s.apps.v1.deployments.scale.update`` and ``apps/v1/namespaces/shop/deployments/web/scale``: the path has all
    but the verb, but reads alike for a Namespace and for what is in it. A method of two parts is about no resource.
    """
    words, parts = method.split("."), path.split("/")
    verb = words[-1]
    if len(parts) < 3 or parts[1] not in words[:-1]:
        return verb, "", "", "", "", "", ""
    group = "" if parts[0] == "core" else parts[0]
    called = words[words.index(parts[1]) + 1 : -1]  # resource, and perhaps its subresource
    rest = parts[2:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and called[:1] != ["namespaces"]:
        namespace, rest = rest[1], rest[2:]
    rest += [""] * (3 - len(rest))
    return verb, group, parts[1], rest[0], rest[2], namespace, rest[1]


def _answered(response: Raw) -> _Answer:
    if not response:
        return _NO_ANSWER
    try:
        return _answer(response)
    except (msgspec.DecodeError, RecursionError):
        return _NO_ANSWER


def _outcome(log: _AuditLog, answer: _Answer) -> tuple[int, bool, str]:
    status = log.status or _Status()
    if answer.kind == "Status" and answer.code >= 100:
        return answer.code, True, answer.message or status.message
    if status.code >= 100:
        return status.code, True, status.message
    return _HTTP.get(status.code, 500), False, answer.message or status.message


def _origin(entry: _Entry, log: _AuditLog, stage: str, audit_id: str, verb: str, code: int, message: str) -> bytes:
    who, caller = log.authenticationInfo or _Authentication(), log.requestMetadata or _Caller()
    principal = who.principalEmail or who.principalSubject
    members: dict[str, object] = {"auditID": audit_id, "stage": stage, "verb": verb, "user": {"username": principal}}
    if who.authoritySelector:
        members["impersonatedUser"] = {"username": who.authoritySelector}
    if caller.callerIp:
        members["sourceIPs"] = [caller.callerIp]
    if caller.callerSuppliedUserAgent:
        members["userAgent"] = caller.callerSuppliedUserAgent
    members["responseStatus"] = {"metadata": {}, "code": code} | ({"message": message} if message else {})
    members["stageTimestamp"] = entry.timestamp
    if entry.labels:
        members["annotations"] = entry.labels
    return _encode(members)
