"""The sink of `otlp`: OTLP/HTTP with protobuf, a LogRecord for each record; names as in the semantic conventions 1.44.

https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ScopeLogs, SeverityNumber

from ...record.reading import Record
from ...version import VERSION
from ..http import Answer, Credentials, Poster, judged
from ..sink import DELIVERED, Outcome, Payload, Refused, Rejected, Retry, TooLarge
from .otlp import OtlpSettings

__all__ = ["OtlpSink", "log_record"]

DEFAULT_PATH = "/v1/logs"
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
# Our own name, for the service that the logs come from and the scope in it.
NAME = "kube-audit-function"
# Receivers stop at 100 messages in each other. The body is the fifth, and an object in an object three more.
DEPTH_MAX = 28
_INT64 = 1 << 63
_INT64_CHARACTERS = 20
# Of records it makes a twelfth, in a tenth of the time that encoding them takes.
_GZIP_LEVEL = 6


class OtlpSink:
    """A `Sink`. A batch is taken whole or not at all, so order is kept among the records of one cluster."""

    name = "otlp"

    def __init__(self, settings: OtlpSettings) -> None:
        self.bounds = settings.bounds
        parts = urlsplit(settings.url)
        self.target = parts.netloc
        self._cluster = settings.cluster
        url = settings.url if parts.path.strip("/") else parts._replace(path=DEFAULT_PATH).geturl()
        credentials = Credentials(bearer_file=settings.token_file, headers_file=settings.headers_file)
        self._poster = Poster(url, ca_file=settings.ca_file, credentials=credentials)
        self._headers = {"Content-Type": "application/x-protobuf"}
        self._compresses = settings.compression == "gzip"
        if self._compresses:
            self._headers["Content-Encoding"] = "gzip"

    def open(self) -> None:
        """Get ready; nothing is sent. Raises `SinkError`."""
        self._poster.open()

    def encode(self, record: Record) -> Payload:
        """Return the cluster, and a ScopeLogs of this one LogRecord in its wire format. Raises `TooLarge`."""
        encoded: bytes = ScopeLogs(log_records=[log_record(record)]).SerializeToString()
        if len(encoded) > self.bounds.record_bytes_max:
            raise TooLarge
        return Payload(len(encoded), (record.cluster or self._cluster, encoded))

    def send(self, batch: Sequence[Payload]) -> list[Outcome]:
        """POST one request. Raises `Refused` where some were refused: the receiver does not say which."""
        body = _request([payload.data for payload in batch])
        if self._compresses:
            body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
        answer = judged(self._poster.request("POST", self._poster.target, body, self._headers))
        if isinstance(answer, Retry):
            return [answer] * len(batch)
        rejected = _rejected(answer)
        if isinstance(rejected, Retry):
            return [rejected] * len(batch)
        return _outcomes(rejected, len(batch))

    def close(self) -> None:
        """Close the connection."""
        self._poster.close()


# -- what is sent -----------------------------------------------------------------------------------------------------


def _request(records: Sequence[tuple[str, bytes]]) -> bytes:
    """Return an ExportLogsServiceRequest: the records of each cluster under a resource of its own."""
    by_cluster: dict[str, list[bytes]] = {}
    for cluster, encoded in records:
        by_cluster.setdefault(cluster, []).append(encoded)
    request = ExportLogsServiceRequest()
    for cluster, lines in by_cluster.items():
        logs = request.resource_logs.add(schema_url=SCHEMA_URL)
        about = {"service.name": NAME} | ({"k8s.cluster.name": cluster} if cluster else {})
        logs.resource.attributes.extend(_attributes(about))
        scope = logs.scope_logs.add(schema_url=SCHEMA_URL)
        scope.scope.name, scope.scope.version = NAME, VERSION
        scope.MergeFromString(b"".join(lines))  # the wire format of what is repeated can be strung together
    return bytes(request.SerializeToString())


# Backends have limits; the body has it whole.
_ATTRIBUTE_CHARACTERS_MAX = 1024

# The texts are syslog's, the numbers those that OpenTelemetry's data model has for them.
_INFO = (SeverityNumber.SEVERITY_NUMBER_INFO, "INFO")
_NOTICE = (SeverityNumber.SEVERITY_NUMBER_INFO2, "NOTICE")
_NOTICED = frozenset({"DELETE", "CONNECT"})

# Where other telemetry of an object has its name.
_NAMES = {
    "pods": "k8s.pod.name",
    "nodes": "k8s.node.name",
    "services": "k8s.service.name",
    "persistentvolumes": "k8s.persistentvolume.name",
    "persistentvolumeclaims": "k8s.persistentvolumeclaim.name",
    "replicationcontrollers": "k8s.replicationcontroller.name",
    "resourcequotas": "k8s.resourcequota.name",
    "namespaces": "k8s.namespace.name",
    "deployments.apps": "k8s.deployment.name",
    "replicasets.apps": "k8s.replicaset.name",
    "statefulsets.apps": "k8s.statefulset.name",
    "daemonsets.apps": "k8s.daemonset.name",
    "jobs.batch": "k8s.job.name",
    "cronjobs.batch": "k8s.cronjob.name",
    "horizontalpodautoscalers.autoscaling": "k8s.hpa.name",
    "storageclasses.storage.k8s.io": "k8s.storageclass.name",
}


def log_record(record: Record) -> Any:
    """Return the record as a LogRecord: the same for every copy of it. Raises `ValueError`."""
    number, text = _NOTICE if record.operation in _NOTICED else _INFO
    nanoseconds = record.received_ns if 0 <= record.received_ns < _INT64 else 0  # 0: unknown
    made = LogRecord(
        time_unix_nano=nanoseconds,
        observed_time_unix_nano=nanoseconds,
        severity_number=number,
        severity_text=text,
        event_name=f"kube_audit.{_kind(record)}",
        attributes=_attributes(_about(record)),
    )
    _fill_body(made.body, record.line)
    return made


def _kind(record: Record) -> str:
    if record.is_event:
        return "event"
    return "observation" if record.observed else "review"


def _about(record: Record) -> dict[str, str]:
    about = record.object
    resource = f"{about.resource}.{about.group}" if about.group else about.resource
    found = {
        "log.record.uid": record.id,
        "k8s.namespace.name": about.namespace,
        "user.name": record.user,
        "kube_audit.verb": record.verb,
        "kube_audit.resource": f"{resource}/{about.subresource}" if about.subresource else resource,
        "kube_audit.name": about.name,
        "kube_audit.truncated": "true" if record.truncated else "",
    }
    if resource in _NAMES:
        found[_NAMES[resource]] = about.name
    return {name: text[:_ATTRIBUTE_CHARACTERS_MAX] for name, text in found.items() if text}


def _attributes(texts: dict[str, str]) -> list[Any]:
    return [KeyValue(key=name, value=AnyValue(string_value=text)) for name, text in texts.items()]


def _fill_body(body: Any, line: bytes) -> None:
    """Put a record into an AnyValue: as it is structured, or as JSON where it is nested beyond Python's own limit."""
    try:
        _fill(body, _decode(line.decode()), DEPTH_MAX)
    except RecursionError:
        body.Clear()
        body.string_value = line.decode()


def _fill(to: Any, value: Any, depth: int) -> None:
    """Put a JSON value into an AnyValue, which null leaves empty; what is deeper than ``depth`` becomes JSON text.

    Its texts are Unicode: a line with half of a surrogate pair is no record to `reading`.
    """
    kind = type(value)  # not isinstance: a record has some two hundred values
    if kind is str:
        to.string_value = value
    elif kind is bool:
        to.bool_value = value
    elif kind is int:
        to.int_value = value
    elif kind is float:
        to.double_value = value
    elif kind in _NESTED and not depth:
        to.string_value = json.dumps(value, separators=(",", ":"))
    elif kind is dict:
        to.kvlist_value.SetInParent()
        add = to.kvlist_value.values.add
        for name, item in value.items():
            pair = add()
            pair.key = name
            if item is not None:
                _fill(pair.value, item, depth - 1)
    elif kind is list:
        to.array_value.SetInParent()
        add = to.array_value.values.add
        for item in value:
            _fill(add(), item, depth - 1)


_NESTED = (dict, list)


def _integer(digits: str) -> int | str:
    """Return what an int64 holds, else the digits as text."""
    if len(digits) > _INT64_CHARACTERS:
        return digits
    value = int(digits)
    return value if -_INT64 <= value < _INT64 else digits


def _number(digits: str) -> float | str:
    """Return what a double holds, else the digits as text."""
    value = float(digits)
    return value if math.isfinite(value) else digits


_decode = json.JSONDecoder(parse_int=_integer, parse_float=_number).decode


# -- what is answered -------------------------------------------------------------------------------------------------


class _Rejected(NamedTuple):
    """How many of a request's records were refused, and what the receiver says of it."""

    records: int
    message: str


class _PartialSuccess(msgspec.Struct, rename="camel"):
    rejected_log_records: int | str = 0  # protobuf's JSON has int64 as text
    error_message: str = ""


class _Response(msgspec.Struct, rename="camel"):
    partial_success: _PartialSuccess | None = None


_response = msgspec.json.Decoder(_Response).decode


def _rejected(answer: Answer) -> _Rejected | Retry:
    """Return what a 2xx answer says; `Retry` where it is none of an OTLP receiver, such as a page to log in on."""
    kind = answer.content_type.partition(";")[0].strip().lower()
    if not answer.body or kind == "text/plain":
        return _Rejected(0, "")
    try:
        if kind == "application/json":  # not what was asked for, but some do
            partial = _response(answer.body).partial_success or _PartialSuccess()
            return _Rejected(int(partial.rejected_log_records), partial.error_message)
        message = ExportLogsServiceResponse.FromString(answer.body).partial_success
        return _Rejected(message.rejected_log_records, message.error_message)
    except (DecodeError, ValueError):  # msgspec's are ValueErrors
        return Retry("the answer is no OTLP answer")


def _outcomes(rejected: _Rejected, count: int) -> list[Outcome]:
    """Return what became of each of ``count`` records. Raises `Refused` where that is not known."""
    if rejected.records <= 0:  # with a message it is a warning
        return [DELIVERED] * count
    reason = f"partial success, {rejected.records} rejected: {rejected.message[:500]}"
    if rejected.records < count:
        raise Refused(reason)
    return [Rejected(reason)] * count
