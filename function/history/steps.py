"""What comes out of records: one step of one object's past, and how sure it is (pure)."""

from __future__ import annotations

import datetime as dt
import enum

from .change import Change, Content
from .differences import Difference

__all__ = ["NOT_TOLD", "Cause", "Certainty", "Incarnation", "Step", "nanoseconds"]

# The content of an object of which the records tell only that it is there.
NOT_TOLD = Content(None, "")


class Certainty(enum.Enum):
    """Whether a change was stored. The value is for people."""

    IN_FORCE = "in force"
    NOT_IN_FORCE = "not in force"
    UNKNOWN = "not known"


class Cause(enum.Enum):
    """Why a step is what it is. The value is for people."""

    # Changes that were stored, as far as is known.
    REVIEW = "the object was stored as asked for"
    WORKED_OUT = "the next stored state follows from it"
    DEFAULTS = "the object was stored as asked for; reading it fills in defaults"
    VERSION = "the next stored state was recorded in another apiVersion only"
    NO_CONTENT = "recorded without content"
    KNOWN = "the API server's own log says so"
    OBSERVED = "a watch saw it"
    LAST = "no later review shows what was stored"
    SUCCEEDED = "another object has its name now"
    WITH_SERVICE = "inferred: the API server deletes a Service's Endpoints with it, without a review"
    # Changes that were not.
    NO_OP = "nothing was changed"
    REFUSED = "refused, as the API server's own log says"
    LOST = "another change was stored in its place"
    LATE = "it started from a state that was not the stored one any more"
    REPEATED = "the same had been asked before"
    NAME_TAKEN = "an object of this name was there"
    # What no review tells.
    FIRST_SEEN = "it was there before the journal"
    NOT_RECORDED = "a change that is not in the journal"
    NEVER_CREATED = "its creation is not in the journal"
    NEVER_DELETED = "its deletion is not in the journal"
    WENT_BACK = "the object is an older one again: was etcd restored from a backup?"
    TRACE = "stored anew by something that is not in the journal, its content unchanged"
    SEEN_AGAIN = "it was taken to be gone, and was there later"


class Incarnation:
    """One object from its creation to its deletion: what has one uid. Others may have had its name before.

    ``version`` is the apiVersion of its last record, ``created`` its creationTimestamp, ``is_proven`` says that a
    review started from a stored state of it. All three can change as long as records come.
    """

    __slots__ = ("cluster", "created", "group", "is_proven", "kind", "name", "namespace", "resource", "uid", "version")

    def __init__(self, path: tuple[str, str, str, str, str], uid: str) -> None:
        self.cluster, self.group, self.resource, self.namespace, self.name = path
        self.uid = uid
        self.kind = self.version = self.created = ""
        self.is_proven = False

    @property
    def path(self) -> tuple[str, str, str, str, str]:
        """Return what objects of one name have in common: cluster, group, resource, namespace, name."""
        return self.cluster, self.group, self.resource, self.namespace, self.name


class Step:
    """One change of one object, asked for or found: from the stored state ``before`` to ``after``.

    A state is None where there was no object. Where the step was not ``applied``, the object stayed as it was.
    ``change`` is None where the journal has no review of it; it was between ``earliest_ns`` and ``latest_ns``, which
    for a change are when it was received. ``leftovers`` are the differences that no review explains, and ``lost_to``
    is what was stored in its place. It ``resumes`` the past of an object that was taken to be gone. Where Endpoints
    went with their Service, the change is the one that removed the Service.
    """

    __slots__ = (
        "after",
        "applied",
        "before",
        "cause",
        "certainty",
        "change",
        "earliest_ns",
        "latest_ns",
        "leftovers",
        "lost_to",
        "of",
        "resumes",
    )

    def __init__(
        self,
        of: Incarnation,
        change: Change | None,
        before: Content | None,
        after: Content | None,
        certainty: Certainty,
        cause: Cause,
        *,
        applied: bool = True,
        between_ns: tuple[int, int] = (0, 0),
        leftovers: tuple[Difference, ...] = (),
        lost_to: Change | None = None,
    ) -> None:
        self.of = of
        self.change = change
        self.before = before
        self.after = after
        self.certainty = certainty
        self.cause = cause
        self.applied = applied
        self.earliest_ns, self.latest_ns = (change.received_ns,) * 2 if change else between_ns
        self.leftovers = leftovers
        self.lost_to = lost_to
        self.resumes = False


def nanoseconds(timestamp: str) -> int:
    """Return a time of Kubernetes (RFC 3339, whole seconds), 0 where it is none."""
    try:
        return int(dt.datetime.fromisoformat(timestamp).timestamp()) * 10**9
    except ValueError:
        return 0
