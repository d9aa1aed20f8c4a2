"""Objects of ``admissionregistration.k8s.io`` as a watch sees them, and what became of one (pure)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
from msgspec import Raw

from ..json_tokens import scan
from ..record.observation import Change, Manager, Observation, ObservedResource
from ..record.url_tokens import without_tokens
from ..review import NULL

__all__ = [
    "DEPTH_MAX", "GROUP", "RESOURCES", "VERSIONS", "Seen", "Step", "difference", "of_item", "of_record", "readable",
]  # fmt: skip

GROUP = "admissionregistration.k8s.io"

# Every resource of the group that decides who is asked before a change; a later API server may have more.
RESOURCES = (
    "validatingwebhookconfigurations",
    "mutatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
)
VERSIONS = ("v1", "v1beta1", "v1alpha1")  # of those that are served, the first
# API servers store managedFields of any depth, and of any bytes; parsers end at about a thousand levels.
DEPTH_MAX = 200


class _ManagedFields(msgspec.Struct, frozen=True):
    manager: str = ""
    operation: str = ""
    time: str = ""
    subresource: str = ""
    fieldsV1: Raw = NULL  # noqa: N815 - Kubernetes' own spelling


class _Metadata(msgspec.Struct, frozen=True):
    name: str
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815
    creationTimestamp: str = ""  # noqa: N815
    managedFields: tuple[_ManagedFields, ...] = ()  # noqa: N815


class _Object(msgspec.Struct, frozen=True):
    metadata: _Metadata


class Seen(NamedTuple):
    """An object as it was last seen: ``source`` is its JSON as it may be recorded."""

    resource: ObservedResource
    metadata: _Metadata
    source: Raw

    @property
    def key(self) -> tuple[str, str]:
        """What tells objects apart, whichever version of the API showed them."""
        return self.resource.resource, self.metadata.name

    @property
    def created_ns(self) -> int:
        """When the API server created it, in nanoseconds since the epoch; 0 where it does not say."""
        try:
            return int(dt.datetime.fromisoformat(self.metadata.creationTimestamp).timestamp()) * 10**9
        except ValueError:
            return 0

    def is_same(self, other: Seen) -> bool:
        """Whether nobody has written the object between the two."""
        ours, theirs = self.metadata, other.metadata
        return (ours.uid, ours.resourceVersion) == (theirs.uid, theirs.resourceVersion)


class Step(NamedTuple):
    """What happened to an object from one look to the next."""

    change: Change
    before: Seen | None
    after: Seen | None

    def observation(self, uid: str, *, watching: bool) -> Observation:
        """Return what to record of it."""
        about = self.after or self.before
        if about is None:
            raise ValueError("neither before nor after")
        return Observation(
            uid=uid,
            change=self.change,
            watching=watching,
            resource=about.resource,
            name=about.metadata.name,
            managers=_managers(self.before, self.after),
            object=self.after.source if self.after else NULL,
            oldObject=self.before.source if self.before and self.change != "present" else NULL,
        )


def of_item(source: Raw, resource: ObservedResource, kind: str = "") -> Seen:
    """Return an object of a list or of a watch. Raises `msgspec.DecodeError`.

    Items of a list do not say their ``kind``; in the record they do, as those of a watch.
    """
    fields = _fields(source)
    if kind and "kind" not in fields:
        head = {"kind": kind, "apiVersion": f"{resource.group}/{resource.version}"}
        fields = {name: Raw(_encode(text)) for name, text in head.items()} | fields
        source = Raw(_encode(fields))
    return Seen(resource, _object(source).metadata, Raw(without_tokens(bytes(source))))


def of_record(source: bytes | Raw, resource: ObservedResource) -> Seen:
    """Return the object that a record holds. Raises `msgspec.DecodeError`."""
    return Seen(resource, _object(source).metadata, Raw(source))


def difference(before: Seen | None, after: Seen | None, *, known_since_ns: int | None) -> Iterator[Step]:
    """Yield what happened between two looks: nothing, one step, or two where the object was made anew.

    ``known_since_ns`` is since when everything is known, None for never: what was not known and is older than that was
    only not looked at before.
    """
    if before and after and before.metadata.uid == after.metadata.uid:
        if not before.is_same(after):
            yield Step("updated", before, after)
        return
    if before:
        yield Step("deleted", before, None)
    if after:
        is_new = before or (known_since_ns is not None and after.created_ns >= known_since_ns)
        yield Step("created" if is_new else "present", None, after)


def readable(source: bytes, depth_max: int = DEPTH_MAX) -> bytes:
    """Return the JSON, with null for what is nested deeper, and U+FFFD for what is not UTF-8.

    Whoever writes such an object must not blind the watch, nor hide its record from readers.
    """
    if not source.isascii():
        source = source.decode(errors="replace").encode()
    if source.count(b"{") + source.count(b"[") <= depth_max:
        return source
    kept: list[bytes] = []
    depth = position = 0
    for token in scan(source):
        if token[0] in (b"{", b"["):
            depth += 1
            if depth == depth_max + 1:
                kept += source[position : token.start()], b"null"
        elif token[0] in (b"}", b"]"):
            depth -= 1
            if depth == depth_max:
                position = token.end()
    return b"".join([*kept, source[position:]])


def _managers(before: Seen | None, after: Seen | None) -> tuple[Manager, ...]:
    """Return who wrote since ``before``, the latest first, as far as managedFields tell; of a deletion they do not."""
    if after is None:
        return ()
    known = set(map(_encode, before.metadata.managedFields)) if before else set()
    fresh = [one for one in after.metadata.managedFields if _encode(one) not in known]
    fresh.sort(key=lambda one: one.time, reverse=True)
    return tuple(Manager(one.manager, one.operation, one.time, one.subresource) for one in fresh)


_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_object = msgspec.json.Decoder(_Object).decode
_encode = msgspec.json.encode
