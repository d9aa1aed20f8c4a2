"""The event format: an ``audit.k8s.io/v1`` Event, as the API server's own log backend writes it (pure).

docs/events.md says which fields are exact, which are inferred, and what can never be known.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import msgspec
import orjson

from ..review import Request, Resource, Review
from . import request_uri
from .timestamps import microseconds
from .verb import Metadata, metadata, verb_of

__all__ = ["EVENT_BYTES_MAX", "HEAD_BYTES", "PREFIX", "EventFormat"]

# Of the annotations that are ours.
PREFIX = "kube-audit-function/"

# Falco refuses events over 256 KiB. The old object is what we add to an event; it is left out before the limit.
EVENT_BYTES_MAX = 256 << 10
HEAD_BYTES = 8 << 10  # more than all the other fields

_NULL = b"null"
_NO_METADATA = Metadata()
_encode = msgspec.json.encode

# What the API server appends to generateName, cut so that the whole fits a label (apiserver/pkg/storage/names).
_generated = re.compile(r"[bcdfghjklmnpqrstvwxz2456789]{5}").fullmatch
_GENERATE_NAME_LENGTH_MAX = 58


class EventFormat:
    """A `Format`. With ``infer_status`` events say 201, 200 or 101, for consumers that insist on a status."""

    def __init__(self, *, infer_status: bool = False) -> None:
        self._infer_status = infer_status

    def render(
        self,
        review: Review,
        *,
        level: str,
        received_ns: int,
        now_ns: int,
        cluster: str,
        changes: bytes | None,
        omit_stages: Collection[str] = (),
    ) -> bytes:
        """Return the Event; see `Format`. At level Metadata nothing of the objects is in it."""
        request = review.request
        facts = _facts_of(review)
        with_objects = level != "Metadata" and review.degraded is None
        status = b""
        if self._infer_status:
            status = b',"responseStatus":{"metadata":{},"code":%d}' % _code(request, facts.verb)
            facts.inferred.append("responseStatus")
        body = _request_object(review) if with_objects else b""
        if not with_objects:
            changes = None
        old_object = _old_object(review, EVENT_BYTES_MAX - HEAD_BYTES - len(body)) if with_objects else None
        return b'%b"level":%b,"auditID":%b,%b"requestURI":"%b","verb":"%b","user":%b,"objectRef":%b%b%b,%b}\n' % (
            b'{"kind":"Event","apiVersion":"audit.k8s.io/v1",',
            _encode(level),
            _encode(request.uid),
            _stage(request, omit_stages),
            facts.uri.encode(),
            facts.verb.encode(),
            _user(request),
            facts.object_ref,
            status,
            body,
            b'"requestReceivedTimestamp":"%b","stageTimestamp":"%b","annotations":%b'
            % (
                microseconds(received_ns),
                microseconds(now_ns),
                _annotations(review, facts, cluster, changes, old_object),
            ),
        )


def _stage(request: Request, omit_stages: Collection[str]) -> bytes:
    """Return the member: for a CONNECT the first of its two stages, unless the policy omits that one."""
    if request.operation == "CONNECT" and "ResponseStarted" not in omit_stages:
        return b'"stage":"ResponseStarted",'
    return b'"stage":"ResponseComplete",'


class _Facts(msgspec.Struct, gc=False):
    """What a review shows of its request."""

    verb: str
    uri: str  # percent-encoded: ASCII without quotes
    object_ref: bytes
    object_name: str  # of the object, where the request did not name it
    inferred: list[str]


class _ObjectRef(msgspec.Struct, omit_defaults=True, gc=False):
    resource: str
    namespace: str = ""
    name: str = ""
    uid: str = ""
    apiGroup: str = ""  # noqa: N815 - Kubernetes' own spelling
    apiVersion: str = ""  # noqa: N815
    resourceVersion: str = ""  # noqa: N815
    subresource: str = ""


class _User(msgspec.Struct, omit_defaults=True):
    username: str = ""
    uid: str = ""
    groups: list[str] | None = None
    extra: dict[str, list[str] | None] | None = None


def _facts_of(review: Review) -> _Facts:
    request = review.request
    # What the client asked for, not what the webhook's rules had it converted to.
    resource = request.requestResource or request.resource
    subresource = request.requestSubResource or request.subResource
    sent = request_uri.sent(request.options)
    written = _written(request, sent.manager)
    verb_ = verb_of(request, resource, subresource, sent.manager, written)

    name, namespace, object_name = request.name, request.namespace, ""
    posted = verb_.name == "create" and request.operation == "CREATE"
    if posted and not subresource:
        if _is_generated(name, written.generateName):
            name, object_name = "", name
        if _is_namespace(resource):
            namespace = ""
        path = request_uri.path(resource, "", namespace, "")
    else:
        path = request_uri.path(resource, subresource, namespace, name)
    if verb_.name == "deletecollection":
        object_name = metadata(request.oldObject).name
    # A CONNECT's options as redaction left them: rules may have blanked a command.
    query = request_uri.connection(review.object) if request.operation == "CONNECT" else sent.query
    inferred = ["verb"] if verb_.inferred else []
    more = "force=true" if verb_.forced else ""
    if request.operation in ("CREATE", "UPDATE"):
        timeout = request_uri.known_timeout(request.userInfo.username, resource, subresource, namespace, request.name)
        more += f"timeout={timeout}" if timeout else ""  # nothing that sends the one sends the other
    if more:
        query += f"&{more}" if query else f"?{more}"
        inferred.insert(0, "requestURI")
    updated = written if verb_.name == "update" else _NO_METADATA
    reference = _ObjectRef(
        resource.resource,
        namespace,
        name,
        updated.uid,
        resource.group,
        resource.version,
        updated.resourceVersion,
        subresource,
    )
    return _Facts(verb_.name, path + query, _encode(reference), object_name, inferred)


def _written(request: Request, manager: str) -> Metadata:
    """Return the new object's metadata, where it can tell anything: objects are large, and parsed only then.

    From the request's own object: what policy and redaction have removed still shows how it was written, and none
    of it is copied but names, uid and resourceVersion.
    """
    if request.operation == "UPDATE":
        return metadata(request.object)
    if request.operation == "CREATE":
        source = bytes(request.object)
        if b'"generateName"' in source or (manager and b'"Apply"' in source):
            return metadata(source)
    return _NO_METADATA


def _is_generated(name: str, prefix: str) -> bool:
    prefix = prefix[:_GENERATE_NAME_LENGTH_MAX]
    return bool(prefix) and name.startswith(prefix) and _generated(name[len(prefix) :]) is not None


def _is_namespace(resource: Resource) -> bool:
    return resource.resource == "namespaces" and not resource.group


def _user(request: Request) -> bytes:
    user = request.userInfo
    return _encode(_User(user.username, user.uid, user.groups or None, user.extra or None))


def _code(request: Request, verb_: str) -> int:
    if request.operation == "CONNECT":
        return 101
    return 201 if request.operation == "CREATE" or verb_ == "create" else 200


def _request_object(review: Review) -> bytes:
    """Return the member: the object as it was to be stored, the options of a DELETE, nothing for CONNECT."""
    operation = review.request.operation
    if operation == "CONNECT":  # all of it is in requestURI
        return b""
    source = bytes(review.request.options if operation == "DELETE" else review.object)
    return b"" if source == _NULL else b',"requestObject":' + source


def _annotations(review: Review, facts: _Facts, cluster: str, changes: bytes | None, old_object: str | None) -> bytes:
    """Return the annotations as JSON, in the order of their names, as the API server has them."""
    request, degraded = review.request, review.degraded
    annotations = {"authorization.k8s.io/decision": "allow"}
    if degraded is not None and degraded.reason == "too_large":
        annotations = {"audit.k8s.io/truncated": "true", **annotations}
    if changes is not None:
        annotations[PREFIX + "changes"] = changes.decode()
    if cluster:
        annotations[PREFIX + "cluster"] = cluster
    if facts.verb == "deletecollection":
        annotations[PREFIX + "collection-item"] = facts.object_name
    if degraded is not None:
        annotations[PREFIX + "degraded"] = degraded.reason
        annotations[PREFIX + "degraded-bytes"] = str(degraded.bytes)
        annotations[PREFIX + "degraded-sha256"] = degraded.sha256
    if request.dryRun:
        annotations[PREFIX + "dry-run"] = "true"
    if facts.verb == "create" and facts.object_name:
        annotations[PREFIX + "generated-name"] = facts.object_name
    if facts.inferred:
        annotations[PREFIX + "inferred"] = ",".join(facts.inferred)
    if changes == b"[]":
        annotations[PREFIX + "no-op"] = "true"
    if old_object is not None:
        annotations[PREFIX + "old-object" if old_object else PREFIX + "omitted"] = old_object or "old-object"
    annotations[PREFIX + "operation"] = request.operation
    return orjson.dumps(annotations)


def _old_object(review: Review, room: int) -> str | None:
    """Return the old object's JSON, empty where it does not fit into ``room`` bytes, None where there is none."""
    source = bytes(review.old_object)
    if source == _NULL:
        return None
    # In a string each quotation mark and backslash takes one byte more.
    if 2 * len(source) > room and len(source) + source.count(b'"') + source.count(b"\\") > room:
        return ""
    return source.decode()
