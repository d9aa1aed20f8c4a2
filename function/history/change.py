"""A record as a change that somebody asked of one object (pure)."""

from __future__ import annotations

import enum
from typing import Any

import msgspec
from msgspec import Raw

from ..record.reading import Record
from .patches import undone
from .values import Unreadable, decode

__all__ = ["REMOVALS", "Action", "Change", "Content", "change_of"]


class Action(enum.Enum):
    """What a request does to its object."""

    CREATE = "create"
    REPLACE = "replace"  # an update: the review holds the whole object
    SCALE = "scale"
    BIND = "bind"
    EVICT = "evict"
    DELETE = "delete"
    WITH_SERVICE = "with service"  # a Service's Endpoints go with it: the API server does that, and asks no webhook
    OBSERVE = "observe"  # nobody asked for it here: a watch saw that it was done


REMOVALS = frozenset([Action.EVICT, Action.DELETE, Action.WITH_SERVICE])


class Content:
    """An object at one moment, as JSON that is decoded when somebody asks, or as a value.

    ``version`` is its apiVersion. Where it is ``partial``, some of it was not recorded.
    """

    __slots__ = ("_source", "_value", "partial", "version")

    def __init__(self, source: bytes | Raw | None, version: str, value: Any = None, *, partial: bool = False) -> None:
        self._source = source
        self._value = value
        self.version = version
        self.partial = partial

    @property
    def source(self) -> bytes | Raw | None:
        """The JSON as it was recorded, None where the object was worked out."""
        return self._source

    def value(self) -> dict[str, Any]:
        """Return the object, for reading only. Raises `Unreadable`."""
        value = self._value if self._source is None else decode(self._source)
        if not isinstance(value, dict):
            raise Unreadable("not an object")
        return value


class Change:
    """One review that asked for a change of one object.

    ``start`` is the resourceVersion of the stored state it started from, empty where the record does not tell;
    ``uid`` the object's, likewise. ``holds`` says whether the record holds the content that its action needs.
    ``is_stored`` may be set where what became of another object tells that this was done.
    """

    __slots__ = (
        "_head",
        "_known",
        "_old_head",
        "action",
        "holds",
        "is_stored",
        "received_ns",
        "record",
        "start",
        "uid",
    )

    def __init__(self, record: Record, action: Action) -> None:
        self.record = record
        self.action = action
        self.received_ns = record.received_ns
        self._head = _head_of(record.new_object)
        self._old_head = _NO_HEAD if action is Action.WITH_SERVICE else _head_of(record.old_object)
        # What a Binding or an Eviction says of itself is not its pod's; a Binding may name the pod's uid.
        self._known = self._head if action in _WITH_IDENTITY else _NO_HEAD
        self.uid = self._old_head.uid or (self._head if action is Action.BIND else self._known).uid
        self.start = "" if action is Action.CREATE else self._old_head.resource_version or self._known.resource_version
        self.holds = self._holds()
        self.is_stored = False

    @property
    def new(self) -> Content:
        """What was asked for: the whole object, or the Scale, Binding or Eviction."""
        return Content(self.record.new_object, self._head.apiVersion)

    def old(self) -> Content | None:
        """Return the stored object it started from, None where the record does not hold it."""
        record = self.record
        if self.action is Action.SCALE:
            return None  # the object there is a Scale
        if self._old_head.is_whole and not self._is_reduced:
            return Content(record.old_object, self._old_head.apiVersion)
        if self.action is not Action.REPLACE or not record.changes or not self.holds:
            return None
        try:
            value = undone(record.changes, record.new_object)
        except Unreadable:
            return None
        if isinstance(value, dict) and isinstance(metadata := value.get("metadata"), dict):
            metadata["resourceVersion"] = self.start
        return Content(None, self._head.apiVersion, value, partial=True)

    @property
    def end(self) -> str:
        """The resourceVersion of the state it led to, as an observation has it; empty where the object is gone."""
        return self._known.resource_version

    @property
    def kind(self) -> str:
        """The object's kind, empty where the record does not tell."""
        return "" if self.action is Action.SCALE else self._old_head.kind or self._known.kind

    @property
    def version(self) -> str:
        """The apiVersion in which the record has the object, empty where it does not tell."""
        return "" if self.action is Action.SCALE else self._old_head.apiVersion or self._known.apiVersion

    @property
    def created(self) -> str:
        """The object's creationTimestamp, empty where the record does not tell."""
        return self._old_head.created or self._known.created

    @property
    def changes_nothing(self) -> bool:
        """Whether the whole object was sent as it was stored."""
        if self.action is not Action.REPLACE or not self.holds:
            return False
        record = self.record
        return bytes(record.new_object) == bytes(record.old_object) or record.changes == b"[]"

    @property
    def was_being_deleted(self) -> bool:
        """Whether the object had a deletionTimestamp already."""
        return self._old_head.is_being_deleted

    @property
    def is_plain(self) -> bool:
        """Whether the object is just what was asked for, if it was stored: no deletion can have made it another."""
        if not self.holds or self.action not in (Action.CREATE, Action.REPLACE):
            return False
        return self.action is Action.CREATE or (self._old_head.is_whole and not self._old_head.is_being_deleted)

    @property
    def may_end(self) -> bool:
        """Whether the object may be gone with it."""
        return self.action in REMOVALS or self.was_being_deleted

    def options(self) -> dict[str, Any]:
        """Return the options of a DELETE, or those in an Eviction; empty where there are none."""
        if self.action is Action.WITH_SERVICE:
            return {}  # those of the record are the Service's
        try:
            if self.action is Action.EVICT:
                options = self.new.value().get("deleteOptions")
            else:
                options = decode(self.record.options)
        except Unreadable:
            return {}
        return options if isinstance(options, dict) else {}

    @property
    def _is_reduced(self) -> bool:
        """Whether it is recorded at level Metadata: what has a creationTimestamp is not, and nothing has to be read."""
        return not self.created and self.record.level == "Metadata"

    def _holds(self) -> bool:
        if self.action in REMOVALS:
            return True
        if self.record.degraded or self._is_reduced:
            return False
        if self.action in (Action.CREATE, Action.REPLACE, Action.OBSERVE):
            return self._head.is_whole
        return bytes(memoryview(self.record.new_object)[:1]) == b"{"


# What they hold names the object that they are about.
_WITH_IDENTITY = (Action.CREATE, Action.REPLACE, Action.SCALE, Action.OBSERVE)


def change_of(record: Record) -> Change | None:
    """Return what the record asks to change of a stored object; None where it changes none.

    That are connections, tokens and reviews of access, dry runs, and what a watch saw (see `watched`).
    """
    action = None if record.dry_run else _action(record)
    return None if action is None else Change(record, action)


def _action(record: Record) -> Action | None:
    about = record.object
    subresource = about.subresource
    if about.resource in _NEVER_STORED and about.group in _GROUPS_NEVER_STORED:
        return None
    if (about.group, about.resource) == ("", "bindings"):  # the old way to bind
        return Action.BIND if record.operation == "CREATE" else None
    if record.operation == "CREATE":
        return Action.CREATE if not subresource else _CREATES.get(subresource)
    if record.operation == "UPDATE":
        return Action.SCALE if subresource == "scale" else Action.REPLACE
    return Action.DELETE if record.operation == "DELETE" else None


_CREATES = {"binding": Action.BIND, "eviction": Action.EVICT}
_GROUPS_NEVER_STORED = frozenset(["authentication.k8s.io", "authorization.k8s.io"])
_NEVER_STORED = frozenset(
    [
        "tokenreviews",
        "selfsubjectreviews",
        "subjectaccessreviews",
        "localsubjectaccessreviews",
        "selfsubjectaccessreviews",
        "selfsubjectrulesreviews",
    ]
)


# -- what is decoded of every object ----------------------------------------------------------------------------------


class _Metadata(msgspec.Struct, gc=False):
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815 - Kubernetes' own spelling
    creationTimestamp: str | None = None  # noqa: N815
    deletionTimestamp: str | None = None  # noqa: N815


_NO_METADATA = _Metadata()


class _Head(msgspec.Struct, gc=False):
    apiVersion: str = ""  # noqa: N815
    kind: str = ""
    metadata: _Metadata | None = None

    @property
    def uid(self) -> str:
        return (self.metadata or _NO_METADATA).uid

    @property
    def resource_version(self) -> str:
        return (self.metadata or _NO_METADATA).resourceVersion

    @property
    def created(self) -> str:
        return (self.metadata or _NO_METADATA).creationTimestamp or ""

    @property
    def is_being_deleted(self) -> bool:
        return bool((self.metadata or _NO_METADATA).deletionTimestamp)

    @property
    def is_whole(self) -> bool:
        """Whether this is a stored object: all of them have an identity."""
        return bool(self.apiVersion and self.uid)


_NO_HEAD = _Head()
_head = msgspec.json.Decoder(_Head | None).decode


def _head_of(source: bytes | Raw) -> _Head:
    try:
        return _head(source) or _NO_HEAD
    except (msgspec.DecodeError, RecursionError):
        return _NO_HEAD
