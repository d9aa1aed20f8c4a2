"""Who did what to which object: what a record of ours and an Event of theirs have in common (pure)."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from ..record.reading import Record
from .event import Event

__all__ = ["COLLECTION", "Act", "Fingerprints", "act_of_event", "act_of_record", "differences", "other_act_of_event"]

COLLECTION = "DELETE of a collection"


class Act(NamedTuple):
    """An act. ``operation`` is admission's, but that a collection's DELETE is told from an object's.

    The core group is empty, as is what does not apply. A Namespace is in no namespace. The name of a collection's item
    is empty: the Event is about all of them.
    """

    user: str
    operation: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str

    @property
    def kind(self) -> tuple[str, str, str, str]:
        """What sort of act it is, whoever did it to whichever object."""
        return self.operation, self.group, self.resource, self.subresource


def act_of_event(event: Event) -> Act:
    """Return the act that the Event tells. Where only the response named the object, that name counts."""
    operation = event.operation
    namespace, name = event.namespace, event.name or event.named_by_answer
    if event.resource == "namespaces" and not event.group:
        namespace, name = "", name or namespace
    if event.verb == "deletecollection":
        operation, name = COLLECTION, ""
    return Act(event.user, operation, event.group, event.resource, event.subresource, namespace, name)


def other_act_of_event(event: Event) -> Act | None:
    """Return what else the Event may have been: an apply, or a PUT, that was to create.

    Which of the two it was is told by the status, unless it failed or the status is not exact.
    """
    if event.verb not in ("patch", "update") or (event.succeeded and event.exact_code):
        return None
    act = act_of_event(event)
    return act._replace(operation="CREATE") if act.operation == "UPDATE" else None


def act_of_record(record: Record) -> Act:
    """Return the act that the record tells."""
    about = record.object
    operation, name = record.operation, about.name
    if operation == "DELETE" and record.verb == "deletecollection":
        operation, name = COLLECTION, ""
    return Act(record.user, operation, about.group, about.resource, about.subresource, about.namespace, name)


class Fingerprints:
    """64 bits of an act, equal for equal acts.

    ``key`` is secret and new for each run: nobody can choose names whose fingerprints collide.
    """

    def __init__(self, key: bytes) -> None:
        self._start = hashlib.blake2b(digest_size=8, key=key)

    def __call__(self, *words: str) -> int:
        """Return the fingerprint of these words, which is never 0."""
        digest = self._start.copy()
        text = words[0] if len(words) == 1 else "\0".join(words)
        try:
            digest.update(text.encode())
        except UnicodeEncodeError:  # half a surrogate pair
            digest.update(text.encode(errors="surrogatepass"))
        return int.from_bytes(digest.digest(), "big", signed=True) or 1


def differences(event: Event, record: Act) -> list[str]:
    """Return in what an Event and the act of its record disagree: ``user``, ``verb``, ``object``."""
    theirs, other = act_of_event(event), other_act_of_event(event)
    found = []
    if theirs.user != record.user:
        found.append("user")
    if record.operation not in (theirs.operation, other.operation if other else ""):
        found.append("verb")
    named = theirs.name in ("", record.name)
    if theirs[2:6] != record[2:6] or not named:
        found.append("object")
    return found
