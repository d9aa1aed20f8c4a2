"""``google-cloud-logging``: what it reads of the environment. The sink itself is in `google_cloud_logging_client`.

Apart, because Google's client takes half a second to import, and whoever only reads settings sends nothing.
"""

from __future__ import annotations

import msgspec

from ...configuration import parsers
from ...configuration.settings import Mistake, Setting, SinkSettings, Values, filled
from ..sink import BatchBounds, Sink
from ..sink_kind import URL_HINT, BatchMaxima, SinkKind, batch_bounds, batch_settings, missing

__all__ = ["KIND", "GoogleCloudLoggingSettings"]

_PROJECT = "AUDIT_GOOGLE_CLOUD_LOGGING_PROJECT"

_SETTINGS = (
    Setting(_PROJECT, "", "google-cloud-logging: the project that entries are written to",
            parsers.word(r"[a-z][a-z0-9:.-]{4,62}", "not a project id"),
            "give the project's id, not its name or number"),
    Setting("AUDIT_GOOGLE_CLOUD_LOGGING_LOG_NAME", "kube-audit", "google-cloud-logging: the log",
            parsers.word(r"[A-Za-z0-9._/-]{1,400}", "not letters, digits, '/', '_', '-' and '.'"),
            "use a name such as kube-audit"),
    Setting("AUDIT_GOOGLE_CLOUD_LOGGING_LOCATION", "global", "google-cloud-logging: the cluster's region or zone",
            parsers.word(r"[a-z0-9-]{1,63}", "not a location"), "use a location such as europe-west3"),
    Setting("AUDIT_GOOGLE_CLOUD_LOGGING_CLUSTER", "", "google-cloud-logging: the cluster of records that name none; "
            "without it, `AUDIT_CLUSTER_NAME`", parsers.cluster_name, "use the name your cloud knows the cluster by"),
    Setting("AUDIT_GOOGLE_CLOUD_LOGGING_URL", "", "google-cloud-logging: an emulator, `http://host:port`, used "
            "without credentials", parsers.url, URL_HINT, secret=True),
    *batch_settings("GOOGLE_CLOUD_LOGGING", "google-cloud-logging", records=500, size="5MB", record="256KB",
                    most=BatchMaxima(1000, 9_500_000, 256_000)),
)  # fmt: skip


class GoogleCloudLoggingSettings(msgspec.Struct, frozen=True):
    """``url`` is for an emulator; empty: Google."""

    project: str
    log_name: str
    location: str
    cluster: str
    url: str
    bounds: BatchBounds


def _read(values: Values) -> GoogleCloudLoggingSettings:
    section = "GOOGLE_CLOUD_LOGGING"
    cluster = values["AUDIT_GOOGLE_CLOUD_LOGGING_CLUSTER"] or values["AUDIT_CLUSTER_NAME"]
    bounds = batch_bounds(section, values)
    return filled(GoogleCloudLoggingSettings, section, values, cluster=cluster, bounds=bounds)


def _mistakes(values: Values, wanted: bool) -> list[Mistake]:
    return [] if values[_PROJECT] or not wanted else [missing("google-cloud-logging", _PROJECT)]


def _make(settings: GoogleCloudLoggingSettings) -> Sink:
    from .google_cloud_logging_client import GoogleCloudLoggingSink  # noqa: PLC0415 - half a second, see above

    return GoogleCloudLoggingSink(settings)


KIND = SinkKind(SinkSettings(_SETTINGS, _read, _mistakes), _make, ("google.cloud.logging_v2",))
