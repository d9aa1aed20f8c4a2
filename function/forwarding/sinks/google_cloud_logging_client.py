"""The sink of `google_cloud_logging`: entries with jsonPayload, through Google's own client (gRPC).

Credentials are found as Google's libraries find them, workload identity included. The client's retries are off: ours
keep order, and know which entries of a batch were refused.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import google.auth.exceptions
import grpc
from google.api_core import exceptions
from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client
from google.cloud.logging_v2.services.logging_service_v2.transports import LoggingServiceV2GrpcTransport
from google.cloud.logging_v2.types import LogEntry, WriteLogEntriesPartialErrors, WriteLogEntriesRequest
from google.protobuf import any_pb2
from google.rpc import code_pb2

from ...record.reading import Record
from ..sink import DELIVERED, Outcome, Payload, Refused, Rejected, Retry, SinkError, TooLarge
from .google_cloud_logging import GoogleCloudLoggingSettings

__all__ = ["GoogleCloudLoggingSink"]

SEND_SECONDS = 30.0
LABEL_CHARACTERS_MAX = 1000
# Protobuf's parsers stop at 100 messages in each other; an object in a Struct is three.
DEPTH_MAX = 28
_EXACT, _EXACT_CHARACTERS = 1 << 53, 17

# gRPC connects again by itself, after 1 to 120 s; until then every call fails at once. As often as we try, instead.
_RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 30_000),
]

# Refused for what is in the entry; every other code may pass (permissions, quota, outages).
_CONTENT = frozenset({code_pb2.INVALID_ARGUMENT, code_pb2.OUT_OF_RANGE})
_NOTICE = frozenset({"DELETE", "CONNECT"})


class GoogleCloudLoggingSink:
    """A `Sink`. Of a batch that is refused in part, the rest comes later: order there is by timestamp."""

    name = "google-cloud-logging"

    def __init__(self, settings: GoogleCloudLoggingSettings) -> None:
        self.bounds = settings.bounds
        host = urlsplit(settings.url).netloc or "logging.googleapis.com"
        self.target = f"{host}, project {settings.project}"
        self._settings = settings
        self._log_name = f"projects/{settings.project}/logs/{quote(settings.log_name, safe='')}"
        self._client: LoggingServiceV2Client | None = None

    def open(self) -> None:
        """Find credentials and make the client; nothing is sent. Raises `SinkError`."""
        try:
            self._client = self._new_client()
        except google.auth.exceptions.DefaultCredentialsError:
            if path := os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
                hint = "mount the file there, or unset GOOGLE_APPLICATION_CREDENTIALS where workload identity is used"
                raise SinkError(f"{path} is missing, or holds no Google credentials", hint) from None
            hint = "use workload identity, or set GOOGLE_APPLICATION_CREDENTIALS to a mounted key file"
            raise SinkError("no Google credentials were found", hint) from None

    def encode(self, record: Record) -> Payload:
        """Return the LogEntry in its wire format. Raises `TooLarge`."""
        entry: Any = LogEntry.pb()(log_name=self._log_name, insert_id=record.id)
        entry.resource.type = "k8s_cluster"
        entry.resource.labels.update(
            project_id=self._settings.project,
            location=self._settings.location,
            cluster_name=record.cluster or self._settings.cluster,
        )
        entry.labels.update({name: text[:LABEL_CHARACTERS_MAX] for name, text in _labels(record).items() if text})
        entry.severity = 300 if record.operation in _NOTICE else 200  # NOTICE, INFO
        entry.timestamp.FromJsonString(record.received)
        try:
            entry.json_payload.update(_shallow(_loads(record.line), DEPTH_MAX))
        except RecursionError:  # nested beyond us: its objects go
            raise TooLarge from None
        size = entry.ByteSize()
        if size > self.bounds.record_bytes_max:
            raise TooLarge
        return Payload(size + 6, entry)

    def send(self, batch: Sequence[Payload]) -> list[Outcome]:
        """Write the entries with one call, which may take some of them."""
        if self._client is None:
            return [Retry("not open")] * len(batch)
        request = WriteLogEntriesRequest.pb()(entries=[payload.data for payload in batch], partial_success=True)
        try:
            self._client.write_log_entries(WriteLogEntriesRequest.wrap(request), retry=None, timeout=SEND_SECONDS)
        except exceptions.GoogleAPICallError as error:
            return _outcomes(error, len(batch))
        except (google.auth.exceptions.GoogleAuthError, exceptions.RetryError, OSError) as error:
            return [Retry(type(error).__name__)] * len(batch)
        return [DELIVERED] * len(batch)

    def close(self) -> None:
        """Close the channel."""
        if self._client is not None:
            self._client.transport.close()  # type: ignore[no-untyped-call]  # the library's own gap

    def _new_client(self) -> LoggingServiceV2Client:
        if not self._settings.url:
            transport_of = functools.partial(LoggingServiceV2GrpcTransport, channel=_channel)
            return LoggingServiceV2Client(transport=transport_of)
        address = urlsplit(self._settings.url).netloc
        transport = LoggingServiceV2GrpcTransport(channel=grpc.insecure_channel(address, options=_RECONNECT))
        return LoggingServiceV2Client(transport=transport)


def _channel(host: str, *, options: Sequence[tuple[str, Any]] = (), **more: Any) -> grpc.Channel:
    """Return the library's own channel, with our options besides its own."""
    return LoggingServiceV2GrpcTransport.create_channel(host, options=[*options, *_RECONNECT], **more)


def _shallow(value: Any, depth: int) -> Any:
    """Return a JSON value in which what is deeper than ``depth`` is JSON text."""
    if isinstance(value, dict):
        return {name: _shallow(item, depth - 1) for name, item in value.items()} if depth else json.dumps(value)
    if isinstance(value, list):
        return [_shallow(item, depth - 1) for item in value] if depth else json.dumps(value)
    return value


def _integer(text: str) -> int | str:
    """Return an integer that a Struct's double holds exactly, else its digits as text."""
    return int(text) if len(text) <= _EXACT_CHARACTERS and -_EXACT <= int(text) <= _EXACT else text


def _number(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text


_loads = functools.partial(json.loads, parse_int=_integer, parse_float=_number)


def _labels(record: Record) -> dict[str, str]:
    about = record.object
    resource = f"{about.resource}.{about.group}" if about.group else about.resource
    return {
        "cluster": record.cluster,
        "verb": record.verb,
        "resource": f"{resource}/{about.subresource}" if about.subresource else resource,
        "namespace": about.namespace,
        "user": record.user,
        "truncated": "true" if record.truncated else "",
    }


def _outcomes(error: exceptions.GoogleAPICallError, count: int) -> list[Outcome]:
    """Return what became of each entry. Raises `Refused` when all were refused for what is in one of them."""
    refused = _partial_errors(error)
    if refused:
        return [_outcome(refused[index]) if index in refused else DELIVERED for index in range(count)]
    if isinstance(error, exceptions.InvalidArgument):
        # The same code says that a request is too large: either way the caller sends fewer entries.
        raise Refused(f"INVALID_ARGUMENT: {error.message}", too_large="size" in str(error.message))
    name = getattr(error.grpc_status_code, "name", None) or type(error).__name__
    return [Retry(name, throttled=name == "RESOURCE_EXHAUSTED")] * count


def _partial_errors(error: exceptions.GoogleAPICallError) -> dict[int, Any]:
    """Return the status of each entry that was refused, by its place in the batch."""
    for detail in error.details or ():
        if isinstance(detail, any_pb2.Any):
            partial = WriteLogEntriesPartialErrors.pb()()
            if detail.Unpack(partial):
                return dict(partial.log_entry_errors)
    return {}


def _outcome(status: Any) -> Outcome:
    name = code_pb2.Code.Name(status.code) if status.code in code_pb2.Code.values() else str(status.code)
    if status.code in _CONTENT:
        return Rejected(f"{name}: {status.message}")
    return Retry(f"entry: {name}", throttled=status.code == code_pb2.RESOURCE_EXHAUSTED)
