"""A line of the journal to a value: the only code that does it, for sinks, ``show``, ``render`` and all other readers.

`read` takes a line in the review format (kube-audit-rest's included) or in the event format, degraded or not, and gives
the same answer to the same question whichever format it is in; what a watch observed is read as well. Cheap where
little is asked: a line is scanned once, and the objects in it are decoded only when somebody wants them (pure).
"""

from __future__ import annotations

import copy
import datetime as dt
import functools
import hashlib
import re
from abc import ABC, abstractmethod
from functools import cached_property
from typing import ClassVar, NamedTuple

import msgspec
from msgspec import Raw

from ..changes import changes as changes_between
from ..review import API_VERSION, KIND, NULL, Degraded, Request, Resource, Review
from . import Format, observation, request_uri
from .event_format import PREFIX
from .observation import Change, Manager, Observation
from .verb import Metadata, metadata, verb_of

__all__ = ["NotARecord", "ObjectReference", "ObservationRecord", "Observed", "Record", "ReviewRecord", "read"]


class NotARecord(ValueError):  # noqa: N818 - named after what it is; the caller counts it, or sets it aside, and goes on
    """The line is no record of ours. The text says why, and holds nothing of the line: that may be anything."""


class ObjectReference(NamedTuple):
    """The object that a request was about, as the client named it. The core group is empty, as is what does not apply.

    A Namespace is in no namespace, whatever admission says.
    """

    group: str
    version: str
    resource: str
    subresource: str
    namespace: str
    name: str

    def path(self) -> str:
        """Return ``group/resource/namespace/name``: what distinguishes objects."""
        return f"{self.group}/{self.resource}/{self.namespace}/{self.name}"


class Observed(NamedTuple):
    """What a watch saw of an object, and whether it watched when that happened; ``managers`` by managedFields."""

    change: Change
    watching: bool
    managers: tuple[Manager, ...]


class Record(ABC):
    """What a line says, whichever format it is in.

    ``line`` is without its line break, ``received`` RFC 3339 in UTC as the line spells it, and ``operation``
    admission's: CREATE, UPDATE, DELETE or CONNECT. ``degraded`` says why the record holds only the head of its review,
    or is empty.

    What a watch saw is no request: ``operation`` is OBSERVED, ``user`` is empty, ``received`` is when it was seen, and
    ``observed`` says the rest. It is None for all other records.
    """

    is_event: ClassVar[bool]
    truncated = False
    observed: Observed | None = None
    line: bytes
    received: str
    uid: str
    user: str
    operation: str
    cluster: str
    dry_run: bool
    degraded: str

    @property
    @abstractmethod
    def object(self) -> ObjectReference:
        """The object, also where only its content names it, as in a deletecollection."""

    @property
    @abstractmethod
    def verb(self) -> str:
        """The API server's verb: a PATCH, which is an UPDATE to admission, shows in how the object was written.

        Of a review whose objects the policy left out, less is known.
        """

    @property
    @abstractmethod
    def level(self) -> str:
        """The audit level: Metadata, Request, or whatever an Event says."""

    @property
    @abstractmethod
    def new_object(self) -> bytes | Raw:
        """The object as it was to be stored, JSON; ``null`` where there is none."""

    @property
    @abstractmethod
    def old_object(self) -> bytes | Raw:
        """The object as it was stored before, JSON; ``null`` where there is none, or none was recorded."""

    @property
    @abstractmethod
    def options(self) -> bytes | Raw:
        """The options of a deletion, JSON; ``null`` where there are none, or none were recorded."""

    @property
    @abstractmethod
    def changes(self) -> bytes:
        """The JSON Patch that was recorded, empty where there is none."""

    @property
    @abstractmethod
    def groups(self) -> tuple[str, ...]:
        """The user's groups."""

    @property
    @abstractmethod
    def connect_options(self) -> dict[str, list[str]]:
        """What a CONNECT asked for, as the record has it: ``command`` and ``container`` of an exec, each a list."""

    @property
    def outcome(self) -> bool | None:
        """Whether its request succeeded, as the API server's own log says; None where nobody has asked that."""
        return None

    @cached_property
    def received_ns(self) -> int:
        """When the review came, in nanoseconds since the epoch."""
        return _second(self.received[:19]) * 1_000_000_000 + int(self.received[20:-1].ljust(9, "0"))

    @cached_property
    def id(self) -> str:
        """The same for every copy of a line, and different for different lines: letters, digits and ``-._:``.

        A review that was sent twice is two records; a line that was sent twice is one.
        """
        digest = hashlib.blake2b(self.line, digest_size=8, usedforsecurity=False).hexdigest()
        return f"{self.uid}-{digest}" if _plain_id(self.uid) else digest

    def with_line(self, line: bytes) -> Record:
        """Return the same record with less in its line; its id stays, and it is ``truncated``."""
        same = copy.copy(self)
        same.__dict__ |= {"id": self.id, "line": line, "truncated": True}
        return same

    def patch(self) -> bytes:
        """Return the JSON Patch of what an update changed, recorded or computed; empty where the record cannot tell."""
        if self.changes:
            return self.changes
        if not (_is_object(self.old_object) and _is_object(self.new_object)):
            return b""
        try:
            return changes_between(self.old_object, self.new_object)
        except (msgspec.DecodeError, RecursionError):
            return b""


def read(line: bytes) -> Record:
    """Return the record of one line, with or without its line break. Raises `NotARecord`."""
    text = line.removesuffix(b"\n")
    try:
        if not text.isascii():
            text.decode()  # what is decoded later, or never, must be UTF-8 as well
        fields = _line(text)
    except RecursionError:
        raise NotARecord("nested too deeply") from None
    except UnicodeDecodeError:
        raise NotARecord("not UTF-8") from None
    except msgspec.ValidationError:
        raise NotARecord("JSON, but neither an AdmissionReview nor an audit Event") from None
    except msgspec.DecodeError:
        raise NotARecord("not JSON (a torn line?)") from None
    if fields.kind == KIND and fields.apiVersion == API_VERSION and fields.request is not None:
        return ReviewRecord(text, fields, fields.request)
    if fields.kind == "Event" and fields.apiVersion.startswith("audit.k8s.io/") and fields.auditID:
        return EventRecord(text, fields)
    if fields.observation is not None and fields.kind == observation.KIND:
        return ObservationRecord(text, fields, fields.observation)
    raise NotARecord("JSON, but neither an AdmissionReview nor an audit Event")


class ReviewRecord(Record):
    """A record in the review format. Raises `NotARecord` where it does not say when it was received."""

    is_event = False

    def __init__(self, line: bytes, fields: _Line, request: _Request) -> None:
        if fields.requestReceivedTimestamp is None:
            raise NotARecord("an AdmissionReview, but no record: it has no requestReceivedTimestamp")
        self.line = line
        self.received = _checked(fields.requestReceivedTimestamp)
        self.uid = request.uid
        self.user = request.userInfo.username
        self.operation = request.operation
        self.cluster = fields.cluster
        self.dry_run = bool(request.dryRun)
        self.degraded = fields.degraded.reason if fields.degraded else ""
        self._request = request
        self._fields = fields

    @property
    def new_object(self) -> bytes | Raw:
        return self._request.object

    @property
    def old_object(self) -> bytes | Raw:
        return self._request.oldObject

    @property
    def options(self) -> bytes | Raw:
        return self._request.options if self.operation == "DELETE" else NULL

    @cached_property
    def object(self) -> ObjectReference:
        request = self._request
        resource, subresource = self._resource()
        name = request.name or self._written.name or metadata(request.oldObject).name
        return _reference(resource.group, resource.version, resource.resource, subresource, request.namespace, name)

    @cached_property
    def verb(self) -> str:
        resource, subresource = self._resource()
        manager = request_uri.sent(self._request.options).manager
        return verb_of(self._request, resource, subresource, manager, self._written).name

    @cached_property
    def level(self) -> str:
        # At Metadata nothing but the objects' identity is left. No object of an API server is without more than
        # that: a creationTimestamp at least.
        return "Metadata" if _is_reduced(self.new_object) and _is_reduced(self.old_object) else "Request"

    @cached_property
    def changes(self) -> bytes:
        return bytes(self._fields.changes)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        return _groups(bytes(_source(self.line).request), "userInfo")

    @cached_property
    def connect_options(self) -> dict[str, list[str]]:
        return request_uri.connection_options(self.new_object) if self.operation == "CONNECT" else {}

    def review(self) -> Review:
        """Return the review that the record was made of, as far as it was recorded. Raises `NotARecord`."""
        try:
            source = bytes(_source(self.line).request)
            request = _whole_request(source)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise NotARecord("JSON, but not an AdmissionReview") from None
        return Review(request, source, request.object, request.oldObject, degraded=self._fields.degraded)

    def rendered(self, target: Format) -> bytes:
        """Return the record in another format, a line. Raises `NotARecord` as `review` does."""
        return target.render(
            self.review(),
            level=self.level,
            received_ns=self.received_ns,
            now_ns=self.received_ns,  # the only moment that a record knows
            cluster=self.cluster,
            changes=self.changes or None,
        )

    def _resource(self) -> tuple[Resource, str]:
        """Return what the client asked for, not what the webhook's rules had it converted to."""
        request = self._request
        return request.requestResource or request.resource, request.requestSubResource or request.subResource

    @cached_property
    def _written(self) -> Metadata:
        return metadata(self._request.object)


class EventRecord(Record):
    """A record in the event format, or an Event of an API server's own log."""

    is_event = True

    def __init__(self, line: bytes, fields: _Line) -> None:
        if fields.requestReceivedTimestamp is None:
            raise NotARecord("an Event without requestReceivedTimestamp")
        notes = fields.annotations or _NO_ANNOTATIONS
        reference = fields.objectRef or _NO_OBJECT
        self.line = line
        self.received = _checked(fields.requestReceivedTimestamp)
        self.uid = fields.auditID
        self.user = fields.user.username
        self.cluster = notes.cluster
        self.dry_run = notes.dry_run == "true"
        self.degraded = notes.degraded
        self.operation = notes.operation or _operation(fields.verb, reference.subresource)
        self._notes = notes
        self._fields = fields
        if notes.observed and self.operation == observation.OPERATION:
            self.observed = _observed_of(notes)
        if notes.checkpoint:  # a tree's: its copies differ in when they were read
            self.__dict__["id"] = self.uid

    @cached_property
    def object(self) -> ObjectReference:
        reference, notes = self._fields.objectRef or _NO_OBJECT, self._notes
        name = reference.name or notes.generated_name or notes.collection_item
        if not reference.resource:
            name = name or self._fields.requestURI  # of no resource: its path is all there is
        return _reference(
            reference.apiGroup,
            reference.apiVersion,
            reference.resource,
            reference.subresource,
            reference.namespace,
            name,
        )

    @property
    def verb(self) -> str:
        return self._fields.verb

    @property
    def level(self) -> str:
        return self._fields.level

    @property
    def new_object(self) -> bytes | Raw:
        # What a DELETE sent is its options, not a new object.
        return NULL if self.operation == "DELETE" else self._fields.requestObject

    @property
    def options(self) -> bytes | Raw:
        return self._fields.requestObject if self.operation == "DELETE" else NULL

    @cached_property
    def changes(self) -> bytes:
        return _unquoted(self._notes.changes)

    @cached_property
    def outcome(self) -> bool | None:
        # As `reconcile --enrich` joins them. Of the reviews of one request the last one counts, if it succeeded.
        joined = self._notes.joined
        if joined not in ("exact", "sole", "again"):
            return None
        code = _code(self._fields.responseStatus)
        if code == 404 and self.operation == "DELETE":
            return None  # it is gone all the same
        return False if code >= 400 else True if code >= 200 and joined != "again" else None

    @cached_property
    def old_object(self) -> bytes | Raw:
        return _unquoted(self._notes.old_object) or b"null"

    @cached_property
    def groups(self) -> tuple[str, ...]:
        return _groups(self.line, "user")

    @cached_property
    def connect_options(self) -> dict[str, list[str]]:
        return request_uri.query_options(self._fields.requestURI) if self.operation == "CONNECT" else {}


class ObservationRecord(Record):
    """A record of what a watch saw."""

    is_event = False
    operation = observation.OPERATION
    verb = observation.VERB
    level = "Request"
    user = ""
    dry_run = False
    degraded = ""

    def __init__(self, line: bytes, fields: _Line, seen: Observation) -> None:
        if fields.observedTimestamp is None:
            raise NotARecord("an Observation without observedTimestamp")
        self.line = line
        self.received = _checked(fields.observedTimestamp)
        self.uid = seen.uid
        self.cluster = fields.cluster
        self.observed = Observed(seen.change, seen.watching, seen.managers)
        self.observation = seen
        self._changes = bytes(fields.changes)

    @property
    def object(self) -> ObjectReference:
        about = self.observation.resource
        return ObjectReference(about.group, about.version, about.resource, "", "", self.observation.name)

    @property
    def new_object(self) -> bytes | Raw:
        return self.observation.object

    @property
    def old_object(self) -> bytes | Raw:
        return self.observation.oldObject

    @property
    def options(self) -> bytes | Raw:
        return NULL

    @property
    def changes(self) -> bytes:
        return self._changes

    @property
    def groups(self) -> tuple[str, ...]:
        return ()

    @property
    def connect_options(self) -> dict[str, list[str]]:
        return {}

    def event(self) -> bytes:
        """Return the record in the event format, with its line break."""
        return self.observation.event(observed_ns=self.received_ns, cluster=self.cluster, changes=self._changes)


# -- what is decoded of every line ------------------------------------------------------------------------------------


class _User(msgspec.Struct, frozen=True, gc=False):
    username: str = ""


class _Request(msgspec.Struct, gc=False):
    uid: str
    resource: Resource
    operation: str
    userInfo: _User  # noqa: N815 - Kubernetes' own spelling
    requestResource: Resource | None = None  # noqa: N815
    subResource: str = ""  # noqa: N815
    requestSubResource: str = ""  # noqa: N815
    name: str = ""
    namespace: str = ""
    object: Raw = NULL
    oldObject: Raw = NULL  # noqa: N815
    dryRun: bool | None = None  # noqa: N815
    options: Raw = NULL


class _ObjectReference(msgspec.Struct, gc=False):
    apiGroup: str = ""  # noqa: N815
    apiVersion: str = ""  # noqa: N815
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""


_ABSENT = Raw()  # Raw | None would decode null only


class _Annotations(
    msgspec.Struct,
    gc=False,
    rename=lambda name: PREFIX + name.replace("_", "-"),
):
    """Those that are ours; the long ones stay JSON strings."""

    cluster: str = ""
    degraded: str = ""
    dry_run: str = ""
    checkpoint: str = ""
    operation: str = ""
    generated_name: str = ""
    collection_item: str = ""
    observed: str = ""
    watching: str = ""
    managers: str = ""
    joined: str = ""
    changes: Raw = _ABSENT
    old_object: Raw = _ABSENT


_NO_USER = _User()
_NO_OBJECT = _ObjectReference()
_NO_ANNOTATIONS = _Annotations()


class _Line(msgspec.Struct, gc=False):
    """A line of either format."""

    kind: str
    apiVersion: str  # noqa: N815
    requestReceivedTimestamp: str | None = None  # noqa: N815
    request: _Request | None = None
    cluster: str = ""
    changes: Raw = _ABSENT
    degraded: Degraded | None = None
    auditID: str = ""  # noqa: N815
    level: str = ""
    verb: str = ""
    user: _User = _NO_USER
    objectRef: _ObjectReference | None = None  # noqa: N815
    requestURI: str = ""  # noqa: N815
    requestObject: Raw = NULL  # noqa: N815
    responseStatus: Raw = NULL  # noqa: N815
    annotations: _Annotations | None = None
    observation: Observation | None = None
    observedTimestamp: str | None = None  # noqa: N815


class _Source(msgspec.Struct, gc=False):
    request: Raw


class _Groups(msgspec.Struct):
    groups: list[str] | None = None


class _WithGroups(msgspec.Struct):
    userInfo: _Groups | None = None  # noqa: N815
    user: _Groups | None = None


_line = msgspec.json.Decoder(_Line).decode
_source = msgspec.json.Decoder(_Source).decode
_whole_request = msgspec.json.Decoder(Request).decode
_string = msgspec.json.Decoder(str).decode
_with_groups = msgspec.json.Decoder(_WithGroups).decode
_managers = msgspec.json.Decoder(tuple[Manager, ...]).decode
_change = msgspec.json.Decoder(Change).decode

_timestamp = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z", re.ASCII).fullmatch
_plain_id = re.compile(r"[A-Za-z0-9._:-]{1,128}").fullmatch


def _groups(source: bytes, member: str) -> tuple[str, ...]:
    """Return the groups of the user in ``member``. Few ask for them: they are decoded apart."""
    try:
        user: _Groups | None = getattr(_with_groups(source), member)
    except (msgspec.DecodeError, RecursionError):
        return ()
    return tuple(user.groups or ()) if user else ()


def _checked(received: str) -> str:
    if _timestamp(received) is None:
        raise NotARecord("requestReceivedTimestamp is not RFC 3339 in UTC")
    _second(received[:19])
    return received


@functools.lru_cache(maxsize=64)  # its argument has 19 characters
def _second(text: str) -> int:
    try:
        return int(dt.datetime.fromisoformat(text + "+00:00").timestamp())
    except ValueError:
        raise NotARecord("requestReceivedTimestamp is no date") from None


def _reference(group: str, version: str, resource: str, subresource: str, namespace: str, name: str) -> ObjectReference:
    if resource == "namespaces" and not group:
        name, namespace = name or namespace, ""
    return ObjectReference(group, version, resource, subresource, namespace, name)


_CONNECTS = frozenset(["exec", "attach", "portforward", "proxy"])


def _operation(verb_: str, subresource: str) -> str:
    """Return the operation of an Event that is not ours."""
    if subresource in _CONNECTS:
        return "CONNECT"
    return {"patch": "UPDATE", "deletecollection": "DELETE"}.get(verb_, verb_.upper())


def _observed_of(notes: _Annotations) -> Observed:
    """Return what an Event says of an observation. Raises `NotARecord`."""
    try:
        managers = _managers(notes.managers or "[]")
        return Observed(_change(f'"{notes.observed}"'), notes.watching == "true", managers)
    except msgspec.DecodeError:
        raise NotARecord("an Event that says it is an observation, and is none of ours") from None


def _unquoted(text: Raw) -> bytes:
    source = bytes(text)
    return _string(source).encode() if source[:1] == b'"' else b""


class _Status(msgspec.Struct, gc=False):
    code: int = 0


_status = msgspec.json.Decoder(_Status | None).decode


def _code(status: Raw) -> int:
    try:
        return (_status(status) or _Status()).code
    except msgspec.DecodeError:
        return 0


def _is_object(source: bytes | Raw) -> bool:
    return bytes(memoryview(source)[:1]) == b"{"


class _IdentityMetadata(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815


class _Identity(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """All that the level Metadata leaves of an object."""

    apiVersion: str = ""  # noqa: N815
    kind: str = ""
    metadata: _IdentityMetadata | None = None


_identity = msgspec.json.Decoder(_Identity | None).decode


def _is_reduced(source: bytes | Raw) -> bool:
    try:
        _identity(source)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
