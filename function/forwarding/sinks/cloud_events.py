"""``cloudevents``: each record as a CloudEvent, HTTP binary mode; to a URL, or to what Knative's SinkBinding says."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

import msgspec

from ...configuration import parsers
from ...configuration.settings import FILE_HINT, Mistake, Setting, SinkSettings, Values
from ...record.reading import Record
from ..http import Answer, Poster
from ..sink import DELIVERED, BatchBounds, Outcome, Payload, Refused, Rejected, Retry, TooLarge
from ..sink_kind import URL_HINT, BatchMaxima, SinkKind, batch_bounds, batch_settings, missing

__all__ = ["KIND"]


def _overrides(text: str) -> str:
    try:
        document = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    extensions = (document.get("extensions") or {}) if isinstance(document, dict) else None
    if not isinstance(extensions, dict):
        raise ValueError("not an object with the key extensions")  # noqa: TRY004 - what every parser raises
    for name, value in extensions.items():
        if not re.fullmatch(r"[a-z0-9]{1,20}", name) or not re.fullmatch(r"[\x20-\x7e]{0,1024}", str(value)):
            raise ValueError("extensions need names of lower-case letters and digits, and printable values")
    if str(extensions.get("specversion", "1.0")) not in ("0.3", "1.0"):
        raise ValueError("specversion is not 1.0: no event can be made")
    return text


_SETTINGS = (
    Setting("AUDIT_CLOUDEVENTS_URL", "", "cloudevents: where events are POSTed; without it, `K_SINK`", parsers.url,
            URL_HINT, secret=True),
    Setting("AUDIT_CLOUDEVENTS_CA_FILE", "", "cloudevents: PEM certificates of its authority; without it, "
            "`K_CA_CERTS`", parsers.readable_file, FILE_HINT),
    *batch_settings("CLOUDEVENTS", "cloudevents", records=100, size="5MiB", record="1000000",
                    most=BatchMaxima(10_000, 64 << 20, 64 << 20)),
    Setting("K_SINK", "", "cloudevents: the URL that Knative's SinkBinding injects", parsers.url, URL_HINT,
            secret=True),
    Setting("K_CE_OVERRIDES", "", "cloudevents: extensions that SinkBinding injects", _overrides,
            "SinkBinding's ceOverrides makes it"),
    Setting("K_CA_CERTS", "", "cloudevents: certificates that SinkBinding injects (PEM)", str,
            "SinkBinding makes it", secret=True),
)  # fmt: skip


class CloudEventsSettings(msgspec.Struct, frozen=True):
    """``overrides`` is JSON, ``ca_pem`` certificates: Knative's SinkBinding gives both."""

    url: str
    overrides: str
    ca_file: str
    ca_pem: str
    bounds: BatchBounds


def _read(values: Values) -> CloudEventsSettings:
    return CloudEventsSettings(
        url=values["AUDIT_CLOUDEVENTS_URL"] or values["K_SINK"],
        overrides=values["K_CE_OVERRIDES"],
        ca_file=values["AUDIT_CLOUDEVENTS_CA_FILE"],
        ca_pem=values["K_CA_CERTS"],
        bounds=batch_bounds("CLOUDEVENTS", values),
    )


def _mistakes(values: Values, wanted: bool) -> list[Mistake]:
    is_set = values["AUDIT_CLOUDEVENTS_URL"] or values["K_SINK"]
    return [] if is_set or not wanted else [missing("cloudevents", "AUDIT_CLOUDEVENTS_URL")]


TYPE_REVIEW = "kube-audit-function.review.v1"
TYPE_EVENT = "kube-audit-function.event.v1"
TYPE_OBSERVATION = "kube-audit-function.observation.v1"


class CloudEventsSink:
    """A `Sink`. Events go one after the other, the next when the last was taken: order is kept."""

    name = "cloudevents"

    def __init__(self, settings: CloudEventsSettings) -> None:
        self._event, self._to_binary = _library()
        self.bounds = settings.bounds
        self.target = urlsplit(settings.url).netloc
        self._overrides = _extensions(settings.overrides)
        self._poster = Poster(settings.url, ca_file=settings.ca_file, ca_pem=settings.ca_pem)

    def open(self) -> None:
        """Get ready; nothing is sent. Raises `SinkError`."""
        self._poster.open()

    def encode(self, record: Record) -> Payload:
        """Return headers and body. Raises `TooLarge`."""
        if len(record.line) > self.bounds.record_bytes_max:
            raise TooLarge
        path = _attribute(record.object.path())
        attributes = {
            "id": record.id,
            "source": _attribute(f"/clusters/{record.cluster}") if record.cluster else "/kube-audit-function",
            "type": _type(record),
            "subject": path,
            "datacontenttype": "application/json",
            "partitionkey": path,
            "time": record.received,
            **self._overrides,
        }
        if record.truncated:
            attributes["truncated"] = "true"
        headers, body = self._to_binary(self._event(attributes, record.line))
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
    return Retry(f"HTTP {answer.status}", answer.retry_after, answer.status == 429)


def _type(record: Record) -> str:
    if record.is_event:
        return TYPE_EVENT
    return TYPE_OBSERVATION if record.observed else TYPE_REVIEW


def _extensions(overrides: str) -> dict[str, str]:
    """Return the extensions of ``K_CE_OVERRIDES``: ``{"extensions": {"name": "value"}}``, or nothing."""
    document: Any = json.loads(overrides) if overrides else {}
    return {name: str(value) for name, value in (document.get("extensions") or {}).items()}


# An attribute is a header, and servers answer 431 for headers of more than 8 or 16 KiB in all. The longest name of an
# object that is a DNS name fits, with its namespace, resource and group.
ATTRIBUTE_CHARACTERS_MAX = 1024
_DIGEST_CHARACTERS = 16


def _attribute(text: str) -> str:
    """Return the text as a header can have it: percent-encoded, and where it is too long cut, with a digest of all."""
    encoded = _ascii(text)
    if len(encoded) <= ATTRIBUTE_CHARACTERS_MAX:
        return encoded
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_DIGEST_CHARACTERS]
    head = encoded[: ATTRIBUTE_CHARACTERS_MAX - _DIGEST_CHARACTERS - 1]
    head = head[: head.rindex("%")] if "%" in head[-2:] else head  # no half of an escape, nor of a character
    # A text that is not cut has no "#": it is percent-encoded.
    return f"{_ascii(unquote_to_bytes(head).decode(errors='ignore'))}#{digest}"


def _ascii(text: str) -> str:
    """Percent-encode what the HTTP binding does not let into a header."""
    return quote(text, safe="/:@!$&'()*+,;=-._~ ", errors="replace")


def _library() -> tuple[Any, Any]:
    """Return the class of events, and what makes headers and body of one: of version 2 of the library, or of 1."""
    # Imported here: whoever only reads settings sends nothing. Version 2's new interface reads times into datetime,
    # which has no nanoseconds; its old one does not.
    try:
        from cloudevents.v1.conversion import to_binary  # noqa: PLC0415
        from cloudevents.v1.http import CloudEvent  # noqa: PLC0415
    except ModuleNotFoundError:
        from cloudevents.conversion import to_binary  # noqa: PLC0415
        from cloudevents.http import CloudEvent  # noqa: PLC0415
    return CloudEvent, to_binary


KIND = SinkKind(SinkSettings(_SETTINGS, _read, _mistakes), CloudEventsSink, ("cloudevents", "urllib3"))
