"""``elasticsearch``: ``_bulk`` into a data stream, for Elasticsearch, OpenSearch and VictoriaLogs.

``create`` with the record's id: what was sent before is answered 409 and counts as delivered.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec
import orjson

from ...configuration import parsers
from ...configuration.settings import FILE_HINT, Mistake, Setting, SinkSettings, Values, filled
from ...record.reading import Record
from ..http import Answer, Credentials, Poster, judged
from ..sink import DELIVERED, BatchBounds, Outcome, Payload, Refused, Rejected, Retry, SinkError, TooLarge
from ..sink_kind import URL_HINT, BatchMaxima, SinkKind, batch_bounds, batch_settings, missing

__all__ = ["KIND", "index_template"]

_SETTINGS = (
    Setting("AUDIT_ELASTICSEARCH_URL", "", "elasticsearch: the server, and its path before `/_bulk`", parsers.url,
            URL_HINT, secret=True),
    Setting("AUDIT_ELASTICSEARCH_INDEX", "kube-audit", "elasticsearch: the data stream",
            parsers.word(r"[a-z0-9][a-z0-9._-]{0,199}", "not lower-case letters, digits, '.', '_' and '-'"),
            "use a name such as kube-audit"),
    Setting("AUDIT_ELASTICSEARCH_TEMPLATE", "none", "elasticsearch: `install` puts the index template there at the "
            "start", parsers.one_of("none", "install"), "docs/forwarding.md says what it holds"),
    Setting("AUDIT_ELASTICSEARCH_CA_FILE", "", "elasticsearch: PEM certificates of its authority",
            parsers.readable_file, FILE_HINT),
    Setting("AUDIT_ELASTICSEARCH_API_KEY_FILE", "", "elasticsearch: an API key, as Elasticsearch encodes it",
            parsers.readable_file, FILE_HINT),
    Setting("AUDIT_ELASTICSEARCH_USERNAME", "", "elasticsearch: name for basic authentication",
            parsers.word(r"[\x21-\x39\x3b-\x7e]{1,256}", "not a name of printable ASCII without ':'"),
            "set it together with AUDIT_ELASTICSEARCH_PASSWORD_FILE"),
    Setting("AUDIT_ELASTICSEARCH_PASSWORD_FILE", "", "elasticsearch: its password", parsers.readable_file, FILE_HINT),
    *batch_settings("ELASTICSEARCH", "elasticsearch", records=1000, size="5MiB", record="8MiB",
                    most=BatchMaxima(100_000, 90 << 20, 90 << 20)),
)  # fmt: skip


class ElasticsearchSettings(msgspec.Struct, frozen=True):
    """Empty files and names: none."""

    url: str
    index: str
    template: str  # none | install
    ca_file: str
    api_key_file: str
    username: str
    password_file: str
    bounds: BatchBounds


def _read(values: Values) -> ElasticsearchSettings:
    return filled(ElasticsearchSettings, "ELASTICSEARCH", values, bounds=batch_bounds("ELASTICSEARCH", values))


def _mistakes(values: Values, wanted: bool) -> list[Mistake]:
    is_missing = wanted and not values["AUDIT_ELASTICSEARCH_URL"]
    found = [missing("elasticsearch", "AUDIT_ELASTICSEARCH_URL")] if is_missing else []
    if bool(values["AUDIT_ELASTICSEARCH_USERNAME"]) != bool(values["AUDIT_ELASTICSEARCH_PASSWORD_FILE"]):
        hint = "set both AUDIT_ELASTICSEARCH_USERNAME and AUDIT_ELASTICSEARCH_PASSWORD_FILE, or neither"
        found.append(Mistake("AUDIT_ELASTICSEARCH_USERNAME", "", "basic authentication needs name and password", hint))
    return found


log = logging.getLogger("audit.forward")

_NDJSON = {"Content-Type": "application/x-ndjson"}
_JSON = {"Content-Type": "application/json"}
# Of one item: what may pass. 403 is an index that a full disk has made read-only, 404 one that is being made.
_RETRY_STATUS = frozenset({403, 404, 408, 429})


class _Error(msgspec.Struct):
    type: str = ""
    reason: str | None = None


class _Item(msgspec.Struct):
    status: int
    error: _Error | str | None = None


class _Answer(msgspec.Struct):
    errors: bool
    items: list[dict[str, _Item]] = []


_answer = msgspec.json.Decoder(_Answer).decode


class ElasticsearchSink:
    """A `Sink`. Of a batch that is refused in part, the rest comes later: order there is by ``@timestamp``."""

    name = "elasticsearch"

    def __init__(self, settings: ElasticsearchSettings) -> None:
        self.bounds = settings.bounds
        self.target = urlsplit(settings.url).netloc
        self._index = settings.index
        self._install = settings.template == "install"
        credentials = Credentials(
            api_key_file=settings.api_key_file, username=settings.username, password_file=settings.password_file
        )
        self._poster = Poster(settings.url, ca_file=settings.ca_file, credentials=credentials)
        self._base = self._poster.path.rstrip("/")
        self._target = f"{self._base}/_bulk{f'?{self._poster.query}' if self._poster.query else ''}"
        self._action = b'{"create":{"_index":%b,"_id":"' % orjson.dumps(settings.index)

    def open(self) -> None:
        """Install the index template, if asked to. Raises `SinkError`, `ConnectionError`."""
        self._poster.open()
        if self._install:
            self._install_template()

    def encode(self, record: Record) -> Payload:
        """Return the two lines of ``_bulk``: the document is the record, with ``@timestamp``. Raises `TooLarge`."""
        if len(record.line) > self.bounds.record_bytes_max:
            raise TooLarge
        document = b'{"@timestamp":%b,%b' % (orjson.dumps(record.received), record.line[1:])
        lines = b'%b%b"}}\n%b\n' % (self._action, record.id.encode(), document)
        return Payload(len(lines), lines)

    def send(self, batch: Sequence[Payload]) -> list[Outcome]:
        """POST one ``_bulk`` request."""
        body = b"".join([payload.data for payload in batch])
        answer = judged(self._poster.request("POST", self._target, body, _NDJSON))
        if isinstance(answer, Retry):
            return [answer] * len(batch)
        return _outcomes(answer, len(batch))

    def close(self) -> None:
        """Close the connection."""
        self._poster.close()

    def _install_template(self) -> None:
        try:
            found = judged(self._poster.request("GET", self._base or "/", b"", _JSON))
            if isinstance(found, Retry):
                raise ConnectionError(found.reason)
            body = orjson.dumps(index_template(self._index, opensearch=b'"opensearch"' in found.body))
            answer = judged(self._poster.request("PUT", f"{self._base}/_index_template/{self._index}", body, _JSON))
        except Refused as refused:
            hint = "install the template of examples/elasticsearch by hand, and unset AUDIT_ELASTICSEARCH_TEMPLATE"
            raise SinkError(f"the index template was refused: {refused.reason}", hint) from None
        if isinstance(answer, Retry):
            raise ConnectionError(answer.reason)
        log.info("forward: the index template %s is installed", self._index)


def index_template(index: str, *, opensearch: bool) -> dict[str, Any]:
    """Return the index template: a data stream whose mapping Kubernetes objects cannot explode.

    Objects are ``flattened`` in Elasticsearch (every leaf can be searched, as one field); in OpenSearch they are kept
    and not indexed.
    """
    with open(os.path.join(os.path.dirname(__file__), "index_template.json"), "rb") as file:
        text = file.read().decode().replace("kube-audit", index)
    opaque = {"type": "object", "enabled": False}
    template: dict[str, Any] = json.loads(text, object_hook=lambda o: opaque if opensearch and _is_flattened(o) else o)
    return template


def _is_flattened(node: dict[str, Any]) -> bool:
    return node.get("type") == "flattened"


def _outcomes(answer: Answer, count: int) -> list[Outcome]:
    try:
        read = _answer(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return [Retry("the answer is no _bulk answer")] * count
    if not read.errors:
        return [DELIVERED] * count
    if len(read.items) != count or not all(read.items):
        return [Retry("the answer has another number of items")] * count
    return [_outcome(next(iter(item.values()))) for item in read.items]


def _outcome(item: _Item) -> Outcome:
    if 200 <= item.status < 300 or item.status == 409:
        return DELIVERED
    kind, reason = (item.error.type, item.error.reason) if isinstance(item.error, _Error) else ("", item.error)
    if item.status in _RETRY_STATUS or item.status >= 500:
        return Retry(f"item: HTTP {item.status} {kind}".rstrip(), throttled=item.status == 429)
    return Rejected(f"HTTP {item.status} {kind}: {reason or ''}")


KIND = SinkKind(SinkSettings(_SETTINGS, _read, _mistakes), ElasticsearchSink, ("urllib3",))
