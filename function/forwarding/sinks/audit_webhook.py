"""``audit-webhook``: EventLists as the API server's own webhook backend POSTs them (Falco's k8saudit, and others)."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from ...configuration import parsers
from ...configuration.settings import FILE_HINT, Mistake, Setting, SinkSettings, Values, filled
from ...record.reading import Record
from ..http import Credentials, Poster, judged
from ..sink import DELIVERED, BatchBounds, Outcome, Payload, Retry, TooLarge
from ..sink_kind import URL_HINT, BatchMaxima, SinkKind, batch_bounds, batch_settings, missing

__all__ = ["KIND"]

_SETTINGS = (
    Setting("AUDIT_WEBHOOK_URL", "", "audit-webhook: where EventLists are POSTed", parsers.url, URL_HINT, secret=True),
    Setting("AUDIT_WEBHOOK_CA_FILE", "", "audit-webhook: PEM certificates of its authority", parsers.readable_file,
            FILE_HINT),
    Setting("AUDIT_WEBHOOK_TOKEN_FILE", "", "audit-webhook: a bearer token; read again when it changes",
            parsers.readable_file, FILE_HINT),
    *batch_settings("WEBHOOK", "audit-webhook", records=400, size="10MiB", record="256KiB",
                    most=BatchMaxima(10_000, 64 << 20, 64 << 20)),
)  # fmt: skip


class AuditWebhookSettings(msgspec.Struct, frozen=True):
    """Empty files: none."""

    url: str
    ca_file: str
    token_file: str
    bounds: BatchBounds


def _read(values: Values) -> AuditWebhookSettings:
    return filled(AuditWebhookSettings, "WEBHOOK", values, bounds=batch_bounds("WEBHOOK", values))


def _mistakes(values: Values, wanted: bool) -> list[Mistake]:
    if not wanted:
        return []
    found = [] if values["AUDIT_WEBHOOK_URL"] else [missing("audit-webhook", "AUDIT_WEBHOOK_URL")]
    if values["AUDIT_FORMAT"] != "event":
        hint = "set AUDIT_FORMAT=event: audit webhooks take audit.k8s.io Events and nothing else"
        found.append(Mistake("AUDIT_FORMAT", values["AUDIT_FORMAT"], "cannot be sent to audit-webhook", hint))
    return found


_HEAD = b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":['
_HEADERS = {"Content-Type": "application/json"}


class AuditWebhookSink:
    """A `Sink`. A batch is taken whole or not at all, so order is kept."""

    name = "audit-webhook"

    def __init__(self, settings: AuditWebhookSettings) -> None:
        self.bounds = settings.bounds
        self.target = urlsplit(settings.url).netloc
        credentials = Credentials(bearer_file=settings.token_file)
        self._poster = Poster(settings.url, ca_file=settings.ca_file, credentials=credentials)

    def open(self) -> None:
        """Get ready; nothing is sent. Raises `SinkError`."""
        self._poster.open()

    def encode(self, record: Record) -> Payload:
        """Return the Event's own bytes. Raises `TooLarge`."""
        if len(record.line) > self.bounds.record_bytes_max:
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


KIND = SinkKind(SinkSettings(_SETTINGS, _read, _mistakes), AuditWebhookSink, ("urllib3",))
