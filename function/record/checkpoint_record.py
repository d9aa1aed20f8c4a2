"""A tree's signed checkpoint as a record, so that it goes through every sink: an Event of its own verb (pure)."""

from __future__ import annotations

import uuid

import orjson

from .event_format import PREFIX
from .timestamps import microseconds

__all__ = ["KEY", "VERB", "checkpoint_record"]

KEY = PREFIX + "checkpoint"
VERB = "checkpoint"


def checkpoint_record(note: bytes, *, now_ns: int) -> bytes:
    """Return the line, with its break. Its auditID is the same for every copy of the same note.

    Nobody's request: it names no user and no object. ``now_ns`` is when it was read; a checkpoint tells no time.
    Of a note that is damaged what is no UTF-8 is replaced: that it is wrong `verify` says.
    """
    text = note.decode(errors="replace")
    moment = microseconds(now_ns).decode()
    event = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Metadata",
        "auditID": str(uuid.uuid5(uuid.NAMESPACE_URL, text)),
        "stage": "ResponseComplete",
        "requestURI": f"/checkpoints/{text.partition(chr(10))[0]}",
        "verb": VERB,
        "user": {},
        "requestReceivedTimestamp": moment,
        "stageTimestamp": moment,
        "annotations": {KEY: text},
    }
    return orjson.dumps(event) + b"\n"
