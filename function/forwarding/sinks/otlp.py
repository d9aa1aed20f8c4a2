"""``otlp``: what it reads of the environment. The sink itself is in `otlp_client`.

Apart, because protobuf's messages take a while to import, and whoever only reads settings sends nothing.
"""

from __future__ import annotations

import msgspec

from ...configuration import parsers
from ...configuration.settings import FILE_HINT, Mistake, Setting, SinkSettings, Values, filled
from ..sink import BatchBounds, Sink
from ..sink_kind import URL_HINT, BatchMaxima, SinkKind, batch_bounds, batch_settings, missing

__all__ = ["KIND", "OtlpSettings"]

_SETTINGS = (
    Setting("AUDIT_OTLP_URL", "", "otlp: where logs are POSTed; without a path, `/v1/logs`", parsers.url, URL_HINT,
            secret=True),
    Setting("AUDIT_OTLP_CA_FILE", "", "otlp: PEM certificates of its authority", parsers.readable_file, FILE_HINT),
    Setting("AUDIT_OTLP_TOKEN_FILE", "", "otlp: a bearer token; read again when it changes", parsers.readable_file,
            FILE_HINT),
    Setting("AUDIT_OTLP_HEADERS_FILE", "", "otlp: headers that the receiver wants, `Name: value` on each line; read "
            "again when it changes", parsers.readable_file, FILE_HINT),
    Setting("AUDIT_OTLP_COMPRESSION", "gzip", "otlp: `gzip` or `none`", parsers.one_of("gzip", "none"),
            "every receiver of OTLP must take gzip"),
    *batch_settings("OTLP", "otlp", records=1000, size="2MiB", record="1000000",
                    most=BatchMaxima(100_000, 64 << 20, 64 << 20)),
)  # fmt: skip


class OtlpSettings(msgspec.Struct, frozen=True):
    """Empty files: none. ``cluster`` is that of records that name none."""

    url: str
    ca_file: str
    token_file: str
    headers_file: str
    compression: str  # gzip | none
    cluster: str
    bounds: BatchBounds


def _read(values: Values) -> OtlpSettings:
    return filled(
        OtlpSettings, "OTLP", values, cluster=values["AUDIT_CLUSTER_NAME"], bounds=batch_bounds("OTLP", values)
    )


def _mistakes(values: Values, wanted: bool) -> list[Mistake]:
    return [missing("otlp", "AUDIT_OTLP_URL")] if wanted and not values["AUDIT_OTLP_URL"] else []


def _make(settings: OtlpSettings) -> Sink:
    from .otlp_client import OtlpSink  # noqa: PLC0415 - see above

    return OtlpSink(settings)


KIND = SinkKind(SinkSettings(_SETTINGS, _read, _mistakes), _make, ("opentelemetry.proto.collector.logs.v1", "urllib3"))
