"""A record of ours with what only the API server's log knows of its request, as one audit Event (pure).

Objects, JSON Patch, redaction and policy are ours: nothing that they left out comes back. Outcome and origin are
theirs. What was added, and how certain the pair is, stands in annotations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import orjson
from msgspec import Raw

from ..record.event_format import PREFIX, EventFormat
from ..record.reading import Record, ReviewRecord
from ..record.url_tokens import without_tokens

__all__ = ["enriched"]

# As apiserver/pkg/apis/audit/v1 orders them.
_ORDER = (
    "kind",
    "apiVersion",
    "level",
    "auditID",
    "stage",
    "requestURI",
    "verb",
    "user",
    "impersonatedUser",
    "authenticationMetadata",
    "sourceIPs",
    "userAgent",
    "objectRef",
    "responseStatus",
    "requestObject",
    "requestReceivedTimestamp",
    "stageTimestamp",
    "annotations",
)
# Not requestURI, where a command may stand that redaction blanks; not the bodies.
_THEIRS = (
    "auditID",
    "stage",
    "verb",
    "authenticationMetadata",
    "sourceIPs",
    "userAgent",
    "responseStatus",
    "requestReceivedTimestamp",
    "stageTimestamp",
)
# Annotations that hold parts of objects.
_OF_OBJECTS = "patch.webhook.admission.k8s.io/"

_members = msgspec.json.Decoder(dict[str, Raw]).decode
_strings = msgspec.json.Decoder(dict[str, str]).decode
_text = msgspec.json.Decoder(str).decode


def enriched(record: Record, origin: bytes, how: str, earlier: Sequence[bytes] = ()) -> bytes:
    """Return the Event, ending with a line break.

    ``origin`` is what an Event of theirs says of the request (empty where it has none), ``how`` the pair was made,
    ``earlier`` what Events of earlier stages say. Raises `NotARecord`.
    """
    event = _members(_as_event(record))
    notes = _strings(event["annotations"]) if "annotations" in event else {}
    notes[PREFIX + "joined"] = how if origin else "none"
    if origin:
        theirs = _members(origin)
        taken = [name for name in _THEIRS if name in theirs]
        event |= {name: theirs[name] for name in taken}
        if "responseStatus" in theirs:  # of a webhook that failed, ours among them, it has the URL
            event["responseStatus"] = Raw(without_tokens(bytes(theirs["responseStatus"])))
        if "impersonatedUser" in theirs:  # admission saw the impersonated user only
            event["impersonatedUser"] = event["user"]
            event["user"] = theirs.get("user", event["user"])
            taken += ["user", "impersonatedUser"]
        _note(notes, record, theirs, taken, earlier)
    event["annotations"] = Raw(orjson.dumps(dict(sorted(notes.items()))))
    return (
        b"{" + b",".join(b'"%b":%b' % (name.encode(), bytes(event[name])) for name in _ORDER if name in event) + b"}\n"
    )


def _as_event(record: Record) -> bytes:
    return record.rendered(EventFormat()) if isinstance(record, ReviewRecord) else record.line


def _note(
    notes: dict[str, str], record: Record, theirs: Mapping[str, Raw], taken: list[str], earlier: Sequence[bytes]
) -> None:
    notes[PREFIX + "uid"] = record.uid
    notes[PREFIX + "from-native-log"] = ",".join(taken)
    inferred = [name for name in notes.pop(PREFIX + "inferred", "").split(",") if name and name not in taken]
    if inferred:
        notes[PREFIX + "inferred"] = ",".join(inferred)
    if "annotations" in theirs:
        told = _strings(theirs["annotations"])
        notes |= {key: value for key, value in told.items() if not key.startswith((_OF_OBJECTS, PREFIX))}
    if stages := _stages(earlier):
        notes[PREFIX + "earlier-stages"] = orjson.dumps(stages).decode()


def _stages(earlier: Sequence[bytes]) -> dict[str, str]:
    found = {}
    for origin in earlier:
        members = _members(origin)
        if "stage" in members and "stageTimestamp" in members:
            found[_text(members["stage"])] = _text(members["stageTimestamp"])
    return found
