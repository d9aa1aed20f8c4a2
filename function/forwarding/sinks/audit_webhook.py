"""``audit-webhook``: EventLists as the API server's own webhook backend POSTs them (Falco's k8saudit, and others)."""

from __future__ import annotations

from collections.abc import Sequence

from ...settings import AuditWebhook, Forwarding
from ..posting import Credentials, Poster, judged
from ..record import Record
from ..sink import DELIVERED, Bounds, Outcome, Payload, Retry, TooLarge

__all__ = ["AuditWebhookSink", "make"]

_HEAD = b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":['
_HEADERS = {"Content-Type": "application/json"}


def make(settings: Forwarding) -> AuditWebhookSink:
    """Return the sink."""
    return AuditWebhookSink(settings.audit_webhook)


class AuditWebhookSink:
    """A `Sink`. A batch is taken whole or not at all, so order is kept."""

    name = "audit-webhook"

    def __init__(self, settings: AuditWebhook) -> None:
        self.bounds = Bounds(settings.batch_records_max, settings.batch_bytes_max)
        self._record_bytes_max = settings.record_bytes_max
        credentials = Credentials(bearer_file=settings.token_file)
        self._poster = Poster(settings.url, ca_file=settings.ca_file, credentials=credentials)

    def open(self) -> None:
        """Get ready; nothing is sent. Raises `SinkError`."""
        self._poster.open()

    def encode(self, record: Record) -> Payload:
        """Return the Event's own bytes. Raises `TooLarge`."""
        if len(record.line) > self._record_bytes_max:
            raise TooLarge
        return Payload(len(record.line) + 1, record.line)

    def send(self, batch: Sequence[Payload]) -> list[Outcome]:
        """POST one EventList."""
        body = b"%b%b]}\n" % (_HEAD, b",".join([payload.data for payload in batch]))
        answer = judged(self._poster.request("POST", self._poster.target, body, _HEADERS))
        return [answer if isinstance(answer, Retry) else DELIVERED] * len(batch)

    def close(self) -> None:
        """Close the connection."""
        self._poster.close()
