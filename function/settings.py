"""The environment to frozen structs (cheaper to define than dataclasses); every mistake at once, each with its hint.

`SETTINGS` is the promise: names, defaults and meanings. README's table is checked against it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from .quantities import parse_bytes, parse_seconds

__all__ = ["SETTINGS", "Mistake", "Setting", "Settings", "SettingsError", "load"]

STDOUT = "-"
# Beyond AUDIT_BODY_BYTES_MAX a review is read to its end and thrown away, for a degraded record; beyond this it is 413.
BODY_BYTES_HARD_MAX = 128 << 20


class Serving(msgspec.Struct, frozen=True):
    """Where and how to listen."""

    port: int
    metrics_port: int  # 0: no metrics port
    tls_cert_file: str  # empty: plain HTTP, TLS is the ingress's
    tls_key_file: str
    drain_seconds: float  # how long to go on serving after SIGTERM: endpoints propagate slowly


class Recording(msgspec.Struct, frozen=True):
    """What becomes of a review."""

    format: str  # review | event
    body_bytes_max: int  # beyond: a degraded record
    cluster_name: str  # empty: records name no cluster
    clusters_dir: str  # empty: one cluster, no tokens
    clusters_policy_dir: str  # empty: the common policy for every cluster
    clusters_redaction_dir: str  # empty: the common redaction for every cluster
    policy_file: str  # empty: the built-in default
    redaction_file: str  # empty: the built-in rules
    redaction_key_file: str  # empty: no digests
    changes: str  # 0 | 1 | only
    event_status: str  # none | inferred


class Journal(msgspec.Struct, frozen=True):
    """Where records go, and how long they stay. Sizes in bytes, ages in seconds, 0 is no bound."""

    dir: str  # "-": stdout, not durable
    fsync: str  # always | everysec
    segment_bytes_max: int
    segment_age_max: float
    bytes_max: int
    age_max: float


class AuditWebhook(msgspec.Struct, frozen=True):
    """The sink audit-webhook. Empty files: none."""

    url: str
    ca_file: str
    token_file: str
    batch_records_max: int
    batch_bytes_max: int
    record_bytes_max: int


class Elasticsearch(msgspec.Struct, frozen=True):
    """The sink elasticsearch. Empty files and names: none."""

    url: str
    index: str
    template: str  # none | install
    ca_file: str
    api_key_file: str
    username: str
    password_file: str
    batch_records_max: int
    batch_bytes_max: int
    record_bytes_max: int


class CloudEvents(msgspec.Struct, frozen=True):
    """The sink cloudevents. ``overrides`` is JSON, ``ca_pem`` certificates: Knative's SinkBinding gives both."""

    url: str
    overrides: str
    ca_file: str
    ca_pem: str
    batch_records_max: int
    batch_bytes_max: int
    record_bytes_max: int


class GoogleCloudLogging(msgspec.Struct, frozen=True):
    """The sink google-cloud-logging. ``url`` is for an emulator; empty: Google."""

    project: str
    log_name: str
    location: str
    cluster: str
    url: str
    batch_records_max: int
    batch_bytes_max: int
    record_bytes_max: int


class Forwarding(msgspec.Struct, frozen=True):
    """Where records go on to, beside the journal. ``to`` names sinks; empty: nowhere."""

    to: tuple[str, ...]
    drain_seconds: float  # how long a last pass may take when the process ends
    batch_seconds: float  # how long a record may wait for others
    audit_webhook: AuditWebhook
    elasticsearch: Elasticsearch
    cloudevents: CloudEvents
    google_cloud_logging: GoogleCloudLogging


class Settings(msgspec.Struct, frozen=True):
    """Everything the environment says."""

    serving: Serving
    recording: Recording
    journal: Journal
    forwarding: Forwarding
    log_level: str


class Mistake(NamedTuple):
    """One thing wrong with the environment. ``value`` is empty where it could be a secret."""

    name: str
    value: str
    problem: str
    hint: str

    def __str__(self) -> str:
        shown = f"={self.value!r}" if self.value else ""
        return f"{self.name}{shown}: {self.problem} (hint: {self.hint})"


class SettingsError(ValueError):
    """The environment cannot be used; ``mistakes`` says all that is wrong with it."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = mistakes


class Setting(NamedTuple):
    """One environment variable. ``parse`` raises `ValueError` with the problem; ``hint`` is the next step."""

    name: str
    default: str
    meaning: str
    parse: Callable[[str], Any]
    hint: str
    secret: bool = False  # its value may hold one: it is not shown


def load(environ: Mapping[str, str]) -> Settings:
    """Return the settings in ``environ``. An empty value counts as unset. Raises `SettingsError`."""
    mistakes = [_unknown(name) for name in environ if name.startswith("AUDIT_") and not _is_known(name, environ[name])]
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        text = environ.get(setting.name, "") or setting.default
        if "://" in text and _SERVICE_LINK.fullmatch(setting.name):
            text = setting.default  # of a Service called audit-metrics; nobody can set it to an address
        try:
            values[setting.name] = setting.parse(text)
        except ValueError as error:
            values[setting.name] = setting.parse(setting.default)
            mistakes.append(Mistake(setting.name, "" if setting.secret else text, str(error), setting.hint))
    mistakes += _contradictions(values)
    if mistakes:
        raise SettingsError(mistakes)
    return _settings(values)


def _settings(values: Mapping[str, Any]) -> Settings:
    return Settings(
        serving=Serving(
            port=values["PORT"],
            metrics_port=values["AUDIT_METRICS_PORT"],
            tls_cert_file=values["AUDIT_TLS_CERT_FILE"],
            tls_key_file=values["AUDIT_TLS_KEY_FILE"],
            drain_seconds=values["AUDIT_DRAIN_SECONDS"],
        ),
        recording=Recording(
            format=values["AUDIT_FORMAT"],
            body_bytes_max=values["AUDIT_BODY_BYTES_MAX"],
            cluster_name=values["AUDIT_CLUSTER_NAME"],
            clusters_dir=values["AUDIT_CLUSTERS_DIR"],
            clusters_policy_dir=values["AUDIT_CLUSTERS_POLICY_DIR"],
            clusters_redaction_dir=values["AUDIT_CLUSTERS_REDACTION_DIR"],
            policy_file=values["AUDIT_POLICY_FILE"],
            redaction_file=values["AUDIT_REDACTION_FILE"],
            redaction_key_file=values["AUDIT_REDACTION_KEY_FILE"],
            changes=values["AUDIT_CHANGES"],
            event_status=values["AUDIT_EVENT_STATUS"],
        ),
        journal=Journal(
            dir=values["AUDIT_JOURNAL_DIR"],
            fsync=values["AUDIT_FSYNC"],
            segment_bytes_max=values["AUDIT_SEGMENT_BYTES_MAX"],
            segment_age_max=values["AUDIT_SEGMENT_AGE_MAX"],
            bytes_max=values["AUDIT_JOURNAL_BYTES_MAX"],
            age_max=values["AUDIT_JOURNAL_AGE_MAX"],
        ),
        forwarding=_forwarding(values),
        log_level=values["AUDIT_LOG_LEVEL"],
    )


def _forwarding(values: Mapping[str, Any]) -> Forwarding:
    def bounds(sink: str) -> dict[str, int]:
        return {name.lower(): values[f"AUDIT_{sink}_{name}"] for name in _SINK_BOUNDS}

    return Forwarding(
        to=values["AUDIT_FORWARD_TO"],
        drain_seconds=values["AUDIT_FORWARD_DRAIN_SECONDS"],
        batch_seconds=values["AUDIT_FORWARD_BATCH_SECONDS"],
        audit_webhook=AuditWebhook(
            url=values["AUDIT_WEBHOOK_URL"],
            ca_file=values["AUDIT_WEBHOOK_CA_FILE"],
            token_file=values["AUDIT_WEBHOOK_TOKEN_FILE"],
            **bounds("WEBHOOK"),
        ),
        elasticsearch=Elasticsearch(
            url=values["AUDIT_ELASTICSEARCH_URL"],
            index=values["AUDIT_ELASTICSEARCH_INDEX"],
            template=values["AUDIT_ELASTICSEARCH_TEMPLATE"],
            ca_file=values["AUDIT_ELASTICSEARCH_CA_FILE"],
            api_key_file=values["AUDIT_ELASTICSEARCH_API_KEY_FILE"],
            username=values["AUDIT_ELASTICSEARCH_USERNAME"],
            password_file=values["AUDIT_ELASTICSEARCH_PASSWORD_FILE"],
            **bounds("ELASTICSEARCH"),
        ),
        cloudevents=CloudEvents(
            url=values["AUDIT_CLOUDEVENTS_URL"] or values["K_SINK"],
            overrides=values["K_CE_OVERRIDES"],
            ca_file=values["AUDIT_CLOUDEVENTS_CA_FILE"],
            ca_pem=values["K_CA_CERTS"],
            **bounds("CLOUDEVENTS"),
        ),
        google_cloud_logging=GoogleCloudLogging(
            project=values["AUDIT_GOOGLE_CLOUD_LOGGING_PROJECT"],
            log_name=values["AUDIT_GOOGLE_CLOUD_LOGGING_LOG_NAME"],
            location=values["AUDIT_GOOGLE_CLOUD_LOGGING_LOCATION"],
            cluster=values["AUDIT_GOOGLE_CLOUD_LOGGING_CLUSTER"] or values["AUDIT_CLUSTER_NAME"],
            url=values["AUDIT_GOOGLE_CLOUD_LOGGING_URL"],
            **bounds("GOOGLE_CLOUD_LOGGING"),
        ),
    )


def _contradictions(values: Mapping[str, Any]) -> list[Mistake]:
    """Return the mistakes that only show when two settings are read together."""
    found = []
    if bool(values["AUDIT_TLS_CERT_FILE"]) != bool(values["AUDIT_TLS_KEY_FILE"]):
        name = "AUDIT_TLS_KEY_FILE" if values["AUDIT_TLS_CERT_FILE"] else "AUDIT_TLS_CERT_FILE"
        found.append(Mistake(name, "", "TLS needs both the certificate and its key", f"set {name} as well, or neither"))
    if values["AUDIT_CLUSTER_NAME"] and values["AUDIT_CLUSTERS_DIR"]:
        hint = "unset AUDIT_CLUSTER_NAME: with AUDIT_CLUSTERS_DIR the path of each review names its cluster"
        found.append(
            Mistake("AUDIT_CLUSTER_NAME", values["AUDIT_CLUSTER_NAME"], "contradicts AUDIT_CLUSTERS_DIR", hint)
        )
    for name in ("AUDIT_CLUSTERS_POLICY_DIR", "AUDIT_CLUSTERS_REDACTION_DIR"):
        if values[name] and not values["AUDIT_CLUSTERS_DIR"]:
            hint = "set AUDIT_CLUSTERS_DIR as well; a single cluster's file is named by AUDIT_POLICY_FILE, "
            hint += "AUDIT_REDACTION_FILE"
            found.append(Mistake(name, values[name], "there are no clusters", hint))
    if values["PORT"] == values["AUDIT_METRICS_PORT"]:
        hint = "give the metrics another port, or 0 for none"
        found.append(Mistake("AUDIT_METRICS_PORT", str(values["PORT"]), "is also PORT", hint))
    return found + _forwarding_contradictions(values)


def _forwarding_contradictions(values: Mapping[str, Any]) -> list[Mistake]:
    """Return what keeps the sinks that are asked for from working."""
    to = values["AUDIT_FORWARD_TO"]
    found = []
    if to and values["AUDIT_JOURNAL_DIR"] == STDOUT:
        hint = "name a directory: what is forwarded is read from the journal's segments"
        found.append(Mistake("AUDIT_JOURNAL_DIR", STDOUT, "stdout cannot be forwarded (AUDIT_FORWARD_TO)", hint))
    for sink in to:
        name = _SINK_NEEDS[sink]
        if not (values[name] or (sink == "cloudevents" and values["K_SINK"])):
            found.append(Mistake(name, "", f"not set, and {sink} needs it", f"set {name}, or leave {sink} out"))
    if "audit-webhook" in to and values["AUDIT_FORMAT"] != "event":
        hint = "set AUDIT_FORMAT=event: audit webhooks take audit.k8s.io Events and nothing else"
        found.append(Mistake("AUDIT_FORMAT", values["AUDIT_FORMAT"], "cannot be sent to audit-webhook", hint))
    if bool(values["AUDIT_ELASTICSEARCH_USERNAME"]) != bool(values["AUDIT_ELASTICSEARCH_PASSWORD_FILE"]):
        hint = "set both AUDIT_ELASTICSEARCH_USERNAME and AUDIT_ELASTICSEARCH_PASSWORD_FILE, or neither"
        found.append(Mistake("AUDIT_ELASTICSEARCH_USERNAME", "", "basic authentication needs name and password", hint))
    return found


# A Service called audit… in our namespace makes the kubelet set these (enableServiceLinks).
_SERVICE_LINK = re.compile(
    r"AUDIT_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)


def _is_known(name: str, value: str) -> bool:
    if name in _NAMES:
        return True
    # AUDIT_…_PORT is always an address there; a number would be a mistyped setting.
    is_port = name.endswith("_PORT") and not name.endswith(("_SERVICE_PORT", "_TCP_PORT", "_UDP_PORT", "_SCTP_PORT"))
    return bool(_SERVICE_LINK.fullmatch(name)) and (not is_port or "://" in value)


def _unknown(name: str) -> Mistake:
    import difflib  # noqa: PLC0415 - only a mistake needs it

    near = difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.0)
    return Mistake(
        name, "", "there is no such setting", f"did you mean {near[0]}? `python -m function settings` lists all"
    )


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"not one of {', '.join(words)}")
        return text

    return parse


def _number(low: float, high: float) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text):
            raise ValueError("not a whole number")
        if not low <= int(text) <= high:
            raise ValueError(f"not between {low} and {high}")
        return int(text)

    return parse


def _seconds(text: str) -> float:
    """Accept a bare number as well: the setting's own name says the unit."""
    seconds = float(text) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", text) else parse_seconds(text)
    if seconds > 3600:
        raise ValueError("longer than 1h")
    return seconds


def _age(text: str) -> float:
    return 0.0 if text in ("", "none") else parse_seconds(text, days=True)


def _size(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        size = parse_bytes(text)
        if not low <= size <= high:
            raise ValueError(f"not between {low} and {high} bytes")
        return size

    return parse


def _bound(text: str) -> int:
    return 0 if text in ("", "none") else parse_bytes(text)


def _cluster(text: str) -> str:
    if text and not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?", text):
        raise ValueError("not a name of letters, digits, '-', '_' and '.'")
    return text


def _sinks(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in _SINK_NEEDS]
    if unknown or len(set(names)) < len(names):
        raise ValueError(f"not a list of {', '.join(_SINK_NEEDS)}, each once")
    return names


def _url(text: str) -> str:
    if not text:
        return text
    parts = urlsplit(text)  # raises ValueError for some
    if parts.scheme not in ("http", "https") or not parts.hostname or not text.isascii() or not text.isprintable():
        raise ValueError("not an http:// or https:// URL")
    if parts.username is not None or parts.fragment or " " in text:
        raise ValueError("a URL with credentials, a fragment or white space")
    _ = parts.port  # raises ValueError where it is no port
    return text


def _word(pattern: str, problem: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text and not re.fullmatch(pattern, text):
            raise ValueError(problem)
        return text

    return parse


def _ce_overrides(text: str) -> str:
    try:
        document = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    extensions = (document.get("extensions") or {}) if isinstance(document, dict) else None
    if not isinstance(extensions, dict):
        raise ValueError("not an object with the key extensions")  # noqa: TRY004 - what every parser here raises
    for name, value in extensions.items():
        if not re.fullmatch(r"[a-z0-9]{1,20}", name) or not re.fullmatch(r"[\x20-\x7e]{0,1024}", str(value)):
            raise ValueError("extensions need names of lower-case letters and digits, and printable values")
    return text


def _readable_file(text: str) -> str:
    if text and not os.path.isfile(text):
        raise ValueError("no such file")
    return text


def _readable_directory(text: str) -> str:
    if text and not os.path.isdir(text):
        raise ValueError("no such directory")
    return text


_SINK_NEEDS = {
    "audit-webhook": "AUDIT_WEBHOOK_URL",
    "cloudevents": "AUDIT_CLOUDEVENTS_URL",
    "elasticsearch": "AUDIT_ELASTICSEARCH_URL",
    "google-cloud-logging": "AUDIT_GOOGLE_CLOUD_LOGGING_PROJECT",
}
_SINK_BOUNDS = ("BATCH_RECORDS_MAX", "BATCH_BYTES_MAX", "RECORD_BYTES_MAX")


def _bounds_of(
    prefix: str, sink: str, *, records: int, size: str, record: str, most: tuple[int, int, int]
) -> tuple[Setting, ...]:
    """Return the three settings that bound a batch; ``most`` is what each may be set to."""
    return (
        Setting(f"AUDIT_{prefix}_BATCH_RECORDS_MAX", str(records), f"{sink}: records in one batch",
                _number(1, most[0]), f"write a number up to {most[0]}"),
        Setting(f"AUDIT_{prefix}_BATCH_BYTES_MAX", size, f"{sink}: bytes in one batch",
                _size(1024, most[1]), _SIZE_HINT),
        Setting(f"AUDIT_{prefix}_RECORD_BYTES_MAX", record, f"{sink}: a larger record is cut down, its objects first",
                _size(1024, most[2]), _SIZE_HINT),
    )  # fmt: skip


_URL_HINT = "write it as https://host:port/path, without credentials"
_SIZE_HINT = "write a size such as 100MiB, 1GiB or 1048576"
_AGE_HINT = "write a duration such as 90s, 1h or 30d"
_FILE_HINT = "mount the file, or unset the variable"

SETTINGS: tuple[Setting, ...] = (
    Setting("PORT", "8080", "the platform's port", _number(1, 65535), "Knative and Cloud Run set it themselves"),
    Setting("AUDIT_JOURNAL_DIR", "./journal", "where segments go; `-` is stdout (not durable)", str,
            "name a directory"),
    Setting("AUDIT_FORMAT", "review", "record format: `review` (the AdmissionReview) or `event` (audit.k8s.io/v1)",
            _one_of("review", "event"), "docs/events.md compares the two"),
    Setting("AUDIT_FSYNC", "always", "when records reach the disk: `always` (before the answer) or `everysec`",
            _one_of("always", "everysec"), "docs/operations.md says what each can lose"),
    Setting("AUDIT_SEGMENT_BYTES_MAX", "100MiB", "a segment is cut before it grows beyond this (at most a quarter of "
            "AUDIT_JOURNAL_BYTES_MAX)", _size(1024, 1 << 50), _SIZE_HINT),
    Setting("AUDIT_SEGMENT_AGE_MAX", "1h", "a segment is cut when it is older than this; `0` is never", _age,
            _AGE_HINT),
    Setting("AUDIT_JOURNAL_BYTES_MAX", "1GiB", "how much of the journal is kept, oldest segments go first; `0` is "
            "everything", _bound, _SIZE_HINT),
    Setting("AUDIT_JOURNAL_AGE_MAX", "none", "how long segments are kept; `none` is forever", _age, _AGE_HINT),
    Setting("AUDIT_BODY_BYTES_MAX", "32MiB", "largest review recorded whole; a larger one becomes a degraded record",
            _size(1024, BODY_BYTES_HARD_MAX), _SIZE_HINT),
    Setting("AUDIT_CLUSTER_NAME", "", "this cluster's name, in every record", _cluster,
            "use the name your cloud knows the cluster by"),
    Setting("AUDIT_CLUSTERS_DIR", "", "serve many clusters: a mounted Secret, file name = cluster, content = its "
            "tokens; reloaded", _readable_directory, "mount the Secret there, or unset the variable"),
    Setting("AUDIT_CLUSTERS_POLICY_DIR", "", "policies by cluster: files `NAME.yaml`, instead of the common policy; "
            "reloaded", _readable_directory, "mount the ConfigMap there, or unset the variable"),
    Setting("AUDIT_CLUSTERS_REDACTION_DIR", "", "redaction rules by cluster: files `NAME.yaml`, instead of the "
            "common ones; reloaded", _readable_directory, "mount the ConfigMap there, or unset the variable"),
    Setting("AUDIT_POLICY_FILE", "", "an audit.k8s.io/v1 Policy; reloaded when it changes; built in: everything "
            "at Request",
            _readable_file, _FILE_HINT),
    Setting("AUDIT_REDACTION_FILE", "", "redaction rules beyond the built-in ones; reloaded when it changes",
            _readable_file, _FILE_HINT),
    Setting("AUDIT_REDACTION_KEY_FILE", "", "a file with a key (16 bytes or more): redacted values become keyed "
            "digests",
            _readable_file, _FILE_HINT),
    Setting("AUDIT_CHANGES", "0", "`1` adds what an update changed (JSON Patch); `only` also leaves oldObject out",
            _one_of("0", "1", "only"), "docs/events.md has examples"),
    Setting("AUDIT_EVENT_STATUS", "none", "`inferred` adds a responseStatus to events, marked as inferred (for Falco)",
            _one_of("none", "inferred"), "docs/events.md says what is inferred"),
    Setting("AUDIT_DRAIN_SECONDS", "5", "how long to go on serving after SIGTERM", _seconds,
            "write seconds, such as 5"),
    Setting("AUDIT_FORWARD_TO", "", "sinks to forward to, separated by commas: `audit-webhook`, `cloudevents`, "
            "`elasticsearch`, `google-cloud-logging`", _sinks, "docs/forwarding.md describes each"),
    Setting("AUDIT_FORWARD_DRAIN_SECONDS", "10", "how long the last records may take to be forwarded after the last "
            "review was answered", _seconds, "write seconds, such as 10"),
    Setting("AUDIT_FORWARD_BATCH_SECONDS", "1", "how long a record waits for others to share a batch", _seconds,
            "write seconds, such as 1"),
    Setting("AUDIT_WEBHOOK_URL", "", "audit-webhook: where EventLists are POSTed", _url, _URL_HINT, secret=True),
    Setting("AUDIT_WEBHOOK_CA_FILE", "", "audit-webhook: PEM certificates of its authority", _readable_file,
            _FILE_HINT),
    Setting("AUDIT_WEBHOOK_TOKEN_FILE", "", "audit-webhook: a bearer token; read again when it changes",
            _readable_file, _FILE_HINT),
    *_bounds_of("WEBHOOK", "audit-webhook", records=400, size="10MiB", record="256KiB",
                most=(10_000, 64 << 20, 64 << 20)),
    Setting("AUDIT_ELASTICSEARCH_URL", "", "elasticsearch: the server, and its path before `/_bulk`", _url, _URL_HINT,
            secret=True),
    Setting("AUDIT_ELASTICSEARCH_INDEX", "kube-audit", "elasticsearch: the data stream",
            _word(r"[a-z0-9][a-z0-9._-]{0,199}", "not lower-case letters, digits, '.', '_' and '-'"),
            "use a name such as kube-audit"),
    Setting("AUDIT_ELASTICSEARCH_TEMPLATE", "none", "elasticsearch: `install` puts the index template there at the "
            "start", _one_of("none", "install"), "docs/forwarding.md says what it holds"),
    Setting("AUDIT_ELASTICSEARCH_CA_FILE", "", "elasticsearch: PEM certificates of its authority", _readable_file,
            _FILE_HINT),
    Setting("AUDIT_ELASTICSEARCH_API_KEY_FILE", "", "elasticsearch: an API key, as Elasticsearch encodes it",
            _readable_file, _FILE_HINT),
    Setting("AUDIT_ELASTICSEARCH_USERNAME", "", "elasticsearch: name for basic authentication",
            _word(r"[\x21-\x39\x3b-\x7e]{1,256}", "not a name of printable ASCII without ':'"),
            "set it together with AUDIT_ELASTICSEARCH_PASSWORD_FILE"),
    Setting("AUDIT_ELASTICSEARCH_PASSWORD_FILE", "", "elasticsearch: its password", _readable_file, _FILE_HINT),
    *_bounds_of("ELASTICSEARCH", "elasticsearch", records=1000, size="5MiB", record="8MiB",
                most=(100_000, 90 << 20, 90 << 20)),
    Setting("AUDIT_CLOUDEVENTS_URL", "", "cloudevents: where events are POSTed; without it, `K_SINK`", _url, _URL_HINT,
            secret=True),
    Setting("AUDIT_CLOUDEVENTS_CA_FILE", "", "cloudevents: PEM certificates of its authority; without it, "
            "`K_CA_CERTS`", _readable_file, _FILE_HINT),
    *_bounds_of("CLOUDEVENTS", "cloudevents", records=100, size="5MiB", record="1000000",
                most=(10_000, 64 << 20, 64 << 20)),
    Setting("K_SINK", "", "cloudevents: the URL that Knative's SinkBinding injects", _url, _URL_HINT, secret=True),
    Setting("K_CE_OVERRIDES", "", "cloudevents: extensions that SinkBinding injects", _ce_overrides,
            "SinkBinding's ceOverrides makes it"),
    Setting("K_CA_CERTS", "", "cloudevents: certificates that SinkBinding injects (PEM)", str,
            "SinkBinding makes it", secret=True),
    Setting("AUDIT_GOOGLE_CLOUD_LOGGING_PROJECT", "", "google-cloud-logging: the project that entries are written to",
            _word(r"[a-z][a-z0-9:.-]{4,62}", "not a project id"), "give the project's id, not its name or number"),
    Setting("AUDIT_GOOGLE_CLOUD_LOGGING_LOG_NAME", "kube-audit", "google-cloud-logging: the log",
            _word(r"[A-Za-z0-9._/-]{1,400}", "not letters, digits, '/', '_', '-' and '.'"),
            "use a name such as kube-audit"),
    Setting("AUDIT_GOOGLE_CLOUD_LOGGING_LOCATION", "global", "google-cloud-logging: the cluster's region or zone",
            _word(r"[a-z0-9-]{1,63}", "not a location"), "use a location such as europe-west3"),
    Setting("AUDIT_GOOGLE_CLOUD_LOGGING_CLUSTER", "", "google-cloud-logging: the cluster of records that name none; "
            "without it, `AUDIT_CLUSTER_NAME`", _cluster, "use the name your cloud knows the cluster by"),
    Setting("AUDIT_GOOGLE_CLOUD_LOGGING_URL", "", "google-cloud-logging: an emulator, `http://host:port`, used "
            "without credentials", _url, _URL_HINT, secret=True),
    *_bounds_of("GOOGLE_CLOUD_LOGGING", "google-cloud-logging", records=500, size="5MB", record="256KB",
                most=(1000, 9_500_000, 256_000)),
    Setting("AUDIT_METRICS_PORT", "55555", "Prometheus metrics; `0` is off", _number(0, 65535),
            "use a free port, or 0"),
    Setting("AUDIT_TLS_CERT_FILE", "", "serve TLS with this certificate chain; renewed files are picked up",
            _readable_file, _FILE_HINT),
    Setting("AUDIT_TLS_KEY_FILE", "", "the certificate's key", _readable_file, _FILE_HINT),
    Setting("AUDIT_LOG_LEVEL", "info", "our own log on stderr: debug, info, warning or error",
            _one_of("debug", "info", "warning", "error"), "use info"),
)  # fmt: skip

_NAMES = [setting.name for setting in SETTINGS]
