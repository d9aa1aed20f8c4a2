"""``cloudevents``: each record as a CloudEvent, HTTP binary mode; to a URL, or to what Knative's SinkBinding says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from cloudevents.conversion import to_binary
from cloudevents.http import CloudEvent

from ...settings import CloudEvents, Forwarding
from ..posting import Answer, Poster
from ..record import Record
from ..sink import DELIVERED, Bounds, Outcome, Payload, Refused, Rejected, Retry, TooLarge

__all__ = ["CloudEventsSink", "make"]

TYPE_REVIEW = "kube-audit-function.review.v1"
TYPE_EVENT = "kube-audit-function.event.v1"


def make(settings: Forwarding) -> CloudEventsSink:
    """Return the sink."""
    return CloudEventsSink(settings.cloudevents)


class CloudEventsSink:
    """A `Sink`. Events go one after the other, the next when the last was taken: order is kept."""

    name = "cloudevents"

    def __init__(self, settings: CloudEvents) -> None:
        self.bounds = Bounds(settings.batch_records_max, settings.batch_bytes_max)
        self._record_bytes_max = settings.record_bytes_max
        self._overrides = _extensions(settings.overrides)
        self._poster = Poster(settings.url, ca_file=settings.ca_file, ca_pem=settings.ca_pem)

    def open(self) -> None:
        """Get ready; nothing is sent. Raises `SinkError`."""
        self._poster.open()

    def encode(self, record: Record) -> Payload:
        """Return headers and body. Raises `TooLarge`."""
        if len(record.line) > self._record_bytes_max:
            raise TooLarge
        attributes = {
            "id": record.id,
            "source": f"/clusters/{record.cluster}" if record.cluster else "/kube-audit-function",
            "type": TYPE_EVENT if record.is_event else TYPE_REVIEW,
            "subject": _ascii(record.object_path()),
            "datacontenttype": "application/json",
            "partitionkey": _ascii(record.object_path()),
            **self._overrides,
        }
        if record.received:
            attributes["time"] = record.received
        if record.truncated:
            attributes["truncated"] = "true"
        headers, body = to_binary(CloudEvent(attributes, record.line))
        return Payload(len(body), (headers, body))

    def send(self, batch: Sequence[Payload]) -> list[Outcome]:
        """POST one event after the other; what follows one that was not taken waits."""
        outcomes: list[Outcome] = []
        for payload in batch:
            headers, body = payload.data
            outcome = _outcome(self._poster.request("POST", self._poster.target, body, headers), first=not outcomes)
            if isinstance(outcome, Retry):
                return [*outcomes, *[outcome] * (len(batch) - len(outcomes))]
            outcomes.append(outcome)
        return outcomes

    def close(self) -> None:
        """Close the connection."""
        self._poster.close()


def _outcome(answer: Answer | Retry, *, first: bool) -> Outcome:
    """Return what Knative's delivery contract says: 404, 408, 409, 429 and 5xx are tried again, other 4xx are not.

    Nor are 401, 403 and redirects the record's fault. Raises `Refused` for one that is too large.
    """
    if isinstance(answer, Retry):
        return answer
    if 200 <= answer.status < 300:
        return DELIVERED
    if answer.status == 413:
        if first:  # of its batch: nothing that was delivered is forgotten
            raise Refused("HTTP 413", too_large=True)
        return Retry("HTTP 413")
    if 400 <= answer.status < 500 and answer.status not in (401, 403, 404, 407, 408, 409, 425, 429):
        return Rejected(f"HTTP {answer.status}: {answer.excerpt()}")
    return Retry(f"HTTP {answer.status}", answer.retry_after)


def _extensions(overrides: str) -> dict[str, str]:
    """Return the extensions of ``K_CE_OVERRIDES``: ``{"extensions": {"name": "value"}}``, or nothing."""
    document: Any = json.loads(overrides) if overrides else {}
    return {name: str(value) for name, value in (document.get("extensions") or {}).items()}


def _ascii(text: str) -> str:
    """Percent-encode what the HTTP binding does not let into a header."""
    return quote(text, safe="/:@!$&'()*+,;=-._~ ")
