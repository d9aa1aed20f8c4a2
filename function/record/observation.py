"""What a watch saw, as a record: a change of an object that no admission webhook is called for (pure).

It is not a review, and cannot be taken for one: its kind is ``Observation``, its operation ``OBSERVED``, and it names
no user, since nothing has authenticated one. docs/blind-spots.md has an example.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import orjson
from msgspec import Raw

from ..changes import changes
from ..review import NULL
from .event_format import EVENT_BYTES_MAX, HEAD_BYTES, PREFIX
from .timestamps import microseconds, nanoseconds

__all__ = ["API_VERSION", "KIND", "OPERATION", "VERB", "Change", "Manager", "Observation", "ObservedResource"]

API_VERSION = "kube-audit-function/v1"
KIND = "Observation"
OPERATION: Literal["OBSERVED"] = "OBSERVED"
VERB = "observe"  # in place of a Kubernetes verb: nobody is known to have asked for anything

# ``present``: it was there when the watch began, or it still is: what later changes are compared with.
Change = Literal["present", "created", "updated", "deleted"]


class ObservedResource(msgspec.Struct, frozen=True):
    """A GroupVersionResource."""

    group: str
    version: str
    resource: str


class Manager(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who wrote, by an object's managedFields: what the client called itself, and when. No proof of a user."""

    manager: str = ""
    operation: str = ""
    time: str = ""
    subresource: str = ""


class Observation(msgspec.Struct):
    """A change of one object, or that it is there.

    ``watching`` is false for what happened while nobody watched: it was found by comparing with what the journal last
    had. Of several such changes of one object only their sum is known. ``object`` is null for what is gone.
    """

    uid: str
    change: Change
    watching: bool
    resource: ObservedResource
    name: str
    managers: tuple[Manager, ...] = ()
    object: Raw = NULL
    oldObject: Raw = NULL  # noqa: N815 - as in a review
    operation: Literal["OBSERVED"] = OPERATION

    def line(self, *, observed_ns: int, cluster: str) -> bytes:
        """Return the record in its own form, ending with a line break."""
        more = b',"cluster":' + orjson.dumps(cluster) if cluster else b""
        if patch := self.patch():
            more += b',"changes":' + patch
        return b'{"kind":"%b","apiVersion":"%b","observation":%b,"observedTimestamp":"%b"%b}\n' % (
            KIND.encode(),
            API_VERSION.encode(),
            _encode(self),
            nanoseconds(observed_ns),
            more,
        )

    def event(self, *, observed_ns: int, cluster: str, changes: bytes | None = None) -> bytes:
        """Return it as an ``audit.k8s.io/v1`` Event without a user, with the verb ``observe``: for who takes no other.

        ``changes`` is the JSON Patch where it is known already.
        """
        time = microseconds(observed_ns)
        body = b"" if self.object == NULL else b',"requestObject":%b' % bytes(self.object)
        patch = self.patch() if changes is None else changes
        return (
            b'{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Request","auditID":%b,"stage":"ResponseComplete",'
            b'"requestURI":%b,"verb":"%b","user":{},"objectRef":%b%b,"requestReceivedTimestamp":"%b",'
            b'"stageTimestamp":"%b","annotations":%b}\n'
        ) % (
            _encode(self.uid),
            _encode(self._uri()),
            VERB.encode(),
            _encode(self._reference()),
            body,
            time,
            time,
            orjson.dumps(self._annotations(cluster, patch, EVENT_BYTES_MAX - HEAD_BYTES - len(body))),
        )

    def patch(self) -> bytes:
        """Return the JSON Patch of what an update changed, empty for what else happened."""
        if self.change != "updated":
            return b""
        try:
            return changes(self.oldObject, self.object)
        except (msgspec.DecodeError, RecursionError):
            return b""

    def _uri(self) -> str:
        about = self.resource
        return f"/apis/{about.group}/{about.version}/{about.resource}/{self.name}"

    def _reference(self) -> dict[str, str]:
        about = self.resource
        return {
            "resource": about.resource,
            "name": self.name,
            "apiGroup": about.group,
            "apiVersion": about.version,
        }

    def _annotations(self, cluster: str, patch: bytes, room: int) -> dict[str, str]:
        annotations = {
            PREFIX + "operation": self.operation,
            PREFIX + "observed": self.change,
            PREFIX + "watching": "true" if self.watching else "false",
        }
        if cluster:
            annotations[PREFIX + "cluster"] = cluster
        if self.managers:
            annotations[PREFIX + "managers"] = _encode(self.managers).decode()
        if patch:
            annotations[PREFIX + "changes"] = patch.decode()
        if self.oldObject != NULL:
            old = bytes(self.oldObject)
            fits = len(patch) + len(old) + old.count(b'"') + old.count(b"\\") <= room
            annotations[PREFIX + ("old-object" if fits else "omitted")] = old.decode() if fits else "old-object"
        return dict(sorted(annotations.items()))


_encode = msgspec.json.encode
